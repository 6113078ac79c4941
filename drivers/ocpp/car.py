"""What a car told through its charger (NotifyEVChargingNeeds, K15 to K20, Q01): limits, energies, offers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, cast

from drivers.device import VehicleSession
from drivers.ocpp.messages import ChargingNeeds, EvEnergyOffer, V2xChargingParameters
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.timestamps import parse_timestamp_us

BOTH_WAYS: Final = "BPT"
"""In the name of every energy transfer mode that can discharge (bidirectional power transfer)."""
LARGEST: Final = 10**9
MOST_OFFERS: Final = 96
"""Entries of an energy offer that are kept: a day of quarter hours."""
CLOCKS_ALIKE_S: Final = 5.0
"""Two clocks that differ by less over a time went on alike; between two boots they differ by the time of a boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Car(VehicleSession):
    """The session as the plan sees it, and what else the car told. Goes when the car goes. None: not told."""

    transaction_id: str | None = None
    token_id: str | None = None
    state_of_charge_wall_us: int | None = None
    """The same moment as its monotonic one."""
    energy_above_minimum_wh: int | None = None
    """What it gives before it reaches its own lowest state of charge for V2X; when it told."""
    told_above_minimum_at_permille: int | None = None
    per_phase: bool = False
    """It told limits of each phase."""
    transfer_modes: tuple[str, ...] = ()
    """That it can use (2.1)."""
    offers: tuple[tuple[int, int, int], ...] = ()
    """(start, end, W) in Unix microseconds: what it offers to give and when; none told: always."""

    def charged_to(self, permille: int, monotonic_s: float, wall_us: int) -> Car:
        """The same with another state of charge."""
        # With every message of its meter: half the price of `replace`.
        car = object.__new__(Car)
        for name in _NAMES:
            object.__setattr__(car, name, getattr(self, name))
        object.__setattr__(car, "state_of_charge_permille", permille)
        object.__setattr__(car, "state_of_charge_monotonic_s", monotonic_s)
        object.__setattr__(car, "state_of_charge_wall_us", wall_us)
        return car

    def encode(self) -> JsonObject:
        """What must survive a restart."""
        return cast(JsonObject, asdict(self))

    @classmethod
    def restored(cls, kept: Mapping[str, Json], monotonic_s: float | None, wall_us: int | None) -> Car:
        """What `encode` gave, in any version. A state of charge counts only where its age is certain: where both
        clocks have gone on alike since. (Monotonic time means nothing after a reboot, wall time may have been set.)

        Raises what damaged values raise (ValueError, TypeError, ...).
        """
        known = {field.name for field in fields(cls)}
        told: dict[str, Any] = {name: value for name, value in kept.items() if name in known}
        told["charge_now"] = kept.get("charge_now", kept.get("priority", False))
        told["transfer_modes"] = tuple(told.get("transfer_modes", ()))
        told["offers"] = tuple((int(start), int(end), int(watts)) for start, end, watts in told.get("offers", ()))
        car = cls(**told)
        then_s, then_us = car.state_of_charge_monotonic_s, car.state_of_charge_wall_us
        if None not in (then_s, then_us, monotonic_s, wall_us):
            age_s = cast(float, monotonic_s) - cast(float, then_s)
            if age_s >= 0 and abs((cast(int, wall_us) - cast(int, then_us)) / 1e6 - age_s) < CLOCKS_ALIKE_S:
                return car
        return replace(
            car, state_of_charge_permille=None, state_of_charge_monotonic_s=None, state_of_charge_wall_us=None
        )

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


_NAMES: Final = tuple(field.name for field in fields(Car))


