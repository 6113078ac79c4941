"""Reading models again and again, around holes: some registers answer with an exception, others never do.

When a device refuses a stretch it is split between points until the refused ones stand alone; what was learned is kept,
and tried again after a while (an inverter that hides registers at night shows them by day; `relearning.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from drivers.sunspec.codec import Decoder, Layout, Value, layout
from drivers.sunspec.connection import Words
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.models import Model
from drivers.sunspec.relearning import Relearning
from drivers.sunspec.stretches import Part, Placed, Stretch, arrange, bare_values, factors_of, plan
from drivers.sunspec.transport import MOST_READ

Read = Callable[[int, int], Awaitable[Words]]
"""(address, count) -> words of one unit."""


Hole = tuple[int, str]
"""A point on a device: address of its model's ID register, path within the model."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """What a device does not let be read, as far as it was asked for."""

    holes: frozenset[Hole] = frozenset()
    torn: frozenset[Hole] = frozenset()
    """Points that can be read, but not together with what lies between them and their scale factors."""
    barriers: frozenset[int] = frozenset()
    """Addresses that no request can reach over: something just before them is refused, asked for or not."""

    def __or__(self, other: Refusals) -> Refusals:
        return Refusals(self.holes | other.holes, self.torn | other.torn, self.barriers | other.barriers)


NO_REFUSALS: Final = Refusals()


@dataclass(frozen=True, slots=True)
class Look:
    """What one poll of a model gave."""

    values: dict[str, Value]
    monotonic_s: float | None
    """Moment of the first stretch; None when nothing was readable."""


@dataclass(frozen=True, slots=True)
class MapLook:
    """What one poll of several models gave, in their order."""

    values: tuple[dict[str, Value], ...]
    monotonic_s: float | None
    """Moment of the first stretch; None when nothing was readable."""


async def layout_of(read: Read, model: Model, address: int, length: int) -> Layout:
    """The layout of a model on this device, with the counts of its groups as they are now. `address` is its ID's.

    Raises SunSpecErrors, but counts that the device refuses to tell are taken for 0.
    """
    words: Sequence[int] = ()
    if model.count_places:
        try:
            words = (await read(address, min(max(model.count_places), length + 1, MOST_READ - 1) + 1)).words
        except ModbusExceptionError as error:
            if error.is_transient:
                raise
    return layout(model, length, words)


