"""Reads every register of a SunSpec device into a dump, around those that it refuses. Nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from drivers.sunspec.connection import Unit
from drivers.sunspec.description import DeviceDescription, FoundModel
from drivers.sunspec.discovery import END_MODEL, describe
from drivers.sunspec.dump import Dump, name_for
from drivers.sunspec.errors import ModbusExceptionError, NoAnswerError
from drivers.sunspec.models import HEADER_SIZE, model_definition
from drivers.sunspec.registers import layout_of
from drivers.sunspec.transport import MOST_READ

RECORDING_S: Final = 600.0
"""A whole recording takes at most this long: 2000 registers over a slow serial line take one minute."""

Piece = tuple[int, int]
"""(address, registers) that are read together or not at all: half a point means nothing, and some devices refuse it."""


async def record(unit: Unit, progress: Callable[[str], None] = lambda _: None) -> Dump:
    """Every register of the device's map as it is now, serial number and all: see `scrubbing.py`.

    Raises SunSpecErrors. `progress` is told what is being read.
    """
    try:
        async with asyncio.timeout(RECORDING_S):
            progress("looking for models")
            description = await describe(unit)
            recorder = _Recorder(unit)
            await recorder.take([(description.base, 2)])
            for found in description.models:
                progress(f"model {found.number}, {found.length} registers at {found.address}")
                await recorder.take(await _pieces(unit, found))
            chain_end = await recorder.end(description)
    except TimeoutError as error:
        raise NoAnswerError(
            f"{unit}: recording took longer than {RECORDING_S:g} s; is the device overloaded?"
        ) from error
    title = " / ".join(part for part in (description.manufacturer, description.model) if part)
    return Dump(
        name=name_for(title),
        device=f"{title} / fw {description.version}" if description.version else title,
        note="; ".join(description.notes),
        base=description.base,
        models=tuple((found.number, found.address, found.length) for found in description.models),
        chain_end=chain_end,
        unreadable=frozenset(recorder.unreadable),
        regs=recorder.regs,
    )


async def _pieces(unit: Unit, found: FoundModel) -> list[Piece]:
    """A model in the pieces that its definition has; without one, in single registers."""
    end = found.address + HEADER_SIZE + found.length
    definition = model_definition(found.number)
    starts: dict[int, int] = {}
    if definition is not None:
        place = await layout_of(unit.read, definition, found.address, found.length)
        starts = {found.address + field.offset: field.point.size for field in place.fields.values()}
    pieces: list[Piece] = []
    at = found.address
    while at < end:
        size = min(starts.get(at, 1), end - at, MOST_READ)
        pieces.append((at, size))
        at += size
    return pieces


class _Recorder:
    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.regs: dict[int, int] = {}
        self.unreadable: set[int] = set()

    async def take(self, pieces: Sequence[Piece]) -> None:
        """Read adjoining pieces in as few requests as may be."""
        waiting = _together(pieces)
        while waiting:
            group = waiting.pop(0)
            first, end = group[0][0], group[-1][0] + group[-1][1]
            try:
                words = await self._read(first, end - first)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                if len(group) > 1:
                    middle = len(group) // 2
                    waiting[:0] = [group[:middle], group[middle:]]
                else:
                    self.unreadable.update(range(first, end))
                continue
            self.regs.update(enumerate(words, first))

    async def end(self, description: DeviceDescription) -> str:
        """How the chain of models ends, with the registers there where it has any."""
        last = description.models[-1]
        at = last.address + HEADER_SIZE + last.length
        for count in (HEADER_SIZE, 1):
            if at + count > 0x10000:
                continue
            try:
                words = await self._read(at, count)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                self.unreadable.update(range(at, at + count))
                answer = f"exception {error.code} at {at}"
                continue
            except NoAnswerError:
                return f"silence at {at}"
            self.regs.update(enumerate(words, at))
            self.unreadable.difference_update(range(at, at + count))
            if words[0] == END_MODEL:
                return f"end model at {at}" + (f", L={words[1]}" if count == HEADER_SIZE else ", without L")
            return f"ID {words[0]} at {at}"
        return answer if at < 0x10000 else f"the last address, {at - 1}"

    async def _read(self, address: int, count: int) -> list[int]:
        try:
            return (await self._unit.read(address, count)).words
        except NoAnswerError:
            return (await self._unit.read(address, count)).words


def _together(pieces: Sequence[Piece]) -> list[list[Piece]]:
    groups: list[list[Piece]] = []
    for address, size in pieces:
        if groups and address + size - groups[-1][0][0] <= MOST_READ:
            groups[-1].append((address, size))
        else:
            groups.append([(address, size)])
    return groups
