"""What a charger answers to smart charging and V2X requests (blocks K and Q): one function per action, raw payloads.

Names are the wire's own (`wire.py` says why). Whatever makes the charger speak or act waits until the answer has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .charger import Charger, Dynamic
from .profiles import Purpose, rfc3339
from .schedule import ProfileRefusedError
from .smart_words import EVSE_ID, Raw
from .wire import RawHandler

Payload = dict[str, Any]


class SmartChargingRequests:
    """The requests of the CSMS to one charger. `version` is OCPP's, as the subprotocol says it."""

    def __init__(self, charger: Charger, wall_s: Callable[[], float]) -> None:
        self._charger = charger
        self._wall_s = wall_s

    def handlers(self, *, extended: bool) -> Mapping[str, RawHandler]:
        """`extended`: by OCPP 2.1."""
        table: dict[str, RawHandler] = {
            "SetChargingProfile": self._set_charging_profile,
            "ClearChargingProfile": self._clear_charging_profile,
            "GetCompositeSchedule": self._get_composite_schedule,
            "GetChargingProfiles": self._get_charging_profiles,
            "RequestStartTransaction": self._request_start_transaction,
        }
        if extended:
            table |= {
                "NotifyAllowedEnergyTransfer": self._allowed_energy_transfer,
                "UsePriorityCharging": self._use_priority_charging,
                "UpdateDynamicSchedule": self._update_dynamic_schedule,
            }
        return table

    # K01, K08, K09, K10

    def _set_charging_profile(self, payload: Payload) -> Payload:
        charger = self._charger
        profile = payload["chargingProfile"]
        try:
            charger.profiles.install(
                payload["evseId"], profile, transaction_id=charger.transaction_id, now_s=self._wall_s()
            )
        except ProfileRefusedError as refusal:
            return {"status": "Rejected", "statusInfo": _why(refusal)}
        if profile["chargingProfilePurpose"] == Purpose.TX:
            charger.defer(charger.words.schedule)
        return {"status": "Accepted"}

    def _clear_charging_profile(self, payload: Payload) -> Payload:
        cleared = self._charger.profiles.clear(payload.get("chargingProfileId"), payload.get("chargingProfileCriteria"))
        return {"status": "Accepted" if cleared else "Unknown"}

    def _get_composite_schedule(self, payload: Payload) -> Payload:
        charger, duration, unit = self._charger, payload["duration"], payload.get("chargingRateUnit", "W")
        if payload["evseId"] not in (0, EVSE_ID) or duration <= 0:
            return {"status": "Rejected", "statusInfo": {"reasonCode": "UnknownEvse"}}
        start_s = self._wall_s()
        per_unit = 1.0 if unit == "W" else charger.profiles.outlet.watts(1.0, "A", None)
        periods = charger.profiles.composite(start_s, duration, charger.transaction_start_s)
        return {
            "status": "Accepted",
            "schedule": {
                "evseId": payload["evseId"],
                "duration": duration,
                "scheduleStart": rfc3339(start_s),
                "chargingRateUnit": unit,
                "chargingSchedulePeriod": [
                    step.as_wire(
                        offset,
                        per_unit,
                        charger.evse.phases,
                        extended=charger.extended,
                        per_phase=charger.settings.per_phase,
                    )
                    for offset, step in periods
                ],
            },
        }

    def _get_charging_profiles(self, payload: Payload) -> Payload:
        found = self._charger.profiles.matching(payload.get("evseId"), payload["chargingProfile"])
        if not found:
            return {"status": "NoProfiles"}

        def report() -> None:
            for index, profile in enumerate(found):
                report = {
                    "requestId": payload["requestId"],
                    "chargingLimitSource": "CSO",
                    "chargingProfile": [profile.source],
                    "evseId": profile.evse_id,
                    "tbc": index + 1 < len(found),
                }
                self._charger.say(Raw("ReportChargingProfiles", report))

        self._charger.defer(report)
        return {"status": "Accepted"}

    # K28

    def _update_dynamic_schedule(self, payload: Payload) -> Payload:
        charger = self._charger
        if charger.settings.dynamic_profiles is Dynamic.NEVER_UPDATED:
            return {"status": "Rejected", "statusInfo": {"reasonCode": "NotEnabled"}}
        try:
            charger.profiles.update(payload["chargingProfileId"], payload["scheduleUpdate"], self._wall_s())
        except ProfileRefusedError as refusal:
            return {"status": "Rejected", "statusInfo": _why(refusal)}
        return {"status": "Accepted"}

    # K21, Q01

    def _use_priority_charging(self, payload: Payload) -> Payload:
        charger = self._charger
        if payload["transactionId"] != charger.transaction_id:
            return {"status": "Rejected", "statusInfo": {"reasonCode": "TxNotFound"}}
        if payload["activate"] and not charger.profiles.holds(Purpose.PRIORITY):
            return {"status": "NoProfile"}
        charger.profiles.priority = payload["activate"]
        return {"status": "Accepted"}

    def _allowed_energy_transfer(self, payload: Payload) -> Payload:
        charger = self._charger
        if payload["transactionId"] != charger.transaction_id:
            return {"status": "Rejected", "statusInfo": {"reasonCode": "TxNotFound"}}
        charger.defer(lambda: charger.words.allowed(frozenset(payload["allowedEnergyTransfer"])))
        return {"status": "Accepted"}

    # F01, F02 (here because a profile may come along, K05)

    def _request_start_transaction(self, payload: Payload) -> Payload:
        charger, profile = self._charger, payload.get("chargingProfile")
        reason = None
        if payload.get("evseId", EVSE_ID) != EVSE_ID:
            reason = "UnknownEvse"
        elif charger.evse.car is None:
            reason = "NoCable"
        elif charger.transaction is not None:
            reason = "TxInProgress"
        elif profile is not None and profile["chargingProfilePurpose"] != Purpose.TX:
            reason = "InvalidProfile"
        if reason is not None:
            return {"status": "Rejected", "statusInfo": {"reasonCode": reason}}
        token_id, start_id = payload["idToken"]["idToken"], payload["remoteStartId"]
        charger.defer(lambda: charger.start_transaction("RemoteStart", token_id, start_id, profile))
        return {"status": "Accepted"}


def _why(refusal: ProfileRefusedError) -> dict[str, str]:
    return {"reasonCode": refusal.reason[:20], "additionalInfo": str(refusal)[:512]}
