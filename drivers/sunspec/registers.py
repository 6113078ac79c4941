"""Which registers to read together, and reading them around holes: some answer with an exception, others never do.

A stretch is one request: points that lie close enough, each with its scale factor, because factors move between
reads. When a device refuses a stretch it is split between points until the refused ones stand alone; what was learned
is kept, and tried again after a while (an inverter that hides registers at night shows them by day).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.sunspec.codec import Field, Layout, Value, layout
from drivers.sunspec.connection import Words
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.models import Model
from drivers.sunspec.transport import MOST_READ

RELEARN_S: Final = 600.0
"""Refused registers are asked for again after this long."""

Read = Callable[[int, int], Awaitable[Words]]
"""(address, count) -> words of one unit."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one poll of a model gave."""

    values: dict[str, Value]
    monotonic_s: float | None
    """Moment of the first stretch; None when nothing was readable."""


def stretches(fields: Iterable[Field], most: int = MOST_READ) -> list[tuple[Field, ...]]:
    """Fields in as few requests of at most `most` registers as their places allow, in order of address.

    A field whose span alone is longer than `most` is left out: its value and its factor do not fit in one request.
    """
    return _grouped([(field.span, field) for field in fields], most)


def _grouped(placed: Iterable[tuple[tuple[int, int], Field]], most: int) -> list[tuple[Field, ...]]:
    found: list[tuple[Field, ...]] = []
    group: list[Field] = []
    start = end = 0
    for (first, last), field in sorted(placed, key=lambda place: place[0]):
        if last - first > most:
            continue
        if group and max(end, last) - start <= most:
            group.append(field)
            end = max(end, last)
            continue
        if group:
            found.append(tuple(group))
        group, start, end = [field], first, last
    if group:
        found.append(tuple(group))
    return found


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


