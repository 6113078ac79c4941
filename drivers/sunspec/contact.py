"""First contact: who answers, what it measures with, what it is built for and what can be ordered of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from drivers.device import Capabilities, DeviceKind, Journal
from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Unit
from drivers.sunspec.control import Controls
from drivers.sunspec.counters import Counters, settle
from drivers.sunspec.discovery import (
    STORAGE_MODELS,
    DeviceDescription,
    FoundModel,
    goes_on,
    identity_of,
    lacks_nameplate,
    read_identity,
)
from drivers.sunspec.errors import NoAnswerError, SunSpecError, WrongDeviceError
from drivers.sunspec.measurement import (
    FREQUENCY_PATHS,
    STATE_OF_CHARGE_PATHS,
    Measurement,
    MeasuringModel,
    frequency_models,
    measuring_model,
    state_of_charge_permille,
    tells_frequency,
)
from drivers.sunspec.meeting import keep, meet, profile_key
from drivers.sunspec.models import Model, model_definition
from drivers.sunspec.nameplate import RATINGS_PERIOD_S, Nameplate
from drivers.sunspec.profile import NOTHING_KNOWN, Profile, is_news, slower_of
from drivers.sunspec.ratings import Bounds, Ratings, capabilities
from drivers.sunspec.registers import NO_REFUSALS, Look, ModelPoll, Refusals
from drivers.sunspec.standing import Standing, StandingPoll
from drivers.sunspec.switching import GridSwitch

SLOW_PERIOD_S: Final = 5.0
"""State of charge is read this often."""
STANDING_PERIOD_S: Final = 30.0
"""States, alarms, strings and the settings that the plan heeds: a few requests, rarely, for slow lines' sake."""
STATE_OF_CHARGE_HOLDS_S: Final = 60.0
"""A state of charge older than this is not reported any more."""
RELEARN_CONTROLS_S: Final = 600.0
"""Control registers that were not usable are looked at again (an inverter hides them at night)."""


