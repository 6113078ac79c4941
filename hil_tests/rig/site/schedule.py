"""One period of a charging schedule, in the words of OCPP 2.0.1 and 2.1: what a charger reads from it and does. Pure.

OCPP 2.1 part 2, block Q: each operation mode needs and allows other values (Q section 2.2). Names are the wire's own;
powers are W at the outlet, + charging, - discharging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final


class Mode(StrEnum):
    """OperationModeEnumType."""

    IDLE = "Idle"
    CHARGING_ONLY = "ChargingOnly"
    CENTRAL_SETPOINT = "CentralSetpoint"
    EXTERNAL_SETPOINT = "ExternalSetpoint"
    EXTERNAL_LIMITS = "ExternalLimits"
    CENTRAL_FREQUENCY = "CentralFrequency"
    LOCAL_FREQUENCY = "LocalFrequency"
    LOCAL_LOAD_BALANCING = "LocalLoadBalancing"


SUPPORTED: Final = (
    Mode.IDLE,
    Mode.CHARGING_ONLY,
    Mode.CENTRAL_SETPOINT,
    Mode.CENTRAL_FREQUENCY,
    Mode.LOCAL_FREQUENCY,
)
MOVED_BESIDE: Final = frozenset({Mode.EXTERNAL_SETPOINT, Mode.EXTERNAL_LIMITS, Mode.LOCAL_LOAD_BALANCING})
"""An energy management system, or the charger by a meter of its own, gives the setpoint (Q05, Q06, Q09)."""
_BY_SETPOINT: Final = frozenset({Mode.CENTRAL_SETPOINT, Mode.CENTRAL_FREQUENCY})


class ProfileRefusedError(Exception):
    """A profile that this charger does not take. `reason` is the statusInfo.reasonCode."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outlet:
    """What the profiles act on."""

    evse_id: int
    rated_w: float
    rated_export_w: float
    """Zero: nothing below 0 is taken."""
    phases: int
    line_voltage_v: float
    modes: frozenset[Mode] = frozenset(SUPPORTED)

    def watts(self, value: float, unit: str, phases: int | None) -> float:
        return value if unit == "W" else value * (phases or self.phases) * self.line_voltage_v


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What holds during a period. None: not said."""

    start_s: float = 0.0
    """From the start of the schedule."""
    mode: Mode = Mode.CHARGING_ONLY
    limit_w: float | None = None
    setpoint_w: float | None = None
    discharge_w: float | None = None
    baseline_w: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()
    """(Hz, W), ascending: added to the baseline."""

    def power_w(self, frequency_hz: float) -> float | None:
        """The one number for the outlet: from 0 on a cap on charging, below it an order to discharge. None: no say."""
        if self.mode is Mode.IDLE:
            return 0.0
        if self.mode is Mode.CHARGING_ONLY:
            return self.limit_w
        if self.mode is Mode.EXTERNAL_LIMITS and self.setpoint_w is None:
            return self.limit_w
        wanted = self.setpoint_w
        if self.mode is Mode.LOCAL_FREQUENCY:
            wanted = self.baseline_w + _on_curve(self.curve, frequency_hz)
        assert wanted is not None
        if self.mode in MOVED_BESIDE:  # by whoever it is; nothing below 0 that nobody allows
            wanted = max(wanted, self.discharge_w or 0.0)
        lowest = wanted if self.discharge_w is None else max(wanted, self.discharge_w)
        return lowest if self.limit_w is None else min(lowest, self.limit_w)

    def without_sign(self) -> Step:
        """An order to discharge as one to charge; any other as it is."""
        told_w = self.power_w(0.0) if self.mode is not Mode.LOCAL_FREQUENCY else None
        return self if told_w is None or told_w >= 0 else Step(start_s=self.start_s, limit_w=-told_w)

    def within(self, lowest_w: float, highest_w: float) -> Step:
        """The same between two bounds."""

        def bounded(value: float | None) -> float | None:
            return None if value is None else min(highest_w, max(lowest_w, value))

        limit_w = bounded(self.limit_w)
        if limit_w is None and self.mode is not Mode.IDLE:
            limit_w = highest_w
        return replace(
            self, limit_w=limit_w, setpoint_w=bounded(self.setpoint_w), discharge_w=bounded(self.discharge_w)
        )

    def as_wire(self, offset: int, per_unit: float, phases: int, *, extended: bool, per_phase: bool) -> dict[str, Any]:
        """ChargingSchedulePeriodType. `per_unit`: W in one of the unit. `extended`: with what 2.1 has more."""
        wire: dict[str, Any] = {"startPeriod": offset, "numberPhases": phases}
        values = {"limit": self.limit_w}
        if extended:
            wire["operationMode"] = self.mode.value
            values |= {"setpoint": self.setpoint_w, "dischargeLimit": self.discharge_w}
            if self.curve:
                wire["v2xFreqWattCurve"] = [{"frequency": hz, "power": watts} for hz, watts in self.curve]
                wire["v2xBaseline"] = self.baseline_w
        for name, watts in values.items():
            if watts is None:
                continue
            if extended and per_phase and phases == 3:
                wire |= dict.fromkeys((name, f"{name}_L2", f"{name}_L3"), round(watts / 3 / per_unit, 1))
            else:
                wire[name] = round(watts / per_unit, 1)
        return wire


def read_step(outlet: Outlet, wire: Mapping[str, Any], unit: str, *, extended: bool) -> Step:
    """A period as it came. `extended`: by OCPP 2.1. Raises ProfileRefusedError."""

    def total(name: str) -> float | None:
        if name not in wire:
            return None
        others = [float(wire[f"{name}_{phase}"]) for phase in ("L2", "L3") if f"{name}_{phase}" in wire]
        if others:
            return outlet.watts(float(wire[name]) + sum(others), unit, 1)
        return outlet.watts(float(wire[name]), unit, wire.get("numberPhases"))

    step = Step(
        start_s=float(wire["startPeriod"]),
        mode=Mode(wire.get("operationMode", Mode.CHARGING_ONLY)),
        limit_w=total("limit"),
        setpoint_w=total("setpoint"),
        discharge_w=total("dischargeLimit"),
        baseline_w=float(wire.get("v2xBaseline", 0.0)),
        curve=tuple(sorted((float(p["frequency"]), float(p["power"])) for p in wire.get("v2xFreqWattCurve", ()))),
    )
    _check(outlet, step, extended=extended)
    return step


def _check(outlet: Outlet, step: Step, *, extended: bool) -> None:
    mode = step.mode
    if mode not in outlet.modes:
        raise ProfileRefusedError("UnsupportedMode", f"operation mode {mode.value} is not supported")
    bounds = (step.limit_w, step.setpoint_w, step.discharge_w)
    if mode is Mode.IDLE and any(value is not None for value in bounds):
        raise ProfileRefusedError("InvalidSchedule", "Idle takes no limits (Q10.FR.01)")
    if mode is Mode.CHARGING_ONLY and (step.limit_w is None or step.setpoint_w is not None):
        raise ProfileRefusedError("InvalidSchedule", "ChargingOnly needs a limit and takes no setpoint")
    if mode in _BY_SETPOINT and step.setpoint_w is None:
        raise ProfileRefusedError("InvalidSchedule", f"{mode.value} needs a setpoint")
    if mode is Mode.LOCAL_FREQUENCY and not step.curve:
        raise ProfileRefusedError("InvalidSchedule", "LocalFrequency needs a v2xFreqWattCurve (Q08.FR.01)")
    if mode in MOVED_BESIDE and step.setpoint_w is not None:
        raise ProfileRefusedError("InvalidSchedule", f"{mode.value} takes no setpoint from a CSMS")
    if step.setpoint_w is not None and not (
        (step.discharge_w if step.discharge_w is not None else step.setpoint_w)
        <= step.setpoint_w
        <= (step.limit_w if step.limit_w is not None else step.setpoint_w)
    ):
        raise ProfileRefusedError("InvalidSchedule", "the setpoint is outside of its own limits")
    lowest = min((value for value in (*bounds, *(watts for _, watts in step.curve)) if value is not None), default=0.0)
    if lowest < 0 and outlet.rated_export_w == 0:
        raise ProfileRefusedError("InvalidSchedule", "this EVSE cannot discharge: below 0 means nothing to it")
    if extended and step.limit_w is not None and step.limit_w < 0:
        raise ProfileRefusedError("InvalidSchedule", "a limit below 0 is not OCPP 2.1; use setpoint")


def _on_curve(curve: Sequence[tuple[float, float]], frequency_hz: float) -> float:
    """Between two points a straight line; beyond the ends the power of the end."""
    below = [point for point in curve if point[0] <= frequency_hz]
    above = [point for point in curve if point[0] > frequency_hz]
    if not below or not above:
        return (above[0] if above else below[-1])[1]
    (low_hz, low_w), (high_hz, high_w) = below[-1], above[0]
    return low_w + (high_w - low_w) * (frequency_hz - low_hz) / (high_hz - low_hz)
