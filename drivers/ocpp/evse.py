"""The Device of one EVSE: bands to charging profiles that the charger shows to hold, and samples to the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceError,
    DeviceKind,
    DeviceRefusedError,
    DeviceStatus,
    LinkState,
    Sample,
    SampleFlag,
    Setpoint,
)
from drivers.ocpp import profiles
from drivers.ocpp.bidirectional import Bidirectional
from drivers.ocpp.counted import count_on
from drivers.ocpp.dead_man import DeadManWatch, in_the_end_w
from drivers.ocpp.obedience import Obedience
from drivers.ocpp.outside import holds_as_cap
from drivers.ocpp.profile_calls import Charger, NotTakenError, ProfileCalls
from drivers.ocpp.profiles import CannotError, Held, Slot
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.session import EvseSession
from drivers.ocpp.v2x import Mode, Period
from drivers.ocpp.wanted import Distrust, Wanted
from drivers.ocpp.worded import period_for, start_with

LONGEST_LEASE_S: Final = 900.0
"""How far ahead the composite schedule is looked at where no lease is at hand."""
TRUST_AGAIN_S: Final = 900.0
"""After a discharge that did not show on the meter, before another is tried with the same car."""
TAKEN_BACK_S: Final = 60.0
"""The 0 W that takes a discharge back holds at least so long, or until somebody orders something else."""
_NOT_LIVE: Final = SampleFlag.QUEUED | SampleFlag.ESTIMATED

_log = structlog.get_logger()


class OcppEvse:
    """Fulfils `drivers.device.Device`. Exists before its charger connects and goes on over connections."""

    def __init__(
        self,
        session: EvseSession,
        charger: Charger,
        *,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
        meter_interval_s: float = 5.0,
    ) -> None:
        """`meter_interval_s`: how often the charger was asked to send what it measures."""
        self.session = session
        self._settings = session.settings
        self._charger = charger
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._emit: Callable[[Sample], None] | None = None
        self._dead_man = DeadManWatch(lambda text: charger.notice(self.device_id, "charger.dead_man", text))
        self._order = 0
        self._calls = ProfileCalls(session, charger, monotonic_s)
        self._bidirectional = Bidirectional(session, self._calls)
        rating_w = max(self._settings.import_rating_w, self._settings.export_rating_w)
        self._obedience = Obedience(rating_w, meter_interval_s)
        self._distrust: Distrust | None = None
        self._disobeys = False
        self._cleaned = False  # of others' profiles, since the charger came
        self._wanted: Wanted | None = None
        self._held: Setpoint | None = None
        self._held_limit_w: int | None = None
        self._held_mode = Mode.CHARGING_ONLY
        self._held_in: str | None = None  # transaction whose TxProfile it is; None: the waiting profile
        self._until_s = 0.0
        self._lease_runs = False  # something of ours may be in the charger that has not been seen to end

    # --- Device

    @property
    def device_id(self) -> str:
        return self._settings.device_id

    @property
    def kind(self) -> DeviceKind:
        return DeviceKind.CHARGER

    def status(self) -> DeviceStatus:
        """See `Device.status`."""
        link, detail = self._charger.link()
        if link is LinkState.ONLINE and self.session.trouble is not None:
            detail = f"the connector reports {self.session.trouble}; {detail}"
        holds = self._holds()
        follows = self._obedience.follows(self._monotonic_s()) if holds and link is LinkState.ONLINE else None
        if follows is False:
            detail = f"{detail}; does not follow: {self._obedience.sentence()}"
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=link,
            detail=detail,
            capabilities=self._capabilities(),
            last_sample=self.session.last_sample,
            setpoint=self._held if holds else None,
            follows=follows,
            vehicle=self.session.vehicle(self._wall_us()),
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        """Pass samples to `emit` until cancelled; the server does the talking."""
        self._emit = emit
        try:
            await asyncio.Event().wait()
        finally:
            self._emit = None

    async def apply(self, setpoint: Setpoint) -> None:
        """See `Device.apply`. The newest order wins: one that was overtaken while it waited raises
        DeviceRefusedError, whatever the charger made of it."""
        self._order += 1
        self._wanted = Wanted(setpoint, None, self._transaction_id, self._monotonic_s() + setpoint.lease_s)
        await self._hold(self._wanted, self._order)

    async def hold_mode(self, period: Period, lease_s: float, reason: str) -> None:
        """A lease in OCPP 2.1's own words, for modes in which the charger moves the power by itself (Q08: a curve over
        the grid's frequency). Raises as `apply` does."""
        lowest_w = -self._settings.export_rating_w if period.discharge_w is None else period.discharge_w
        highest_w = self._settings.import_rating_w if period.limit_w is None else period.limit_w
        if period.told_w is not None:
            lowest_w, highest_w = min(period.told_w, 0), period.told_w
        elif period.discharge_w is None:
            period = replace(period, discharge_w=lowest_w)  # what is not said is not bounded
        self._order += 1
        setpoint = Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason=reason)
        self._wanted = Wanted(setpoint, period, self._transaction_id, self._monotonic_s() + lease_s)
        await self._hold(self._wanted, self._order)

    async def release(self) -> None:
        """Leave the charger to its static share: our other profiles are taken out of it. Raises as `apply` does.

        The static share stays, since it is what keeps the fuse when we are silent (SAFETY 2).
        """
        self._order += 1
        order = self._order
        self._forget_order()
        async with self._calls.turn():
            for slot in (Slot.TRANSACTION, Slot.WAITING, *((Slot.PRIORITY,) if self._calls.dialect.extended else ())):
                await self._calls.clear(slot)
        if self._dead_man.found is DeadMan.REVERTS_TO_FALLBACK:
            held = await self._calls.composite(0.0, Priority.CONTROL)
            if problem := profiles.objection(held, Period(limit_w=self._settings.static_share_w)):
                raise DeviceRefusedError(f"{self.device_id}: was released, but {problem}")
        if order == self._order:
            self._lease_runs = False

    # --- for people

    @property
    def limited_to_w(self) -> int | None:
        """The owner's own bound, W; None: there is none."""
        return self.session.limit_w

    def limit(self, watts: int | None) -> None:
        """Bound charging and discharging to so many watts, below what the installer wrote. The plan sees it as the
        rating, so that it counts on no more; None takes it away."""
        installed = self.session.settings
        self.session.limit_w = watts
        self._settings = installed
        if watts is not None:
            self._settings = replace(
                installed,
                rated_import_w=min(watts, installed.import_rating_w),
                rated_export_w=min(watts, installed.export_rating_w),
            )

    # --- for the charger that this EVSE is part of

    def profile_to_start_with(self) -> JsonObject:
        """What a transaction that is begun from here is limited to from its first moment (K05)."""
        return start_with(
            self._wanted,
            self._settings,
            self._calls.dialect,
            wall_us=self._wall_us(),
            monotonic_s=self._monotonic_s(),
        )

    def take(self, sample: Sample) -> None:
        """A sample of this EVSE."""
        if sample.flags is SampleFlag.NONE or not sample.flags & _NOT_LIVE:
            self._obedience.metered(sample.power_w, sample.export_register_milliwatt_hours, sample.monotonic_s)
        if self._emit is not None:
            self._emit(sample)

    def profiles_lost(self) -> None:
        """The charger has started anew: what it held is not to be believed."""
        self._held = self._held_limit_w = None
        self._obedience.released()
        self.session.smart.booted()
        self.session.outside.booted()
        self.session.dynamic.booted()

    def profiles_reported(self) -> None:
        """A ReportChargingProfiles has come."""
        self._calls.heard.set()

    async def install_static_share(self) -> None:
        """Put the limit for our silence into the charger, and find out whether it is a dead man (SAFETY 2).

        Raises DeviceUnreachableError; a charger that refuses is taken as it is, and said so.
        """
        self._calls.offline_bound, self._cleaned = True, False
        self._obedience.watched_anew(self._monotonic_s())
        dialect = self._calls.dialect
        try:
            await self._calls.install(profiles.static_share_profile(self._settings, dialect), Priority.CONTROL)
            held = await self._calls.composite(LONGEST_LEASE_S, Priority.CONTROL)
        except DeviceRefusedError as refusal:
            self._dead_man.no_share(str(refusal))
            return
        if not profiles.is_share(in_the_end_w(held), self._settings) and not self._cleaned:
            self._cleaned = True
            if await self._calls.clear_foreign():
                held = await self._calls.composite(LONGEST_LEASE_S, Priority.CONTROL)
        self._dead_man.judge(in_the_end_w(held), self._settings)
        if self._dead_man.found is DeadMan.NONE and not self._lease_runs:
            # Perhaps a permission of ours from before a restart, which this charger would hold for ever.
            self._lease_runs, self._until_s = True, self._monotonic_s()
        if dialect.extended:
            await self._bidirectional.find_out()

    async def hold_again(self) -> None:
        """After a reconnect: the band that was ordered last, for what is left of its lease; nothing while an order is
        on its way by itself. Raises as `apply` does."""
        if self._calls.busy:
            return
        wanted = self._wanted
        another = wanted is not None and wanted.transaction_id != self._transaction_id
        if wanted is not None and wanted.takes_from_the_car and (another or self.session.car.charge_now):
            # It was for the car that was there, and for as long as its driver did not want to charge (SAFETY 9).
            self._forget_order()
        if self._wanted is not None and (left_s := self._wanted.until_s - self._monotonic_s()) > 1.0:
            setpoint = replace(self._wanted.setpoint, lease_s=left_s)
            await self._hold(replace(self._wanted, setpoint=setpoint), self._order)

    async def tend(self) -> None:
        """Once a second while the charger is here: what ends, what is not obeyed, what has changed. Raises as `apply`
        does; what was not done is tried again the next time."""
        await self.end_lease()
        await self._judge_obedience()
        if self._holds():
            await self._calls.refresh()
        if self._calls.dialect.extended:
            await self._bidirectional.allow_energy_transfer()
        if self.session.smart.say_again and not self._calls.busy:
            try:
                await self.hold_again()
            except DeviceRefusedError as refusal:
                _log.warning("ocpp_not_held_again", device=self.device_id, problem=str(refusal))
            self.session.smart.say_again = False

    async def use_priority_charging(self, *, activate: bool) -> None:
        """UsePriorityCharging (K21, 2.1): the driver asked somebody else than the charger for charging now, or no
        longer. Raises DeviceRefusedError or DeviceUnreachableError."""
        await self._bidirectional.use_priority_charging(activate=activate)

    async def end_lease(self) -> None:
        """Where the charger does not drop a permission by itself, we do. Raises as `apply` does."""
        if not self._lease_runs or self._monotonic_s() < self._until_s:
            return
        if self._dead_man.found is DeadMan.REVERTS_TO_FALLBACK:
            self._lease_runs = False
        else:
            await self.release()

    # --- inside

    @property
    def _transaction_id(self) -> str | None:
        running = self.session.transaction
        return None if running is None else running.transaction_id

    def _forget_order(self) -> None:
        """Nothing of ours is in force any more, or is about to be."""
        self._wanted = self._held = self._held_limit_w = self.session.smart.held_w = None
        self.session.dynamic.forget()
        self._obedience.released()

    def _holds(self) -> bool:
        """Whether the band that was confirmed last is still in force: a TxProfile ends with its transaction."""
        same = self._held_in is None or self._transaction_id == self._held_in
        return same and self._monotonic_s() < self._until_s

    async def _hold(self, wanted: Wanted, order: int) -> None:
        setpoint, transaction_id = wanted.setpoint, self._transaction_id
        period = self._period(wanted, in_transaction=transaction_id is not None)
        profile = profiles.lease_profile(
            self._settings,
            period,
            self._calls.dialect,
            wall_us=self._wall_us(),
            lease_s=setpoint.lease_s,
            transaction_id=transaction_id,
            priority=self.session.car.charge_now and self._calls.dialect.extended,
        )
        until_s = self._monotonic_s() + setpoint.lease_s
        self._lease_runs, self._until_s = True, max(until_s, self._until_s)
        limit_w = period.told_w
        lowers = limit_w is not None and (
            self._held_limit_w is None or abs(limit_w) < abs(self._held_limit_w) or limit_w == 0
        )
        priority = Priority.URGENT if lowers else Priority.CONTROL
        try:
            held = await self._calls.hold(profile, period, setpoint.lease_s, until_s, priority, self._objection)
        except NotTakenError:
            if wanted.period is not None or period.mode is not Mode.CENTRAL_FREQUENCY:
                raise
            self._bidirectional.forgo(period.mode)  # it says that it knows the mode, and takes a plain setpoint
            await self._hold(wanted, order)
            return
        if order != self._order:
            raise DeviceRefusedError(f"{self.device_id}: a newer order overtook this one ({setpoint.reason})")
        problem_text = self._objection(held, period)
        if problem_text and not self._cleaned:
            self._cleaned = True
            if await self._calls.clear_foreign():
                held = await self._calls.composite(setpoint.lease_s, priority)
                problem_text = self._objection(held, period)
        if problem_text:
            self._held = self._held_limit_w = self.session.smart.held_w = None
            self._obedience.released()
            if limit_w is not None and limit_w < 0:
                # It has the order and makes something else of it: that may be charging, without any cap.
                problem_text += await self._undone(problem_text)
            raise DeviceRefusedError(f"{self.device_id} {problem_text}")
        self._held, self._held_limit_w, self._held_in, self._until_s = setpoint, limit_w, transaction_id, until_s
        self._held_mode = period.mode
        self.session.smart.held_w = limit_w if limit_w is not None and limit_w >= 0 else None
        self._obedience.ordered(setpoint.lowest_w, setpoint.highest_w, self._monotonic_s())
        if held.after_lease_w is not None:
            self._dead_man.judge(held.after_lease_w, self._settings)

    def _period(self, wanted: Wanted, *, in_transaction: bool) -> Period:
        """Raises DeviceRefusedError."""
        try:
            return period_for(
                wanted,
                self.session,
                self._settings,
                self._calls.dialect,
                self._bidirectional,
                self._distrusted(),
                in_transaction=in_transaction,
            )
        except CannotError as problem:
            raise DeviceRefusedError(f"{self.device_id} {problem}") from None

    def _objection(self, held: Held, period: Period) -> str | None:
        """See `profiles.objection`. Where others move the power, a cap that they are under is held all the same."""
        if self._calls.dialect.extended:
            self.session.outside.shown(Mode.CHARGING_ONLY if held.mode is period.mode else held.mode)
        return None if holds_as_cap(held, period) else profiles.objection(held, period)

    # --- what is watched

    async def _judge_obedience(self) -> None:
        if not self._holds():
            self._obedience.released()
            self._disobeys, self.session.smart.held_w = False, None
            return
        why = self._obedience.unproved(self._monotonic_s())
        if why is not None:
            await self._take_back(why)
        follows = self._obedience.follows(self._monotonic_s())
        if follows is False and not self._disobeys:
            self._charger.notice(self.device_id, "charger.disobeys", f"it {self._obedience.sentence()}")
        self._disobeys = follows is False

    async def _take_back(self, why: str) -> None:
        """A discharge that the meter does not show goes back to 0 W, and is not tried again for a while."""
        now_s = self._monotonic_s()
        if self._distrusted() is None:
            self._distrust = Distrust(why, self._transaction_id, now_s + TRUST_AGAIN_S)
            self._charger.notice(self.device_id, "charger.disobeys", f"it {why}; it goes back to 0 W")
        lease_s = max(TAKEN_BACK_S, self._until_s - now_s)
        self._order += 1
        nothing = Setpoint(lowest_w=0, highest_w=0, lease_s=lease_s, reason=f"back to 0 W: it {why}")
        self._wanted = Wanted(nothing, until_s=now_s + lease_s)
        await self._hold(self._wanted, self._order)

    async def _undone(self, why: str) -> str:
        """A discharge that the charger does not show is taken back; what came of that, for a person."""
        try:
            await self._take_back(why)
        except DeviceError as error:
            return f"; going back to 0 W failed: {error}"
        return "; it went back to 0 W"

    def _distrusted(self) -> Distrust | None:
        """For this transaction, and not for ever."""
        distrust, transaction = self._distrust, self.session.transaction
        same = (
            distrust is not None and transaction is not None and transaction.transaction_id == distrust.transaction_id
        )
        if distrust is None or not same or self._monotonic_s() >= distrust.until_s:
            self._distrust = None
        return self._distrust

    def _capabilities(self) -> Capabilities | None:
        if self._dead_man.found is None:
            return None
        return count_on(
            self.session,
            self._settings,
            self._dead_man.found,
            extended=self._calls.dialect.extended,
            online=self._charger.link()[0] is LinkState.ONLINE,
            ordered=self._held_mode if self._held is not None and self._holds() else None,
            distrust=self._distrusted(),
            obstacle=self._bidirectional.problem,
            notes=[self._dead_man.note] if self._dead_man.note else [],
            wall_us=self._wall_us(),
        )
