"""Which registers to read together: requests of at most 125, each value with its scale factor. Pure.

A stretch is one request. It may reach over several models: what lies between them is read along. Factors move between
reads, so a value and its factor come from one stretch; a value too far from its factor is read bare, and its factor
before and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drivers.sunspec.codec import Field, Layout, Value
from drivers.sunspec.transport import MOST_READ


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a map: its layout, and where its ID register is."""

    layout: Layout
    address: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Registers that a point needs, by address."""

    part: int
    """Index of its model among the parts."""
    field: Field
    first: int
    end: int

    @classmethod
    def whole(cls, part: int, address: int, field: Field) -> Placed:
        """The value with its factor, and whatever lies between."""
        first, end = field.span
        return cls(part, field, address + first, address + end)

    @classmethod
    def bare(cls, part: int, address: int, field: Field) -> Placed:
        """The value's own registers."""
        return cls(part, field, address + field.offset, address + field.end)

    @property
    def is_torn(self) -> bool:
        """Other registers lie between the value and its factor."""
        return self.end - self.first > self.field.point.size + 1


@dataclass(frozen=True, slots=True)
class PartOfStretch:
    """What of a stretch belongs to one model."""

    part: int
    start: int
    end: int
    """Registers from the stretch's first."""
    decode: Callable[[Sequence[int]], dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One request."""

    placed: tuple[Placed, ...]
    first: int
    count: int
    parts: tuple[PartOfStretch, ...]
    """Empty for bare values and factors."""

    def halves(self) -> tuple[tuple[Placed, ...], ...]:
        """What to ask for instead when the device refuses it: by model first, then by half."""
        numbers = sorted({placed.part for placed in self.placed})
        if len(numbers) > 1:
            return tuple(tuple(placed for placed in self.placed if placed.part == number) for number in numbers)
        middle = len(self.placed) // 2
        return self.placed[:middle], self.placed[middle:]


def plan(parts: Sequence[Part], wanted: Iterable[Placed], *, bare: bool = False) -> list[Stretch]:
    """Requests for these points, in order of address; what needs more than 125 registers at once is left out."""
    return [_stretch(parts, group, bare) for group in grouped(wanted)]


def grouped(wanted: Iterable[Placed], most: int = MOST_READ) -> list[tuple[Placed, ...]]:
    """In as few groups of at most `most` registers as their places allow."""
    found: list[tuple[Placed, ...]] = []
    group: list[Placed] = []
    start = end = 0
    for placed in sorted(wanted, key=lambda placed: (placed.first, placed.end)):
        if placed.end - placed.first > most:
            continue
        if group and max(end, placed.end) - start <= most:
            group.append(placed)
            end = max(end, placed.end)
            continue
        if group:
            found.append(tuple(group))
        group, start, end = [placed], placed.first, placed.end
    if group:
        found.append(tuple(group))
    return found


def _stretch(parts: Sequence[Part], group: tuple[Placed, ...], bare: bool) -> Stretch:
    first = group[0].first
    owners: list[PartOfStretch] = []
    for number in dict.fromkeys(placed.part for placed in group if not bare):
        own = [placed for placed in group if placed.part == number]
        start, end = min(placed.first for placed in own), max(placed.end for placed in own)
        decode = parts[number].layout.decoder(
            [placed.field.path for placed in own], start - parts[number].address, end - start
        )
        owners.append(PartOfStretch(number, start - first, end - first, decode))
    return Stretch(group, first, max(placed.end for placed in group) - first, tuple(owners))
