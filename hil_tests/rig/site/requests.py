"""What a charger answers to the CSMS's requests: one function per OCPP 2.0.1 action that it knows.

Keys of nested values are as the `ocpp` package converts them (snake case). What is not in the table is answered
NotImplemented by the package. Whatever makes the charger speak or act is deferred until the answer has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ocpp.v201 import call, call_result

from .charger import EVSE_ID, Charger
from .profiles import ProfileRefusedError, rfc3339

Handler = Callable[..., Any]
"""Takes the request's fields by name, gives an object of the `ocpp` package's `call_result` module."""

REPORT_PART: Final = 10
"""Variables in one NotifyReport."""


class CsmsRequests:
    """The requests of the CSMS to one charger."""

    def __init__(self, charger: Charger, wall_s: Callable[[], float], boot_again: Callable[[], None]) -> None:
        """`boot_again` asks the session to send BootNotification again."""
        self._charger = charger
        self._wall_s = wall_s
        self._boot_again = boot_again

    def routes(self) -> dict[str, dict[str, Handler]]:
        """For the route map of the `ocpp` package's ChargePoint."""
        table: dict[str, Handler] = {
            "SetChargingProfile": self._set_charging_profile,
            "ClearChargingProfile": self._clear_charging_profile,
            "GetCompositeSchedule": self._get_composite_schedule,
            "GetChargingProfiles": self._get_charging_profiles,
            "RequestStartTransaction": self._request_start_transaction,
            "RequestStopTransaction": self._request_stop_transaction,
            "GetTransactionStatus": self._get_transaction_status,
            "TriggerMessage": self._trigger_message,
            "Reset": self._reset,
            "GetVariables": self._get_variables,
            "SetVariables": self._set_variables,
            "GetBaseReport": self._get_base_report,
        }
        return {action: {"_on_action": handler} for action, handler in table.items()}

    # K: smart charging

    def _set_charging_profile(self, evse_id: int, charging_profile: Mapping[str, Any], **_: object) -> Any:
        transaction = self._charger.transaction
        try:
            self._charger.profiles.install(
                evse_id,
                charging_profile,
                transaction_id=None if transaction is None else transaction.transaction_id,
                now_s=self._wall_s(),
            )
        except ProfileRefusedError as refusal:
            return call_result.SetChargingProfile(status="Rejected", status_info=_why(refusal))
        return call_result.SetChargingProfile(status="Accepted")

    def _clear_charging_profile(
        self,
        charging_profile_id: int | None = None,
        charging_profile_criteria: Mapping[str, Any] | None = None,
        **_: object,
    ) -> Any:
        cleared = self._charger.profiles.clear(charging_profile_id, charging_profile_criteria)
        return call_result.ClearChargingProfile(status="Accepted" if cleared else "Unknown")

    def _get_composite_schedule(self, duration: int, evse_id: int, charging_rate_unit: str = "W", **_: object) -> Any:
        evse = self._charger.evse
        if evse_id not in (0, EVSE_ID) or duration <= 0:
            return call_result.GetCompositeSchedule(status="Rejected", status_info={"reasonCode": "UnknownEvse"})
        start_s = self._wall_s()
        per_unit = 1.0 if charging_rate_unit == "W" else self._charger.profiles.outlet.watts(1.0, "A", None)
        periods = self._charger.profiles.composite(start_s, duration, self._charger.transaction_start_s)
        return call_result.GetCompositeSchedule(
            status="Accepted",
            schedule={
                "evseId": evse_id,
                "duration": duration,
                "scheduleStart": rfc3339(start_s),
                "chargingRateUnit": charging_rate_unit,
                "chargingSchedulePeriod": [
                    {"startPeriod": offset, "limit": round(watts / per_unit, 1), "numberPhases": evse.phases}
                    for offset, watts in periods
                ],
            },
        )

    def _get_charging_profiles(
        self, request_id: int, charging_profile: Mapping[str, Any], evse_id: int | None = None, **_: object
    ) -> Any:
        found = self._charger.profiles.matching(evse_id, charging_profile)
        if not found:
            return call_result.GetChargingProfiles(status="NoProfiles")

        def report() -> None:
            for index, profile in enumerate(found):
                self._charger.say(
                    call.ReportChargingProfiles(
                        request_id=request_id,
                        charging_limit_source="CSO",
                        charging_profile=[profile.source],
                        evse_id=profile.evse_id,
                        tbc=index + 1 < len(found),
                    )
                )

        self._charger.defer(report)
        return call_result.GetChargingProfiles(status="Accepted")

    # F: remote control

    def _request_start_transaction(
        self,
        id_token: Mapping[str, Any],
        remote_start_id: int,
        evse_id: int = EVSE_ID,
        charging_profile: Mapping[str, Any] | None = None,
        **_: object,
    ) -> Any:
        charger = self._charger
        reason = None
        if evse_id != EVSE_ID:
            reason = "UnknownEvse"
        elif charger.evse.car is None:
            reason = "NoCable"
        elif charger.transaction is not None:
            reason = "TxInProgress"
        elif charging_profile is not None and charging_profile.get("charging_profile_purpose") != "TxProfile":
            reason = "InvalidProfile"
        if reason is not None:
            return call_result.RequestStartTransaction(status="Rejected", status_info={"reasonCode": reason})
        charger.defer(
            lambda: charger.start_transaction("RemoteStart", id_token["id_token"], remote_start_id, charging_profile)
        )
        return call_result.RequestStartTransaction(status="Accepted")

    def _request_stop_transaction(self, transaction_id: str, **_: object) -> Any:
        transaction = self._charger.transaction
        if transaction is None or transaction.transaction_id != transaction_id:
            return call_result.RequestStopTransaction(status="Rejected", status_info={"reasonCode": "TxNotFound"})
        self._charger.defer(self._charger.remote_stop)
        return call_result.RequestStopTransaction(status="Accepted")

    def _get_transaction_status(self, transaction_id: str | None = None, **_: object) -> Any:
        queued = [message.request.transaction_info["transactionId"] for message in self._charger.events]
        if transaction_id is None:
            return call_result.GetTransactionStatus(messages_in_queue=bool(queued))
        transaction = self._charger.transaction
        ongoing = transaction is not None and transaction.transaction_id == transaction_id
        return call_result.GetTransactionStatus(messages_in_queue=transaction_id in queued, ongoing_indicator=ongoing)

    def _trigger_message(self, requested_message: str, **_: object) -> Any:
        charger = self._charger
        actions: dict[str, Callable[[], None]] = {
            "BootNotification": self._boot_again,
            "Heartbeat": lambda: charger.say(call.Heartbeat()),
            "StatusNotification": charger.say_status,
            "MeterValues": lambda: charger.say_meter_values("Trigger"),
        }
        if charger.transaction is not None:
            actions["TransactionEvent"] = charger.trigger_transaction_event
        if requested_message not in actions:
            return call_result.TriggerMessage(status="NotImplemented")
        charger.defer(actions[requested_message])
        return call_result.TriggerMessage(status="Accepted")

    # B: provisioning

    def _reset(self, **request: object) -> Any:
        charger = self._charger
        immediate = request["type"] == "Immediate"
        charger.defer(lambda: charger.reset(immediate=immediate))
        waits = not immediate and charger.transaction is not None
        return call_result.Reset(status="Scheduled" if waits else "Accepted")

    def _get_variables(self, get_variable_data: list[Mapping[str, Any]], **_: object) -> Any:
        results = []
        for wanted in get_variable_data:
            attribute = wanted.get("attribute_type", "Actual")
            status, value = self._charger.variables.get(
                wanted["component"]["name"], wanted["variable"]["name"], attribute
            )
            result = {
                "attributeStatus": status,
                "attributeType": attribute,
                "component": wanted["component"],
                "variable": wanted["variable"],
            }
            results.append(result if value is None else {**result, "attributeValue": value})
        return call_result.GetVariables(get_variable_result=results)

    def _set_variables(self, set_variable_data: list[Mapping[str, Any]], **_: object) -> Any:
        results = [
            {
                "attributeStatus": self._charger.variables.set(
                    wanted["component"]["name"],
                    wanted["variable"]["name"],
                    wanted["attribute_value"],
                    wanted.get("attribute_type", "Actual"),
                ),
                "attributeType": wanted.get("attribute_type", "Actual"),
                "component": wanted["component"],
                "variable": wanted["variable"],
            }
            for wanted in set_variable_data
        ]
        self._charger.wake()
        return call_result.SetVariables(set_variable_result=results)

    def _get_base_report(self, request_id: int, report_base: str, **_: object) -> Any:
        if report_base == "SummaryInventory":
            return call_result.GetBaseReport(status="NotSupported")
        self._charger.defer(lambda: self._report_variables(request_id, report_base))
        return call_result.GetBaseReport(status="Accepted")

    def _report_variables(self, request_id: int, report_base: str) -> None:
        rows = [
            {
                "component": {"name": component},
                "variable": {"name": name},
                "variableAttribute": [
                    {"value": entry.value, "mutability": "ReadOnly" if entry.check is None else "ReadWrite"}
                ],
                "variableCharacteristics": {
                    "dataType": entry.data_type,
                    "supportsMonitoring": False,
                    **({"unit": entry.unit} if entry.unit is not None else {}),
                },
            }
            for (component, name), entry in self._charger.variables.all()
            if report_base == "FullInventory" or entry.check is not None
        ]
        parts = [rows[i : i + REPORT_PART] for i in range(0, len(rows), REPORT_PART)]
        for sequence, part in enumerate(parts):
            self._charger.say(
                call.NotifyReport(
                    request_id=request_id,
                    generated_at=rfc3339(self._wall_s()),
                    seq_no=sequence,
                    report_data=part,
                    tbc=sequence + 1 < len(parts),
                )
            )


def _why(refusal: ProfileRefusedError) -> dict[str, str]:
    return {"reasonCode": refusal.reason[:20], "additionalInfo": str(refusal)[:512]}
