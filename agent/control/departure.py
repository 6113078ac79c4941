"""The car's departure: how much time there is to spare until charging must begin, and when that is. Pure."""

from __future__ import annotations

from typing import Final

from agent.control.order import Now
from drivers.device import VehicleSession

DEPARTURE_MARGIN: Final = 0.8
"""Part of the charging power that is counted on until departure: cars taper, clocks err."""
DEPARTURE_RESERVE_S: Final = 900
"""A discharge must leave the departure's need reachable with so much time to spare."""


def slack_s(car: VehicleSession, charge_w: int, now: Now) -> float | None:
    """Seconds to spare until charging must begin, at `charge_w`; endless where nothing is needed.

    None: it needs energy, and nobody knows until when.
    """
    if not car.energy_needed_wh or car.energy_needed_wh <= 0:
        return float("inf")
    if car.departure_timestamp_us is None or not now.time_known:
        return None
    if charge_w <= 0:
        return -1.0
    return (car.departure_timestamp_us - now.wall_us) / 1e6 - charging_s(car.energy_needed_wh, charge_w)


def charging_s(energy_wh: int, charge_w: int) -> float:
    """How long so much energy takes, with the margin."""
    return energy_wh * 3600 / (charge_w * DEPARTURE_MARGIN)
