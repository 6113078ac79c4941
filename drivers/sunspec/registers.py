"""Which registers to read together, and reading them around holes: some answer with an exception, others never do.

A stretch is one request: points that lie close enough, each with its scale factor. When a device refuses a stretch it
is split between points until the refused ones stand alone; what was learned is kept, and tried again after a while
(an inverter that hides registers at night shows them by day).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.sunspec.codec import Field, Layout, Value
from drivers.sunspec.connection import Words
from drivers.sunspec.errors import ModbusExceptionError
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

    A field whose span alone is longer than `most` (none in the official models that we poll) is left out.
    """
    found: list[tuple[Field, ...]] = []
    group: list[Field] = []
    start = end = 0
    for field in sorted(fields, key=lambda field: field.span):
        first, last = field.span
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


class ModelPoll:
    """Chosen points of one model at one address, read again and again."""

    def __init__(self, layout: Layout, address: int, paths: Iterable[str]) -> None:
        """`address` is that of the model's ID register. Paths that the device does not have are left out."""
        self._layout = layout
        self._address = address
        self._fields = [field for path in paths if (field := layout.fields.get(path)) is not None]
        self._planned: list[_Stretch] = self._plan(stretches(self._fields))
        self._learned_s: float | None = None
        self.unreadable: frozenset[str] = frozenset()
        """Points that the device refuses at present."""

    async def read(self, read: Read, now_s: float) -> Look:
        """The implemented ones of the chosen points. Raises SunSpecErrors, but not for registers that are refused."""
        if self._learned_s is not None and now_s - self._learned_s >= RELEARN_S:
            self._planned = self._plan(stretches(self._fields))
            self._learned_s, self.unreadable = None, frozenset()
        values: dict[str, Value] = {}
        moment: float | None = None
        planned: list[_Stretch] = []
        waiting = list(self._planned)
        while waiting:
            stretch = waiting.pop(0)
            try:
                words = await read(self._address + stretch.first, stretch.count)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                self._learned_s = now_s
                waiting = self._split(stretch) + waiting
                continue
            planned.append(stretch)
            values.update(stretch.decode(words.words))
            moment = words.monotonic_s if moment is None else moment
        self._planned = planned
        return Look(values, moment)

    def _split(self, stretch: _Stretch) -> list[_Stretch]:
        fields = stretch.fields
        if len(fields) == 1:
            self.unreadable |= {fields[0].path}
            return []
        half = len(fields) // 2
        return self._plan([*stretches(fields[:half]), *stretches(fields[half:])])

    def _plan(self, groups: Sequence[tuple[Field, ...]]) -> list[_Stretch]:
        return [_Stretch.of(self._layout, group) for group in groups]


@dataclass(frozen=True, slots=True)
class _Stretch:
    fields: tuple[Field, ...]
    first: int
    count: int
    decode: Callable[[Sequence[int]], dict[str, Value]]

    @classmethod
    def of(cls, layout: Layout, fields: tuple[Field, ...]) -> _Stretch:
        first = min(field.span[0] for field in fields)
        count = max(field.span[1] for field in fields) - first
        return cls(fields, first, count, layout.decoder([field.path for field in fields], first, count))
