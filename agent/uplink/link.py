"""Carries one Session over one line of frames: reads, writes, and ends it when the platform falls silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from agent.store.errors import StoreFullError
from agent.uplink.ahead import Ahead
from agent.uplink.bids import Bids
from agent.uplink.errors import LinkDownError
from agent.uplink.line import FrameLine
from agent.uplink.listener import Listener
from agent.uplink.outbox import Outbox, WaitingBatch
from agent.uplink.pace import Pace
from agent.uplink.session import (
    Acknowledged,
    ChannelArrived,
    CommandArrived,
    Event,
    Refused,
    Session,
    SignedArrived,
    Unknown,
    Welcomed,
)
from agent.uplink.together import together
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, GatewayFrame, UrgentStatement

BATCHES_PER_QUERY: Final = 8
"""At most 1 MiB each: what is read ahead of the window stays small."""
LOOK_EVERY_S: Final = 1.0
"""How often the stall is looked for; less when the stall time is short."""

PLATFORM_AHEAD: Final = "uplink.platform_ahead"
OTHER_ROOT: Final = "uplink.platform_other_root"
"""What is told of a copy that meets a platform which has newer of its name: it knows less, or it has sealed as much."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """What is wrong with the place that the platform says it stands at. Worth an alarm."""

    code: str
    text: str


class GatewayLinkCall:
    """One connection. `changed` wakes the writer: a batch was sealed, a channel frame waits, or room came free."""

    def __init__(
        self,
        line: FrameLine,
        session: Session,
        *,
        outbox: Outbox,
        listener: Listener,
        channel_frames: deque[ChannelFrame],
        bids: Bids,
        ahead: Ahead,
        changed: asyncio.Event,
        stall_s: float,
        pace: Pace,
        held_s: Callable[[int], float],
        left: Collection[int],
        on_acknowledged: Callable[[Acknowledged], None],
        on_refused: Callable[[Refused], None],
    ) -> None:
        """`held_s`: how long batches of an incarnation wait first; `left`: incarnations of which none goes."""
        self._line = line
        self._session = session
        self._outbox = outbox
        self._listener = listener
        self._clock = listener.clock
        self._channel_frames = channel_frames
        self._bids = bids
        self._ahead = ahead
        self._changed = changed
        self._stall_s = stall_s
        self._pace = pace
        self._held_s = held_s
        self._left = left
        self._held_until_s: dict[int, float] = {}
        self._on_acknowledged = on_acknowledged
        self._on_refused = on_refused
        self._unkept: dict[int, Acknowledged] = {}
        """Acknowledged by the platform, by incarnation, and not noted yet."""

    async def open(self) -> Welcomed:
        """Say hello and wait for the welcome. Raises NotOfferedError, LinkDownError or PlatformFaultError."""
        try:
            async with asyncio.timeout(self._stall_s):
                await self._line.write(self._session.hello())
                event = None
                while event is None:
                    event = self._session.receive(await self._line.read(), self._clock.monotonic_s())
        except TimeoutError:
            raise LinkDownError(f"no welcome from the platform within {self._stall_s:g} s") from None
        assert isinstance(event, Welcomed)  # the session's table lets nothing else come first
        return event

    async def resume(self, held: tuple[int, int] | None, held_root: bytes = b"") -> Oddity | None:
        """Compare what the platform says it holds with our own. What it has lost the session sends again.

        Nothing is taken back in the outbox: the platform did acknowledge, and what was pruned since is gone.
        """
        if held is None:
            return None
        own, incarnations = self._session.identity.incarnation, await self._outbox.incarnations()
        ours = await self._outbox.batches(held[1], 1) if held[0] == own and held[1] else []
        if held_root and ours and ours[0].number == held[1] and ours[0].root != held_root:
            return Oddity(
                OTHER_ROOT,
                f"the platform holds batch {held[1]} of incarnation {held[0]} with root {held_root.hex()[:16]}, ours "
                f"has {ours[0].root.hex()[:16]}: this gateway's card was copied and both went on; find out which is "
                "the one before going on",
            )
        if held[0] > own or (held[0] == own and held[1] and not ours):
            return Oddity(
                PLATFORM_AHEAD,
                f"the platform holds batch {held[1]} of incarnation {held[0]}, which this gateway has never sealed: an "
                "older state was put back here, or a second gateway uses this identity; find out before going on",
            )
        lost = []
        for incarnation in incarnations:
            acknowledged = await self._outbox.acknowledged_number(incarnation)
            has = 0 if incarnation > held[0] else held[1] if incarnation == held[0] else acknowledged
            if has < acknowledged:
                self._session.send_again(incarnation, has, acknowledged)
                lost.append(f"batches {has + 1} to {acknowledged} of incarnation {incarnation}")
        if not lost:
            return None
        return Oddity(
            "uplink.platform_went_back",
            f"the platform has lost what it had acknowledged; {', '.join(lost)} are sent again as far as they are kept",
        )

    async def run(self) -> None:
        """Carry frames until the link ends, which is always by an exception."""
        await together(self._read(), self._write(), self._watch())

    def close(self) -> None:
        self._line.close()

    async def _read(self) -> None:
        while True:
            frame = await self._line.read()
            event = self._session.receive(frame, self._clock.monotonic_s())
            if event is not None:
                await self._take(event)

    async def _take(self, event: Event) -> None:
        match event:
            case Acknowledged():
                self._unkept[event.incarnation] = event
                await self._keep_acknowledged()
                if event.platform_time_us is not None:
                    self._listener.on_platform_time(event.platform_time_us, event.round_trip_s)
                self._changed.set()
            case Unknown():
                seen = event.acknowledgement
                stored = await self._outbox.batches(seen.batch_number, 1, incarnation=seen.incarnation)
                root = next((batch.root for batch in stored if batch.number == seen.batch_number), None)
                judged = self._session.resolve(seen, root, self._clock.monotonic_s(), signed=event.signed)
                await self._take(judged)
            case Refused():
                self._on_refused(event)
            case CommandArrived():
                await self._listener.command(event.command, None)
            case ChannelArrived():
                await self._listener.channel(event.frame)
            case SignedArrived():
                await self._listener.signed(event.kind, event.signed)
            case Welcomed():
                pass

    async def _keep_acknowledged(self) -> None:
        """Note what the platform has. On a full disk that waits, and the link stays up: commands come over it."""
        for incarnation, event in [*self._unkept.items()]:
            try:
                await self._outbox.acknowledge(incarnation, event.up_to_number, self._clock.now().wall_us)
            except StoreFullError:
                continue
            if self._unkept.get(incarnation) == event:
                del self._unkept[incarnation]
            self._on_acknowledged(event)

    async def _write(self) -> None:
        # Batches of an older incarnation (a backup was restored) grow no more: they go first.
        own = self._session.identity.incarnation
        waiting_of = set(await self._outbox.unacknowledged_incarnations())
        waiting_of.update(each for each in await self._outbox.incarnations() if self._session.again_up_to(each))
        older = sorted(each for each in waiting_of if each < own and each not in self._left)
        now_s = self._clock.monotonic_s()
        holds = {each: self._held_s(each) for each in [*older, own]}
        self._held_until_s = {each: now_s + hold_s for each, hold_s in holds.items() if hold_s > 0}
        self._ahead.begin([*older, own])
        for incarnation in [*older, own]:
            while True:
                self._changed.clear()
                await self._write_ahead(incarnation)
                waiting = await self._write_batches(incarnation)
                if waiting is None and incarnation != own:
                    break
                if not waiting:
                    await self._changed.wait()

    def _is_held(self, incarnation: int) -> bool:
        return self._clock.monotonic_s() < self._held_until_s.get(incarnation, float("-inf"))

    async def _write_ahead(self, incarnation: int) -> None:
        """What does not wait behind batches; batches of `incarnation` are being sent."""
        await self._write_channel_frames()
        while urgent := await self._ahead.next(self._turn(incarnation)):
            for found in urgent:
                # It waits for nobody, but a line that is paid for has carried it.
                statement = UrgentStatement(statement=found.statement, receipt=found.receipt)
                size = await self._line.write(GatewayFrame(urgent=statement))
                self._pace.sent(size, self._clock.monotonic_s())
            await self._write_channel_frames()

    def _turn(self, incarnation: int) -> tuple[int, int] | None:
        """The batch that goes now; None: it has to wait, for room or for the line."""
        waits = self._is_held(incarnation) or not self._session.has_room(incarnation)
        if waits or self._pace.wait_s(self._clock.monotonic_s()) > 0:
            return None
        return incarnation, self._session.sent_number(incarnation) + 1

    async def _write_channel_frames(self) -> None:
        while self._channel_frames:
            await self._line.write(GatewayFrame(channel=self._channel_frames.popleft()))
        if (bid := self._bids.take()) is not None:
            await self._line.write(GatewayFrame(bid=bid))

    async def _write_batches(self, incarnation: int) -> bool | None:
        """Fill the window. True: look again; False: there is no room; None: nothing is left to send."""
        if self._is_held(incarnation) or not self._session.has_room(incarnation):
            return False
        waiting = await self._next_batches(incarnation)
        for batch in waiting:
            await self._its_turn(incarnation)
            # An acknowledgement that came meanwhile may have covered it.
            if batch.number <= self._session.sent_number(incarnation):
                continue
            if not self._session.has_room(incarnation):
                return False
            size = await self._line.write(self._session.send_batch(batch, self._clock.monotonic_s()))
            self._pace.sent(size, self._clock.monotonic_s())
        return True if waiting else None

    async def _its_turn(self, incarnation: int) -> None:
        """Wait as long as the cap wants it; what is not capped goes meanwhile."""
        await self._write_ahead(incarnation)
        while (wait_s := self._pace.wait_s(self._clock.monotonic_s())) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            await self._write_ahead(incarnation)

    async def _next_batches(self, incarnation: int) -> Sequence[WaitingBatch]:
        sent = self._session.sent_number(incarnation)
        if sent < self._session.again_up_to(incarnation):
            again = await self._outbox.batches(sent + 1, BATCHES_PER_QUERY, incarnation=incarnation)
            if again:
                return again
        return await self._outbox.unacknowledged(sent, BATCHES_PER_QUERY, incarnation=incarnation)

    async def _watch(self) -> None:
        look_every_s = min(LOOK_EVERY_S, self._stall_s / 4)
        while True:
            await asyncio.sleep(look_every_s)
            await self._keep_acknowledged()
            if self._held_until_s and self._clock.monotonic_s() >= min(self._held_until_s.values()):
                self._held_until_s = {each: at_s for each, at_s in self._held_until_s.items() if self._is_held(each)}
                self._changed.set()
            stalls_at_s = self._session.stalls_at_s()
            if stalls_at_s is not None and self._clock.monotonic_s() >= stalls_at_s:
                raise LinkDownError(
                    f"the platform has not acknowledged a batch for {self._stall_s:g} s; connecting anew"
                )
