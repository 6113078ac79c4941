"""The grid's frequency as the plan sees it: what is believed, how strongly the site answers, where devices were before.

Pure. Measured on the site; without a plausible value the answer holds for 2 s and then ramps to zero (SAFETY 11). While
the frequency is outside the band, nothing that we do may make it worse (SAFETY 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

HOLD_S: Final = 2.0
"""A value at most so old counts as measured now."""
RAMP_S: Final = 10.0
"""From then on the answer falls to zero within this time."""
AGREE_MILLIHERTZ: Final = 100
"""Two meters of one grid do not differ by more."""
CALM_MILLIHERTZ: Final = 10
"""Back in the band by so much the event is over: noise at the edge makes no second one."""
PLAUSIBLE: Final = 10
"""Percent of nominal around it that a grid can have: 45 to 55 Hz, 54 to 66 Hz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How strongly the site answers: nothing within the dead band, then in proportion, symmetric."""

    nominal_millihertz: int = 50_000
    dead_band_millihertz: int = 200
    droop_permille: int = 50
    """Deviation beyond the dead band, of nominal, that brings the full rating."""

    def is_plausible(self, millihertz: int) -> bool:
        """Whether a grid can have this frequency."""
        return abs(millihertz - self.nominal_millihertz) * 100 <= self.nominal_millihertz * PLAUSIBLE

    def share_permille(self, millihertz: int) -> int:
        """Of the rating: + import (too high a frequency), - export (too low); within 1000."""
        deviation = millihertz - self.nominal_millihertz
        beyond = max(0, abs(deviation) - self.dead_band_millihertz)
        share = min(1000, beyond * 1_000_000 // (self.nominal_millihertz * self.droop_permille))
        return share if deviation > 0 else -share

    def side(self, millihertz: int, before: int) -> int:
        """1 above the band, -1 below it, 0 within; one that was outside must come back in by a little more."""
        deviation = millihertz - self.nominal_millihertz
        if deviation * before > 0 and abs(deviation) > self.dead_band_millihertz - CALM_MILLIHERTZ:
            return before
        if abs(deviation) <= self.dead_band_millihertz:
            return 0
        return 1 if deviation > 0 else -1


@dataclass(frozen=True, slots=True)
class FrequencyReading:
    """What one device measured, and when (monotonic)."""

    millihertz: int
    monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFrequency:
    """State between two looks."""

    millihertz: int | None = None
    """Last believed value; None: none yet, or given up."""
    monotonic_s: float = float("-inf")
    side: int = 0
    """1: above the band, -1: below. Stays while the answer to a lost value is still ramping down."""
    full_permille: int = 0
    """What the last believed value asks for."""
    share_permille: int = 0
    """What is asked for now."""
    base_w: Mapping[str, int] = field(default_factory=dict)
    """Power of each device when the event began."""
    doubt: str = ""
    """Why there is no believed value; empty while there is one."""


def step_frequency(
    state: GridFrequency,
    curve: Curve,
    readings: Sequence[FrequencyReading],
    powers_w: Mapping[str, int],
    monotonic_s: float,
) -> GridFrequency:
    """The state after one look. `readings`: the grid meter's first; `powers_w`: where each device is now."""
    value, doubt = _believed(curve, readings, monotonic_s)
    if value is None:
        return _without(state, doubt, monotonic_s)
    side = curve.side(value.millihertz, state.side)
    share = curve.share_permille(value.millihertz)
    base_w = {} if side == 0 else state.base_w if side == state.side else dict(powers_w)
    return GridFrequency(
        millihertz=value.millihertz,
        monotonic_s=value.monotonic_s,
        side=side,
        full_permille=share,
        share_permille=share,
        base_w=base_w,
    )


def _believed(
    curve: Curve, readings: Sequence[FrequencyReading], monotonic_s: float
) -> tuple[FrequencyReading | None, str]:
    fresh = [reading for reading in readings if monotonic_s - reading.monotonic_s <= HOLD_S]
    if not fresh:
        return None, "nothing measures the grid's frequency now"
    strange = [reading for reading in fresh if not curve.is_plausible(reading.millihertz)]
    if len(strange) == len(fresh):
        return None, f"{strange[0].millihertz / 1000:.3f} Hz is no grid's frequency"
    sound = [reading for reading in fresh if curve.is_plausible(reading.millihertz)]
    spread = max(r.millihertz for r in sound) - min(r.millihertz for r in sound)
    if spread > AGREE_MILLIHERTZ:
        return None, f"two meters of the frequency differ by {spread / 1000:.3f} Hz"
    return sound[0], ""


def _without(state: GridFrequency, doubt: str, monotonic_s: float) -> GridFrequency:
    lost_s = monotonic_s - state.monotonic_s - HOLD_S
    left = max(0.0, min(1.0, 1.0 - lost_s / RAMP_S))
    if left == 0.0:
        return GridFrequency(doubt=doubt)
    return replace(state, share_permille=int(state.full_permille * left), doubt=doubt)