def read_needs(needs: ChargingNeeds, car: Car, monotonic_s: float, wall_us: int) -> Car:
    """The car after it told its needs; what it does not speak of stays."""
    if "departureTime" in needs:
        car = replace(car, departure_timestamp_us=parse_timestamp_us(needs["departureTime"]))
    if "acChargingParameters" in needs:
        ac = needs["acChargingParameters"]
        phases = {"AC_single_phase": 1, "AC_two_phase": 2}.get(needs["requestedEnergyTransfer"], 3)
        most_w = _positive(ac["evMaxCurrent"] * ac["evMaxVoltage"] * phases)
        car = replace(car, energy_needed_wh=_positive(ac["energyAmount"]), max_charge_w=most_w)
    if "dcChargingParameters" in needs:
        dc = needs["dcChargingParameters"]
        car = replace(
            car,
            energy_needed_wh=_positive(dc.get("energyAmount")) or car.energy_needed_wh,
            battery_capacity_wh=_positive(dc.get("evEnergyCapacity")) or car.battery_capacity_wh,
            max_charge_w=_positive(dc.get("evMaxPower")) or _positive(dc["evMaxCurrent"] * dc["evMaxVoltage"]),
        )
        if "stateOfCharge" in dc:
            car = car.charged_to(int(dc["stateOfCharge"]) * 10, monotonic_s, wall_us)
    modes = sorted({needs["requestedEnergyTransfer"], *needs.get("availableEnergyTransfer", ())})[:20]
    return _read_v2x(needs, replace(car, transfer_modes=tuple(modes)))


def _read_v2x(needs: ChargingNeeds, car: Car) -> Car:
    requested = needs["requestedEnergyTransfer"]
    told = needs.get("v2xChargingParameters")
    car = replace(car, offers=_offers(needs["evEnergyOffer"]) if "evEnergyOffer" in needs else ())
    if told is None:
        if BOTH_WAYS not in requested and "availableEnergyTransfer" in needs:
            # By 2.1, a session that charges only; 2.0.1 has no word for it.
            car = replace(car, max_discharge_w=0)
        return car
    charge_w = _positive(_over_phases(told, "maxChargePower")) or car.max_charge_w
    per_phase = "maxDischargePower_L2" in told or "maxChargePower_L2" in told
    car = replace(car, per_phase=per_phase, max_charge_w=charge_w)
    discharge_w = _over_phases(told, "maxDischargePower")
    if discharge_w is None and "maxDischargeCurrent" in told and "maxVoltage" in told:
        discharge_w = abs(told["maxDischargeCurrent"] * told["maxVoltage"])
    if BOTH_WAYS not in requested:
        car = replace(car, max_discharge_w=0)
    elif discharge_w is not None and discharge_w < LARGEST:
        car = replace(car, max_discharge_w=int(discharge_w))
    target_wh = told.get("evTargetEnergyRequest")
    if target_wh is not None and abs(target_wh) < LARGEST:
        car = replace(car, energy_needed_wh=max(0, round(target_wh)))
    lowest_wh = told.get("evMinV2XEnergyRequest")
    if lowest_wh is not None and abs(lowest_wh) < LARGEST:
        at_permille = car.state_of_charge_permille
        car = replace(car, energy_above_minimum_wh=-round(lowest_wh), told_above_minimum_at_permille=at_permille)
    return car


def _over_phases(told: V2xChargingParameters, name: str) -> float | None:
    """Sizes: some chargers write discharge below 0."""
    values = cast(Mapping[str, float], told)
    found = [abs(values[key]) for key in (name, f"{name}_L2", f"{name}_L3") if key in values]
    return sum(found) if name in values else None


def _offers(offer: EvEnergyOffer) -> tuple[tuple[int, int, int], ...]:
    schedule = offer["evPowerSchedule"]
    start_us = parse_timestamp_us(schedule["timeAnchor"])
    found: list[tuple[int, int, int]] = []
    for entry in schedule["evPowerScheduleEntries"][:MOST_OFFERS]:
        end_us = start_us + max(0, min(int(entry["duration"]), LARGEST)) * 1_000_000
        found.append((start_us, end_us, round(-entry["power"]) if -LARGEST < entry["power"] < 0 else 0))
        start_us = end_us
    return tuple(found)


def _positive(value: float | None) -> int | None:
    """A car that says 0 has not said; one that says 10**30 has not either."""
    return int(value) if value is not None and 0 < value < LARGEST else None