@dataclass(slots=True)
class Contact:
    """What we know of the device that answers now."""

    unit: Unit
    """For asking who is there, on whichever connection there is."""
    own: Unit
    """For everything else: bound to the connection on which the device last said who it is."""
    kind: DeviceKind
    bounds: Bounds
    description: DeviceDescription
    measured_by: FoundModel
    measuring: MeasuringModel
    poll: ModelPoll
    ratings: Ratings
    controls: Controls
    switch: GridSwitch
    frequencies: tuple[ModelPoll, ...]
    """Other models with a frequency, for where the measuring one tells none."""
    gauges: dict[int, ModelPoll]
    """Models with a state of charge, by number."""
    nameplate: Nameplate
    nameplate_due_s: float
    chain_due_s: float
    """When to look whether its chain of models goes on, where nobody says what it is built for."""
    controls_learned_s: float
    slow_due_s: float
    standing_poll: StandingPoll
    standing: Standing
    standing_due_s: float
    profile: Profile
    """As on record, but for what this run has learned."""
    was: str | None
    """meter_id of the device that was here before, where it is another one."""
    profile_on_record: Profile = NOTHING_KNOWN
    counters: Counters = field(default_factory=Counters)
    state_of_charge: tuple[float, int] | None = None
    """(moment, permille)."""
    frequency_due_s: float = float("-inf")
    """Not to be looked for elsewhere before: at night no model tells it."""

    async def is_current(self) -> bool:
        """Whether the same device still answers; asks it when the connection was opened anew since it last said so."""
        return await still_the_same(self.unit, self.own, self.description)

    async def measure(self, now_s: float) -> Look:
        """One look at the measuring model. Raises WrongDeviceError when the model is no longer where it was."""
        look = await self.poll.read(self.own.read, now_s)
        for path, wanted in (("ID", self.measured_by.number), ("L", self.measured_by.length)):
            seen = look.values.get(path)
            if seen is not None and seen.raw != wanted:
                raise WrongDeviceError(
                    f"{self.unit}: its map has changed ({path} of model {self.measured_by.number} at "
                    f"{self.measured_by.address} reads {seen.raw}); looking at it anew"
                )
        return look if tells_frequency(look.values) else await self._with_frequency(look, now_s)

    async def _with_frequency(self, look: Look, now_s: float) -> Look:
        """The look with the frequency of another model, where one tells it. A fault there costs no measurement."""
        if look.monotonic_s is None or now_s < self.frequency_due_s:
            return look
        for poll in self.frequencies:
            try:
                elsewhere = (await poll.read(self.own.read, now_s)).values
            except SunSpecError:
                break
            if tells_frequency(elsewhere):
                return replace(look, values={**look.values, "Hz": elsewhere["Hz"]})
        self.frequency_due_s = now_s + SLOW_PERIOD_S
        return look

    async def look_slowly(self, journal: Journal, now_s: float) -> SunSpecError | None:
        """What changes slowly, when it is due. A fault here is returned: it costs no measurement."""
        if now_s < self.slow_due_s:
            return None
        self.slow_due_s = now_s + SLOW_PERIOD_S
        try:
            for number, poll in self.gauges.items():
                look = await poll.read(self.own.read, now_s)
                permille = state_of_charge_permille(number, look.values)
                if permille is not None and look.monotonic_s is not None:
                    self.state_of_charge = (look.monotonic_s, permille)
                    break
            if now_s >= self.standing_due_s:
                self.standing_due_s = now_s + STANDING_PERIOD_S
                self.standing = await self.standing_poll.read(self.own.read, now_s)
                await self.switch.look()
                await self._look_at_nameplate(now_s)
            if not self.controls.has_controls and now_s - self.controls_learned_s >= RELEARN_CONTROLS_S:
                self.controls_learned_s = now_s
                await self.controls.learn(journal)
            await self.record_profile(journal)
            await self.controls.record(journal)
            await self.switch.record(journal)
        except SunSpecError as error:
            return error
        return None

    async def _look_at_nameplate(self, now_s: float) -> None:
        """Again, in its time. Raises WrongDeviceError when models are there that were not."""
        if self.kind is DeviceKind.METER or now_s < self.nameplate_due_s:
            return
        found = await self.nameplate.look(self.own.read, now_s)
        if found != self.ratings:
            self.ratings = found
            self.controls.rated(found)
            self.controls_learned_s = float("-inf")  # what could not be used for want of them may be now
        if found.are_known(self.kind):
            self.nameplate_due_s = now_s + RATINGS_PERIOD_S
        elif lacks_nameplate(self.description) and now_s >= self.chain_due_s:
            self.chain_due_s = now_s + RATINGS_PERIOD_S
            if await goes_on(self.own.read, self.description):
                raise WrongDeviceError(f"{self.unit}: has more models than it showed before; looking at it anew")

    async def record_profile(self, journal: Journal) -> None:
        """Keep what was learned, where it is news: a record costs a durable write."""
        refusals = self.poll.refusals | self.standing_poll.refusals
        for poll in (*self.gauges.values(), *self.frequencies):
            refusals |= poll.refusals
        self.profile = replace(self.profile, refusals=refusals, gap_s=self.unit.connection.pace.learned_s)
        if is_news(self.profile, self.profile_on_record):
            kept = self.profile.kept(self.description.version)
            if await keep(journal, profile_key(self.description), kept):
                self.profile_on_record = self.profile

    def responded(self, after_s: float) -> None:
        """An order showed in the metered power after so long."""
        self.profile = replace(self.profile, response_s=slower_of(self.profile.response_s, after_s))

    def interpret(self, look: Look, now_s: float) -> Measurement:
        """What a look means, without registers that fell: they are looked at again first."""
        measured = self.measuring.interpret(look.values)
        if self.standing.islanded and self.measured_by.number != 701:
            # Older inverters say so in model 122 only; 701 says it with each look.
            measured = replace(measured, islanded=True)
        self.counters, measured = settle(self.counters, measured, now_s)
        return measured

    def state_of_charge_permille(self, now_s: float) -> int | None:
        """The last one read, while it is fresh."""
        if self.state_of_charge is None or now_s - self.state_of_charge[0] > STATE_OF_CHARGE_HOLDS_S:
            return None
        return self.state_of_charge[1]

    def capabilities(self, phases: tuple[int, ...]) -> Capabilities:
        surface = replace(self.controls.surface, disconnects=self.switch.is_there)
        found = capabilities(self.kind, self.ratings, self.bounds, surface, phases, self.standing)
        return replace(found, response_s=max(found.response_s, self.profile.response_s or 0.0))


