"""Operation modes of OCPP 2.1 and the periods that order them (part 2, block Q, section 2.2). Pure.

Signs as on the wire: charging above 0, discharging below, a discharge limit never above 0. In 2.0.1 a period is a
limit and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, cast

from drivers.ocpp.messages import SchedulePeriod
from drivers.ocpp.schemas import Json, JsonObject


class Mode(StrEnum):
    """OperationModeEnumType: who decides on the power, and by what."""

    IDLE = "Idle"
    CHARGING_ONLY = "ChargingOnly"
    """What a period without a mode means."""
    CENTRAL_SETPOINT = "CentralSetpoint"
    EXTERNAL_SETPOINT = "ExternalSetpoint"
    EXTERNAL_LIMITS = "ExternalLimits"
    CENTRAL_FREQUENCY = "CentralFrequency"
    LOCAL_FREQUENCY = "LocalFrequency"
    LOCAL_LOAD_BALANCING = "LocalLoadBalancing"


_BOUNDS: Final = frozenset({"limit", "dischargeLimit"})
_NEEDED_AND_ALLOWED: Final[Mapping[Mode, tuple[frozenset[str], frozenset[str]]]] = {
    Mode.IDLE: (frozenset(), frozenset()),
    Mode.CHARGING_ONLY: (frozenset({"limit"}), frozenset()),
    Mode.CENTRAL_SETPOINT: (frozenset({"setpoint"}), _BOUNDS),
    Mode.EXTERNAL_SETPOINT: (frozenset(), _BOUNDS),
    Mode.EXTERNAL_LIMITS: (frozenset(), _BOUNDS),
    Mode.CENTRAL_FREQUENCY: (frozenset({"setpoint"}), _BOUNDS),
    Mode.LOCAL_FREQUENCY: (frozenset({"v2xFreqWattCurve"}), _BOUNDS | {"v2xBaseline"}),
    Mode.LOCAL_LOAD_BALANCING: (frozenset(), _BOUNDS),
}
TOLD_THE_POWER: Final = frozenset({Mode.IDLE, Mode.CHARGING_ONLY, Mode.CENTRAL_SETPOINT, Mode.CENTRAL_FREQUENCY})
"""In the other modes the charger or somebody beside us moves the power by itself."""
MOST_CURVE_POINTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What a charger is to do, W. None: not said. Raises ValueError for what its mode does not allow."""

    mode: Mode = Mode.CHARGING_ONLY
    limit_w: int | None = None
    setpoint_w: int | None = None
    discharge_w: int | None = None
    """Lowest power, at or below 0."""
    baseline_w: int | None = None
    curve: tuple[tuple[int, int], ...] = ()
    """(millihertz, W) ascending, on top of the baseline."""

    def __post_init__(self) -> None:
        said = {name for name, value in self._values().items() if value is not None}
        needed, allowed = _NEEDED_AND_ALLOWED[self.mode]
        if missing := needed - said:
            raise ValueError(f"{self.mode.value} needs {', '.join(sorted(missing))}")
        if extra := said - needed - allowed:
            raise ValueError(f"{self.mode.value} takes no {', '.join(sorted(extra))}")
        if self.discharge_w is not None and self.discharge_w > 0:
            raise ValueError(f"a discharge limit of {self.discharge_w} W is above 0")
        if self.setpoint_w is not None:
            lowest_w = self.setpoint_w if self.discharge_w is None else self.discharge_w
            highest_w = self.setpoint_w if self.limit_w is None else self.limit_w
            if not lowest_w <= self.setpoint_w <= highest_w:
                raise ValueError(f"a setpoint of {self.setpoint_w} W is outside of {lowest_w} to {highest_w} W")
        if len(self.curve) > MOST_CURVE_POINTS or list(self.curve) != sorted(self.curve):
            raise ValueError(f"a curve has up to {MOST_CURVE_POINTS} points of rising frequency")

    @property
    def told_w(self) -> int | None:
        """The one power that it orders: a cap from 0 on, a discharge below it. None where others decide."""
        if self.mode is Mode.IDLE:
            return 0
        if self.mode not in TOLD_THE_POWER:
            return None
        return self.limit_w if self.setpoint_w is None else self.setpoint_w

    def for_frequency(self, highest_w: int | None) -> Period:
        """The same order as an answer to the grid's frequency (Q07); a cap becomes the power that the band asks for,
        where it asks for one."""
        if self.mode is Mode.CENTRAL_SETPOINT:
            return replace(self, mode=Mode.CENTRAL_FREQUENCY)
        if self.mode is not Mode.CHARGING_ONLY or self.limit_w is None or self.limit_w != highest_w:
            return self
        return Period(mode=Mode.CENTRAL_FREQUENCY, setpoint_w=self.limit_w, limit_w=self.limit_w, discharge_w=0)

    def _values(self) -> dict[str, int | tuple[tuple[int, int], ...] | None]:
        return {
            "limit": self.limit_w,
            "setpoint": self.setpoint_w,
            "dischargeLimit": self.discharge_w,
            "v2xBaseline": self.baseline_w,
            "v2xFreqWattCurve": self.curve or None,
        }

    def as_wire(self, in_unit: Callable[[int, int], float], *, extended: bool, per_phase: bool) -> JsonObject:
        """ChargingSchedulePeriodType from the start of its schedule.

        `in_unit(watts, parts)` is a part of so many of a power in the schedule's unit. `per_phase`: three values, one
        for each phase, in place of their sum.
        """
        wire: JsonObject = {"startPeriod": 0}
        if extended and self.mode is not Mode.CHARGING_ONLY:
            wire["operationMode"] = self.mode.value
        for name, watts in (
            ("limit", self.limit_w),
            ("setpoint", self.setpoint_w),
            ("dischargeLimit", self.discharge_w),
        ):
            if watts is None:
                continue
            if per_phase and extended:
                wire |= dict.fromkeys((name, f"{name}_L2", f"{name}_L3"), cast(Json, in_unit(watts, 3)))
            else:
                wire[name] = in_unit(watts, 1)
        if self.baseline_w is not None:
            wire["v2xBaseline"] = self.baseline_w
        if self.curve:
            wire["v2xFreqWattCurve"] = [{"frequency": hz / 1000, "power": watts} for hz, watts in self.curve]
        return wire


