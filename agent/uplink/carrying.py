"""The outbox on its way over the devices' streams, where there is no GatewayLink: loads, and notes what has arrived."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agent.evidence.kinds import Kind
from agent.evidence.statements import decode
from agent.measure.reading import Reading
from agent.store.errors import StoreFullError
from agent.uplink.ahead import Ahead
from agent.uplink.delivery import Delivery, StreamOf
from agent.uplink.errors import LinkDownError
from agent.uplink.flow import BEGINNING, Arrived, Flow, Position, decode_places, encode_places
from agent.uplink.heard import WORD_NOTE, Heard, decode_word, encode_word
from agent.uplink.lane import Word
from agent.uplink.left import left_incarnations
from agent.uplink.outbox import Outbox, WaitingBatch
from agent.uplink.telemetry import Stand, stand_of
from proto.energysettlement.v1.device_pb2 import GridCommand

BATCHES_LOADED: Final = 8
MOST_AHEAD: Final = 256
"""While so many statements wait for their streams, no more are taken out of the backlog before their turn."""
PLACES_NOTE: Final = "uplink-places"
"""How far devices are, while one that the platform does not take is behind."""

_log = structlog.get_logger()


async def heard_at(outbox: Outbox, endpoint: str) -> Heard:
    """What an endpoint was seen to acknowledge before a restart. Raises StoreError."""
    note = await outbox.note(WORD_NOTE + endpoint)
    try:
        word = Word.NONE if note is None else decode_word(note)
    except ValueError as error:
        _log.warning("uplink.word_damaged", endpoint=endpoint, reason=str(error))
        word = Word.NONE
    return Heard(word, endpoint=endpoint)


class Carrying:
    """Lives as long as the connection.

    `heard`: what this platform was seen to acknowledge, on earlier connections too. `stream_of`: see `Origins`; None:
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
        heard: Heard,
        undecided: bool = False,
    ) -> None:
        self._outbox = outbox
        self._on_arrived = on_arrived
        self._incarnation = incarnation
        self._ahead = None if stream_of is None else ahead
        self._incarnations: Sequence[int] | None = None
        """Those that have something to send, oldest first, the present one last; None: not asked yet."""
        self._noted: bytes | None = None
        self.has_statements = stream_of is not None
        """What is no reading goes, too."""
        self._heard = heard
        self._leaves_at_a_word = undecided
        self._undecided = undecided
        self._stream_of = stream_of
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
        self._heard.said(said)
        if said:
            self.changed.set()
        return said

    @property
    def word(self) -> Word:
        """What this platform was seen to acknowledge."""
        return self._heard.word

    def stalled(self, what: Word, now_s: float, *, apart_s: float) -> bool:
        """It has stopped to, on one stream; whether it is believed from now on that it no longer does."""
        return self._heard.stalled(what, now_s, apart_s=apart_s)

    def ended_well(self, device_id: str) -> None:
        """A stream that was half-closed ended with OK."""
        if self.delivery.in_flight(device_id, Word.READINGS) and not self.word:
            self._undecided = False
        self.delivery.ended_well(device_id, self.word)
        self.changed.set()

    def refused(self, device_id: str) -> int:
        """A stream ended in another way, for no reason that others share; how many times in a row."""
        self.changed.set()
        return self.delivery.refused(device_id)

    async def advance(self, at_us: int) -> bool:
        """Note what has arrived and load more; False when there is neither.

        Raises LinkDownError where what is no reading should have gone to this platform, too.
        """
        await self._keep_word()
        if self._leaves_at_a_word and self.word:
            raise LinkDownError("well, but this platform acknowledges: from now on it gets what is no reading, too")
        await self._begin()
        arrived = None if self._undecided else self.delivery.collect()
        if arrived is not None:
            await self._outbox.acknowledge(arrived.incarnation, arrived.up_to_number, at_us)
            self._on_arrived(arrived)
        ahead = await self._put_ahead()
        # Batches without a reading may be all that is held while nothing is collected: they hold up none behind them.
        held = 0 if self.delivery.nothing_missing else self.delivery.held_batches
        apart = self.delivery.set_apart(held_up=held >= BATCHES_LOADED)
        # What is behind comes first: where it has caught up, it goes with the others again.
        loaded = await self._load_apart()
        loaded = await self._load(self.delivery.flow, BATCHES_LOADED - held, self.delivery.load) or loaded
        await self._note_places()
        for device_id in self.delivery.without_a_stand:
            self.delivery.stand(device_id, await self._stand(device_id, at_us))
        return arrived is not None or ahead or bool(apart) or loaded

    async def _keep_word(self) -> None:
        """Note what this platform acknowledges: after a restart nothing counts as delivered without that."""
        word = self.word
        if word != self._heard.kept:
            try:
                await self._outbox.set_notes({self._heard.note: encode_word(word)})
            except StoreFullError:
                return  # said again with the next step
            self._heard.kept = word

    async def _begin(self) -> None:
        """Once: find out where to go on."""
        if self._incarnations is not None:
            return
        found = await self._outbox.unacknowledged_incarnations()
        left = await left_incarnations(self._outbox)
        older = [each for each in found if each < self._incarnation and each not in left]
        incarnations = [*older, self._incarnation]
        self._noted = await self._outbox.note(PLACES_NOTE)
        passed, behind = BEGINNING, dict[str, Position]()
        if self._noted is not None:
            try:
                passed, behind = decode_places(self._noted)
            except ValueError as error:
                # All goes again, to those too who have it.
                _log.warning("uplink.places_damaged", reason=str(error))
        if passed[0] not in incarnations:
            # Another carrier has brought it since, or all of its incarnation has arrived.
            passed, behind = BEGINNING, {}
        self.delivery = Delivery(self._incarnation, self._stream_of, passed=passed, behind=behind)
        self._incarnations = incarnations
        if self._ahead is not None:
            after = {each: passed[1] if each == passed[0] else 0 for each in incarnations if each >= passed[0]}
            self._ahead.begin(incarnations, after=after)

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

    async def _load(
        self, flow: Flow, room: int, load: Callable[[WaitingBatch], None], up_to: Position | None = None
    ) -> bool:
        """Whether there was more for a flow, of an incarnation or the next one; none behind `up_to`."""
        if room <= 0 or self._incarnations is None:
            return False
        which = max(flow.loaded[0], self._incarnations[0])
        after = flow.loaded[1] if which == flow.loaded[0] else 0
        waiting = await self._outbox.unacknowledged(after, room, incarnation=which)
        wanted = [batch for batch in waiting if up_to is None or (batch.incarnation, batch.number) <= up_to]
        for batch in wanted:
            load(batch)
        later = [each for each in self._incarnations if each > which]
        if waiting or not later or (up_to is not None and up_to < (later[0], 0)):
            return bool(wanted)
        flow.loaded = (later[0], 0)
        return True

    async def _load_apart(self) -> bool:
        """More for those that are set apart, as far as the others are; who has caught up joins them."""
        more = False
        for device_id, flow in self.delivery.apart.items():
            if flow.joined:
                continue
            load = functools.partial(self.delivery.load_apart, device_id)
            up_to = self.delivery.flow.loaded
            more = await self._load(flow, BATCHES_LOADED - flow.in_hand, load, up_to) or more
            flow.joined = flow.loaded >= up_to and self.delivery.is_taken(device_id)
        return more

    async def _note_places(self) -> None:
        """Keep how far which devices are, while some are behind: over restarts nothing goes again that has arrived."""
        places = self.delivery.places
        note = None if places is None else encode_places(*places)
        if note != self._noted:
            try:
                await self._outbox.set_notes({PLACES_NOTE: note})
            except StoreFullError:
                return  # said again, and until then more goes again after a restart
            self._noted = note
