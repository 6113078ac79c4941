"""The Device of one EVSE: bands to charging profiles that the charger shows to hold, and samples to the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, cast

import structlog

from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceKind,
    DeviceRefusedError,
    DeviceStatus,
    DeviceUnreachableError,
    LinkState,
    Sample,
    Setpoint,
)
from drivers.ocpp import profiles
from drivers.ocpp.errors import (
    CallError,
    CallRefusedError,
    InvalidAnswerError,
    quoted,
)
from drivers.ocpp.messages import CompositeScheduleAnswer, StatusAnswer
from drivers.ocpp.profiles import CannotError, Held, RateUnit, Slot
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject, Version
from drivers.ocpp.session import EvseSession

LONGEST_LEASE_S: Final = 900.0
"""How far ahead the composite schedule is looked at where no lease is at hand."""

_log = structlog.get_logger()


class Charger(Protocol):
    """What an EVSE needs of the charger that it is part of."""

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Raises CallError."""
        ...

    def link(self) -> tuple[LinkState, str]:
        """State, and one sentence for a person."""
        ...

    @property
    def rate_unit(self) -> RateUnit: ...

    @property
    def version(self) -> Version | None:
        """Of the protocol, by its last connection; None before the first."""
        ...

    def notice(self, device_id: str, code: str, text: str) -> None: ...


