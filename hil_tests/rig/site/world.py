"""The physics world: everything behind one grid connection, stepped together and summed exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from .car import LINE_VOLTAGE_V, Car, Evse
from .energy import EnergyRegister, Storage
from .plant import BatteryInverter, House, PvInverter

HOUSE_PHASE_SHARES: Final = (0.5, 0.3, 0.2)
"""The house hangs unevenly on L1, L2, L3; everything else here is a balanced three-phase device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantSettings:
    """What stands at the site. Powers in W, energies in Wh, charge in percent."""

    pv_rated_w: float = 8_000
    irradiance: float = 0.62
    """Mean part of the rated power that the sun gives."""
    battery_rated_w: float = 10_000
    battery_capacity_wh: float = 10_000
    battery_soc_percent: float = 60
    charger_rated_w: float = 11_000
    v2g_capacity_wh: float = 60_000
    v2g_soc_percent: float = 70
    plain_capacity_wh: float = 50_000
    plain_soc_percent: float = 40
    house_lowest_w: float = 600
    house_highest_w: float = 1_500
    ramp_s: float = 3.0
    """Seconds from nothing to rated power, of every device."""
    stay_s: float = 8 * 3600.0
    """Cars leave this long after the start."""
    seed: int = 1

    def scaled(self, factor: float) -> PlantSettings:
        """The same site, `factor` times as large in power and capacity."""
        sized = {
            name: getattr(self, name) * factor
            for name in (
                "pv_rated_w",
                "battery_rated_w",
                "battery_capacity_wh",
                "charger_rated_w",
                "v2g_capacity_wh",
                "plain_capacity_wh",
                "house_lowest_w",
                "house_highest_w",
            )
        }
        return replace(self, **sized)


def drifting_sun(mean: float) -> Callable[[float], float]:
    """Irradiance over seconds: `mean` with slow, small waves, as on a clear day with haze."""

    def at(elapsed_s: float) -> float:
        return mean + 0.03 * math.sin(elapsed_s / 9.7) + 0.01 * math.sin(elapsed_s / 2.1)

    return at


@dataclass(slots=True)
class GridPoint:
    """The connection as its meter sees it."""

    frequency_target_hz: float = 50.0
    frequency_hz: float = 50.0
    voltages_v: tuple[float, float, float] = (LINE_VOLTAGE_V, LINE_VOLTAGE_V, LINE_VOLTAGE_V)
    power_milliwatts: int = 0
    phase_power_milliwatts: tuple[int, int, int] = (0, 0, 0)
    islanded: bool = False
    energy: EnergyRegister = field(
        default_factory=lambda: EnergyRegister.starting_at(import_wh=8_214_000, export_wh=3_105_000)
    )

    @property
    def power_w(self) -> float:
        return self.power_milliwatts / 1000


