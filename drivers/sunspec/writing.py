"""Writing one control function in the way that its device takes: at once, around its holes, or register by register."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from drivers.sunspec.connection import Unit
from drivers.sunspec.controls import ControlFunction, FunctionState, Overlay, encode
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.learned import Writing

_log = structlog.get_logger()


class FunctionWriter:
    """Writes the registers of one function at one place, and no others (SAFETY 4)."""

    def __init__(self, unit: Unit, function: ControlFunction, address: int) -> None:
        """`address` is that of the model's ID register."""
        self._unit = unit
        self._function = function
        self._address = address
        self.way = Writing.RUNS
        """As learned."""

    async def write(self, state: FunctionState, overlay: Overlay) -> None:
        """`state` with the points of `overlay` changed, then the function's switch once more. Raises SunSpecErrors."""
        known = self.way
        while True:
            try:
                await self._as_learned(state, overlay)
                await self._points(state, overlay, (self._function.enable,))
                return
            except ModbusExceptionError as error:
                simpler = _simpler(self.way, error)
                if simpler is None:
                    self.way = known  # it refuses whatever way: nothing was learned
                    raise
                _log.info("sunspec.writes_otherwise", unit=str(self._unit), way=simpler.value, because=str(error))
                self.way = simpler

    async def _as_learned(self, state: FunctionState, overlay: Overlay) -> None:
        if self.way is not Writing.RUNS:
            await self._points(state, overlay, self._function.one_by_one)
            return
        for run in self._function.runs:
            first = state.field(run[0]).offset
            await self._unit.write(self._address + first, state.run_words(run, overlay))

    async def _points(self, state: FunctionState, overlay: Overlay, paths: Sequence[str]) -> None:
        for path in paths:
            if path not in overlay:
                continue
            field = state.field(path)
            address = self._address + field.offset
            words = encode(field, overlay[path])
            if self.way is not Writing.SINGLES:
                await self._unit.write(address, words)
                continue
            for index, word in enumerate(words):
                await self._unit.write_one(address + index, word)


def _simpler(writing: Writing, error: ModbusExceptionError) -> Writing | None:
    """What to try after a refusal; None: the device means it."""
    if error.code == 1 and writing is not Writing.SINGLES:
        return Writing.SINGLES
    if error.code in (2, 3) and writing is Writing.RUNS:
        return Writing.POINTS
    return None
