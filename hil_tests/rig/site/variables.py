"""The device model of a simulated charger: its variables, who may write them, and what they are set to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from .schedule import SUPPORTED, Mode

MEASURANDS: Final = (
    "Power.Active.Import",
    "Power.Active.Export",
    "Energy.Active.Import.Register",
    "Energy.Active.Export.Register",
    "SoC",
    "Voltage",
    "Current.Import",
    "Frequency",
)
"""What this charger can measure."""

Key = tuple[str, str]
"""Component and variable name."""


@dataclass(slots=True)
class Variable:
    """One variable, its Actual attribute only."""

    value: str
    data_type: str
    check: Callable[[str], bool] | None = None
    """What it may be set to; None: read-only."""
    unit: str | None = None


def _whole(lowest: int, highest: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        return text.isdecimal() and lowest <= int(text) <= highest

    return check


def _yes_or_no(text: str) -> bool:
    return text in ("true", "false")


def _measurands(text: str) -> bool:
    return all(name in MEASURANDS for name in text.split(",") if name)


class Variables:
    """Read and write as SetVariables and GetVariables do; the statuses are the specification's (B05, B06)."""

    def __init__(
        self, *, rated_w: float, bidirectional: bool, signing_meter: bool = False, dynamic_profiles: bool = False
    ) -> None:
        every = ",".join(MEASURANDS)
        self._all: dict[Key, Variable] = {
            ("ChargingStation", "Model"): Variable("Sim", "string"),
            ("EVSE", "Power"): Variable(str(round(rated_w)), "decimal", unit="W"),
            ("OCPPCommCtrlr", "HeartbeatInterval"): Variable("300", "integer", _whole(1, 86_400), "s"),
            ("OCPPCommCtrlr", "OfflineThreshold"): Variable("60", "integer", _whole(0, 86_400), "s"),
            ("SampledDataCtrlr", "Enabled"): Variable("true", "boolean"),
            ("SampledDataCtrlr", "TxUpdatedInterval"): Variable("5", "integer", _whole(0, 3600), "s"),
            ("SampledDataCtrlr", "TxUpdatedMeasurands"): Variable(every, "MemberList", _measurands),
            ("SampledDataCtrlr", "TxStartedMeasurands"): Variable(every, "MemberList", _measurands),
            ("SampledDataCtrlr", "TxEndedMeasurands"): Variable(every, "MemberList", _measurands),
            ("AlignedDataCtrlr", "Enabled"): Variable("true", "boolean"),
            ("AlignedDataCtrlr", "Interval"): Variable("0", "integer", _whole(0, 86_400), "s"),
            ("AlignedDataCtrlr", "Measurands"): Variable(every, "MemberList", _measurands),
            ("AuthCtrlr", "Enabled"): Variable("true", "boolean"),
            ("AuthCtrlr", "AuthorizeRemoteStart"): Variable("false", "boolean"),
            ("TxCtrlr", "StopTxOnEVSideDisconnect"): Variable("true", "boolean"),
            ("TxCtrlr", "TxStartPoint"): Variable("Authorized", "MemberList"),
            ("TxCtrlr", "TxStopPoint"): Variable("EVConnected", "MemberList"),
            ("SmartChargingCtrlr", "Enabled"): Variable("true", "boolean"),
            ("SmartChargingCtrlr", "Entries"): Variable("20", "integer"),
            ("SmartChargingCtrlr", "ProfileStackLevel"): Variable("9", "integer"),
            ("SmartChargingCtrlr", "RateUnit"): Variable("W,A", "MemberList"),
            ("SmartChargingCtrlr", "PeriodsPerSchedule"): Variable("1024", "integer"),
            ("SmartChargingCtrlr", "SupportsDynamicProfiles"): Variable(str(dynamic_profiles).lower(), "boolean"),
            ("V2XChargingCtrlr", "Available"): Variable("true" if bidirectional else "false", "boolean"),
            ("V2XChargingCtrlr", "Enabled"): Variable("true" if bidirectional else "false", "boolean"),
            ("V2XChargingCtrlr", "SupportedOperationModes"): Variable(
                ",".join(SUPPORTED if bidirectional else (Mode.CHARGING_ONLY,)), "MemberList"
            ),
        }
        if signing_meter:
            self._all["SampledDataCtrlr", "SignReadings"] = Variable("false", "boolean", _yes_or_no)
            self._all["AlignedDataCtrlr", "SignReadings"] = Variable("false", "boolean", _yes_or_no)

    def get(self, component: str, variable: str, attribute: str = "Actual") -> tuple[str, str | None]:
        """(status, value)."""
        status = self._status(component, variable, attribute)
        return status, self._all[component, variable].value if status == "Accepted" else None

    def set(self, component: str, variable: str, value: str, attribute: str = "Actual") -> str:
        """The status after the attempt."""
        status = self._status(component, variable, attribute)
        if status != "Accepted":
            return status
        entry = self._all[component, variable]
        if entry.check is None or not entry.check(value):
            return "Rejected"
        entry.value = value
        return "Accepted"

    def whole(self, component: str, variable: str) -> int:
        """The value of an integer variable."""
        return int(self._all[component, variable].value)

    def members(self, component: str, variable: str) -> tuple[str, ...]:
        """The value of a list variable."""
        return tuple(name for name in self._all[component, variable].value.split(",") if name)

    def all(self) -> Iterator[tuple[Key, Variable]]:
        yield from self._all.items()

    def _status(self, component: str, variable: str, attribute: str) -> str:
        if all(known != component for known, _ in self._all):
            return "UnknownComponent"
        if (component, variable) not in self._all:
            return "UnknownVariable"
        return "Accepted" if attribute == "Actual" else "NotSupportedAttributeType"
