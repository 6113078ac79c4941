"""What a charger reports beside charging: device model, events, logs, reservations, another vendor's data. Pure.

The table at the end is the whole list; none of it moves power. What must survive a restart is said by the outcome.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from drivers.ocpp.device_model import DeviceModel
from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.session import Notice

MOST_RESERVATIONS: Final = 100
MOST_LOGS: Final = 20
MOST_ALERTS: Final = 20
"""Of one message that are told one by one."""
MOST_PARTS: Final = 100
"""Of what a charger tells about one customer; each has 512 characters at most."""


class CustomerReport:
    """What a charger told about the customer that was asked for last (N09). Somebody's data: in memory only, until it
    was handed over."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._parts: dict[int, str] = {}
        self._last: int | None = None

    def expect(self, request_id: int) -> None:
        """A report was asked for."""
        self.forget()
        self._asked = request_id

    def take(self, payload: JsonObject) -> None:
        """NotifyCustomerInformation; parts may come in any order, and one that nobody asked for is left."""
        number = int(cast(int, payload["seqNo"]))
        if payload["requestId"] != self._asked or not 0 <= number < MOST_PARTS:
            return
        self._parts[number] = str(payload["data"])
        if not payload.get("tbc", False):
            self._last = number

    def hand_over(self) -> str | None:
        """All of it, once all parts have come; then it is forgotten here."""
        if self._last is None or any(number not in self._parts for number in range(self._last + 1)):
            return None
        text = "".join(self._parts[number] for number in range(self._last + 1))
        self.forget()
        return text

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._asked, self._parts, self._last = None, {}, None


@dataclass(slots=True)
class ReportOutcome:
    """What came of one report."""

    answer: JsonObject = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    remember: bool = False
    """The reservations are different now."""
    model_changed: bool = False
    """The device model is different now, and complete enough to be kept."""


class Reports:
    """All that one charger reported."""

    def __init__(self, device_ids: Mapping[int, str] | None = None) -> None:
        """`device_ids`: the site's name of each EVSE."""
        self.device_ids = dict(device_ids or {})
        self.model = DeviceModel()
        self.reservations: dict[int, JsonObject] = {}
        """By id: device, token (masked), until_us."""
        self.customer = CustomerReport()
        self.logs: OrderedDict[int, str] = OrderedDict()
        """Upload status of logs, by the request's id."""

    def handle(self, action: str, payload: JsonObject) -> ReportOutcome | None:
        """The outcome of a message that is in the table, else None. The payload fits its schema."""
        handler = _HANDLERS.get(action)
        return None if handler is None else handler(self, payload)

    def reserve(self, reservation_id: int, entry: JsonObject) -> None:
        """A reservation that the charger took."""
        self.reservations[reservation_id] = entry
        while len(self.reservations) > MOST_RESERVATIONS:
            del self.reservations[next(iter(self.reservations))]

    def encode(self) -> JsonObject:
        """What must survive a restart; the device model is kept by itself."""
        return {"reservations": [[number, entry] for number, entry in self.reservations.items()]}

    def restore(self, kept: Mapping[str, Json]) -> None:
        """Raises what damaged values raise (ValueError, TypeError, ...)."""
        entries = cast(list[tuple[int, JsonObject]], kept["reservations"])
        self.reservations = {int(number): dict(entry) for number, entry in entries}

    # --- actions

    def _report(self, payload: JsonObject) -> ReportOutcome:
        return ReportOutcome(model_changed=self.model.take_report(payload))

    def _event(self, payload: JsonObject) -> ReportOutcome:
        alerts = self.model.take_events(payload)
        notices = [
            Notice(
                "charger.event_cleared" if alert.cleared else "charger.event",
                alert.text,
                self.device_ids.get(alert.evse_id, ""),
            )
            for alert in alerts[:MOST_ALERTS]
        ]
        if len(alerts) > MOST_ALERTS:
            text = f"{len(alerts) - MOST_ALERTS} more alerts came in one message and are not told one by one"
            notices.append(Notice("charger.event", text))
        return ReportOutcome(notices=notices, model_changed=bool(alerts))

    def _monitoring(self, payload: JsonObject) -> ReportOutcome:
        self.model.take_monitors(payload)
        return ReportOutcome(model_changed=not payload.get("tbc", False))

    def _log(self, payload: JsonObject) -> ReportOutcome:
        number = int(cast(int, payload.get("requestId", 0)))
        self.logs[number] = str(payload["status"])
        self.logs.move_to_end(number)
        while len(self.logs) > MOST_LOGS:
            self.logs.popitem(last=False)
        return ReportOutcome()

    def _reservation(self, payload: JsonObject) -> ReportOutcome:
        # Expired and Removed are the only two words (H04).
        gone = self.reservations.pop(int(cast(int, payload["reservationId"])), None)
        return ReportOutcome(remember=gone is not None)

    def _customer(self, payload: JsonObject) -> ReportOutcome:
        self.customer.take(payload)
        return ReportOutcome()

    def _transfer(self, payload: JsonObject) -> ReportOutcome:
        # P02: no vendor's extension is known here, and saying so is the specified answer.
        return ReportOutcome({"status": "UnknownVendorId"})

    def _firmware(self, payload: JsonObject) -> ReportOutcome:
        """Of the charger's own (L01, L02), or of what it publishes for others (L03)."""
        status = str(payload["status"])
        wrong = "Fail" in status or "Invalid" in status  # a signature or checksum: perhaps somebody else's firmware
        notices = [Notice("charger.firmware", f"firmware update: {quoted(status)}")] if wrong else []
        return ReportOutcome(notices=notices)


_HANDLERS: Final[Mapping[str, Callable[[Reports, JsonObject], ReportOutcome]]] = {
    "NotifyReport": Reports._report,
    "NotifyEvent": Reports._event,
    "NotifyMonitoringReport": Reports._monitoring,
    "LogStatusNotification": Reports._log,
    "ReservationStatusUpdate": Reports._reservation,
    "NotifyCustomerInformation": Reports._customer,
    "DataTransfer": Reports._transfer,
    "FirmwareStatusNotification": Reports._firmware,
    "PublishFirmwareStatusNotification": Reports._firmware,
}
