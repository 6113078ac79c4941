"""What the chargers of the bench `ocpp` say: a TransactionEvent with eight sampled values, as a real EVSE sends it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson


def transaction_event(number: int, transaction_id: str, kind: str = "Updated") -> str:
    """One event of a running transaction, measured now; its registers grow with its number."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    register_wh = 1_234_567 + number * 3
    sampled: list[dict[str, Any]] = [
        {"value": register_wh, "measurand": "Energy.Active.Import.Register", "unitOfMeasure": {"unit": "Wh"}},
        {"value": 7_654.3, "measurand": "Energy.Active.Export.Register", "unitOfMeasure": {"unit": "Wh"}},
        *(
            {
                "value": 3_680.5 + number % 50,
                "measurand": "Power.Active.Import",
                "phase": phase,
                "location": "Outlet",
                "unitOfMeasure": {"unit": "W"},
            }
            for phase in ("L1", "L2", "L3")
        ),
        {"value": 230.4, "measurand": "Voltage", "phase": "L1-N", "unitOfMeasure": {"unit": "V"}},
        {"value": 50.01, "measurand": "Frequency", "unitOfMeasure": {"unit": "Hertz"}},
        {"value": 64, "measurand": "SoC", "location": "EV", "unitOfMeasure": {"unit": "Percent"}},
    ]
    event = {
        "eventType": kind,
        "timestamp": moment,
        "triggerReason": "MeterValuePeriodic",
        "seqNo": number,
        "transactionInfo": {"transactionId": transaction_id, "chargingState": "Charging"},
        "evse": {"id": 1, "connectorId": 1},
        "meterValue": [{"timestamp": moment, "sampledValue": sampled}],
    }
    return orjson.dumps([2, f"{transaction_id}-{number}", "TransactionEvent", event]).decode()
