"""What a car tells its charger on arrival, as OCPP ChargingNeedsType (K15, Q01): departure, energy, its own limits.

Names are the wire's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .car import LINE_VOLTAGE_V, Car, Evse
from .profiles import rfc3339

DC_VOLTAGE_V: Final = 400
"""Of the cars' batteries; turns their power into the current that the type wants."""
FULL_PERCENT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a charger knows beside the car while it passes its needs on."""

    extended: bool
    """By OCPP 2.1."""
    per_phase: bool
    allowed: frozenset[str] | None
    """Energy transfer modes that the CSMS allows; None: it did not say."""
    now_s: float


def charging_needs(evse: Evse, car: Car, told: Told) -> dict[str, object]:
    """A bidirectional charger is a DC one here unless it speaks of phases; only DC tells capacity and charge."""
    needs: dict[str, object] = {}
    if car.departure_s is not None:
        needs["departureTime"] = rfc3339(car.departure_s)
    ac = told.per_phase or not evse.bidirectional
    plain = "AC_three_phase" if ac else "DC"
    both_ways = "AC_BPT" if ac else "DC_BPT"
    needs["requestedEnergyTransfer"] = plain
    if ac:
        needs["acChargingParameters"] = {
            "energyAmount": round(car.energy_needed_wh),
            "evMinCurrent": round(evse.minimum_a),
            "evMaxCurrent": max(1, round(car.max_charge_w / evse.phases / LINE_VOLTAGE_V)),
            # Line to neutral: power is current times this times the phases.
            "evMaxVoltage": round(LINE_VOLTAGE_V),
        }
    else:
        needs["dcChargingParameters"] = {
            "evMaxCurrent": max(1, round(car.max_charge_w / DC_VOLTAGE_V)),
            "evMaxVoltage": DC_VOLTAGE_V,
            "evMaxPower": round(car.max_charge_w),
            "energyAmount": round(car.energy_needed_wh),
            "evEnergyCapacity": round(car.storage.capacity_wh),
            "stateOfCharge": round(car.storage.state_of_charge_percent),
        }
    if told.extended and evse.bidirectional and car.max_discharge_w > 0:
        needs["availableEnergyTransfer"] = [plain, both_ways]
        if told.allowed is None or both_ways in told.allowed:
            needs["requestedEnergyTransfer"] = both_ways
            needs["controlMode"] = "DynamicControl"
            needs["v2xChargingParameters"] = _v2x(car, per_phase=told.per_phase)
            needs["evEnergyOffer"] = _offer(car, told.now_s)
    return needs


def _v2x(car: Car, *, per_phase: bool) -> dict[str, object]:
    """Energies are what is missing to a state of charge: below 0 where the car is above it."""

    def missing_wh(percent: float) -> float:
        return round(car.storage.capacity_wh * percent / 100.0 - car.storage.stored_wh, 1)

    parameters: dict[str, object] = {
        "evTargetEnergyRequest": round(car.energy_needed_wh, 1),
        "evMinEnergyRequest": missing_wh(0.0),
        "evMaxEnergyRequest": missing_wh(FULL_PERCENT),
        "evMinV2XEnergyRequest": missing_wh(car.minimum_soc_percent),
        "evMaxV2XEnergyRequest": missing_wh(FULL_PERCENT),
    }
    for name, watts in (("maxChargePower", car.max_charge_w), ("maxDischargePower", car.max_discharge_w)):
        if per_phase:
            parameters |= dict.fromkeys((name, f"{name}_L2", f"{name}_L3"), round(watts / 3, 1))
        else:
            parameters[name] = round(watts, 1)
    return parameters


def _offer(car: Car, now_s: float) -> dict[str, object]:
    """What the car offers to give until it leaves; powers below 0 are discharge."""
    stays_s = 86_400 if car.departure_s is None else max(1, round(car.departure_s - now_s))
    entries = [{"duration": stays_s, "power": -round(car.max_discharge_w, 1)}]
    return {"evPowerSchedule": {"timeAnchor": rfc3339(now_s), "evPowerScheduleEntries": entries}}