class MapPoll:
    """Chosen points of several models of one device, in requests that they share."""

    def __init__(
        self,
        wanted: Iterable[tuple[Layout, int, Iterable[str]]],
        unreadable: Iterable[tuple[int, str]] = (),
        since_s: float = 0.0,
        known: Refusals | None = None,
    ) -> None:
        """`wanted`: (layout, address of the ID register, paths). Paths that a model does not have are left out.

        `unreadable`: points, by index of their model, that the device was known to refuse at `since_s`; they are tried
        again in their time. `known`: what an earlier run learned, of these models and others.
        """
        chosen = [(Part(place, address), tuple(paths)) for place, address, paths in wanted]
        self._parts = [part for part, _ in chosen]
        self._wanted = [
            Placed.whole(index, part.address, field)
            for index, (part, paths) in enumerate(chosen)
            for path in paths
            if (field := part.layout.fields.get(path)) is not None
        ]
        self._known = NO_REFUSALS if known is None else known
        self.unreadable = frozenset(unreadable) | self._own(self._known.holes)
        """(index of the model, path) of what the device refuses at present."""
        self._barriers = self._known.barriers
        self._apart = self._own(self._known.torn)
        """As `unreadable`: to be read without what lies between value and factor."""
        refusals = self.unreadable or self._barriers or self._apart
        self._relearning = Relearning.known(since_s) if refusals else Relearning()
        self._refused = False
        """Something was, in the poll that is under way."""
        self._early: list[Stretch] = []
        self._late: list[Stretch] = []
        """Read after what is far."""
        self._far: _Far | None = None
        self._torn: list[Placed] = []
        self._plan([placed for placed in self._wanted if not self._is_hidden(placed)])

    async def read(self, read: Read, now_s: float) -> MapLook:
        """The implemented ones of the chosen points. Raises SunSpecErrors, but not for registers that are refused."""
        again, self._refused = self._relearning.is_due(now_s), False
        if again:
            self.unreadable = frozenset()
            self._barriers, self._apart = frozenset(), frozenset()
            self._plan(self._wanted)
        look = await self._read(read)
        # Not after an error: the plan is then what it was, and shows the same next time.
        self._relearning.asked(now_s, again=again, refused=self._refused)
        return look

    async def _read(self, read: Read) -> MapLook:
        self._torn = []
        self._early, early = await self._take_near(self._early, read)
        rows = [] if self._far is None else await self._read_apart(self._far, early, read)
        self._late, late = await self._take_near(self._late, read)
        if self._torn:
            # Refused for what lies between value and factor, it seems: each is asked for alone.
            apart = [*self._torn, *(self._far.wanted if self._far is not None else ())]
            self._far, self._torn = _Far(self._parts, apart, (), self._barriers), []
            self._early, self._late = sorted([*self._early, *self._late], key=_address), []
            early, late = [*early, *late], []
            rows = await self._read_apart(self._far, early, read)
        values: list[dict[str, Value]] = [{}] * len(self._parts)
        for stretch, words in (*early, *late):
            for owner in stretch.parts:
                found = owner.decode(words.octets, owner.start)
                # The first stretch of a model makes its dict: copying a thousand values counts.
                values[owner.part] = values[owner.part] | found if values[owner.part] else found
        if self._far is not None:
            await self._add_firm(self._far, rows, late, values, read)
        moments = [words.monotonic_s for _, words in (*early[:1], *late[:1])] + [row.monotonic_s for row in rows[:1]]
        return MapLook(tuple(values), min(moments, default=None))

    async def _take_near(self, planned: list[Stretch], read: Read) -> tuple[list[Stretch], list[tuple[Stretch, Words]]]:
        kept, taken = await self._take(planned, read, bare=False)
        if kept != planned:
            self._barriers |= _seams(kept)
        return kept, taken

    async def _read_apart(self, far: _Far, early: Sequence[tuple[Stretch, Words]], read: Read) -> list[_Row]:
        """Values apart from their scale factors, with the factors as they were before. `early` holds most of those."""
        factors = _octets_at(far.factor_addresses, early)
        await self._take_factors(far, factors, far.along, read)
        planned = far.values
        far.values, taken = await self._take(planned, read, bare=True)
        if far.values != planned:
            self._barriers |= _seams(far.values)
        rows: list[_Row] = []
        for stretch, words in taken:
            factors = _octets_at(far.along, [(stretch, words)]) | factors
            for placed in stretch.placed:
                point = far.points.get((placed.part, placed.field.path))
                factor = b"" if point is None else factors.get(point.factor_address, b"")
                if point is not None and (factor or point.factor_address == NO_FACTOR):
                    start = 2 * (placed.first - stretch.first)
                    octets = words.octets[start : start + 2 * placed.field.point.size]
                    rows.append(_Row(point, octets, factor, words.monotonic_s))
        return rows

    async def _add_firm(
        self,
        far: _Far,
        rows: Sequence[_Row],
        late: Sequence[tuple[Stretch, Words]],
        values: list[dict[str, Value]],
        read: Read,
    ) -> None:
        """Adds those whose factor is still the same to the values. `late` was read after them."""
        after = _octets_at(far.factor_addresses, late)
        await self._take_factors(far, after, frozenset(), read)
        found: dict[int, dict[str, Value]] = {}
        for row in rows:
            if after.get(row.point.factor_address, b"") == row.factor:
                found.setdefault(row.point.part, {}).update(row.point.decode(row.octets + row.factor))
        for part, more_values in found.items():
            values[part] = values[part] | more_values

    async def _take_factors(self, far: _Far, factors: dict[int, bytes], others: Collection[int], read: Read) -> None:
        """Adds those that are neither in `factors` nor read otherwise."""
        there = {*factors, *others}
        wanted = far.factor_addresses - there
        planned = [stretch for stretch in far.factors if not wanted.isdisjoint(stretch.addresses)]
        kept, taken = await self._take(planned, read, bare=True)
        if kept != planned:
            self._barriers |= _seams(kept)
            far.factors = sorted([*(one for one in far.factors if one not in planned), *kept], key=_address)
        factors.update(_octets_at(far.factor_addresses, taken))

    async def _take(
        self, planned: list[Stretch], read: Read, *, bare: bool
    ) -> tuple[list[Stretch], list[tuple[Stretch, Words]]]:
        """The words of each stretch, and the stretches to read next time: refused ones are split until they hold."""
        taken: list[tuple[Stretch, Words]] = []
        waiting = planned[::-1]
        while waiting:
            stretch = waiting.pop()
            try:
                words = await read(stretch.first, stretch.count)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                self._refused = True
                waiting.extend(reversed(self._split(stretch, bare)))
                continue
            taken.append((stretch, words))
        return [stretch for stretch, _ in taken], taken

    def _split(self, stretch: Stretch, bare: bool) -> list[Stretch]:
        if len(stretch.placed) == 1:
            placed = stretch.placed[0]
            if placed.is_torn:
                self._torn.append(placed)
                self._apart |= {(placed.part, placed.field.path)}
            else:
                self.unreadable |= {(placed.part, placed.field.path)}
            return []
        return [smaller for half in stretch.halves() for smaller in plan(self._parts, half, bare=bare)]

    def _plan(self, wanted: Sequence[Placed]) -> None:
        together = [placed for placed in wanted if (placed.part, placed.field.path) not in self._apart]
        arranged = arrange(self._parts, together, self._barriers)
        self._early, self._late = arranged.early, arranged.late
        torn = [placed for placed in wanted if (placed.part, placed.field.path) in self._apart]
        apart = [*arranged.apart, *torn]
        self._far = _Far(self._parts, apart, arranged.along, self._barriers) if apart else None

    def _is_hidden(self, placed: Placed) -> bool:
        """Whether the value is, or the scale factor without which it means nothing."""
        fields = self._parts[placed.part].layout.fields
        needed = {placed.field.offset, placed.field.factor_offset}
        return any(
            index == placed.part and path in fields and fields[path].offset in needed for index, path in self.unreadable
        )

    def _own(self, points: Iterable[Hole]) -> frozenset[tuple[int, str]]:
        """Those of our models, by index."""
        index_of = {part.address: index for index, part in enumerate(self._parts)}
        return frozenset((index_of[address], path) for address, path in points if address in index_of)

    @property
    def refusals(self) -> Refusals:
        """What the device refuses at present, for a later run."""

        def named(points: Iterable[tuple[int, str]]) -> frozenset[Hole]:
            return frozenset((self._parts[index].address, path) for index, path in points)

        return Refusals(named(self.unreadable), named(self._apart), self._barriers)


