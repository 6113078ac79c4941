"""One control function on one device: what was found in it, what we wrote, and what it reads now.

A write is the function's own registers, the switch once more, and a read-back. What was found at contact is recorded
before the first write and is what `put_back` returns to; no later contact replaces it while an order of ours may stand.
A limit that another master orders meanwhile is not fought: ours goes below it and never above, and it outlives ours.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
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
    limit_in_force_w,
    scaled_raw,
    timer_runs,
)
from drivers.sunspec.description import DeviceDescription, FoundModel
from drivers.sunspec.errors import ControlRefusedError
from drivers.sunspec.learned import Learned, Timer, Writing, recalled
from drivers.sunspec.models import model_definition
from drivers.sunspec.writing import FunctionWriter

JOURNAL_PATIENCE_S: Final = 1.0
"""What must be on record before a write waits for the journal this long: an order that restricts cannot wait longer."""
COUNTS_WITHIN_S: Final = 4.0
"""A remaining time is judged no sooner after an order: it has whole seconds, and half of what passed may be missing."""

_FREE, _ENGAGED = b"0", b"1"
_log = structlog.get_logger()


async def read_function(unit: Unit, function: ControlFunction, model: FoundModel) -> FunctionState:
    """The registers of a function as they are now. Raises SunSpecErrors; ControlRefusedError when it is too short."""
    definition = model_definition(function.model)
    assert definition is not None  # shipped with the library
    shape = layout(definition, model.length)
    first, count = function_span(function, shape)
    words = await unit.read(model.address + first, count)
    return FunctionState(function, shape, words.words, words.monotonic_s)


@dataclass(frozen=True, slots=True)
class _Countdown:
    """An order's timer, since it was read back."""

    since_s: float
    timer_s: int


