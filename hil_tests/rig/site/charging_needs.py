"""What a car tells its charger on arrival, as OCPP ChargingNeedsType (K15): departure, energy, its own limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .car import LINE_VOLTAGE_V, Car, Evse
from .profiles import rfc3339

DC_VOLTAGE_V: Final = 400
"""Of the cars' batteries; turns their power into the current that the type wants."""


def charging_needs(evse: Evse, car: Car) -> Mapping[str, object]:
    """A bidirectional charger is a DC one here, and only DC parameters tell capacity and state of charge."""
    needs: dict[str, object] = {}
    if car.departure_s is not None:
        needs["departureTime"] = rfc3339(car.departure_s)
    if evse.bidirectional:
        needs["requestedEnergyTransfer"] = "DC"
        needs["dcChargingParameters"] = {
            "evMaxCurrent": max(1, round(car.max_charge_w / DC_VOLTAGE_V)),
            "evMaxVoltage": DC_VOLTAGE_V,
            "evMaxPower": round(car.max_charge_w),
            "energyAmount": round(car.energy_needed_wh),
            "evEnergyCapacity": round(car.storage.capacity_wh),
            "stateOfCharge": round(car.storage.state_of_charge_percent),
        }
    else:
        needs["requestedEnergyTransfer"] = "AC_three_phase"
        needs["acChargingParameters"] = {
            "energyAmount": round(car.energy_needed_wh),
            "evMinCurrent": round(evse.minimum_a),
            "evMaxCurrent": max(1, round(car.max_charge_w / evse.phases / LINE_VOLTAGE_V)),
            # Line to neutral: power is current times this times the phases.
            "evMaxVoltage": round(LINE_VOLTAGE_V),
        }
    return needs