async def make_contact(
    unit: Unit, kind: DeviceKind, bounds: Bounds, journal: Journal, now_s: float, *, by_record: bool = True
) -> Contact:
    """Find out who is there and look at everything that we need of it; nothing is written.

    Raises SunSpecErrors; WrongDeviceError when it cannot be a device of this kind.
    """
    met = await meet(unit, journal, by_record=by_record)
    description, known = met.description, met.profile.refusals
    chosen = measuring_model(kind, description)
    if chosen is None:
        raise WrongDeviceError(
            f"{unit} is {description.title}, which has no model to measure a {kind} with (it has "
            f"{', '.join(str(model.number) for model in description.models)}); is the kind right, and the address?"
        )
    measured_by, measuring = chosen
    nameplate = Nameplate(description)
    rated = await nameplate.look(unit.read, now_s)
    standing_poll = await StandingPoll.of(unit.read, description, known, now_s)
    standing = await standing_poll.read(unit.read, now_s)
    own = unit.twin()
    controls = Controls(own, description, kind, rated, bounds)
    await controls.learn(journal)
    switch = GridSwitch(own, description)
    if kind is not DeviceKind.METER:
        await switch.learn(journal)
    gauges = {
        number: model_poll(found, STATE_OF_CHARGE_PATHS[number], known, now_s)
        for number in (STORAGE_MODELS if kind is DeviceKind.BATTERY else ())
        if (found := description.find(number)) is not None
    }
    contact = Contact(
        unit=unit,
        own=own,
        kind=kind,
        bounds=bounds,
        description=description,
        measured_by=measured_by,
        measuring=measuring,
        poll=model_poll(measured_by, measuring.paths, known, now_s),
        ratings=rated,
        controls=controls,
        switch=switch,
        frequencies=tuple(
            model_poll(found, FREQUENCY_PATHS, known, now_s) for found in frequency_models(description, measured_by)
        ),
        gauges=gauges,
        nameplate=nameplate,
        nameplate_due_s=now_s + (RATINGS_PERIOD_S if rated.are_known(kind) else 0.0),
        chain_due_s=now_s + RATINGS_PERIOD_S,
        controls_learned_s=now_s,
        slow_due_s=now_s,
        standing_poll=standing_poll,
        standing=standing,
        standing_due_s=now_s + STANDING_PERIOD_S,
        profile=met.profile,
        was=met.was,
        profile_on_record=met.profile,
    )
    # All of that took many requests, perhaps over more than one connection: whoever answers now must be the same.
    if not await contact.is_current():
        raise NoAnswerError(f"{unit}: another device answered during discovery; looking at it anew")
    return contact


async def still_the_same(unit: Unit, own: Unit, description: DeviceDescription) -> bool:
    """Whether the device of a description still answers; asks it when the connection was opened anew since.

    `own` is bound to the connection on which it said so. Raises SunSpecErrors.
    """
    connection = unit.connection
    common = description.find(1)
    assert common is not None  # without it there is no description
    for _ in range(3):
        if own.only == connection.generation and connection.is_open:
            return True
        generation = connection.generation
        who = await read_identity(unit, common)
        if identity_of(who) != description.meter_id:
            return False
        if generation == connection.generation:
            # Not opened anew by this very read, nor meanwhile by a neighbour.
            own.only = generation
    if own.only == connection.generation:
        return True
    raise NoAnswerError(f"{unit}: the connection is lost again and again")


def model_poll(
    found: FoundModel, paths: tuple[str, ...], known: Refusals = NO_REFUSALS, since_s: float = 0.0
) -> ModelPoll:
    """Reading these points of one model. What is `known` was so at `since_s`."""
    place = layout(definition_of(found.number), found.length)
    return ModelPoll(place, found.address, paths, (), since_s, known)


def definition_of(number: int) -> Model:
    """Of a model that we use: all of them are shipped with the library."""
    definition = model_definition(number)
    assert definition is not None
    return definition
