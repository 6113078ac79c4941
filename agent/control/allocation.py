"""How a power is shared out: water-filling over ranges, and fitting wishes under a limit. Pure integer arithmetic.

Water-filling: all get the same power, up to a common level, and nobody leaves its own range. The result is the same
for the same input, whatever the order of the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Range:
    """Where a device's power can be, W, + import."""

    low: int
    high: int
    minimum: int = 0
    """Smallest import that is not zero (6 A on a charger's phases)."""


def fill(total_w: int, ranges: Mapping[str, Range]) -> dict[str, int]:
    """Powers within the ranges whose sum is as near to `total_w` as they can get, at a common level.

    Where minimum currents leave a hole the sum stays nearer to zero, or below `total_w`: never above it by choice.
    """
    ranges = dict(ranges)
    while True:
        powers = _level(total_w, ranges)
        too_small = [name for name in sorted(powers) if 0 < powers[name] < ranges[name].minimum]
        if not too_small:
            return powers
        # The last names pause, as many as must, so that the others rise above their minimum; another plan may bring
        # them back.
        left_w = sum(powers[name] for name in too_small)
        for name in too_small:
            left_w -= ranges[name].minimum
            if left_w < 0:  # at least the last: each has less than its minimum
                ranges[name] = replace(ranges[name], high=0, low=min(0, ranges[name].low), minimum=0)


def fit(limit_w: int, wishes: Mapping[str, int], minimums: Mapping[str, int] | None = None) -> dict[str, int]:
    """Wishes (zero and above) cut to a common level so that their sum is at most `limit_w`; unchanged when it is."""
    return {**wishes, **cuts(limit_w, wishes, minimums)}


def cuts(limit_w: int, wishes: Mapping[str, int], minimums: Mapping[str, int] | None = None) -> dict[str, int]:
    """As `fit`, but of those alone that get less than they wish for."""
    if sum(wishes.values()) <= limit_w:
        return {}
    minimums = minimums or {}
    powers = fill(max(0, limit_w), {name: Range(0, wish, minimums.get(name, 0)) for name, wish in wishes.items()})
    return {name: power_w for name, power_w in powers.items() if power_w < wishes[name]}


def hold_raises(
    limit_w: int, wanted: Mapping[str, int], granted: Mapping[str, int], metered: Mapping[str, int]
) -> dict[str, int]:
    """`wanted` (zero and above), with raises only as far as there is room beside those that have not come down yet.

    Lower first, confirm by meter, then raise another (SAFETY 3): whoever shall come down counts with what it was
    granted or with its metered power, the larger, until both have come down.
    """
    counted_w = sum(max(wish, granted.get(name, 0), metered.get(name, 0)) for name, wish in wanted.items())
    excess_w = counted_w - max(limit_w, 0)
    if excess_w <= 0:
        return dict(wanted)
    floors = {name: min(wish, max(granted.get(name, 0), metered.get(name, 0))) for name, wish in wanted.items()}
    raises = {name: wanted[name] - floors[name] for name in wanted}
    allowed = fit(max(0, sum(raises.values()) - excess_w), raises)
    return {name: floors[name] + allowed[name] for name in wanted}


def _level(total_w: int, ranges: Mapping[str, Range]) -> dict[str, int]:
    if not ranges:
        return {}
    level = _common_level(total_w, ranges)
    powers = {name: min(max(level, r.low), r.high) for name, r in ranges.items()}
    left_w = total_w - sum(powers.values())
    for name in sorted(powers):
        if left_w <= 0:
            break
        if powers[name] == level and powers[name] < ranges[name].high:
            powers[name] += 1
            left_w -= 1
    return powers


def _common_level(total_w: int, ranges: Mapping[str, Range]) -> int:
    """The highest level whose sum is not above the total, within the ranges; the sum never falls as the level rises.

    Between the ends of ranges the sum rises by as many watts per watt as there are ranges around the level.
    """
    ends = sorted([(r.low, 1) for r in ranges.values()] + [(r.high, -1) for r in ranges.values()])
    level, around, sum_w = ends[0][0], 0, sum(r.low for r in ranges.values())
    if sum_w > total_w:
        return level
    for end, change in ends:
        if sum_w + around * (end - level) > total_w:
            return level + (total_w - sum_w) // around
        sum_w += around * (end - level)
        level, around = end, around + change
    return level
