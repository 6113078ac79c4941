"""Energy that neither drifts nor leaks: exact cumulative registers, and storage with losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MILLIWATT_MICROSECONDS_PER_MILLIWATT_HOUR: Final = 3_600_000_000


@dataclass(slots=True)
class EnergyRegister:
    """Two cumulative registers of one meter, in whole milliwatt-hours; the remainder below that is kept, not rounded.

    Power comes as integer milliwatts and time as integer microseconds, so the sum is exact: the registers of all
    devices of a site add up to those of its grid meter to the last unit.
    """

    import_milliwatt_microseconds: int = 0
    export_milliwatt_microseconds: int = 0

    @classmethod
    def starting_at(cls, *, import_wh: int = 0, export_wh: int = 0) -> EnergyRegister:
        """A meter with history."""
        one_wh = 1000 * MILLIWATT_MICROSECONDS_PER_MILLIWATT_HOUR
        return cls(import_wh * one_wh, export_wh * one_wh)

    def add(self, power_milliwatts: int, duration_us: int) -> None:
        """Count `power_milliwatts` (+ import) held for `duration_us`."""
        if power_milliwatts >= 0:
            self.import_milliwatt_microseconds += power_milliwatts * duration_us
        else:
            self.export_milliwatt_microseconds -= power_milliwatts * duration_us

    @property
    def import_milliwatt_hours(self) -> int:
        return self.import_milliwatt_microseconds // MILLIWATT_MICROSECONDS_PER_MILLIWATT_HOUR

    @property
    def export_milliwatt_hours(self) -> int:
        return self.export_milliwatt_microseconds // MILLIWATT_MICROSECONDS_PER_MILLIWATT_HOUR


@dataclass(slots=True)
class Storage:
    """A battery as energy: what is in it, and what a watt at its terminals does to that."""

    capacity_wh: float
    stored_wh: float
    one_way_efficiency: float = 0.95
    """Part of the energy that arrives, charging; and part of what is taken out that comes through, discharging."""

    @property
    def state_of_charge_percent(self) -> float:
        return 100.0 * self.stored_wh / self.capacity_wh

    def set_state_of_charge(self, percent: float) -> None:
        self.stored_wh = self.capacity_wh * min(100.0, max(0.0, percent)) / 100.0

    def most_charge_w(self, duration_s: float) -> float:
        """Power at the terminals that fills it within `duration_s`."""
        return max(0.0, self.capacity_wh - self.stored_wh) / self.one_way_efficiency * 3600.0 / duration_s

    def most_discharge_w(self, duration_s: float, floor_percent: float) -> float:
        """Power at the terminals that empties it down to `floor_percent` within `duration_s`."""
        above_floor_wh = max(0.0, self.stored_wh - self.capacity_wh * floor_percent / 100.0)
        return above_floor_wh * self.one_way_efficiency * 3600.0 / duration_s

    def add(self, power_w: float, duration_s: float) -> None:
        """Charge (+) or discharge (-) at `power_w` for `duration_s`."""
        energy_wh = power_w * duration_s / 3600.0
        change_wh = energy_wh * self.one_way_efficiency if energy_wh >= 0 else energy_wh / self.one_way_efficiency
        self.stored_wh = min(self.capacity_wh, max(0.0, self.stored_wh + change_wh))


def approach(current: float, target: float, largest_change: float) -> float:
    """`current` moved towards `target` by at most `largest_change`: one step of a ramp."""
    return current + min(largest_change, max(-largest_change, target - current))
