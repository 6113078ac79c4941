"""What a charger answers to the CSMS's requests beside smart charging: one function per action that it knows.

Keys of nested values are as the `ocpp` package converts them (snake case). What is not in the table is answered
NotImplemented by the package. Whatever makes the charger speak or act is deferred until the answer has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ocpp.v201 import call, call_result

from .charger import Charger
from .profiles import rfc3339

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
            "RequestStopTransaction": self._request_stop_transaction,
            "GetTransactionStatus": self._get_transaction_status,
            "TriggerMessage": self._trigger_message,
            "Reset": self._reset,
            "GetVariables": self._get_variables,
            "SetVariables": self._set_variables,
            "GetBaseReport": self._get_base_report,
        }
        return {action: {"_on_action": handler} for action, handler in table.items()}

    # F: remote control

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
