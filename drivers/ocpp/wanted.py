"""What was ordered of an EVSE last, and what it is not told again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.device import Setpoint
from drivers.ocpp.v2x import Period


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was ordered last."""

    setpoint: Setpoint
    period: Period | None = None
    """In OCPP 2.1's own words, where it was ordered so."""
    transaction_id: str | None = None
    """That ran when it was ordered."""
    until_s: float = 0.0
    """End of its lease, monotonic: it is not told again beyond that, whatever the charger may still hold of others."""

    @property
    def takes_from_the_car(self) -> bool:
        """Whether it is no mere cap."""
        least_w = self.setpoint.highest_w if self.period is None else self.setpoint.lowest_w
        return least_w is not None and least_w < 0


@dataclass(frozen=True, slots=True)
class Distrust:
    """A discharge that was confirmed and did not show on the meter."""

    why: str
    transaction_id: str | None
    until_s: float