@dataclass(frozen=True, slots=True)
class Shown:
    """A period of a composite schedule, W."""

    start_s: int
    mode: Mode
    power_w: int | None
    """A cap from 0 on, a discharge below it. None: bounded by nothing that it says, or moved by others."""
    lowest_w: int
    """How far down it may go by what it says; 0 where it says nothing of discharging."""


def read_period(wire: SchedulePeriod, watts: Callable[[float, int | None], int]) -> Shown:
    """`watts(value, phases)`: a value of the schedule's unit on so many phases (None: the charger's own number)."""

    def total(name: str) -> int | None:
        found = cast(Mapping[str, float], wire)
        if name not in found:
            return None
        others = [found[f"{name}_{phase}"] for phase in ("L2", "L3") if f"{name}_{phase}" in found]
        if others:  # then the first is of phase L1
            return sum(watts(value, 1) for value in (found[name], *others))
        return watts(found[name], wire.get("numberPhases"))

    mode = Mode(wire.get("operationMode", Mode.CHARGING_ONLY))
    limit_w, setpoint_w, discharge_w = total("limit"), total("setpoint"), total("dischargeLimit")
    power_w: int | None
    if mode is Mode.IDLE:
        power_w = 0
    elif mode in TOLD_THE_POWER and setpoint_w is not None:
        power_w = setpoint_w if limit_w is None else min(setpoint_w, limit_w)
    else:
        power_w = limit_w
    downward = [value for value in (discharge_w, power_w) if value is not None]
    return Shown(int(wire["startPeriod"]), mode, power_w, min(0, *downward) if downward else 0)
