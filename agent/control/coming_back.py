"""Coming back after grid return, a boot or safe mode (SAFETY 7): wait, then let power rise slowly. Pure.

The wait is the devices' own reconnect delay and a random part, so that a whole street does not come back in one second.
What was flowing when it began may go on; more is allowed only by the ramp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnPace:
    """What the installer set."""

    delay_most_s: float = 600.0
    """The random part of the wait is at most so long."""
    ramp_permille_per_minute: int = 100
    """Of each device's rating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingBack:
    """One return, from its beginning until everything is allowed again."""

    why: str
    """"the public grid is back"."""
    since_s: float
    wait_s: float
    allowance_permille: int = 0
    """Of a device's rating, beyond what was flowing."""
    base_w: Mapping[str, int] = field(default_factory=dict)
    """Power of each device when it began, or when it was first heard since."""

    def left_s(self, now_s: float) -> float:
        """Of the wait."""
        return max(0.0, self.since_s + self.wait_s - now_s)


def begin(why: str, pace: ReturnPace, device_delay_s: float, draw: float, now_s: float) -> ComingBack:
    """A return that begins now. `draw`: a random number in [0, 1); `device_delay_s`: the longest of the devices'."""
    return ComingBack(why=why, since_s=now_s, wait_s=device_delay_s + draw * pace.delay_most_s)


def step(state: ComingBack, pace: ReturnPace, powers_w: Mapping[str, int], now_s: float) -> ComingBack | None:
    """The state after one look; None once everything is allowed. `powers_w`: of the devices that are heard."""
    beyond_s = now_s - state.since_s - state.wait_s
    allowance = int(max(0.0, beyond_s) * pace.ramp_permille_per_minute / 60)
    if allowance >= 1000:
        return None
    return replace(state, allowance_permille=allowance, base_w={**powers_w, **state.base_w})