class ModelPoll:
    """As MapPoll, of one model."""

    def __init__(
        self,
        layout: Layout,
        address: int,
        paths: Iterable[str],
        unreadable: Iterable[str] = (),
        since_s: float = 0.0,
        known: Refusals | None = None,
    ) -> None:
        """`address` is that of the model's ID register. See MapPoll for the rest."""
        self._poll = MapPoll([(layout, address, paths)], [(0, path) for path in unreadable], since_s, known)

    @property
    def unreadable(self) -> frozenset[str]:
        """Points that the device refuses at present."""
        return frozenset(path for _, path in self._poll.unreadable)

    @property
    def refusals(self) -> Refusals:
        """See MapPoll."""
        return self._poll.refusals

    async def read(self, read: Read, now_s: float) -> Look:
        """The implemented ones of the chosen points. Raises SunSpecErrors, but not for registers that are refused."""
        look = await self._poll.read(read, now_s)
        return Look(look.values[0], look.monotonic_s)


def _seams(planned: Sequence[Stretch]) -> set[int]:
    """Behind each gap between stretches that would have been one request, had the device not refused it."""
    seams: set[int] = set()
    reach = 0
    for earlier, later in itertools.pairwise(sorted(planned, key=lambda stretch: stretch.first)):
        reach = max(reach, earlier.first + earlier.count)
        if reach < later.first and later.first + later.count - earlier.first <= MOST_READ:
            seams.add(later.first)
    return seams


class _Far:
    """Points that are read apart from their scale factors."""

    def __init__(
        self, parts: Sequence[Part], wanted: Sequence[Placed], along: Sequence[Placed], barriers: Collection[int]
    ) -> None:
        """`along`: factors that are read with the values."""
        self.wanted = wanted
        self.along = frozenset(placed.first for placed in along)
        factors = factors_of(parts, wanted)
        self.factor_addresses = frozenset(placed.first for placed in factors)
        self.factors = plan(parts, factors, bare=True, barriers=barriers)
        self.values = plan(parts, [*bare_values(parts, wanted), *along], bare=True, barriers=barriers)
        self.points = {
            (placed.part, placed.field.path): _FarPoint.of(parts[placed.part].address, placed) for placed in wanted
        }
        """By part and path."""


NO_FACTOR: Final = -1
"""In the place of an address."""


@dataclass(frozen=True, slots=True)
class _FarPoint:
    """One point apart from its factor, decoded from its own octets with the factor's behind them."""

    part: int
    factor_address: int
    """NO_FACTOR where it has none, or a constant one."""
    decode: Callable[[bytes], dict[str, Value]]

    @classmethod
    def of(cls, address: int, placed: Placed) -> _FarPoint:
        field = placed.field
        factor = NO_FACTOR if field.factor_offset is None else address + field.factor_offset
        behind = replace(field, offset=0, factor_offset=None if field.factor_offset is None else field.point.size)
        return cls(placed.part, factor, Decoder([behind], 0, field.point.size + (field.factor_offset is not None)))


class _Row(NamedTuple):
    """A value that was read apart."""

    point: _FarPoint
    octets: bytes
    factor: bytes
    """As it was before; empty where it has none."""
    monotonic_s: float


def _octets_at(addresses: Collection[int], taken: Sequence[tuple[Stretch, Words]]) -> dict[int, bytes]:
    """Those of the addresses that were read, with their octets: the last ones."""
    found: dict[int, bytes] = {}
    for stretch, words in taken:
        for at in addresses:
            if at in stretch.addresses:
                place = 2 * (at - stretch.first)
                found[at] = words.octets[place : place + 2]
    return found


def _address(stretch: Stretch) -> int:
    return stretch.first
