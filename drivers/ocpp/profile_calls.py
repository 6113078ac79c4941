"""What an EVSE asks and tells its charger about profiles: set, clear, show, report. Raises DeviceError only."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, cast

from drivers.device import DeviceRefusedError, DeviceUnreachableError, LinkState
from drivers.ocpp import profiles
from drivers.ocpp.dynamic import dynamic_profile, flaw, update_of
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, NotInVersionError, quoted
from drivers.ocpp.messages import ChargingProfile, CompositeScheduleAnswer, StatusAnswer
from drivers.ocpp.profiles import CannotError, Dialect, Held, RateUnit, Slot
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject, Version
from drivers.ocpp.session import EvseSession
from drivers.ocpp.v2x import Period

REPORT_S: Final = 5.0
"""Within so long a charger has reported what profiles it holds."""
OURS_TO_CLEAR: Final = frozenset({"TxProfile", "TxDefaultProfile", "PriorityCharging", "LocalGeneration"})
"""Purposes of profiles that an earlier CSMS may have left and that permit. A station's maximum may be its
installer's, and what an external system set (K23) is that system's."""


class NotTakenError(DeviceRefusedError):
    """The profile itself was refused."""


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


class ProfileCalls:
    """Of one EVSE."""

    def __init__(self, session: EvseSession, charger: Charger, monotonic_s: Callable[[], float]) -> None:
        self._session = session
        self._settings = session.settings
        self._charger = charger
        self._monotonic_s = monotonic_s
        self._holds = itertools.count(1)
        self._newest = 0
        self._turns: set[asyncio.Timeout] = set()
        self._request_ids = itertools.count(1)
        self.heard = asyncio.Event()
        """Set by whoever passes the charger's messages on, after a ReportChargingProfiles."""
        self.offline_bound = True
        """The charger takes maxOfflineDuration, or has not been asked yet."""

    @property
    def dialect(self) -> Dialect:
        """How profiles are written for this charger and its car now."""
        return Dialect(
            unit=self._charger.rate_unit,
            extended=self._charger.version is Version.V21,
            per_phase=self._session.car.per_phase,
            offline_bound=self.offline_bound,
        )

    @property
    def busy(self) -> bool:
        """An order is on its way."""
        return bool(self._turns)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Of one order: what an older one has not sent yet is not sent any more. Else a raise that waited in the line
        would reach the charger after the stop that overtook it. Raises DeviceRefusedError when a newer one comes."""
        now_s = asyncio.get_running_loop().time()
        for older in self._turns:
            older.reschedule(now_s)
        self._turns.clear()
        mine = asyncio.timeout(None)
        try:
            async with mine:
                self._turns.add(mine)
                try:
                    yield
                finally:
                    self._turns.discard(mine)
        except TimeoutError:
            if not mine.expired():
                raise
            raise DeviceRefusedError(f"{self._settings.device_id}: a newer order overtook this one") from None

    async def order(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Any request."""
        device_id = self._settings.device_id
        try:
            return await self._charger.call(action, payload, priority)
        except (CallRefusedError, InvalidAnswerError, NotInVersionError) as error:
            raise DeviceRefusedError(f"{device_id}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{device_id}: {error}") from error

    async def install(self, profile: JsonObject, priority: Priority) -> None:
        """SetChargingProfile (K01). `Accepted` is not yet obedience."""
        answer = await self._set(profile, priority)
        if answer["status"] != "Accepted" and answer.get("statusInfo", {}).get("reasonCode") == "DuplicateProfile":
            # Left by an earlier CSMS at the same purpose and stack level (K01.FR.39): ours takes its place.
            place: JsonObject = {
                "evseId": self._settings.evse_id,
                "chargingProfilePurpose": profile["chargingProfilePurpose"],
                "stackLevel": profile["stackLevel"],
            }
            await self.order("ClearChargingProfile", {"chargingProfileCriteria": place}, priority)
            answer = await self._set(profile, priority)
        if answer["status"] != "Accepted" and "maxOfflineDuration" in profile:
            bounds = ("maxOfflineDuration", "invalidAfterOfflineDuration")
            answer = await self._set({name: value for name, value in profile.items() if name not in bounds}, priority)
            # Its duration ends it all the same.
            self.offline_bound = answer["status"] != "Accepted"
        if answer["status"] != "Accepted":
            raise DeviceRefusedError(f"{self._settings.device_id} refused the charging profile{reason(answer)}")

    async def hold(
        self,
        profile: JsonObject,
        period: Period,
        lease_s: float,
        until_s: float,
        priority: Priority,
        objection: Callable[[Held, Period], str | None],
    ) -> Held:
        """A lease into the charger, and what it shows to hold then: by an update where it has the lease as a dynamic
        profile (K28), else by a profile. `until_s`: end of the lease, monotonic. `objection`: why what it shows is not
        what it was told. Raises NotTakenError, and as `composite` does."""
        self._newest = mine = next(self._holds)
        moving, problem = self._session.dynamic, ""
        alone = not moving.busy
        wanted = dynamic_profile(profile, period, lease_s) if moving.usable and self.dialect.extended else None
        async with self.turn():
            with moving.under_way():
                if wanted is not None:
                    try:
                        given = await self._move(wanted, lease_s, until_s, priority, alone=alone)
                        held = await self.composite(lease_s, priority)
                        problem = objection(held, period) or flaw(held, given, self._settings)
                    except DeviceRefusedError as refusal:
                        problem = f"took no dynamic profile: {refusal}"
                    else:
                        if mine != self._newest or not problem:
                            return held
                moving.forget()
                try:
                    await self.install(profile, priority)
                except DeviceRefusedError as refusal:
                    raise NotTakenError(str(refusal)) from refusal
                held = await self.composite(lease_s, priority)
                # Else it was not for being dynamic: another order came in between, or somebody's profile rules.
                if problem and alone and mine == self._newest and objection(held, period) is None:
                    self._distrust(problem)
                return held

    async def refresh(self) -> None:
        """Have the lease go on to its end where the charger has it as a dynamic profile. Raises DeviceUnreachableError;
        a charger that refuses is told what holds by another order (`say_again`)."""
        moving, running = self._session.dynamic, self._session.transaction
        now_s = self._monotonic_s()
        update = moving.refresh(None if running is None else running.transaction_id, now_s)
        if update is None:
            return
        mine = self._newest
        # Ahead of any other order: what is ordered later is to arrive later.
        if await self._update(update, Priority.URGENT):
            if mine == self._newest:
                moving.refreshed(now_s)
        else:
            self._session.smart.say_again = True

    async def clear(self, slot: Slot, priority: Priority = Priority.CONTROL) -> None:
        """ClearChargingProfile (K10). "Unknown" is as good as "Accepted": it is not there."""
        await self.clear_id(profiles.profile_id(self._settings.evse_id, slot), priority)

    async def clear_id(self, profile_id: int, priority: Priority = Priority.CONTROL) -> None:
        await self.order("ClearChargingProfile", {"chargingProfileId": profile_id}, priority)

    async def composite(self, lease_s: float, priority: Priority) -> Held:
        """GetCompositeSchedule (K08): what it holds now and after a lease."""
        payload: JsonObject = {
            "evseId": self._settings.evse_id,
            "duration": int(lease_s) + profiles.LOOK_BEYOND_S,
            "chargingRateUnit": self._charger.rate_unit.value,
        }
        answer = cast(CompositeScheduleAnswer, await self.order("GetCompositeSchedule", payload, priority))
        if answer["status"] != "Accepted" or "schedule" not in answer:
            raise DeviceRefusedError(f"{self._settings.device_id} does not show what limit it holds{reason(answer)}")
        try:
            return profiles.read_composite(answer["schedule"], self._settings, lease_s)
        except CannotError as problem:
            raise DeviceRefusedError(f"{self._settings.device_id} {problem}") from None

    async def report(self) -> Sequence[ChargingProfile]:
        """GetChargingProfiles (K09): those that were set by a CSMS, ours and others'."""
        request_id = next(self._request_ids)
        self._session.smart.expect(request_id)
        asked: JsonObject = {
            "requestId": request_id,
            "evseId": self._settings.evse_id,
            "chargingProfile": {"chargingLimitSource": ["CSO"]},
        }
        answer = cast(StatusAnswer, await self.order("GetChargingProfiles", asked, Priority.CONTROL))
        if answer["status"] == "NoProfiles":
            return ()
        try:
            async with asyncio.timeout(REPORT_S):
                while (found := self._session.smart.report()) is None:
                    self.heard.clear()
                    await self.heard.wait()
        except TimeoutError:
            text = f"{self._settings.device_id} did not report its profiles within {REPORT_S:.0f} s"
            raise DeviceRefusedError(text) from None
        return found

    async def clear_foreign(self) -> int:
        """Take profiles out that are not ours and rule over ours. Returns how many; a charger that cannot say what
        it holds keeps them."""
        try:
            held = await self.report()
        except DeviceRefusedError:
            return 0
        ours = {profiles.profile_id(self._settings.evse_id, slot) for slot in Slot}
        foreign = [
            int(profile["id"])
            for profile in held
            if int(profile["id"]) not in ours and profile["chargingProfilePurpose"] in OURS_TO_CLEAR
        ]
        for profile_id in foreign:
            await self.clear_id(profile_id)
        return len(foreign)

    async def _move(
        self, wanted: JsonObject, lease_s: float, until_s: float, priority: Priority, *, alone: bool
    ) -> JsonObject:
        """The profile that the charger has then. Raises DeviceRefusedError where it takes none, or no more updates."""
        moving, mine, now_s = self._session.dynamic, self._newest, self._monotonic_s()
        moved = moving.moved_to(wanted, lease_s)
        moving.forget()
        if moved is not None and not await self._update(update_of(moved), priority, counts=alone):
            moved = None
            if not moving.usable:
                raise DeviceRefusedError(moving.distrust)
        if moved is None:
            await self.install(wanted, priority)
        given = moved or wanted
        if mine == self._newest:  # else it is not known which of the two came last
            moving.took(given, until_s, now_s, by_update=moved is not None)
        return given

    async def _update(self, update: JsonObject, priority: Priority, *, counts: bool = True) -> bool:
        """UpdateDynamicSchedule (K28). `Accepted` is not yet obedience. `counts`: a refusal is the charger's own."""
        moving = self._session.dynamic
        try:
            answer = cast(StatusAnswer, await self.order("UpdateDynamicSchedule", update, priority))
        except DeviceRefusedError as refusal:
            self._distrust(f"does not update its dynamic profile: {refusal}")
            moving.forget()
            return False
        if answer["status"] == "Accepted":
            return True
        moving.forget()
        if counts and moving.refused_update():
            self._distrust(f"refuses to update its dynamic profile{reason(answer)}")
        return False

    def _distrust(self, why: str) -> None:
        if self._session.dynamic.distrust:
            return
        self._session.dynamic.distrust = why
        text = f"it {why}; until it boots it is told by profiles that end by the clock"
        self._charger.notice(self._settings.device_id, "charger.dynamic_profile", text)

    async def _set(self, profile: JsonObject, priority: Priority) -> StatusAnswer:
        payload: JsonObject = {"evseId": self._settings.evse_id, "chargingProfile": profile}
        return cast(StatusAnswer, await self.order("SetChargingProfile", payload, priority))


def reason(answer: StatusAnswer) -> str:
    """Why a charger said no, in brackets; empty where it did not say."""
    if "statusInfo" not in answer:
        return ""
    told = answer["statusInfo"]
    return f" ({quoted(told['reasonCode'], 24)} {quoted(told.get('additionalInfo', ''), 80)})"
