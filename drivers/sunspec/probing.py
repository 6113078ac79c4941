"""Testing a device's revert timers on the device itself: does an order of ours end when we fall silent (SAFETY 2)?

Only with the owner's consent, which the caller has. Per function: what is there is kept, a gentle order is given with
a short timer, then nothing is written and the registers are watched. Whatever happens, what was found is put back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from drivers.device import DeviceKind
from drivers.sunspec.connection import Unit
from drivers.sunspec.contact import model_poll, still_the_same
from drivers.sunspec.controls import (
    FULL_PERCENT,
    LIMIT_123,
    LIMIT_704,
    SETPOINT_704,
    STORAGE_124,
    ControlFunction,
    FunctionState,
    Overlay,
    is_usable,
    limit_overlay,
    setpoint_overlay,
    storage_overlay,
)
from drivers.sunspec.description import DeviceDescription
from drivers.sunspec.discovery import describe
from drivers.sunspec.errors import (
    BadAnswerError,
    ControlRefusedError,
    ModbusExceptionError,
    NoAnswerError,
    SunSpecError,
    WrongDeviceError,
)
from drivers.sunspec.held import HeldFunction, read_function
from drivers.sunspec.measurement import measuring_model
from drivers.sunspec.nameplate import Nameplate
from drivers.sunspec.ratings import Ratings

REVERT_S: Final = 10
"""Timer of the gentle order: short for people who wait, long enough to tell it from a device that forgets at once."""
LATE_S: Final = 5.0
"""A timer may be this late, and more by half of what it was set to: some devices count in steps."""
PUT_BACK_S: Final = 60.0
"""A device that vanished in the middle is waited for this long, to give it back what was found."""
LOOK_EVERY_S: Final = 0.5
GENTLE_PERCENT: Final = 99
"""Of what is allowed anyhow: nobody notices it, and it differs from 100 % in the register."""
LEAST_GENTLE_PERCENT: Final = 90
"""Where a register is too coarse to say more than this, it is not tried."""

_FUNCTIONS: Final[Mapping[DeviceKind, tuple[ControlFunction, ...]]] = {
    DeviceKind.PV: (LIMIT_704, LIMIT_123),
    DeviceKind.BATTERY: (LIMIT_704, LIMIT_123, SETPOINT_704, STORAGE_124),
}


class ProbeOutcome(StrEnum):
    """What became of one function's timer."""

    WORKS = "works"
    IGNORED = "ignored"
    """The order was taken and did not end by itself, or not at its time: no device-side dead man."""
    NOT_THERE = "not there"
    REFUSED = "refused"
    NOT_TESTED = "not tested"
    """A test would have touched somebody else's order, or been no gentle one."""
    UNFINISHED = "unfinished"
    """The device vanished in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedFunction:
    """One function and its timer."""

    name: str
    model: int
    outcome: ProbeOutcome
    reverted_after_s: float | None
    detail: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What a probe found. Every field is plain enough for JSON."""

    address: str
    unit: int
    meter_id: str
    title: str
    kind: DeviceKind
    functions: tuple[ProbedFunction, ...]
    is_as_found: bool
    """Every register that was written holds again what it held before."""
    notes: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """The report for a person, a line each."""
        ending = "everything is as it was found" if self.is_as_found else "NOT EVERYTHING IS AS IT WAS FOUND"
        return (
            f"{self.title} at {self.address} unit {self.unit}:",
            *(f"  {one.name}: {one.outcome}; {one.detail}" for one in self.functions),
            *(f"  {note}" for note in self.notes),
            f"  {ending}",
        )


async def probe(
    unit: Unit,
    kind: DeviceKind,
    *,
    progress: Callable[[str], None],
    revert_s: int = REVERT_S,
    put_back_s: float = PUT_BACK_S,
) -> ProbeReport:
    """Test the revert timers of the device behind `unit`; takes about `revert_s` for each function that it has.

    `progress` is told each step in a sentence. Raises SunSpecErrors when the device cannot be looked at in the first
    place; what happens later is in the report. When cancelled, what was found is put back before it ends.
    """
    progress(f"{unit}: looking at it")
    description = await describe(unit)
    if measuring_model(kind, description) is None:
        raise WrongDeviceError(f"{unit} is {description.title}, which cannot be a {kind}; is the kind right?")
    rated = await Nameplate(description).look(unit.read, asyncio.get_running_loop().time())
    run = _Probe(unit, kind, description, rated, progress, revert_s, put_back_s)
    functions = tuple([await run.test(function) for function in _FUNCTIONS.get(kind, ())])
    if not functions:
        run.notes.append(f"a {kind} has nothing to control")
    return ProbeReport(
        address=description.address,
        unit=description.unit,
        meter_id=description.meter_id,
        title=description.title,
        kind=kind,
        functions=functions,
        is_as_found=run.is_as_found,
        notes=tuple(run.notes),
    )


