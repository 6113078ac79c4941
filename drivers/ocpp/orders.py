"""What a person may ask of a charger, as calls of the specification. Pure: arguments in, action and payload out.

Arguments come from the command line over the local interface. What is wrong with one is a ValueError that says so; what
is only too long or of a wrong kind the schema catches before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from drivers.ocpp.device_model import SECRET_VARIABLES, parse_key
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.timestamps import format_timestamp, is_timestamp, parse_timestamp_us

MOST_VARIABLES: Final = 50
"""In one question; chargers take a few at a time."""
MONITORS: Final = ("UpperThreshold", "LowerThreshold", "Delta", "Periodic", "PeriodicClockAligned")
RESERVE_MINUTES: Final = 60


@dataclass(frozen=True, slots=True)
class Context:
    """What a payload needs beside the arguments."""

    evse_ids: Mapping[str, int]
    """Device id -> EVSE."""
    wall_us: int
    request_id: int
    """New with each order."""

    def evse(self, arguments: JsonObject, *, needed: bool = False) -> int | None:
        """The EVSE of `device`. Raises ValueError."""
        device = arguments.get("device")
        if device is None:
            if needed and len(self.evse_ids) == 1:
                return next(iter(self.evse_ids.values()))
            if needed:
                raise ValueError(f"name the device: one of {', '.join(self.evse_ids) or 'none is configured'}")
            return None
        if device not in self.evse_ids:
            raise ValueError(f"device {device!a} is not of this charger; known: {', '.join(self.evse_ids) or 'none'}")
        return self.evse_ids[str(device)]


Built = tuple[str, JsonObject]


def build(name: str, arguments: JsonObject, context: Context) -> Built:
    """Action and payload of an order. Raises ValueError: no such order, or wrong arguments."""
    if name not in _ORDERS:
        raise ValueError(f"no order is called {name!a}; known: {', '.join(sorted(_ORDERS))}")
    return _ORDERS[name](arguments, context)


def text(arguments: JsonObject, name: str, default: str | None = None) -> str:
    """An argument that is text. Raises ValueError."""
    value = arguments.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a token or password of digits
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is needed, as text")
    return value


def whole(arguments: JsonObject, name: str, default: int | None = None) -> int:
    """An argument that is a whole number. Raises ValueError."""
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31 - 1:
        raise ValueError(f"{name} is needed, as a whole number")
    return value


def _unlock(arguments: JsonObject, context: Context) -> Built:
    evse = context.evse(arguments, needed=True)
    return "UnlockConnector", {"evseId": evse, "connectorId": whole(arguments, "connector", 1)}


def _reserve(arguments: JsonObject, context: Context) -> Built:
    minutes = whole(arguments, "minutes", RESERVE_MINUTES)
    if not 1 <= minutes <= 7 * 1440:
        raise ValueError("minutes: 1 minute to 7 days")
    payload: JsonObject = {
        "id": context.request_id,
        "expiryDateTime": format_timestamp(context.wall_us + minutes * 60_000_000),
        "idToken": {"idToken": text(arguments, "token"), "type": text(arguments, "type", "ISO14443")},
    }
    evse = context.evse(arguments)
    if evse is not None:
        payload["evseId"] = evse
    if "group" in arguments:
        payload["groupIdToken"] = {"idToken": text(arguments, "group"), "type": "Central"}
    return "ReserveNow", payload


def _cancel_reservation(arguments: JsonObject, context: Context) -> Built:
    return "CancelReservation", {"reservationId": whole(arguments, "reservation")}


def _availability(arguments: JsonObject, context: Context) -> Built:
    operative = arguments.get("operative")
    if not isinstance(operative, bool):
        raise ValueError("operative is needed: true or false")
    payload: JsonObject = {"operationalStatus": "Operative" if operative else "Inoperative"}
    evse = context.evse(arguments)
    if evse is not None:
        payload["evse"] = {"id": evse}
        if "connector" in arguments:
            payload["evse"] = {"id": evse, "connectorId": whole(arguments, "connector")}
    return "ChangeAvailability", payload


def _reset(arguments: JsonObject, context: Context) -> Built:
    # With `resume` (OCPP 2.1) a transaction that runs goes on after it.
    kind = "ImmediateAndResume" if arguments.get("resume") is True else "OnIdle"
    payload: JsonObject = {"type": "Immediate" if arguments.get("immediate") is True else kind}
    evse = context.evse(arguments)
    if evse is not None:
        payload["evseId"] = evse
    return "Reset", payload


def _trigger(arguments: JsonObject, context: Context) -> Built:
    payload: JsonObject = {"requestedMessage": text(arguments, "message", "CustomTrigger")}
    if payload["requestedMessage"] == "CustomTrigger":  # a maker's own (OCPP 2.1)
        payload["customTrigger"] = text(arguments, "custom")
    evse = context.evse(arguments)
    if evse is not None:
        payload["evse"] = {"id": evse}
    return "TriggerMessage", payload


def _base_report(arguments: JsonObject, context: Context) -> Built:
    kind = text(arguments, "kind", "FullInventory")
    return "GetBaseReport", {"requestId": context.request_id, "reportBase": kind}


def _custom_report(arguments: JsonObject, context: Context) -> Built:
    payload: JsonObject = {"requestId": context.request_id}
    criteria = ("Active", "Available", "Enabled", "Problem")
    if "criterion" in arguments:
        if arguments["criterion"] not in criteria:
            raise ValueError(f"criterion: one of {', '.join(criteria)}")
        payload["componentCriteria"] = [arguments["criterion"]]
    if "variable" in arguments:
        payload["componentVariable"] = [parse_key(text(arguments, "variable")).on_wire()]
    if len(payload) == 1:
        raise ValueError("criterion or variable is needed; for everything: report")
    return "GetReport", payload


def _get(arguments: JsonObject, context: Context) -> Built:
    names = arguments.get("variables")
    if not isinstance(names, list) or not 0 < len(names) <= MOST_VARIABLES:
        raise ValueError(f"variables: 1 to {MOST_VARIABLES} names, as in SmartChargingCtrlr/RateUnit")
    return "GetVariables", {"getVariableData": [parse_key(str(name)).on_wire() for name in names]}


def _set(arguments: JsonObject, context: Context) -> Built:
    key = parse_key(text(arguments, "variable"))
    if key.variable.casefold() in SECRET_VARIABLES:
        raise ValueError("a password is changed by `chargers password`, which keeps the new one")
    value = arguments.get("value")
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("value is needed, as text")
    entry: JsonObject = {**key.on_wire(), "attributeValue": value}
    if "attribute" in arguments:
        entry["attributeType"] = text(arguments, "attribute")
    return "SetVariables", {"setVariableData": [entry]}


def _monitor(arguments: JsonObject, context: Context) -> Built:
    kind, value = text(arguments, "kind", MONITORS[0]), arguments.get("value")
    if kind not in MONITORS:
        raise ValueError(f"kind: one of {', '.join(MONITORS)}")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("value is needed, as a number: threshold, change, or seconds")
    severity = whole(arguments, "severity", 5)
    if not 0 <= severity <= 9:
        raise ValueError("severity: 0 (danger) to 9 (debug)")
    entry: JsonObject = {
        **parse_key(text(arguments, "variable")).on_wire(), "type": kind, "value": value, "severity": severity,
    }  # fmt: skip
    if "id" in arguments:
        entry["id"] = whole(arguments, "id")
    return "SetVariableMonitoring", {"setMonitoringData": [entry]}


def _unmonitor(arguments: JsonObject, context: Context) -> Built:
    return "ClearVariableMonitoring", {"id": [whole(arguments, "id")]}


def _monitors(arguments: JsonObject, context: Context) -> Built:
    return "GetMonitoringReport", {"requestId": context.request_id}


def _monitoring_base(arguments: JsonObject, context: Context) -> Built:
    return "SetMonitoringBase", {"monitoringBase": text(arguments, "base")}


def _monitoring_level(arguments: JsonObject, context: Context) -> Built:
    return "SetMonitoringLevel", {"severity": whole(arguments, "severity")}


def _network(arguments: JsonObject, context: Context) -> Built:
    profile: JsonObject = {
        "ocppVersion": "OCPP20",
        "ocppTransport": "JSON",
        "ocppCsmsUrl": text(arguments, "url"),
        "messageTimeout": whole(arguments, "timeout", 30),
        "securityProfile": whole(arguments, "profile", 2),
        "ocppInterface": text(arguments, "interface", "Wired0"),
    }
    if cast(str, profile["ocppCsmsUrl"]).partition("://")[0] not in ("ws", "wss"):
        raise ValueError("url: begins with ws:// or wss://")
    if profile["securityProfile"] not in (1, 2, 3):
        raise ValueError("profile: 1, 2 or 3")
    return "SetNetworkProfile", {"configurationSlot": whole(arguments, "slot"), "connectionData": profile}


LOG_SCHEMES: Final = ("https", "http", "ftps", "ftp", "sftp")


def _log(arguments: JsonObject, context: Context) -> Built:
    kind = text(arguments, "kind", "DiagnosticsLog")
    if kind not in ("DiagnosticsLog", "SecurityLog"):
        raise ValueError("kind: DiagnosticsLog or SecurityLog")
    url = text(arguments, "url")
    if url.partition("://")[0].lower() not in LOG_SCHEMES or not url.partition("://")[2]:
        raise ValueError(f"url: where the charger uploads it, such as https://HOST/PATH ({', '.join(LOG_SCHEMES)})")
    where: JsonObject = {"remoteLocation": url}
    for argument, key in (("oldest", "oldestTimestamp"), ("latest", "latestTimestamp")):
        if argument in arguments:
            moment = text(arguments, argument)
            if not is_timestamp(moment):
                raise ValueError(f"{argument}: a time as in 2026-01-01T00:00:00Z (RFC 3339)")
            where[key] = format_timestamp(parse_timestamp_us(moment))
    return "GetLog", {"logType": kind, "requestId": context.request_id, "log": where, "retries": 2}


def _customer(arguments: JsonObject, context: Context) -> Built:
    payload: JsonObject = {
        "requestId": context.request_id,
        "report": arguments.get("report", True) is True,
        "clear": arguments.get("clear") is True,
    }
    if not payload["report"] and not payload["clear"]:
        raise ValueError("report or clear has to be true: what the charger knows, or that it forgets it")
    if "token" in arguments:
        payload["idToken"] = {"idToken": text(arguments, "token"), "type": text(arguments, "type", "ISO14443")}
    elif "customer" in arguments:
        payload["customerIdentifier"] = text(arguments, "customer")
    else:
        payload["customerCertificate"] = _hashes(arguments)
    return "CustomerInformation", payload


def _data(arguments: JsonObject, context: Context) -> Built:
    payload: JsonObject = {"vendorId": text(arguments, "vendor")}
    if "message" in arguments:
        payload["messageId"] = text(arguments, "message")
    if "data" in arguments:
        payload["data"] = arguments["data"]
    return "DataTransfer", payload


def _clear_cache(arguments: JsonObject, context: Context) -> Built:
    return "ClearCache", {}


def _certificates(arguments: JsonObject, context: Context) -> Built:
    return "GetInstalledCertificateIds", {}


def _install(arguments: JsonObject, context: Context) -> Built:
    return "InstallCertificate", {
        "certificateType": text(arguments, "use", "CSMSRootCertificate"),
        "certificate": text(arguments, "certificate"),
    }


def _delete(arguments: JsonObject, context: Context) -> Built:
    return "DeleteCertificate", {"certificateHashData": _hashes(arguments)}


def _hashes(arguments: JsonObject) -> JsonObject:
    """The name of a certificate."""
    hashes = {key: text(arguments, key) for key in ("issuerNameHash", "issuerKeyHash", "serialNumber")}
    return {"hashAlgorithm": text(arguments, "hashAlgorithm", "SHA256"), **hashes}


def _renew(arguments: JsonObject, context: Context) -> Built:
    return "TriggerMessage", {"requestedMessage": "SignChargingStationCertificate"}


def _local_version(arguments: JsonObject, context: Context) -> Built:
    return "GetLocalListVersion", {}


_ORDERS: Final[Mapping[str, Callable[[JsonObject, Context], Built]]] = {
    "availability": _availability,  # G03, G04
    "cancel-reservation": _cancel_reservation,  # H02
    "certificates": _certificates,  # M03
    "clear-cache": _clear_cache,  # C11
    "custom-report": _custom_report,  # B08
    "customer": _customer,  # N09, N10
    "data": _data,  # P01
    "delete-certificate": _delete,  # M04
    "get": _get,  # B06
    "install-certificate": _install,  # M05
    "local-list-version": _local_version,  # D02
    "log": _log,  # N01
    "monitor": _monitor,  # N04
    "monitoring-base": _monitoring_base,  # N03
    "monitoring-level": _monitoring_level,  # N05
    "monitors": _monitors,  # N02
    "network": _network,  # B09
    "report": _base_report,  # B07
    "renew-certificate": _renew,  # A02
    "reserve": _reserve,  # H01
    "reset": _reset,  # B11 to B13
    "set": _set,  # B05
    "trigger": _trigger,  # F06, P03
    "unlock": _unlock,  # F05
    "unmonitor": _unmonitor,  # N06
}
