"""What it costs a device to move power: conversion losses by its load, and the wear of its battery. Pure integers.

Everything is told in watts that are lost, or worth as much: a loss curve by share of the rating (as data sheets give
efficiency), a fixed part that is lost as soon as it converts at all, and wear in proportion to what is moved.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.device import DeviceKind

MICRO: Final = 1_000_000

Curve = tuple[tuple[float, float], ...]
"""(percent of the rating, percent efficiency there), rising in the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of one device. Parts per million: of a watt moved, or of the rating where it says so."""

    fixed_ppm: int
    """Of the rating: lost as soon as it converts at all, beyond what it loses at rest."""
    fixed_w: int | None = None
    """In place of it, where the installer knows."""
    slopes: tuple[tuple[int, int], ...]
    """(permille of the rating, what each watt up to there loses beside the fixed part); both rise."""
    wear_in_ppm: int
    """What a watt taken in wears, in watts worth as much."""
    wear_out_ppm: int

    def fixed_of(self, rating_w: int) -> int:
        """Microwatts."""
        return self.fixed_ppm * rating_w if self.fixed_w is None else self.fixed_w * MICRO

    def lost(self, power_w: int, rating_w: int) -> int:
        """By conversion alone, at this power of either sign; microwatts."""
        if power_w == 0:
            return 0
        left_w, lost, from_w = abs(power_w), self.fixed_of(rating_w), 0
        for number, (permille, ppm) in enumerate(self.slopes, start=1):
            until_w = rating_w * permille // 1000
            part_w = left_w if number == len(self.slopes) else min(left_w, until_w - from_w)
            lost, left_w, from_w = lost + ppm * part_w, left_w - part_w, until_w
        return lost


USUAL: Final[Mapping[DeviceKind, Curve]] = {
    DeviceKind.BATTERY: ((10, 92.6), (25, 95.0), (50, 95.0), (75, 94.33), (100, 93.5)),
    DeviceKind.CHARGER: ((10, 88.0), (25, 93.0), (50, 94.0), (75, 93.33), (100, 92.5)),
}
"""Where the installer wrote none: of converters as they are sold; best between a quarter and a half of the rating."""
FIXED_PPM: Final[Mapping[DeviceKind, int]] = {DeviceKind.BATTERY: 5_000, DeviceKind.CHARGER: 9_000}
"""Of the rating, the part of these that is lost at any power."""
WEAR_WH_PER_KWH: Final[Mapping[DeviceKind, int]] = {DeviceKind.BATTERY: 50, DeviceKind.CHARGER: 150}
"""A car's for what it gives alone, and both ways: it needs what it takes in anyway, and must take in again what it
gave."""


@functools.lru_cache(maxsize=4096)
def losses_of(
    kind: DeviceKind,
    efficiency_percent: float | Curve | None = None,
    fixed_w: int | None = None,
    wear_wh_per_kwh: int | None = None,
) -> Losses:
    """From what the installer wrote; None: as is usual for the kind. A number is the efficiency at the rating."""
    usual, fixed_ppm = USUAL.get(kind, USUAL[DeviceKind.BATTERY]), FIXED_PPM.get(kind, 0)
    points = _lost(usual)
    if isinstance(efficiency_percent, tuple):
        points = _lost(efficiency_percent)
        fixed_ppm = _pointed_to(points)
    elif efficiency_percent is not None:
        whole = round((100 - efficiency_percent) * 10_000)
        points = [(permille, ppm * whole // points[-1][1]) for permille, ppm in points]
        fixed_ppm = fixed_ppm * whole // _lost(usual)[-1][1]
    wear_ppm = 1000 * (WEAR_WH_PER_KWH.get(kind, 0) if wear_wh_per_kwh is None else wear_wh_per_kwh)
    edge = _edge([(0, fixed_ppm), *points])
    return Losses(
        fixed_ppm=edge[0][1],
        fixed_w=fixed_w,
        slopes=_slopes(edge),
        wear_in_ppm=0 if kind is DeviceKind.CHARGER else wear_ppm,
        wear_out_ppm=wear_ppm,
    )


def _lost(curve: Curve) -> list[tuple[int, int]]:
    """(permille of the rating, ppm of the rating that is lost there)."""
    return [(round(share * 10), round(share * (100 - efficiency) * 100)) for share, efficiency in curve]


def _pointed_to(points: Sequence[tuple[int, int]]) -> int:
    """What the first two points leave over where nothing is moved."""
    (at, lost), (then_at, then_lost) = points[:2]
    return max(0, lost - (then_lost - lost) * at // (then_at - at))


def _edge(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rising and steepening edge below the points: where more load would cost less, the line below them counts."""
    edge: list[tuple[int, int]] = []
    for number, (at, _) in enumerate(points):
        lost = min(later for _, later in points[number:])
        while len(edge) > 1 and (edge[-1][1] - edge[-2][1]) * (at - edge[-1][0]) >= (lost - edge[-1][1]) * (
            edge[-1][0] - edge[-2][0]
        ):
            edge.pop()
        edge.append((at, lost))
    return edge


def _slopes(edge: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    until: dict[int, int] = {}
    for (before, before_lost), (at, lost) in itertools.pairwise(edge):
        until[1000 * (lost - before_lost) // (at - before)] = at
    return tuple((at, ppm) for ppm, at in until.items())