class World:
    """PV, battery, house and two EVSEs behind one meter. `step` moves all of them by the same time."""

    def __init__(self, settings: PlantSettings, *, start_s: float) -> None:
        """`start_s` is Unix time, for the cars' departure."""
        ramp_s = settings.ramp_s
        self.settings = settings
        self.sun: Callable[[float], float] = drifting_sun(settings.irradiance)
        self.cloud_factor = 1.0
        self.grid = GridPoint()
        self.pv = PvInverter(settings.pv_rated_w, ramp_s, energy=EnergyRegister.starting_at(export_wh=21_480_000))
        self.battery = BatteryInverter(
            settings.battery_rated_w,
            ramp_s,
            _charged(settings.battery_capacity_wh, settings.battery_soc_percent),
            energy=EnergyRegister.starting_at(import_wh=1_930_000, export_wh=1_702_000),
        )
        self.house = House(settings.house_lowest_w, settings.house_highest_w, settings.seed)
        self.v2g = Evse(
            settings.charger_rated_w,
            ramp_s,
            bidirectional=True,
            minimum_a=0.0,
            car=Car(
                _charged(settings.v2g_capacity_wh, settings.v2g_soc_percent),
                max_charge_w=settings.charger_rated_w,
                max_discharge_w=settings.charger_rated_w,
                departure_s=start_s + settings.stay_s,
                energy_needed_wh=settings.v2g_capacity_wh * 0.10,
            ),
            energy=EnergyRegister.starting_at(import_wh=640_000, export_wh=212_000),
        )
        self.plain = Evse(
            settings.charger_rated_w,
            ramp_s,
            bidirectional=False,
            minimum_a=6.0 * max(1.0, settings.charger_rated_w / 11_000),
            car=Car(
                _charged(settings.plain_capacity_wh, settings.plain_soc_percent),
                max_charge_w=settings.charger_rated_w,
                departure_s=start_s + settings.stay_s,
                energy_needed_wh=settings.plain_capacity_wh * 0.40,
            ),
            energy=EnergyRegister.starting_at(import_wh=905_000),
        )
        self.house_energy = EnergyRegister()
        self.elapsed_us = 0
        self._random = random.Random(f"grid {settings.seed}")

    @property
    def evses(self) -> tuple[Evse, Evse]:
        return (self.v2g, self.plain)

    def step(self, duration_us: int) -> None:
        """Everything decides its power for the coming `duration_us`, then all registers and batteries advance by it.

        Raises ValueError unless `duration_us` is between 1 and 1,000,000: longer steps would hide ramps.
        """
        if not 0 < duration_us <= 1_000_000:
            raise ValueError(f"a step of {duration_us} us is outside 1 to 1,000,000 us")
        duration_s = duration_us / 1e6
        self.elapsed_us += duration_us
        self._weather(duration_s)
        self.house.decide(duration_s)
        self.pv.decide(duration_s, self.sun(self.elapsed_us / 1e6) * self.cloud_factor)
        for evse in self.evses:
            evse.decide(duration_s)
        if self.grid.islanded:
            self._balance_island(duration_s)
        else:
            self.battery.decide(duration_s, self._others_w())
        self._advance(duration_us)

    def _others_w(self) -> float:
        return self.house.power_w + self.pv.power_w + sum(evse.power_w for evse in self.evses)

    def _balance_island(self, duration_s: float) -> None:
        """The battery forms the grid: it carries the rest, cars are shed first, then the house; PV gives way last."""
        most_out = self.battery.most_discharge_w(duration_s)
        most_in = self.battery.most_charge_w(duration_s)
        if self._others_w() > most_out:
            for evse in self.evses:
                evse.power_w = min(0.0, evse.power_w)
        self.house.power_w -= max(0.0, self._others_w() - most_out)
        self.pv.power_w += max(0.0, -self._others_w() - most_in)
        self.battery.power_w = -self._others_w()

    def _advance(self, duration_us: int) -> None:
        duration_s = duration_us / 1e6
        total = 0
        balanced = 0
        for part in (self.pv, self.battery, *self.evses):
            power = round(part.power_w * 1000)
            part.energy.add(power, duration_us)
            balanced += power
        house = round(self.house.power_w * 1000)
        self.house_energy.add(house, duration_us)
        self.battery.storage.add(self.battery.power_w, duration_s)
        for evse in self.evses:
            if evse.car is not None:
                evse.car.storage.add(evse.power_w, duration_s)
        # Islanded, what is left is the rounding of the parts to whole milliwatts; an open breaker passes nothing.
        total = 0 if self.grid.islanded else balanced + house
        second, third = (
            0 if self.grid.islanded else balanced // 3 + round(house * share) for share in HOUSE_PHASE_SHARES[1:]
        )
        self.grid.power_milliwatts = total
        self.grid.phase_power_milliwatts = (total - second - third, second, third)
        self.grid.energy.add(total, duration_us)

    def _weather(self, duration_s: float) -> None:
        """Grid frequency and voltage: small noise that returns to its mean (time constant about 1 s)."""
        grid = self.grid
        pull = min(1.0, duration_s)
        grid.frequency_hz += pull * (grid.frequency_target_hz - grid.frequency_hz)
        grid.frequency_hz += self._random.gauss(0.0, 0.003) * math.sqrt(pull)
        voltages = (
            volts + pull * (LINE_VOLTAGE_V - volts) + self._random.gauss(0.0, 0.2) * math.sqrt(pull)
            for volts in grid.voltages_v
        )
        first, second, third = voltages
        grid.voltages_v = (first, second, third)


def _charged(capacity_wh: float, percent: float) -> Storage:
    storage = Storage(capacity_wh, 0.0)
    storage.set_state_of_charge(percent)
    return storage
