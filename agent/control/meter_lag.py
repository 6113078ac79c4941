"""A grid meter that shows late, or swings from one reading to the next, and what the connection has without that. Pure.

The house is the meter less all devices, each time anew. A meter that averages over seconds shows a device's step later
than the device does: the step is taken for the house's, answered, and answered again, and the loop swings without end.
So the lag is found: the right one is that by which the house moves least while devices move much. `house.py` then
holds the meter against what devices did then. Readings that go up and down in turn are taken at their middle for
targets, and at their worse end for limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from agent.control.site import MeterView

LAGS_S: Final = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
"""The first of those that explain a meter equally well is taken."""
WINDOW_S: Final = 20.0
"""By so much of the past a lag is judged."""
EVERY_S: Final = 0.5
"""Looks that come closer together are one."""
LEAST_S: Final = 8.0
"""By less of it none is."""
MOVED_W: Final = 1_500
"""Less movement of the devices together in the window tells nothing."""
PATIENCE_S: Final = 10.0
"""A lag is judged by what came since it was found; with each other one that is found twice as much is waited for."""
MOST_PATIENCE_S: Final = 60.0
FORGOTTEN_S: Final = 600.0
"""A lag that has stood so long is found anew without what was tried before."""
SWING_LOOKS: Final = 8
SWING_TIMES: Final = 4
"""A meter swings whose readings go so many times as far as their means of two do."""
SWING_W: Final = 300
"""Less than this from look to look is a house that lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterLook:
    """What was seen at one moment."""

    at_s: float
    meter_w: int
    powers_w: Mapping[str, int]
    """Of each device."""
    total_w: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterLag:
    """What is known of the meter's time."""

    lag_s: float = 0.0
    found_s: float = float("-inf")
    """When that was found."""
    patience_s: float = PATIENCE_S
    tried_w_per_s: Mapping[float, float] = field(default_factory=dict)
    """How much the connection moved under each lag that was left for another."""
    looks: tuple[MeterLook, ...] = ()
    """The oldest first."""


def step(state: MeterLag, meter_w: int, powers_w: Mapping[str, int], now_s: float) -> MeterLag:
    """The state after one look. `powers_w`: where each device is."""
    if state.looks and 0 <= now_s - state.looks[-1].at_s < EVERY_S:
        return state
    look = MeterLook(at_s=now_s, meter_w=meter_w, powers_w=dict(powers_w), total_w=sum(powers_w.values()))
    oldest_s = now_s - WINDOW_S - LAGS_S[-1]
    kept = [seen for seen in state.looks if oldest_s <= seen.at_s < now_s]
    looks = (*(seen for seen in kept if seen.powers_w.keys() == look.powers_w.keys()), look)
    return _judged(replace(state, looks=looks), now_s)


def _judged(state: MeterLag, now_s: float) -> MeterLag:
    if now_s - state.found_s < state.patience_s:
        return state
    recent = [look for look in state.looks if look.at_s > max(now_s - WINDOW_S, state.found_s)]
    seconds = recent[-1].at_s - recent[0].at_s if recent else 0.0
    # What devices did just now the meter may be still to show.
    shown = [look.total_w for look in recent if look.at_s <= now_s - LAGS_S[-1]]
    if seconds < LEAST_S or _moves_w(shown) < MOVED_W:
        return state
    moves_w = {lag_s: _moves_w(_calm(_houses_w(state, recent, lag_s))) for lag_s in LAGS_S}
    best_s = min(LAGS_S, key=lambda lag_s: (moves_w[lag_s], lag_s))
    # Half, for a house that moves by itself makes every lag look alike.
    if moves_w[best_s] * 2 >= moves_w[state.lag_s]:
        return state
    # A house that goes up and down by itself may look like any lag: one under which it was worse is not taken again.
    moved_w_per_s = _moves_w(_calm([look.meter_w for look in recent])) / seconds
    tried = state.tried_w_per_s if now_s - state.found_s < FORGOTTEN_S else {}
    if tried.get(best_s, 0.0) > moved_w_per_s:
        return state
    return replace(
        state,
        lag_s=best_s,
        found_s=now_s,
        patience_s=min(MOST_PATIENCE_S, 2 * state.patience_s),
        tried_w_per_s={**tried, state.lag_s: moved_w_per_s},
    )


def steadied(state: MeterLag, meter: MeterView) -> MeterView:
    """The meter as it shows it, but for a swing from reading to reading: at its middle, and how far it may be off."""
    houses_w = _houses_w(state, state.looks[-SWING_LOOKS:], state.lag_s)
    swing_w = _swing_w(houses_w)
    if not swing_w:
        return meter
    return replace(meter, power_w=meter.power_w + (houses_w[-2] - houses_w[-1]) // 2, over_w=swing_w, under_w=swing_w)


def _swing_w(houses_w: Sequence[int]) -> int:
    """Half of what the house seems to go up and down, in turn, from look to look; 0: it does not."""
    moves_w = _moves_w(houses_w)
    if len(houses_w) < SWING_LOOKS or moves_w < SWING_W * (len(houses_w) - 1):
        return 0
    if moves_w < SWING_TIMES * _moves_w(_calm(houses_w)):
        return 0
    return max(abs(after - before) for before, after in pairwise(houses_w)) // 2


def _houses_w(state: MeterLag, looks: Sequence[MeterLook], lag_s: float) -> list[int]:
    """What the devices leave of the meter, by that lag."""
    return [look.meter_w - _before(state, look.at_s - lag_s).total_w for look in looks]


def _calm(values_w: Sequence[int]) -> list[int]:
    """Means of two: what goes up and down in turn is gone from them."""
    return [(before + after) // 2 for before, after in pairwise(values_w)]


def _moves_w(values_w: Sequence[int]) -> int:
    return sum(abs(after - before) for before, after in pairwise(values_w))


def _before(state: MeterLag, at_s: float) -> MeterLook:
    """The newest look that is not after that moment; the oldest where there is none."""
    for look in reversed(state.looks):
        if look.at_s <= at_s + EVERY_S / 2:
            return look
    return state.looks[0]
