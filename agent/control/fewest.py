"""The rule by which releases before the loss curves shared out a target, for the records that they made. Pure.

`merit_order.py` has taken its place; `replay` still decides by it what was decided by it. A small total goes to as few
devices as keep a sensible part of their rating each; the others rest. Who goes first:

    charging: cars, whose energy is needed anyway and need not make the way back; then batteries
    discharging: batteries; cars last, since it wears them most
    among equals: who moves in that direction already, and last who would have to turn

Nothing flaps: one that rests joins at a higher share than one that moves is kept at. The memory is the band that each
device holds, which stands in the view: the same view gives the same choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.control.allocation import Range, fill

JOIN_PERCENT: Final = 25
"""Of what it can do: from here on another device is worth its losses."""
STAY_PERCENT: Final = 10
"""Below it one that moves rests again."""
JOIN_MINIMUM_PERCENT: Final = 125
"""Of its smallest charging power: a car does not start for a total that will not hold it."""
MOVES_W: Final = 100
"""Less power has no direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A device among which to choose."""

    range: Range
    is_car: bool = False
    lowest_w: int = 0
    """The band that it holds, or its power where it holds none."""
    highest_w: int = 0
    disobeys: bool = False
    """Nothing is staked on it alone."""


def share(total_w: int, carriers: Mapping[str, Carrier]) -> dict[str, int]:
    """Powers as `allocation.fill` gives them, over as few devices as are sensible; the sum is never further off."""
    ranges = {name: carrier.range for name, carrier in carriers.items()}
    over_all = fill(total_w, ranges)
    chosen = _choose(total_w, carriers)
    if len(chosen) == len(carriers):
        return over_all
    over_few = fill(total_w, {n: r if n in chosen else Range(0, 0) for n, r in ranges.items()})
    return over_few if _off(total_w, over_few) <= _off(total_w, over_all) else over_all


def _choose(total_w: int, carriers: Mapping[str, Carrier]) -> frozenset[str]:
    """At least those that cannot rest, and as many as can carry it."""
    chosen = {name for name, each in carriers.items() if not each.range.low <= 0 <= each.range.high}
    # What those must do is not to be made up for here.
    if chosen or total_w == 0:
        return frozenset(carriers)
    sign, amount_w = (1, total_w) if total_w > 0 else (-1, -total_w)
    able = {name: most_w for name, each in carriers.items() if (most_w := _most_w(each, sign)) > 0}
    starts = {name: _start_w(carriers[name], sign) for name in able}
    least = {name: _least_w(carriers[name], sign, most_w) for name, most_w in able.items()}
    reach_w = level_w = 0
    for name in sorted(able, key=lambda name: (starts[name] > amount_w, *_rank(carriers[name], sign), name)):
        level_w = max(level_w, least[name])
        if reach_w >= amount_w and amount_w < level_w * (len(chosen) + 1):
            break
        chosen.add(name)
        reach_w += able[name]
    return frozenset(chosen)


def _rank(carrier: Carrier, sign: int) -> tuple[bool, bool, bool, bool]:
    wears_more = carrier.is_car if sign < 0 else not carrier.is_car
    return (carrier.disobeys, wears_more, not _moves(carrier, sign), _moves(carrier, -sign))


def _moves(carrier: Carrier, sign: int) -> bool:
    return (carrier.highest_w if sign > 0 else -carrier.lowest_w) >= MOVES_W


def _most_w(carrier: Carrier, sign: int) -> int:
    return carrier.range.high if sign > 0 else -carrier.range.low


def _start_w(carrier: Carrier, sign: int) -> int:
    """Less than this it cannot do, or not for long."""
    if sign < 0:
        return 0
    return carrier.range.minimum * (100 if _moves(carrier, sign) else JOIN_MINIMUM_PERCENT) // 100


def _least_w(carrier: Carrier, sign: int, most_w: int) -> int:
    """The share from which on it is worth moving beside others."""
    percent = STAY_PERCENT if _moves(carrier, sign) else JOIN_PERCENT
    return max(most_w * percent // 100, _start_w(carrier, sign))


def _off(total_w: int, powers: Mapping[str, int]) -> int:
    return abs(total_w - sum(powers.values()))