class HeldFunction:
    """One function on this device. Raises SunSpecErrors."""

    def __init__(
        self,
        unit: Unit,
        function: ControlFunction,
        description: DeviceDescription,
        state: FunctionState,
        reference_w: int | None,
    ) -> None:
        """`state` as read at contact; `reference_w` is what 100 % of it is."""
        model = description.find(function.model)
        assert model is not None  # or the state could not have been read
        self.function = function
        self.reference_w = reference_w
        self.at_contact = state
        self.found = state.settings
        """Settings to return to."""
        self.timer = Timer.UNTRIED
        self.in_percent = False
        """Takes a setpoint as a percentage only."""
        self.disturbed = ""
        """What of an order of ours somebody else had changed by our next write; a sentence."""
        self._others_limit_w: int | None = None
        """What another master has limited the device to while an order of ours was in force; None: nothing."""
        self._is_theirs = False
        """That limit stands in the device, and nothing of ours since."""
        self._unit = unit
        self._model = model
        self._version = description.version
        self._place = f"{description.meter_id}/{function.model}/{function.enable}"
        self._writer = FunctionWriter(unit, function, model.address)
        self._journal: Journal | None = None
        self._learned_on_record: Learned | None = None
        self._is_recorded = False
        self._mark = _ENGAGED
        """Whether an order of ours may stand in the device, over restarts."""
        self._mark_on_record: bytes | None = None
        self._was_written = False
        self._is_as_found = False
        """Known to hold what was found: giving it back needs no look at it."""
        self._ours: dict[str, int | None] = {}
        """What the registers read after our last write, the timer aside: it counts down. Empty: none holds."""
        self._countdown: _Countdown | None = None

    @property
    def has_dead_man(self) -> bool:
        """Whether an order lapses in the device by itself, as far as is known."""
        return self.at_contact.implements(self.function.timer) and not self.timer.fails

    @property
    def is_torn_by_writing(self) -> bool:
        """Points of two registers hold nonsense between two writes: the device takes them register by register only."""
        return self._writer.way is Writing.SINGLES

    async def read(self) -> FunctionState:
        """The function as it is now."""
        return await read_function(self._unit, self.function, self._model)

    async def record(self, journal: Journal, *, is_blind: bool) -> bool:
        """Make durable what was found and learned, or take what an earlier contact recorded.

        Never in the way: while the journal is away all is kept in memory, and the next call tries again.
        `is_blind`: what was read cannot be believed; False is returned when nothing better is on record.
        """
        await self.record_learned(journal)
        if self._is_recorded:
            await self._remember_mark()
            return True
        key = f"found/{self._place}"
        earlier: bytes | None = None
        try:
            earlier, mark = await journal.recall(key), await journal.recall(f"engaged/{self._place}")
            self._mark_on_record = mark
            if earlier is not None and mark == _FREE and not self._was_written and self._is_to_stay(is_blind):
                earlier = None  # nothing of ours stands in the device: it is as its owner wants it now
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
            self._mark = _FREE if self._is_as_found else _ENGAGED
        await self._remember_mark()
        return True

    def _is_to_stay(self, is_blind: bool) -> bool:
        """Settings that are read at contact are the owner's, and not another master's passing order."""
        is_passing = self.at_contact.number(self.function.enable) and self.at_contact.number(self.function.timer)
        return not is_blind and not is_passing

    async def record_learned(self, journal: Journal) -> None:
        """Make durable what was learned, or take what an earlier contact learned. Never in the way."""
        self._journal = journal
        key = f"learned/{self._place}"
        try:
            if self._learned_on_record is None:
                earlier = recalled(await journal.recall(key), self._version)
                if self._writer.way is Writing.RUNS:
                    self._writer.way = earlier.writing
                if self.timer in (Timer.UNTRIED, Timer.KEPT):
                    self.timer = earlier.timer
                self.in_percent |= earlier.in_percent
                self._learned_on_record = earlier
            learned = Learned(writing=self._writer.way, timer=self.timer, in_percent=self.in_percent)
            if learned != self._learned_on_record:
                await journal.remember(key, learned.kept(self._version))
                self._learned_on_record = learned
        except Exception as error:  # as above
            _log.error("sunspec.learned_not_recorded", key=key, error=str(error))

    async def _remember_mark(self) -> None:
        if self._journal is None or not self._is_recorded or self._mark_on_record == self._mark:
            return
        mark = self._mark
        try:
            async with asyncio.timeout(JOURNAL_PATIENCE_S):
                await self._journal.remember(f"engaged/{self._place}", mark)
            self._mark_on_record = mark
        except Exception as error:  # as above
            _log.error("sunspec.order_not_recorded", place=self._place, error=str(error))

    async def engage(self, order: Callable[[FunctionState], Overlay]) -> None:
        """Write what `order` makes of the present state, and confirm it by read-back."""
        before = await self.read()
        self._judge_countdown(before)
        self._notice_others(before)
        overlay = order(before)
        self._is_theirs = False
        self._was_written, self._is_as_found, self._mark = True, False, _ENGAGED
        await self._remember_mark()
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
        self._ours = {path: after.number(path) for path in overlay if path != self.function.timer}
        self._begin_countdown(after, overlay.get(self.function.timer, 0))

    async def put_back(self) -> None:
        """Every setting of the function as it was found, but for a limit that another master ordered since."""
        if self._is_as_found:
            return
        now = await self.read()
        self._notice_others(now)
        theirs_w, is_theirs, seen = self._others_limit_w, self._is_theirs, self.disturbed
        self.order_ended()
        if theirs_w is not None:
            self._others_limit_w, self._is_theirs, self.disturbed = theirs_w, True, seen
        if not is_theirs and now.settings != self.found:
            wanted = now.with_settings(self.found)
            paths = self.function.one_by_one
            overlay = {path: number for path in paths if (number := wanted.number(path)) is not None}
            if theirs_w is not None:
                overlay |= self._as_limit(wanted, theirs_w)
            await self._writer.write(wanted, overlay)
            odd = differences(await self.read(), overlay, self.reference_w)
            if odd:
                raise ControlRefusedError(
                    f"{self._unit}: {self.function.name} was given back and does not take it: {'; '.join(odd)}"
                )
        self._is_as_found, self._mark = True, _FREE
        await self._remember_mark()

    def holds_order(self, now: FunctionState) -> bool:
        """Whether our last order still stands in the device: nothing of it was changed, by its timer or by others."""
        return bool(self._ours) and all(now.number(path) == was for path, was in self._ours.items())

    async def has_reverted(self) -> bool:
        """Whether nothing of our order stands any more, once its time is up; what shows of the timer is learned."""
        ours = self._ours
        if not ours:
            return True
        targets = {path: ours[to] for path, to in self.function.reverts if path in ours and to in ours}
        if targets and all(ours[path] == target for path, target in targets.items()):
            return True  # the order was its own fallback: nothing shows, and nothing is wrong
        now = await self.read()
        if self.holds_order(now):
            self.timer = Timer.IGNORED
            _log.warning("sunspec.timer_ignored", unit=str(self._unit), function=self.function.name)
            return False
        targets = targets or {self.function.enable: 0}
        if all(now.number(path) == target for path, target in targets.items()):
            self.timer = Timer.PROVEN
        else:
            self._notice_others(now)
        return True

    def order_ended(self) -> None:
        """The device's own timer may have changed its registers since: that was nobody else."""
        self._ours, self.disturbed, self._countdown = {}, "", None
        self._others_limit_w, self._is_theirs = None, False

    def _begin_countdown(self, after: FunctionState, timer_s: int) -> None:
        self._countdown = None
        if not timer_s:
            return
        if not timer_runs(after):
            self.timer = Timer.FORGOTTEN
            return
        if self.timer in (Timer.UNTRIED, Timer.FORGOTTEN):
            self.timer = Timer.KEPT
        self._countdown = _Countdown(after.read_s, timer_s)

    def _judge_countdown(self, now: FunctionState) -> None:
        """Some devices keep a timer and never run it: where they tell the remaining time, it shows at a renewal."""
        counted, remaining_s = self._countdown, now.number(self.function.remaining)
        if counted is None or remaining_s is None or self.timer in (Timer.PROVEN, Timer.IGNORED):
            return
        if not self.holds_order(now):
            return  # somebody else ended it
        passed_s = now.read_s - counted.since_s
        if not COUNTS_WITHIN_S <= passed_s < counted.timer_s:
            return
        is_off_s = abs(counted.timer_s - passed_s - remaining_s)
        self.timer = Timer.COUNTS if remaining_s > 0 and is_off_s <= passed_s / 2 else Timer.STUCK

    def at_most_w(self, limit_w: int) -> int:
        """The limit to write for one of ours: not above what another master has ordered meanwhile."""
        theirs_w = self._others_limit_w
        if theirs_w is None or theirs_w >= limit_w:
            return limit_w
        self.disturbed = self.disturbed or (
            f"{self.function.name}: another master limits it to {theirs_w} W, which stays the most"
        )
        return theirs_w

    def _as_limit(self, state: FunctionState, limit_w: int) -> Overlay:
        value, reference_w = state.value("WMaxLimPct"), self.reference_w
        assert value is not None  # or it could not have been read as a limit
        assert reference_w is not None
        return {"WMaxLimPct": scaled_raw(limit_w, reference_w, value.factor), self.function.enable: 1}

    def _notice_others(self, now: FunctionState) -> None:
        """Other masters write too: that is told, and not fought. Called before each write of ours."""
        if not self._ours:
            # A second attempt at the same order keeps what the first saw, but not a limit that was lifted since.
            theirs_w, now_w = self._others_limit_w, self._limit_of_others_w(now)
            if theirs_w is not None:
                # What stands now may be the lower one of ours, which an attempt that failed has left there.
                is_certain = now_w is None or self._is_theirs
                self._others_limit_w = now_w if is_certain else max(theirs_w, now_w or 0)
            return
        changed = [
            f"{path} from {was} to {now.number(path)}" for path, was in self._ours.items() if now.number(path) != was
        ]
        self._ours, self.disturbed = {}, ""
        if changed:
            self._others_limit_w = self._limit_of_others_w(now)
            self._is_theirs = self._others_limit_w is not None
            self.disturbed = (
                f"{self.function.name} was changed by somebody else, or by a restart, while an order of ours was in "
                f"force ({', '.join(changed)}): is there another master?"
            )
            _log.warning("sunspec.other_master", unit=str(self._unit), seen=self.disturbed)

    def _limit_of_others_w(self, now: FunctionState) -> int | None:
        """The limit that the device holds now, which is not ours; None when it is none, or what a timer reverts to."""
        reverts = self.function.reverts
        if reverts and all(now.number(path) == now.number(to) for path, to in reverts):
            return None
        limit_w = limit_in_force_w(now, self.reference_w)
        return None if limit_w is None or self.reference_w is None or limit_w >= self.reference_w else limit_w
