"""When what happens in a run of N seconds. All times scale with N; ramps and settlement windows too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LEAST_SECONDS: Final = 30
CYCLE_SECONDS: Final = 120
"""A run without an end repeats a story of this length."""
FULL_RAMP_S: Final = 120.0
"""The platform's figure: executed within this time."""
LEAST_RAMP_S: Final = 4.0
"""A few plans of the control loop, however short the run is."""
FULL_WINDOW_S: Final = 900
FULL_DEVICE_RAMP_S: Final = 3.0

DISCHARGE_W: Final = 14_000
CURTAIL_W: Final = 1_500

_WINDOWS_S: Final = (5, 6, 8, 10, 12, 15, 20, 24, 30, 36, 40, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900)


class Act(StrEnum):
    """What happens."""

    DISCHARGE = "the platform orders battery and car to discharge"
    CURTAIL = "the platform sends a CURTAIL ahead, for later"
    CUT = "the link to the platform is cut"
    RESTORE = "the link returns"


@dataclass(frozen=True, slots=True)
class Moment:
    """One act of the story."""

    at_s: float
    """From the start of the story."""
    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A whole run."""

    seconds: float
    moments: tuple[Moment, ...]
    discharge_s: float
    """Length of the DISCHARGE, which starts when it is sent."""
    curtail_in_s: float
    """Start of the CURTAIL after it is sent."""
    curtail_s: float
    ramp_s: float
    """Time that a command has before its power is judged."""
    device_ramp_s: float
    """Time that the simulated devices take from nothing to their rated power."""
    window_s: int

    @property
    def shrunk(self) -> bool:
        """Shorter times than the platform's figures."""
        return self.ramp_s < FULL_RAMP_S or self.window_s < FULL_WINDOW_S


def tell(seconds: float) -> Story:
    """The story in so many seconds, at least LEAST_SECONDS. Raises ValueError for fewer."""
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no number of seconds; without --seconds the demo goes on until Ctrl-C")
    if seconds < LEAST_SECONDS:
        raise ValueError(f"a run takes at least {LEAST_SECONDS} s, {seconds:g} s is too short to show anything")
    return Story(
        seconds=seconds,
        moments=(
            Moment(0.10 * seconds, Act.DISCHARGE),
            Moment(0.20 * seconds, Act.CURTAIL),
            Moment(0.30 * seconds, Act.CUT),
            Moment(0.72 * seconds, Act.RESTORE),
        ),
        discharge_s=0.38 * seconds,
        curtail_in_s=0.36 * seconds,
        curtail_s=0.24 * seconds,
        ramp_s=min(FULL_RAMP_S, max(LEAST_RAMP_S, 0.10 * seconds)),
        device_ramp_s=min(FULL_DEVICE_RAMP_S, seconds / 40),
        window_s=max(window for window in _WINDOWS_S if window <= max(seconds / 5, _WINDOWS_S[0])),
    )