class ModelPoll:
    """Chosen points of one model at one address, read again and again."""

    def __init__(
        self, layout: Layout, address: int, paths: Iterable[str], unreadable: Iterable[str] = (), since_s: float = 0.0
    ) -> None:
        """`address` is that of the model's ID register. Paths that the device does not have are left out.

        `unreadable`: points that the device was known to refuse at `since_s`; they are tried again in their time.
        """
        self._layout = layout
        self._address = address
        self._fields = [field for path in paths if (field := layout.fields.get(path)) is not None]
        self.unreadable = frozenset(unreadable)
        """Points that the device refuses at present."""
        self._learned_s = since_s if self.unreadable else None
        self._planned: list[_Stretch] = []
        self._far: _Far | None = None
        self._torn: list[Field] = []
        self._plan([field for field in self._fields if field.path not in self.unreadable])

    async def read(self, read: Read, now_s: float) -> Look:
        """The implemented ones of the chosen points. Raises SunSpecErrors, but not for registers that are refused."""
        if self._learned_s is not None and now_s - self._learned_s >= RELEARN_S:
            self._plan(self._fields)
            self._learned_s, self.unreadable = None, frozenset()
        values: dict[str, Value] = {}
        moment: float | None = None
        self._planned, taken = await self._take(self._planned, read, now_s)
        for stretch, words in taken:
            values.update(stretch.decode(words.words))
            moment = words.monotonic_s if moment is None else moment
        if self._torn:
            # Refused for what lies between value and factor, it seems: each is asked for alone.
            apart = [*self._torn, *(self._far.fields if self._far is not None else ())]
            self._far, self._torn = _Far(self._layout, apart), []
        if self._far is not None:
            far_values, far_moment = await self._read_far(self._far, read, now_s)
            values.update(far_values)
            moment = far_moment if moment is None else moment
        return Look(values, moment)

    async def _read_far(self, far: _Far, read: Read, now_s: float) -> tuple[dict[str, Value], float | None]:
        """Values whose scale factor lies too far for one request: the factor is read again, and must not have moved."""
        far.factors, before = await self._take(far.factors, read, now_s)
        far.values, taken = await self._take(far.values, read, now_s)
        far.factors, after = await self._take(far.factors, read, now_s)
        seen = {at: word for stretch, words in taken for at, word in enumerate(words.words, stretch.first)}
        firm = {at: word for stretch, words in after for at, word in enumerate(words.words, stretch.first)}
        for stretch, words in before:
            for at, word in enumerate(words.words, stretch.first):
                if firm.get(at) == word:
                    seen[at] = word
                else:
                    seen.pop(at, None)
        row = [seen.get(offset, 0) for offset in range(far.first, far.first + far.count)]
        known = {
            field.path
            for field in far.fields
            if field.factor_offset in seen and all(at in seen for at in range(field.offset, field.end))
        }
        found = {path: value for path, value in far.decode(row).items() if path in known}
        return found, taken[0][1].monotonic_s if taken else None

    async def _take(
        self, planned: list[_Stretch], read: Read, now_s: float
    ) -> tuple[list[_Stretch], list[tuple[_Stretch, Words]]]:
        """The words of each stretch, and the stretches to read next time: refused ones are split until they hold."""
        taken: list[tuple[_Stretch, Words]] = []
        waiting = list(reversed(planned))
        while waiting:
            stretch = waiting.pop()
            try:
                words = await read(self._address + stretch.first, stretch.count)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                self._learned_s = now_s
                waiting.extend(reversed(self._split(stretch)))
                continue
            taken.append((stretch, words))
        return [stretch for stretch, _ in taken], taken

    def _split(self, stretch: _Stretch) -> list[_Stretch]:
        fields = stretch.fields
        if len(fields) == 1:
            if stretch.is_torn:
                self._torn.append(fields[0])
            else:
                self.unreadable |= {fields[0].path}
            return []
        half = len(fields) // 2
        parts = (fields[:half], fields[half:])
        return [stretch.of(self._layout, group) for part in parts for group in stretch.regroup(part)]

    def _plan(self, fields: Sequence[Field]) -> None:
        self._planned = [_Stretch.of(self._layout, group) for group in stretches(fields)]
        far = [field for field in fields if field.span[1] - field.span[0] > MOST_READ >= field.point.size]
        self._far = _Far(self._layout, far) if far else None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One request: values with their factors."""

    fields: tuple[Field, ...]
    first: int
    count: int
    decode: Callable[[Sequence[int]], dict[str, Value]]

    @classmethod
    def of(cls, layout: Layout, fields: tuple[Field, ...]) -> _Stretch:
        first = min(field.span[0] for field in fields)
        count = max(field.span[1] for field in fields) - first
        return cls(fields, first, count, layout.decoder([field.path for field in fields], first, count))

    @staticmethod
    def regroup(fields: Iterable[Field]) -> list[tuple[Field, ...]]:
        return stretches(fields)

    @property
    def is_torn(self) -> bool:
        """One point, with other registers between it and its factor."""
        return len(self.fields) == 1 and self.count > self.fields[0].point.size + 1


class _BareStretch(_Stretch):
    """One request: values or factors alone."""

    @classmethod
    def of(cls, layout: Layout, fields: tuple[Field, ...]) -> _Stretch:
        first = min(field.offset for field in fields)
        return cls(fields, first, max(field.end for field in fields) - first, lambda words: {})

    @staticmethod
    def regroup(fields: Iterable[Field]) -> list[tuple[Field, ...]]:
        return _grouped([((field.offset, field.end), field) for field in fields], MOST_READ)

    @property
    def is_torn(self) -> bool:
        return False


class _Far:
    """Points that lie too far from their scale factors for one request."""

    def __init__(self, layout: Layout, fields: Sequence[Field]) -> None:
        self.fields = fields
        factor_offsets = {field.factor_offset for field in fields}
        factors = [field for field in layout.fields.values() if field.offset in factor_offsets]
        self.values = [_BareStretch.of(layout, group) for group in _BareStretch.regroup(fields)]
        self.factors = [_BareStretch.of(layout, group) for group in _BareStretch.regroup(factors)]
        self.first = min(field.span[0] for field in fields)
        self.count = max(field.span[1] for field in fields) - self.first
        self.decode = layout.decoder([field.path for field in fields], self.first, self.count)
