"""Physics of charging: a car with a battery, and the EVSE that it is plugged into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .energy import EnergyRegister, Storage, approach
from .signing_meter import SigningMeter

LINE_VOLTAGE_V: Final = 230.0
TAPER_ABOVE_PERCENT: Final = 90.0
"""Cars charge slower near full: linearly down to a twentieth of their power at 100 %."""


@dataclass(slots=True)
class Car:
    """What is plugged in."""

    storage: Storage
    max_charge_w: float
    max_discharge_w: float = 0.0
    """Zero: cannot discharge."""
    minimum_soc_percent: float = 20.0
    """The car itself does not discharge below this."""
    departure_s: float | None = None
    """Unix seconds."""
    energy_needed_wh: float = 0.0
    """What the driver asked for at plug-in."""

    def most_charge_w(self, duration_s: float) -> float:
        soc = self.storage.state_of_charge_percent
        taper = max(0.05, min(1.0, (100.0 - soc) / (100.0 - TAPER_ABOVE_PERCENT)))
        return min(self.max_charge_w * taper, self.storage.most_charge_w(duration_s))

    def most_discharge_w(self, duration_s: float) -> float:
        return min(self.max_discharge_w, self.storage.most_discharge_w(duration_s, self.minimum_soc_percent))


@dataclass(slots=True)
class Evse:
    """One outlet: passes power between grid and car while its contactor is closed, within its limit."""

    rated_w: float
    ramp_s: float
    bidirectional: bool
    phases: int = 3
    minimum_a: float = 6.0
    """Below this current per phase AC charging stops (IEC 61851). 0 for a DC charger."""
    car: Car | None = None
    contactor_closed: bool = False
    limit_w: float | None = None
    """From the charging profiles in force. Negative orders a discharge. None: no limit but its own."""
    power_w: float = 0.0
    energy: EnergyRegister = field(default_factory=EnergyRegister)
    signing_meter: SigningMeter | None = None
    """The meter of this outlet, where it has a key of its own."""

    @property
    def minimum_w(self) -> float:
        return self.minimum_a * self.phases * LINE_VOLTAGE_V

    @property
    def rated_export_w(self) -> float:
        return self.rated_w if self.bidirectional else 0.0

    @property
    def held_back(self) -> bool:
        """The limit, not the car, keeps it from charging or discharging (OCPP: SuspendedEVSE)."""
        return self.limit_w is not None and (0 <= self.limit_w < max(self.minimum_w, 1.0))

    def decide(self, duration_s: float) -> None:
        """Set `power_w` for the coming step."""
        if self.car is None or not self.contactor_closed:
            self.power_w = 0.0
            return
        most_charge_w = min(self.rated_w, self.car.most_charge_w(duration_s))
        most_discharge_w = min(self.rated_export_w, self.car.most_discharge_w(duration_s))
        wanted = most_charge_w if self.limit_w is None else min(self.limit_w, most_charge_w)
        if self.held_back or (wanted < 0 and not self.bidirectional):
            wanted = 0.0
        wanted = max(wanted, -most_discharge_w)
        ramped = approach(self.power_w, wanted, self.rated_w / self.ramp_s * duration_s)
        self.power_w = min(most_charge_w, max(-most_discharge_w, ramped))
