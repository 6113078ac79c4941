"""The outbox on its way over the devices' streams, where there is no GatewayLink: loads, and notes what has arrived."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.evidence.kinds import Kind
from agent.evidence.statements import decode
from agent.measure.reading import Reading
from agent.uplink.ahead import Ahead
from agent.uplink.delivery import Arrived, Delivery, StreamOf
from agent.uplink.errors import LinkDownError
from agent.uplink.lane import Word
from agent.uplink.outbox import Outbox
from agent.uplink.telemetry import Stand, stand_of
from proto.energysettlement.v1.device_pb2 import GridCommand

BATCHES_LOADED: Final = 8
MOST_AHEAD: Final = 256
"""While so many statements wait for their streams, no more are taken out of the backlog before their turn."""


class Carrying:
    """Lives as long as the connection.

    `word`: what this platform was seen to acknowledge, on earlier connections too. `stream_of`: see `Origins`; None:
    what is no reading stays here, and a batch counts as delivered by its readings. `undecided`: whether it stays is
    seen by what the platform says: an acknowledgement, however late, ends this connection, and the next one carries
    everything. Nothing counts as delivered before a stream with readings has ended well without one.
    """

    def __init__(
        self,
        outbox: Outbox,
        on_arrived: Callable[[Arrived], None],
        *,
        incarnation: int,
        ahead: Ahead,
        stream_of: StreamOf | None,
        word: Word = Word.NONE,
        undecided: bool = False,
    ) -> None:
        self._outbox = outbox
        self._on_arrived = on_arrived
        self._incarnation = incarnation
        self._ahead = None if stream_of is None else ahead
        self._older: deque[int] | None = None
        """Incarnations before the present one that have something to send; None: not asked yet."""
        self._loaded_number = 0
        """Of the incarnation that is being loaded."""
        self.has_statements = stream_of is not None
        """What is no reading goes, too."""
        self.word = word
        self._leaves_at_a_word = undecided
        self._undecided = undecided
        self.delivery = Delivery(incarnation, stream_of)
        self.changed = asyncio.Event()

    def acknowledged(self, device_id: str, message: GridCommand) -> Word:
        """What a message on a device's stream acknowledges. Raises PlatformFaultError for what was not sent."""
        said = Word.NONE
        if message.acknowledged_sequence > 0:
            self.delivery.acknowledged(device_id, message.acknowledged_sequence)
            said |= Word.READINGS
        if message.acknowledged_statements > 0:
            self.delivery.acknowledged_statements(device_id, message.acknowledged_statements)
            said |= Word.STATEMENTS
        if said:
            self.word |= said
            self.changed.set()
        return said

    def ended_well(self, device_id: str) -> None:
        """A stream that was half-closed ended with OK."""
        if self.delivery.in_flight(device_id, Word.READINGS) and not self.word:
            self._undecided = False
        self.delivery.ended_well(device_id, self.word)
        self.changed.set()

    async def advance(self, at_us: int) -> bool:
        """Note what has arrived and load more; False when there is neither.

        Raises LinkDownError where what is no reading should have gone to this platform, too.
        """
        if self._leaves_at_a_word and self.word:
            raise LinkDownError("well, but this platform acknowledges: from now on it gets what is no reading, too")
        older = await self._older_incarnations()
        arrived = None if self._undecided else self.delivery.collect()
        if arrived is not None:
            await self._outbox.acknowledge(arrived.incarnation, arrived.up_to_number, at_us)
            self._on_arrived(arrived)
        ahead = await self._put_ahead()
        # Batches without a reading may be all that is held while nothing is collected: they hold up none behind them.
        held = 0 if self.delivery.nothing_missing else self.delivery.held_batches
        loaded = await self._load(older, BATCHES_LOADED - held)
        for device_id in self.delivery.without_a_stand:
            self.delivery.stand(device_id, await self._stand(device_id, at_us))
        return arrived is not None or ahead or loaded

    async def _older_incarnations(self) -> deque[int]:
        if self._older is None:
            found = await self._outbox.unacknowledged_incarnations()
            self._older = deque(each for each in found if each < self._incarnation)
            if self._ahead is not None:
                self._ahead.begin([*self._older, self._incarnation])
        return self._older

    async def _put_ahead(self) -> bool:
        """Receipts of commands and critical alarms go before the backlog."""
        any_found = False
        while self._ahead is not None and self.delivery.waiting_statements < MOST_AHEAD:
            found = await self._ahead.next(None)
            for each in found:
                self.delivery.put_ahead(each)
            if not found:
                break
            any_found = True
        return any_found

    async def _stand(self, device_id: str, at_us: int) -> Stand:
        """Behind the newest reading that the store has; now, of a device that was not measured for so long."""
        leaf = await self._outbox.newest_of(device_id, Kind.READING)
        reading = None if leaf is None else decode(leaf)
        return stand_of(reading) if isinstance(reading, Reading) else Stand(at_us)

    async def _load(self, older: deque[int], room: int) -> bool:
        if room <= 0:
            return False
        which = older[0] if older else self._incarnation
        waiting = await self._outbox.unacknowledged(self._loaded_number, room, incarnation=which)
        for batch in waiting:
            self.delivery.load(batch)
            self._loaded_number = batch.number
        if not waiting and older:
            older.popleft()
            self._loaded_number = 0
            return True
        return bool(waiting)
