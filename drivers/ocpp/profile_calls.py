"""What an EVSE asks and tells its charger about profiles: set, clear, show, report. Raises DeviceError only."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final, Protocol, cast

from drivers.device import DeviceRefusedError, DeviceUnreachableError, LinkState
from drivers.ocpp import profiles
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, NotInVersionError, quoted
from drivers.ocpp.messages import ChargingProfile, CompositeScheduleAnswer, StatusAnswer
from drivers.ocpp.profiles import CannotError, Dialect, Held, RateUnit, Slot
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject, Version
from drivers.ocpp.session import EvseSession

REPORT_S: Final = 5.0
"""Within so long a charger has reported what profiles it holds."""
OURS_TO_CLEAR: Final = frozenset({"TxProfile", "TxDefaultProfile", "PriorityCharging"})
"""Purposes of profiles that an earlier CSMS may have left. A station's maximum may be its installer's."""


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

    def __init__(self, session: EvseSession, charger: Charger) -> None:
        self._session = session
        self._settings = session.settings
        self._charger = charger
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

    async def _set(self, profile: JsonObject, priority: Priority) -> StatusAnswer:
        payload: JsonObject = {"evseId": self._settings.evse_id, "chargingProfile": profile}
        return cast(StatusAnswer, await self.order("SetChargingProfile", payload, priority))


def reason(answer: StatusAnswer) -> str:
    """Why a charger said no, in brackets; empty where it did not say."""
    if "statusInfo" not in answer:
        return ""
    told = answer["statusInfo"]
    return f" ({quoted(told['reasonCode'], 24)} {quoted(told.get('additionalInfo', ''), 80)})"
