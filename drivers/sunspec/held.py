"""One control function on one device: what was found in it, what we wrote, and what it reads now.

A write is the function's own registers, the switch once more, and a read-back. What was found at first contact is
recorded before the first write and is what `put_back` returns to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import structlog

from drivers.device import Journal
from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Unit
from drivers.sunspec.controls import (
    ControlFunction,
    FunctionState,
    Overlay,
    differences,
    function_span,
    timer_runs,
)
from drivers.sunspec.description import FoundModel
from drivers.sunspec.errors import ControlRefusedError
from drivers.sunspec.models import model_definition
from drivers.sunspec.writing import FunctionWriter

JOURNAL_PATIENCE_S: Final = 1.0
"""What must be on record before a write waits for the journal this long: an order that restricts cannot wait longer."""

_log = structlog.get_logger()


async def read_function(unit: Unit, function: ControlFunction, model: FoundModel) -> FunctionState:
    """The registers of a function as they are now. Raises SunSpecErrors; ControlRefusedError when it is too short."""
    definition = model_definition(function.model)
    assert definition is not None  # shipped with the library
    shape = layout(definition, model.length)
    first, count = function_span(function, shape)
    return FunctionState(function, shape, (await unit.read(model.address + first, count)).words)


class HeldFunction:
    """One function on this device. Raises SunSpecErrors."""

    def __init__(
        self, unit: Unit, function: ControlFunction, model: FoundModel, state: FunctionState, reference_w: int | None
    ) -> None:
        """`state` as read at contact; `reference_w` is what 100 % of it is."""
        self.function = function
        self.reference_w = reference_w
        self.at_contact = state
        self.found = state.settings
        """Settings at first contact."""
        self.keeps_timer = state.implements(function.timer)
        self.disturbed = ""
        """What of an order of ours somebody else had changed by our next write; a sentence."""
        self._unit = unit
        self._model = model
        self._writer = FunctionWriter(unit, function, model.address)
        self._is_recorded = False
        self._was_written = False
        self._is_as_found = False
        """Known to hold what was found: giving it back needs no look at it."""
        self._ours: dict[str, int | None] = {}
        """What the registers read after our last write, the timer aside: it counts down. Empty: none holds."""

    @property
    def is_torn_by_writing(self) -> bool:
        """Points of two registers hold nonsense between two writes: the device takes them register by register only."""
        return self._writer.is_singly

    async def read(self) -> FunctionState:
        """The function as it is now."""
        return await read_function(self._unit, self.function, self._model)

    async def record(self, journal: Journal, meter_id: str, *, is_blind: bool) -> bool:
        """Make durable what was found and how the device takes writes, or take what an earlier contact recorded.

        Never in the way: while the journal is away both are kept in memory, and the next call tries again.
        `is_blind`: what was read cannot be believed; False is returned when nothing better is on record.
        """
        await self.record_way(journal, meter_id)
        if self._is_recorded:
            return True
        key = f"found/{self._place(meter_id)}"
        earlier: bytes | None = None
        try:
            earlier = await journal.recall(key)
            if earlier is None and not is_blind:
                await journal.remember(key, struct.pack(f">{len(self.found)}H", *self.found))
            self._is_recorded = True
        except Exception as error:  # the store's own errors are not known here, and none may stop a measurement
            _log.error("sunspec.found_settings_not_recorded", key=key, error=str(error))
        if earlier is not None and len(earlier) == 2 * len(self.found):
            self.found = struct.unpack(f">{len(self.found)}H", earlier)
        elif is_blind:
            return False
        if not self._was_written:
            self._is_as_found = self._is_recorded and self.found == self.at_contact.settings
        return True

    async def record_way(self, journal: Journal, meter_id: str) -> None:
        """Make durable how the device takes writes, or take what an earlier contact learned. Never in the way."""
        place = self._place(meter_id)
        try:
            await self._writer.record(journal, f"writes/{place}")
        except Exception as error:  # the store's own errors are not known here, and none may stop a measurement
            _log.error("sunspec.way_of_writing_not_recorded", place=place, error=str(error))

    def _place(self, meter_id: str) -> str:
        return f"{meter_id}/{self.function.model}/{self.function.enable}"

    async def engage(self, order: Callable[[FunctionState], Overlay]) -> None:
        """Write what `order` makes of the present state, and confirm it by read-back."""
        before = await self.read()
        self._notice_others(before)
        overlay = order(before)
        self._was_written, self._is_as_found = True, False
        await self._writer.write(before, overlay)
        after = await self.read()
        odd = differences(after, overlay, self.reference_w)
        for path in overlay:
            was, now = before.value(path), after.value(path)
            if was is not None and now is not None and was.factor != now.factor:
                odd.append(f"the scale factor of {path} moved from {was.factor} to {now.factor}")
        if odd:
            raise ControlRefusedError(
                f"{self._unit}: {self.function.name} was written and does not hold it: {'; '.join(odd)}. "
                "Is remote control enabled on it, and is no other master writing?"
            )
        if overlay.get(self.function.timer):
            self.keeps_timer = timer_runs(after)
        self._ours = {path: after.number(path) for path in overlay if path != self.function.timer}

    async def put_back(self) -> None:
        """Every setting of the function as it was found at first contact."""
        if self._is_as_found:
            return
        self.order_ended()
        now = await self.read()
        if now.settings != self.found:
            wanted = now.with_settings(self.found)
            paths = self.function.one_by_one
            overlay = {path: number for path in paths if (number := wanted.number(path)) is not None}
            await self._writer.write(wanted, overlay)
            odd = differences(await self.read(), overlay, self.reference_w)
            if odd:
                raise ControlRefusedError(
                    f"{self._unit}: {self.function.name} was given back and does not take it: {'; '.join(odd)}"
                )
        self._is_as_found = True

    def holds_order(self, now: FunctionState) -> bool:
        """Whether our last order still stands in the device: nothing of it was changed, by its timer or by others."""
        return bool(self._ours) and all(now.number(path) == was for path, was in self._ours.items())

    def order_ended(self) -> None:
        """The device's own timer may have changed its registers since: that was nobody else."""
        self._ours, self.disturbed = {}, ""

    def _notice_others(self, now: FunctionState) -> None:
        """Other masters write too: that is told, and not fought. Called before each write of ours."""
        if not self._ours:
            return  # a second attempt at the same order keeps what the first saw
        changed = [
            f"{path} from {was} to {now.number(path)}" for path, was in self._ours.items() if now.number(path) != was
        ]
        self._ours, self.disturbed = {}, ""
        if changed:
            self.disturbed = (
                f"{self.function.name} was changed by somebody else, or by a restart, while an order of ours was in "
                f"force ({', '.join(changed)}): is there another master?"
            )
            _log.warning("sunspec.other_master", unit=str(self._unit), seen=self.disturbed)