class OcppEvse:
    """Fulfils `drivers.device.Device`. Exists before its charger connects and goes on over connections."""

    def __init__(
        self,
        session: EvseSession,
        charger: Charger,
        *,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
    ) -> None:
        self.session = session
        self._settings = session.settings
        self._charger = charger
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._emit: Callable[[Sample], None] | None = None
        self._dead_man: DeadMan | None = None  # None: no contact yet
        self._notes: dict[str, str] = {}
        self._order = 0
        self._wanted: Setpoint | None = None
        self._held: Setpoint | None = None
        self._held_limit_w: int | None = None
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
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=link,
            detail=detail,
            capabilities=self._capabilities(),
            last_sample=self.session.last_sample,
            setpoint=self._held if self._holds() else None,
            vehicle=self.session.vehicle(),
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
        self._wanted = setpoint
        await self._hold(setpoint, self._order)

    async def release(self) -> None:
        """Leave the charger to its static share: our other profiles are taken out of it. Raises as `apply` does.

        The static share stays, since it is what keeps the fuse when we are silent (SAFETY 2).
        """
        self._order += 1
        order = self._order
        self._wanted = self._held = self._held_limit_w = None
        for slot in (Slot.TRANSACTION, Slot.WAITING):
            profile_id = profiles.profile_id(self._settings.evse_id, slot)
            # "Unknown" is as good as "Accepted": it is not there.
            await self._order_charger("ClearChargingProfile", {"chargingProfileId": profile_id}, Priority.CONTROL)
        if self._dead_man is DeadMan.REVERTS_TO_FALLBACK:
            held = await self._composite(0.0, Priority.CONTROL)
            if problem := profiles.objection(held, self._settings.static_share_w):
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

    def take(self, sample: Sample) -> None:
        """A sample of this EVSE."""
        if self._emit is not None:
            self._emit(sample)

    def profiles_lost(self) -> None:
        """The charger has started anew: what it held is not to be believed."""
        self._held = self._held_limit_w = None

    async def install_static_share(self) -> None:
        """Put the limit for our silence into the charger, and find out whether it is a dead man (SAFETY 2).

        Raises DeviceUnreachableError; a charger that refuses is taken as it is, and said so.
        """
        settings = self._settings
        profile = profiles.static_share_profile(settings, self._charger.rate_unit)
        try:
            await self._set_profile(profile, Priority.CONTROL)
            held = await self._composite(LONGEST_LEASE_S, Priority.CONTROL)
        except DeviceRefusedError as refusal:
            self._dead_man = DeadMan.REVERTS_UNLIMITED
            self._note("dead_man", f"no static share: {refusal}")
            return
        in_the_end_w = held.now_w if held.after_lease_w is None else held.after_lease_w
        self._judge_dead_man(in_the_end_w)
        if self._dead_man is DeadMan.NONE and not self._lease_runs:
            # Perhaps a permission of ours from before a restart, which this charger would hold for ever.
            self._lease_runs, self._until_s = True, self._monotonic_s()

    async def hold_again(self) -> None:
        """After a reconnect: the band that was ordered last, for what is left of its lease. Raises as `apply` does."""
        left_s = self._until_s - self._monotonic_s()
        if self._wanted is not None and left_s > 1.0:
            await self._hold(replace(self._wanted, lease_s=left_s), self._order)

    async def end_lease(self) -> None:
        """Where the charger does not drop a permission by itself, we do. Raises as `apply` does."""
        if not self._lease_runs or self._monotonic_s() < self._until_s:
            return
        if self._dead_man is DeadMan.REVERTS_TO_FALLBACK:
            self._lease_runs = False
        else:
            await self.release()

    # --- inside

    def _holds(self) -> bool:
        """Whether the band that was confirmed last is still in force: a TxProfile ends with its transaction."""
        running = self.session.transaction
        same = self._held_in is None or (running is not None and running.transaction_id == self._held_in)
        return same and self._monotonic_s() < self._until_s

    async def _hold(self, setpoint: Setpoint, order: int) -> None:
        transaction = self.session.transaction
        transaction_id = None if transaction is None else transaction.transaction_id
        try:
            limit_w = profiles.limit_of(setpoint, self._settings, in_transaction=transaction is not None)
        except CannotError as problem:
            raise DeviceRefusedError(f"{self.device_id} {problem}") from None
        profile = profiles.lease_profile(
            self._settings,
            limit_w,
            self._charger.rate_unit,
            wall_us=self._wall_us(),
            lease_s=setpoint.lease_s,
            transaction_id=transaction_id,
        )
        until_s = self._monotonic_s() + setpoint.lease_s
        self._lease_runs, self._until_s = True, max(until_s, self._until_s)
        lowers = self._held_limit_w is None or abs(limit_w) < abs(self._held_limit_w) or limit_w == 0
        priority = Priority.URGENT if lowers else Priority.CONTROL
        await self._set_profile(profile, priority)
        held = await self._composite(setpoint.lease_s, priority)
        if order != self._order:
            raise DeviceRefusedError(f"{self.device_id}: a newer order overtook this one ({setpoint.reason})")
        if problem_text := profiles.objection(held, limit_w):
            self._held = self._held_limit_w = None
            raise DeviceRefusedError(f"{self.device_id} {problem_text}")
        self._held, self._held_limit_w, self._held_in, self._until_s = setpoint, limit_w, transaction_id, until_s
        if held.after_lease_w is not None:
            self._judge_dead_man(held.after_lease_w)

    async def _set_profile(self, profile: JsonObject, priority: Priority) -> None:
        payload: JsonObject = {"evseId": self._settings.evse_id, "chargingProfile": profile}
        answer = cast(StatusAnswer, await self._order_charger("SetChargingProfile", payload, priority))
        if answer["status"] != "Accepted" and answer.get("statusInfo", {}).get("reasonCode") == "DuplicateProfile":
            # Left by an earlier CSMS at the same purpose and stack level (K01.FR.39): ours takes its place.
            place: JsonObject = {
                "evseId": self._settings.evse_id,
                "chargingProfilePurpose": profile["chargingProfilePurpose"],
                "stackLevel": profile["stackLevel"],
            }
            await self._order_charger("ClearChargingProfile", {"chargingProfileCriteria": place}, priority)
            answer = cast(StatusAnswer, await self._order_charger("SetChargingProfile", payload, priority))
        if answer["status"] != "Accepted":
            raise DeviceRefusedError(f"{self.device_id} refused the charging profile{_reason(answer)}")

    async def _composite(self, lease_s: float, priority: Priority) -> Held:
        payload: JsonObject = {
            "evseId": self._settings.evse_id,
            "duration": int(lease_s) + profiles.LOOK_BEYOND_S,
            "chargingRateUnit": self._charger.rate_unit.value,
        }
        answer = cast(CompositeScheduleAnswer, await self._order_charger("GetCompositeSchedule", payload, priority))
        if answer["status"] != "Accepted" or "schedule" not in answer:
            raise DeviceRefusedError(f"{self.device_id} does not show what limit it holds{_reason(answer)}")
        try:
            return profiles.read_composite(answer["schedule"], self._settings, lease_s)
        except CannotError as problem:
            raise DeviceRefusedError(f"{self.device_id} {problem}") from None

    async def _order_charger(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        try:
            return await self._charger.call(action, payload, priority)
        except (CallRefusedError, InvalidAnswerError) as error:
            raise DeviceRefusedError(f"{self.device_id}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{self.device_id}: {error}") from error

    def _judge_dead_man(self, in_the_end_w: int) -> None:
        share_w = self._settings.static_share_w
        before = self._dead_man
        if -1 <= in_the_end_w <= share_w + profiles.TOLERANCE_W:
            self._dead_man = DeadMan.REVERTS_TO_FALLBACK
            self._notes.pop("dead_man", None)
            return
        self._dead_man = DeadMan.NONE
        text = f"no dead man: its composite schedule goes on at {in_the_end_w} W, its static share is {share_w} W"
        if before is not DeadMan.NONE:
            self._note("dead_man", text)

    def _note(self, key: str, text: str) -> None:
        if self._notes.get(key) != text:
            self._notes[key] = text
            self._charger.notice(self.device_id, "charger.dead_man", text)

    def _capabilities(self) -> Capabilities | None:
        if self._dead_man is None:
            return None
        settings = self._settings
        falls_back = self._dead_man is DeadMan.REVERTS_TO_FALLBACK
        notes = list(self._notes.values())
        if settings.rated_import_w is None:
            notes.append("nameplate not configured: 32 A on each phase is assumed")
        if settings.discharge == "v2x":
            notes.append("cannot discharge over OCPP 2.0.1; discharge = v2x needs OCPP 2.1")
        can_discharge = settings.discharge == "negative_limit"
        return Capabilities(
            rated_import_w=settings.import_rating_w,
            rated_export_w=settings.export_rating_w if can_discharge else 0,
            limits_import=True,
            limits_export=True,
            follows_setpoint=True,
            dead_man=self._dead_man,
            fallback_lowest_w=-settings.export_rating_w if self._dead_man is DeadMan.NONE and can_discharge else 0,
            fallback_highest_w=settings.static_share_w if falls_back else settings.import_rating_w,
            minimum_import_w=settings.minimum_import_w,
            response_s=5.0,
            phases=settings.phases,
            notes=tuple(notes),
        )


def _reason(answer: StatusAnswer) -> str:
    if "statusInfo" not in answer:
        return ""
    told = answer["statusInfo"]
    return f" ({quoted(told['reasonCode'], 24)} {quoted(told.get('additionalInfo', ''), 80)})"
