"""Physics of the house's own plant: PV inverter, battery inverter, and the load that nobody controls."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from .energy import EnergyRegister, Storage, approach


@dataclass(slots=True)
class PvInverter:
    """Makes what the sun gives, up to its limit."""

    rated_w: float
    ramp_s: float
    """Seconds from nothing to rated power."""
    limit_w: float = math.inf
    """Most that it may produce now; written by its controls."""
    connected: bool = True
    available_w: float = 0.0
    power_w: float = 0.0
    """Zero or negative: it produces."""
    energy: EnergyRegister = field(default_factory=EnergyRegister)

    @property
    def throttled(self) -> bool:
        return not self.connected or self.limit_w < self.available_w

    def decide(self, duration_s: float, irradiance: float) -> None:
        """Set `power_w` for the coming step. `irradiance` is the part of rated power that the sun offers, 0 to 1."""
        self.available_w = self.rated_w * min(1.0, max(0.0, irradiance))
        wanted = min(self.available_w, max(0.0, self.limit_w)) if self.connected else 0.0
        self.power_w = approach(self.power_w, -wanted, self.rated_w / self.ramp_s * duration_s)


@dataclass(slots=True)
class BatteryInverter:
    """A home battery: serves the house by itself, and obeys a band of power when one is set."""

    rated_w: float
    ramp_s: float
    storage: Storage
    reserve_percent: float = 5.0
    """Not discharged below."""
    lowest_w: float | None = None
    """Band that its controls allow, + charging, - discharging. None: that side is free."""
    highest_w: float | None = None
    in_service: bool = True
    power_w: float = 0.0
    energy: EnergyRegister = field(default_factory=EnergyRegister)

    def most_charge_w(self, duration_s: float) -> float:
        return min(self.rated_w, self.storage.most_charge_w(duration_s))

    def most_discharge_w(self, duration_s: float) -> float:
        return min(self.rated_w, self.storage.most_discharge_w(duration_s, self.reserve_percent))

    def decide(self, duration_s: float, others_w: float) -> None:
        """Set `power_w` for the coming step. `others_w` is what the rest of the site takes (+) or gives (-).

        Left to itself it brings the connection to zero, so it never exports: what it discharges is at most what the
        others take, at once and not by a ramp. A band can force more.
        """
        own_wish = -others_w
        wanted = own_wish if self.in_service else 0.0
        if self.highest_w is not None:
            wanted = min(wanted, self.highest_w)
        if self.lowest_w is not None:
            wanted = max(wanted, self.lowest_w)
        if not self.in_service:
            wanted = 0.0
        power = approach(self.power_w, wanted, self.rated_w / self.ramp_s * duration_s)
        if wanted >= own_wish and power < min(wanted, 0.0):
            power = min(wanted, 0.0)
        self.power_w = min(self.most_charge_w(duration_s), max(-self.most_discharge_w(duration_s), power))


@dataclass(slots=True)
class House:
    """Everything that is not controlled: a load that wanders between two levels, never jumping."""

    lowest_w: float
    highest_w: float
    seed: int
    fixed_w: float | None = None
    """Set to hold the load still."""
    power_w: float = 0.0
    _goal_w: float = 0.0
    _until_next_goal_s: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(f"house {self.seed}")
        self.power_w = self._goal_w = (self.lowest_w + self.highest_w) / 2

    def decide(self, duration_s: float) -> None:
        """Set `power_w` for the coming step: walks to a new goal every 8 to 20 s, across its whole range in 36 s."""
        if self.fixed_w is not None:
            self.power_w = self.fixed_w
            return
        self._until_next_goal_s -= duration_s
        if self._until_next_goal_s <= 0:
            self._goal_w = self._random.uniform(self.lowest_w, self.highest_w)
            self._until_next_goal_s = self._random.uniform(8.0, 20.0)
        self.power_w = approach(self.power_w, self._goal_w, (self.highest_w - self.lowest_w) / 36.0 * duration_s)
