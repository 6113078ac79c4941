"""Which registers to read together: requests of at most 125, each value with its scale factor. Pure.

A stretch is one request. It may reach over several models: what lies between them is read along. Factors move between
reads, so a value and its factor come from one stretch; a value too far from its factor is read bare, and its factor
before and after it, by stretches that hold it anyway where there are two: they are put in that order. A barrier is an
address that no stretch may reach over: the device refuses what lies before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """Octets from the stretch's first."""
    decode: Callable[[bytes, int], dict[str, Value]]
    """Octets, and where in them the part begins."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One request."""

    placed: tuple[Placed, ...]
    first: int
    count: int
    parts: tuple[PartOfStretch, ...]
    """Empty for bare values and factors."""

    @property
    def addresses(self) -> range:
        return range(self.first, self.first + self.count)

    def halves(self) -> tuple[tuple[Placed, ...], ...]:
        """What to ask for instead when the device refuses it: by model first, then by half."""
        numbers = sorted({placed.part for placed in self.placed})
        if len(numbers) > 1:
            return tuple(tuple(placed for placed in self.placed if placed.part == number) for number in numbers)
        middle = len(self.placed) // 2
        return self.placed[:middle], self.placed[middle:]


class Arrangement(NamedTuple):
    """What to read, in this order."""

    early: list[Stretch]
    apart: list[Placed]
    """Points to read without their factors."""
    along: list[Placed]
    """Factors of theirs that are read with them, each before its values."""
    late: list[Stretch]
    """They hold factors that were read before, once more."""


def arrange(parts: Sequence[Part], wanted: Sequence[Placed], barriers: Collection[int] = ()) -> Arrangement:
    """Requests in order of address but for the late ones, and what is better read apart, for few requests in all.

    Apart are points too far from their factors, and of long models those for which much would be read twice.
    """
    extents = {
        number: max(placed.end for placed in own) - min(placed.first for placed in own)
        for number in dict.fromkeys(placed.part for placed in wanted)
        if (own := [placed for placed in wanted if placed.part == number])
    }
    loose: frozenset[int] = frozenset()
    groups, apart = _grouped(wanted, loose, barriers=barriers)
    order = _ordered(parts, groups, apart, barriers)
    for number in (number for number, extent in extents.items() if extent > MOST_READ):
        other_groups, other_apart = _grouped(wanted, loose | {number}, barriers=barriers)
        other = _ordered(parts, other_groups, other_apart, barriers)
        if other.requests < order.requests:
            loose, groups, apart, order = loose | {number}, other_groups, other_apart, other
    stretches = [_stretch(parts, group, bare=False) for group in groups]
    return Arrangement(
        early=[stretch for index, stretch in enumerate(stretches) if index not in order.late],
        apart=apart,
        along=order.along,
        late=[stretch for index, stretch in enumerate(stretches) if index in order.late],
    )


def plan(
    parts: Sequence[Part], wanted: Iterable[Placed], *, bare: bool = False, barriers: Collection[int] = ()
) -> list[Stretch]:
    """Requests for these points, in order of address; what needs more than 125 registers at once is left out."""
    groups, _ = _grouped(wanted, barriers=barriers)
    return [_stretch(parts, group, bare) for group in groups]


def factors_of(parts: Sequence[Part], apart: Iterable[Placed]) -> list[Placed]:
    """The scale factors of these points, each once."""
    wanted = {(placed.part, placed.field.factor_offset) for placed in apart}
    return [
        Placed.bare(number, part.address, field)
        for number, part in enumerate(parts)
        for field in part.layout.fields.values()
        if (number, field.offset) in wanted
    ]


def bare_values(parts: Sequence[Part], apart: Iterable[Placed]) -> list[Placed]:
    """These points without their factors."""
    return [Placed.bare(placed.part, parts[placed.part].address, placed.field) for placed in apart]


class _Order(NamedTuple):
    requests: int
    along: list[Placed]
    late: frozenset[int]
    """Indices of groups."""


def _ordered(
    parts: Sequence[Part], groups: Sequence[tuple[Placed, ...]], apart: Sequence[Placed], barriers: Collection[int]
) -> _Order:
    """How to read the groups and what is apart: all groups first, or the last one that holds a factor after its values.

    Whichever takes fewer requests, with those for factors that no group holds at the right time.
    """
    factors, values = factors_of(parts, apart), bare_values(parts, apart)
    spans = [(group[0].first, max(placed.end for placed in group)) for group in groups]
    holding = [[index for index, (first, end) in enumerate(spans) if first <= at.first < end] for at in factors]

    def in_order(late: frozenset[int]) -> _Order:
        not_before = [at for at, held in zip(factors, holding, strict=True) if late.issuperset(held)]
        not_after = [at for at, held in zip(factors, holding, strict=True) if late.isdisjoint(held)]
        along = [at for at in not_before if late and _precedes(at, values)]
        extra = ([*values, *along], [at for at in not_before if at not in along], not_after)
        return _Order(len(groups) + sum(len(_grouped(some, barriers=barriers)[0]) for some in extra), along, late)

    plain, folded = in_order(frozenset()), in_order(frozenset(held[-1] for held in holding if held))
    return folded if folded.requests < plain.requests else plain


def _precedes(factor: Placed, values: Sequence[Placed]) -> bool:
    """Whether it lies before all values that it is the factor of: it is read no later than they are then."""
    own = [at.first for at in values if (at.part, at.field.factor_offset) == (factor.part, factor.field.offset)]
    return factor.first < min(own)


def _grouped(
    wanted: Iterable[Placed],
    loose: frozenset[int] = frozenset(),
    most: int = MOST_READ,
    barriers: Collection[int] = (),
) -> tuple[list[tuple[Placed, ...]], list[Placed]]:
    """(groups of at most `most` registers, as few as their places allow; what is read apart).

    `loose`: models of which a point goes apart rather than make a new group read much of the last one again.
    """
    found: list[tuple[Placed, ...]] = []
    apart: list[Placed] = []
    group: list[Placed] = []
    start = end = 0
    for placed in sorted(wanted, key=lambda placed: (placed.first, placed.end)):
        if placed.end - placed.first > most or _is_barred(placed.first, placed.end, barriers):
            apart.append(placed)
            continue
        reach = max(end, placed.end)
        if group and reach - start <= most and not _is_barred(start, reach, barriers):
            group.append(placed)
            end = reach
            continue
        if group and placed.part in loose and placed.is_torn and end - placed.first > most // 2:
            apart.append(placed)
            continue
        if group:
            found.append(tuple(group))
        group, start, end = [placed], placed.first, placed.end
    if group:
        found.append(tuple(group))
    return found, apart


def _is_barred(first: int, end: int, barriers: Collection[int]) -> bool:
    return any(first < barrier < end for barrier in barriers)


def _stretch(parts: Sequence[Part], group: tuple[Placed, ...], bare: bool) -> Stretch:
    first = group[0].first
    owners: list[PartOfStretch] = []
    for number in dict.fromkeys(placed.part for placed in group if not bare):
        own = [placed for placed in group if placed.part == number]
        start, end = min(placed.first for placed in own), max(placed.end for placed in own)
        decode = parts[number].layout.decoder(
            [placed.field.path for placed in own], start - parts[number].address, end - start
        )
        owners.append(PartOfStretch(number, 2 * (start - first), decode))
    return Stretch(group, first, max(placed.end for placed in group) - first, tuple(owners))
