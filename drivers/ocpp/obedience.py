"""Whether an EVSE does what it confirmed, by its metered power alone: a charger's `Accepted` proves nothing. Pure.

A discharge has to be proved by metered export; one that is not goes back to 0 W, with the sentence that is made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_MARGIN_W: Final = 200
MARGIN_PERCENT: Final = 5
"""Of the rating: what meters, ramps and rounding may differ from a bound."""
PATIENCE_S: Final = 15.0
"""A car and its charger agree on another power within some seconds."""
WRONG_WAY_S: Final = 5.0
"""Charging while told to discharge is watched no longer than it takes to turn around."""
PROOF_S: Final = 45.0
"""Within so long a discharge shows on the meter, or is taken back: a session over ISO 15118 may need a new round."""
INTERVALS: Final = 2.5
"""Periods between meter values without one, after which none is to be expected."""
STALE_S: Final = 30.0
"""A value older than this, or than some periods, says nothing of now."""
LEAST_EXPORT_W: Final = 100
"""What counts as exporting at all; or a tenth of what was ordered, where that is less."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What was confirmed, W; None on a side that is left to the device."""

    lowest_w: int | None
    highest_w: int | None

    @property
    def discharges(self) -> bool:
        return self.highest_w is not None and self.highest_w < 0

    @property
    def enforceable(self) -> Bounds:
        """A car may always take less than it is offered."""
        lowest_w = self.lowest_w if self.lowest_w is None else min(self.lowest_w, 0)
        return Bounds(lowest_w, self.highest_w)


class Obedience:
    """Of one EVSE. Times are monotonic; samples may come late and out of order."""

    def __init__(self, rating_w: int, meter_interval_s: float) -> None:
        """`meter_interval_s`: how often the charger sends what it measures."""
        self._interval_s = meter_interval_s
        self._margin_w = max(LEAST_MARGIN_W, rating_w * MARGIN_PERCENT // 100)
        self._bounds: Bounds | None = None
        self._since_s = 0.0
        self._proved_s = 0.0
        self._last: tuple[float, int] | None = None
        self._outside_since_s: float | None = None
        self._charging_since_s: float | None = None
        self._export_register: int | None = None

    def ordered(self, lowest_w: int | None, highest_w: int | None, now_s: float) -> None:
        """The EVSE confirmed this band. The same again is a renewal.

        A band that moves a little every second is no fresh start: who was outside before and is now stays so.
        """
        bounds = Bounds(lowest_w, highest_w).enforceable
        before = self._bounds
        if bounds == before:
            return
        self._bounds, self._since_s = bounds, now_s
        if before is None:
            self._last = self._outside_since_s = None
        elif self._last is not None:
            outside = self._is_outside(bounds, self._last[1])
            self._outside_since_s = _since(self._outside_since_s, now_s) if outside else None
        if before is None or not (before.discharges and bounds.discharges):
            self._proved_s = now_s
            self._charging_since_s = self._export_register = None

    def watched_anew(self, now_s: float) -> None:
        """The charger is here again: what it did meanwhile is neither proof nor disobedience."""
        self._proved_s = max(self._proved_s, now_s)
        self._last = self._outside_since_s = self._charging_since_s = self._export_register = None

    def released(self) -> None:
        """Nothing of ours holds."""
        self._bounds = None

    def metered(self, power_w: int | None, export_register: int | None, at_s: float) -> None:
        """A sample of the EVSE."""
        bounds = self._bounds
        if bounds is None or at_s < self._since_s or (self._last is not None and at_s < self._last[0]):
            return
        if power_w is None:
            # Some meters tell registers only: then one that grows is the proof.
            if export_register is not None:
                if self._export_register is not None and export_register > self._export_register:
                    self._proved_s = at_s
                self._export_register = export_register
            return
        self._last = at_s, power_w
        outside = self._is_outside(bounds, power_w)
        self._outside_since_s = _since(self._outside_since_s, at_s) if outside else None
        charging = bounds.discharges and power_w > self._margin_w
        self._charging_since_s = _since(self._charging_since_s, at_s) if charging else None
        if bounds.highest_w is not None and power_w <= -min(LEAST_EXPORT_W, -bounds.highest_w // 10):
            self._proved_s = at_s

    def _is_outside(self, bounds: Bounds, power_w: int) -> bool:
        below = bounds.lowest_w is not None and power_w < bounds.lowest_w - self._margin_w
        return below or (bounds.highest_w is not None and power_w > bounds.highest_w + self._margin_w)

    def follows(self, now_s: float) -> bool | None:
        """Whether metered power is in the band; False only after its time. None: not to be judged."""
        if self._bounds is None or self._last is None:
            return None
        if now_s - self._last[0] > max(STALE_S, INTERVALS * self._interval_s):
            return None
        if self._outside_since_s is None:
            return True
        enough = self._last[0] - self._outside_since_s >= PATIENCE_S
        return False if enough else None

    def sentence(self) -> str:
        """What it does in place of what it was told; for a person. Only where `follows` is False."""
        assert self._bounds is not None
        assert self._last is not None
        told = f"{self._bounds.lowest_w} to {self._bounds.highest_w} W"
        return f"confirmed a band of {told} and is metered at {self._last[1]} W"

    def unproved(self, now_s: float) -> str | None:
        """Why a discharge has to be taken back, if it has to be."""
        if self._bounds is None or not self._bounds.discharges:
            return None
        told_w = self._bounds.highest_w
        charging_s = 0.0
        if self._charging_since_s is not None and self._last is not None:
            charging_s = self._last[0] - self._charging_since_s
        if charging_s >= WRONG_WAY_S and self._last is not None:
            return f"was told to discharge ({told_w} W), confirmed it, and charges with {self._last[1]} W"
        proof_s = max(PROOF_S, INTERVALS * self._interval_s)
        if now_s - self._proved_s < proof_s:
            return None
        seen = "no power is metered" if self._last is None else f"{self._last[1]} W are metered"
        return f"was told to discharge ({told_w} W) and confirmed it, and {seen} after {proof_s:.0f} s"


def _since(known_s: float | None, now_s: float) -> float:
    return now_s if known_s is None else known_s