class _NotGentleError(Exception):
    """No order that nobody would notice can be given to this function now."""


class _Probe:
    """One device under test."""

    def __init__(
        self,
        unit: Unit,
        kind: DeviceKind,
        description: DeviceDescription,
        rated: Ratings,
        progress: Callable[[str], None],
        revert_s: int,
        put_back_s: float,
    ) -> None:
        self.notes: list[str] = []
        self.is_as_found = True
        self._unit = unit
        self._own = unit.twin()
        """Bound to the connection on which the device last said who it is."""
        self._kind = kind
        self._description = description
        self._ratings = rated
        self._progress = progress
        self._revert_s = revert_s
        self._put_back_s = put_back_s
        self._now_s = asyncio.get_running_loop().time

    async def test(self, function: ControlFunction) -> ProbedFunction:
        """One function, from finding it to putting it back."""

        def found(outcome: ProbeOutcome, detail: str, reverted_after_s: float | None = None) -> ProbedFunction:
            self._progress(f"{self._unit}: {function.name}: {outcome}; {detail}")
            return ProbedFunction(
                name=function.name,
                model=function.model,
                outcome=outcome,
                reverted_after_s=reverted_after_s,
                detail=detail,
            )

        model = self._description.find(function.model)
        reference_w = self._ratings.reference_w(function.model)
        if model is None:
            return found(ProbeOutcome.NOT_THERE, f"the device has no model {function.model}")
        if reference_w is None and function is not SETPOINT_704:
            return found(ProbeOutcome.NOT_THERE, "the device does not say what 100 % is")
        try:
            await self._make_sure()
            state = await read_function(self._own, function, model)
        except ControlRefusedError as error:
            return found(ProbeOutcome.NOT_THERE, str(error))
        except ModbusExceptionError as error:
            return found(ProbeOutcome.UNFINISHED if error.is_transient else ProbeOutcome.REFUSED, str(error))
        except SunSpecError as error:
            return found(ProbeOutcome.UNFINISHED, str(error))
        if not is_usable(state):
            return found(ProbeOutcome.NOT_THERE, "it is not implemented")
        if not state.implements(function.timer):
            return found(
                ProbeOutcome.NOT_THERE,
                f"its timer {function.timer} is not implemented: no device-side dead man",
            )
        held = HeldFunction(self._own, function, self._description, state, reference_w)
        try:
            orders = await self._gentle_orders(state, reference_w)
        except _NotGentleError as reason:
            return found(ProbeOutcome.NOT_TESTED, str(reason))
        try:
            self._progress(f"{self._unit}: {function.name}: a gentle order for {self._revert_s} s, then silence")
            outcome = await self._order_and_watch(held, orders)
        finally:
            await self._give_back(held)
        return found(*outcome)

    async def _gentle_orders(
        self, state: FunctionState, reference_w: int | None
    ) -> list[Callable[[FunctionState], Overlay]]:
        """What to order, first choice first. Raises _NotGentleError."""
        function, timer_s = state.function, self._revert_s
        if state.number(function.enable):
            # Perhaps a legal cap: a device that reverts otherwise than it should would lift it.
            raise _NotGentleError("an order that is not ours is in force, and a test might end it")
        if function is SETPOINT_704:
            power_w = await self._present_power_w()

            def setpoint(now: FunctionState, in_percent: bool) -> Overlay:
                return setpoint_overlay(now, power_w, reference_w, timer_s, rest_on_revert=False, in_percent=in_percent)

            return [partial(setpoint, in_percent=False), partial(setpoint, in_percent=True)]
        assert reference_w is not None  # or the function would count as not there
        gentle_w = reference_w * GENTLE_PERCENT // FULL_PERCENT
        for path in ("WMaxLimPct", "OutWRte", "InWRte"):
            value = state.value(path)
            if value is not None and 10**value.factor > FULL_PERCENT - LEAST_GENTLE_PERCENT:
                raise _NotGentleError(
                    f"{path} counts in steps of {10**value.factor} %: no gentle limit can be said in it"
                )
        if function is STORAGE_124:
            return [lambda now: storage_overlay(now, -gentle_w, gentle_w, reference_w, timer_s)]
        return [lambda now: limit_overlay(now, gentle_w, reference_w, timer_s, None)]

    async def _present_power_w(self) -> int:
        """What a battery does now is the gentlest setpoint for it; rest, where it does not say."""
        chosen = measuring_model(self._kind, self._description)
        assert chosen is not None  # or the probe had not begun
        found, measuring = chosen
        try:
            look = await model_poll(found, measuring.paths).read(self._own.read, self._now_s())
        except SunSpecError:
            return 0
        return measuring.interpret(look.values).power_w or 0

    async def _order_and_watch(
        self, held: HeldFunction, orders: list[Callable[[FunctionState], Overlay]]
    ) -> tuple[ProbeOutcome, str, float | None]:
        refusal: SunSpecError | None = None
        for order in orders:
            try:
                await held.engage(order)
                break
            except (ControlRefusedError, ModbusExceptionError) as error:
                refusal = refusal or error
                if isinstance(error, ModbusExceptionError) and error.is_transient:
                    return ProbeOutcome.UNFINISHED, str(error), None
            except SunSpecError as error:
                return ProbeOutcome.UNFINISHED, str(error), None
        else:
            return ProbeOutcome.REFUSED, str(refusal), None
        if not held.has_dead_man:
            return ProbeOutcome.IGNORED, f"it does not keep {held.function.timer}: no device-side dead man", None
        return await self._watch(held)

    async def _watch(self, held: HeldFunction) -> tuple[ProbeOutcome, str, float | None]:
        began_s = self._now_s()
        latest_s = began_s + self._revert_s * 1.5 + LATE_S
        silence: SunSpecError | None = None
        while True:
            now_s = self._now_s()
            try:
                await self._make_sure()
                state, silence = await held.read(), None
                if not held.holds_order(state):
                    break
            except WrongDeviceError as error:
                return ProbeOutcome.UNFINISHED, str(error), None
            except SunSpecError as error:
                silence = error
            if now_s >= latest_s and silence is not None:
                return ProbeOutcome.UNFINISHED, f"it could not be watched to the end: {silence}", None
            if now_s >= latest_s:
                after_s = now_s - began_s
                return (
                    ProbeOutcome.IGNORED,
                    f"the order still stood after {after_s:.0f} s with a timer of {self._revert_s} s: "
                    "no device-side dead man",
                    None,
                )
            await asyncio.sleep(min(LOOK_EVERY_S, self._revert_s / 10))
        after_s = round(self._now_s() - began_s, 1)
        if after_s < self._revert_s / 2:
            return (
                ProbeOutcome.IGNORED,
                f"the order was gone after {after_s:g} s with a timer of {self._revert_s} s: "
                "the device does not keep it, or another master writes",
                after_s,
            )
        return ProbeOutcome.WORKS, f"the order ended by itself after {after_s:g} s", after_s

    async def _give_back(self, held: HeldFunction) -> None:
        """Put back what was found, also when cancelled: the cancellation goes on once that is done."""
        restoring = asyncio.ensure_future(self._put_back(held))
        cancelled = False
        while not restoring.done():
            try:
                await asyncio.shield(restoring)
            except asyncio.CancelledError:
                cancelled = True
        trouble = restoring.result()
        if trouble:
            self.is_as_found = False
            self.notes.append(trouble)
            self._progress(trouble)
        if cancelled:
            raise asyncio.CancelledError

    async def _put_back(self, held: HeldFunction) -> str:
        """What is not as it was found, in a sentence; empty: all is."""
        until_s = self._now_s() + self._put_back_s
        what = f"{held.function.name} was NOT put back"
        while True:
            try:
                await self._make_sure()
                await held.put_back()
                if (await held.read()).settings != held.found:
                    return f"{what} word for word: the device keeps registers of it as they were written last"
                return ""
            except WrongDeviceError as error:
                return f"{what}: {error}"
            except (NoAnswerError, BadAnswerError, ModbusExceptionError) as error:
                if isinstance(error, ModbusExceptionError) and not error.is_transient:
                    return f"{what}: {error}"
                if self._now_s() >= until_s:
                    return (
                        f"{what}: {error}. When it answers again, probe it again or set its "
                        f"{held.function.enable} to {held.at_contact.number(held.function.enable)}"
                    )
            except SunSpecError as error:
                return f"{what}: {error}"
            await asyncio.sleep(LOOK_EVERY_S)

    async def _make_sure(self) -> None:
        """Raises WrongDeviceError when another device answers now."""
        if not await still_the_same(self._unit, self._own, self._description):
            raise WrongDeviceError(f"{self._unit}: another device answers now than the one that was probed")
