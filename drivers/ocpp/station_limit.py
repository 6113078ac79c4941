"""What a whole station may take at most (K04): its own EVSEs share it as it likes, below what each is told by the plan.

It is the owner's word about the cable that the station hangs on; it has no end, is kept over our restarts and put into
the charger again on each connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, cast

import structlog

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import profiles
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, NotInVersionError
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import CompositeScheduleAnswer, StatusAnswer
from drivers.ocpp.profile_calls import reason
from drivers.ocpp.profiles import CannotError, RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.station import StationSession

SHOWN_S: Final = 60
"""The composite schedule of the station is asked for so long."""
MOST_W: Final = 10_000_000

_log = structlog.get_logger()


class _Charger(Protocol):
    """What it needs of the charger."""

    session: StationSession
    rate_unit: RateUnit

    @property
    def evses(self) -> Mapping[int, OcppEvse]: ...

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Raises CallError."""
        ...


class StationLimit:
    """Of one charger."""

    def __init__(self, charger: _Charger, charger_id: str) -> None:
        self._charger = charger
        self._charger_id = charger_id

    async def hold(self) -> str:
        """Have the charger hold what the session says, or nothing. Returns what is to be known of it; empty: it shows
        that it does. Raises DeviceRefusedError or DeviceUnreachableError."""
        watts = self._charger.session.limit_w
        if watts is None:
            await self._ask("ClearChargingProfile", {"chargingProfileId": profiles.STATION_LIMIT_ID})
            return ""
        settings = [evse.session.settings for evse in self._charger.evses.values()]
        profile = profiles.station_profile(watts, settings, self._charger.rate_unit)
        answer = await self._ask("SetChargingProfile", {"evseId": 0, "chargingProfile": profile})
        told = cast(StatusAnswer, answer)
        if told["status"] != "Accepted":
            raise DeviceRefusedError(f"{self._charger_id} refused a limit of the station{reason(told)}")
        return await self._unproved(watts)

    async def bring_up(self) -> None:
        """On each connection. Raises DeviceUnreachableError; a charger that refuses is said to."""
        if self._charger.session.limit_w is None:
            return
        try:
            problem = await self.hold()
        except DeviceRefusedError as refusal:
            problem = str(refusal)
        if problem:
            _log.warning("ocpp_station_limit", charger=self._charger_id, problem=problem)

    async def _unproved(self, watts: int) -> str:
        """Why it is not known that the station holds its limit (K08, EVSE 0). Raises as `hold` does."""
        unit = self._charger.rate_unit.value
        asked: JsonObject = {"evseId": 0, "duration": SHOWN_S, "chargingRateUnit": unit}
        try:
            answer = cast(CompositeScheduleAnswer, await self._ask("GetCompositeSchedule", asked))
            if answer["status"] != "Accepted" or "schedule" not in answer:
                return f"it does not show what the station holds{reason(answer)}"
            any_evse = next(iter(self._charger.evses.values())).session.settings
            held = profiles.read_composite(answer["schedule"], any_evse, 0.0)
        except (DeviceRefusedError, CannotError) as problem:
            return f"it does not show what the station holds: {problem}"
        if held.now_w > watts + profiles.TOLERANCE_W:
            raise DeviceRefusedError(
                f"{self._charger_id} took a limit of {watts} W for the station and shows {held.now_w} W"
            )
        return ""

    async def _ask(self, action: str, payload: JsonObject) -> JsonObject:
        try:
            return await self._charger.call(action, payload, Priority.CONTROL)
        except (CallRefusedError, InvalidAnswerError, NotInVersionError) as error:
            raise DeviceRefusedError(f"{self._charger_id}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{self._charger_id}: {error}") from error
