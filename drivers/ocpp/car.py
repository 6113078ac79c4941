"""What a car told through its charger (NotifyEVChargingNeeds, K15 to K20, Q01): limits, energies, offers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from drivers.ocpp.messages import ChargingNeeds, EvEnergyOffer, V2xChargingParameters
from drivers.ocpp.timestamps import parse_timestamp_us

BOTH_WAYS: Final = "BPT"
"""In the name of every energy transfer mode that can discharge (bidirectional power transfer)."""
LARGEST: Final = 10**9
MOST_OFFERS: Final = 96
"""Entries of an energy offer that are kept: a day of quarter hours."""


@dataclass(slots=True, kw_only=True)
class Car:
    """Goes when the car goes. None: not told."""

    state_of_charge_permille: int | None = None
    state_of_charge_monotonic_s: float | None = None
    battery_capacity_wh: int | None = None
    energy_needed_wh: int | None = None
    departure_timestamp_us: int | None = None
    max_charge_w: int | None = None
    max_discharge_w: int | None = None
    """Zero: it told that it cannot, or does not now."""
    energy_above_minimum_wh: int | None = None
    """What it gives before it reaches its own lowest state of charge for V2X; when it told."""
    told_above_minimum_at_permille: int | None = None
    per_phase: bool = False
    """It told limits of each phase."""
    transfer_modes: list[str] = field(default_factory=list)
    """That it can use (2.1)."""
    offers: list[list[int]] = field(default_factory=list)
    """[start, end, W] in Unix microseconds: what it offers to give and when; none told: always."""
    priority: bool = False
    """Its driver asked for charging now (K21, K22)."""

    def gives_w(self, wall_us: int | None) -> int | None:
        """The most that it gives at this time, by its limits, its offers and its own lowest state of charge."""
        most_w = self.max_discharge_w
        if self.offers and wall_us is not None:
            offered_w = next((watts for start, end, watts in self.offers if start <= wall_us < end), 0)
            most_w = offered_w if most_w is None else min(most_w, offered_w)
        if most_w and self._at_its_minimum():
            return 0
        return most_w

    def _at_its_minimum(self) -> bool:
        left_wh, now = self.energy_above_minimum_wh, self.state_of_charge_permille
        if left_wh is None:
            return False
        if now is not None and self.told_above_minimum_at_permille is not None and self.battery_capacity_wh is not None:
            left_wh += (now - self.told_above_minimum_at_permille) * self.battery_capacity_wh // 1000
        return left_wh <= 0


def read_needs(needs: ChargingNeeds, car: Car, monotonic_s: float) -> Car:
    """The car after it told its needs; what it does not speak of stays."""
    car = replace(car)
    if "departureTime" in needs:
        car.departure_timestamp_us = parse_timestamp_us(needs["departureTime"])
    if "acChargingParameters" in needs:
        ac = needs["acChargingParameters"]
        phases = {"AC_single_phase": 1, "AC_two_phase": 2}.get(needs["requestedEnergyTransfer"], 3)
        car.energy_needed_wh = _positive(ac["energyAmount"])
        car.max_charge_w = _positive(ac["evMaxCurrent"] * ac["evMaxVoltage"] * phases)
    if "dcChargingParameters" in needs:
        dc = needs["dcChargingParameters"]
        car.energy_needed_wh = _positive(dc.get("energyAmount")) or car.energy_needed_wh
        car.battery_capacity_wh = _positive(dc.get("evEnergyCapacity")) or car.battery_capacity_wh
        car.max_charge_w = _positive(dc.get("evMaxPower")) or _positive(dc["evMaxCurrent"] * dc["evMaxVoltage"])
        if "stateOfCharge" in dc:
            car.state_of_charge_permille = int(dc["stateOfCharge"]) * 10
            car.state_of_charge_monotonic_s = monotonic_s
    car.transfer_modes = sorted({needs["requestedEnergyTransfer"], *needs.get("availableEnergyTransfer", ())})[:20]
    _read_v2x(needs, car)
    return car


def _read_v2x(needs: ChargingNeeds, car: Car) -> None:
    requested = needs["requestedEnergyTransfer"]
    told = needs.get("v2xChargingParameters")
    car.offers = _offers(needs["evEnergyOffer"]) if "evEnergyOffer" in needs else []
    if told is None:
        if BOTH_WAYS not in requested and "availableEnergyTransfer" in needs:
            car.max_discharge_w = 0  # by 2.1, a session that charges only; 2.0.1 has no word for it
        return
    car.per_phase = "maxDischargePower_L2" in told or "maxChargePower_L2" in told
    charge_w = _over_phases(told, "maxChargePower")
    car.max_charge_w = _positive(charge_w) or car.max_charge_w
    discharge_w = _over_phases(told, "maxDischargePower")
    if discharge_w is None and "maxDischargeCurrent" in told and "maxVoltage" in told:
        discharge_w = abs(told["maxDischargeCurrent"] * told["maxVoltage"])
    if BOTH_WAYS not in requested:
        car.max_discharge_w = 0
    elif discharge_w is not None and discharge_w < LARGEST:
        car.max_discharge_w = int(discharge_w)
    target_wh = told.get("evTargetEnergyRequest")
    if target_wh is not None and abs(target_wh) < LARGEST:
        car.energy_needed_wh = max(0, round(target_wh))
    lowest_wh = told.get("evMinV2XEnergyRequest")
    if lowest_wh is not None and abs(lowest_wh) < LARGEST:
        car.energy_above_minimum_wh = -round(lowest_wh)
        car.told_above_minimum_at_permille = car.state_of_charge_permille


def _over_phases(told: V2xChargingParameters, name: str) -> float | None:
    """Sizes: some chargers write discharge below 0."""
    values = cast(Mapping[str, float], told)
    found = [abs(values[key]) for key in (name, f"{name}_L2", f"{name}_L3") if key in values]
    return sum(found) if name in values else None


def _offers(offer: EvEnergyOffer) -> list[list[int]]:
    schedule = offer["evPowerSchedule"]
    start_us = parse_timestamp_us(schedule["timeAnchor"])
    found: list[list[int]] = []
    for entry in schedule["evPowerScheduleEntries"][:MOST_OFFERS]:
        end_us = start_us + max(0, min(int(entry["duration"]), LARGEST)) * 1_000_000
        found.append([start_us, end_us, round(-entry["power"]) if -LARGEST < entry["power"] < 0 else 0])
        start_us = end_us
    return found


def _positive(value: float | None) -> int | None:
    """A car that says 0 has not said; one that says 10**30 has not either."""
    return int(value) if value is not None and 0 < value < LARGEST else None
