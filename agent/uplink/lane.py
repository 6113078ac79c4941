"""One device's stream, sans-I/O: what waits for it, what was written on it, and what of that has arrived."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Flag

from agent.uplink.telemetry import Stand, point_of, stand_behind
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry


class Word(Flag):
    """What a platform was seen to acknowledge on devices' streams."""

    NONE = 0
    """It has the published contract alone."""
    READINGS = 1
    STATEMENTS = 2


@dataclass(slots=True)
class Loaded:
    """A batch on its way. `missing`: so many of its statements have not arrived."""

    incarnation: int
    number: int
    missing: int = 0
    confirmed: bool = True
    count: int = 1
    """So many batches, up to this one: those of which nothing has to go are one."""

    def arrived(self, *, confirmed: bool) -> None:
        self.missing -= 1
        self.confirmed = self.confirmed and confirmed


@dataclass(frozen=True, slots=True)
class Item:
    """A reading."""

    telemetry: DeviceTelemetry
    batch: Loaded


@dataclass(slots=True)
class Waiting:
    """A statement that is no reading."""

    leaf: bytes
    receipt: bytes
    batch: Loaded | None = None
    """None: it goes ahead of its batch, which has not been loaded yet."""
    arrived: bool = False
    confirmed: bool = True
    of_device: bool = True
    """It is about the device whose stream it waits for; False: any other stream will do as well."""

    def loaded(self, batch: Loaded) -> None:
        """Its batch has been loaded meanwhile."""
        self.batch = batch
        batch.missing += 1
        if self.arrived:
            batch.arrived(confirmed=self.confirmed)

    def has_arrived(self, *, confirmed: bool) -> None:
        self.arrived, self.confirmed = True, confirmed
        if self.batch is not None:
            self.batch.arrived(confirmed=confirmed)


@dataclass(slots=True)
class Lane:
    """Readings in order, the first `sent` of them written on the present stream; and statements, in their own order."""

    device_id: str
    items: deque[Item] = field(default_factory=deque)
    sent: int = 0
    ahead: set[int] = field(default_factory=set)
    """Sequences that went out live on this stream, before their turn: not sent a second time on it."""
    incarnation: int | None = None
    """Of all readings that this stream has carried: `acknowledged_sequence` names none, so it never carries two."""
    highest_sent: int = 0
    acknowledged: int = 0
    """Highest sequence that the platform acknowledged on this stream."""
    statements: deque[Waiting] = field(default_factory=deque)
    statements_sent: int = 0
    statements_settled: int = 0
    """So many that this stream brought have arrived."""
    stand: Stand | None = None
    """None: no reading of the device is known yet, and statements wait for one."""
    points: int = 0
    """Of no energy, behind `stand`."""
    refused: int = 0
    """Streams in a row on which nothing arrived, and which the platform ended, or let stand."""

    @property
    def waits(self) -> bool:
        """Whether anything has not arrived."""
        return bool(self.items or self.statements)

    def fits(self, incarnation: int) -> bool:
        """Whether readings of the incarnation may go on this stream."""
        return self.incarnation in (None, incarnation)

    def stand_on(self, stand: Stand) -> None:
        """Points of no energy stand behind another reading from now on."""
        self.stand, self.points = stand, 0

    def next_statement(self) -> DeviceTelemetry | None:
        """The next one, counted as sent; None: there is none, or a reading has to go before."""
        if self.stand is None or self.statements_sent == len(self.statements):
            return None
        at_us = self.stand.after_us(self.points + 1)
        if self.sent < len(self.items) and (
            self.stand.timestamp_us < self.items[self.sent].telemetry.timestamp_us <= at_us
        ):
            return None
        waiting = self.statements[self.statements_sent]
        self.statements_sent += 1
        self.points += 1
        return point_of(self.device_id, self.stand, self.points, waiting.leaf, waiting.receipt)

    def next_reading(self) -> DeviceTelemetry | None:
        """The next one in order, counted as sent; None when there is none that may go on this stream."""
        while self.sent < len(self.items):
            telemetry, batch = self.items[self.sent].telemetry, self.items[self.sent].batch
            if not self.fits(batch.incarnation):
                return None
            self.incarnation = batch.incarnation
            self.sent += 1
            if telemetry.sequence in self.ahead:
                self.ahead.discard(telemetry.sequence)
                self.settle()  # it may have been acknowledged before its batch was loaded
                continue
            self.highest_sent = max(self.highest_sent, telemetry.sequence)
            self.stand_on(stand_behind(telemetry))
            return telemetry
        return None

    def went_live(self, telemetry: DeviceTelemetry, incarnation: int) -> None:
        """A reading went out before its turn."""
        self.incarnation = incarnation
        self.ahead.add(telemetry.sequence)
        self.highest_sent = telemetry.sequence
        self.stand_on(stand_behind(telemetry))

    def settle(self) -> None:
        """Let go of readings that were sent and are acknowledged."""
        while self.sent > 0 and self.items[0].telemetry.sequence <= self.acknowledged:
            self._reading_arrived(confirmed=True)

    def settle_statements(self, count: int) -> None:
        """The first `count` of this stream's statements are safe at the platform."""
        while self.statements_settled < count:
            self._statement_arrived(confirmed=True)

    def ended_well(self, word: Word) -> None:
        """All that was sent counts as delivered, but for what the platform would have acknowledged."""
        while Word.READINGS not in word and self.sent > 0:
            self._reading_arrived(confirmed=False)
        while Word.STATEMENTS not in word and self.statements_sent > 0:
            self._statement_arrived(confirmed=False)

    def begin_anew(self) -> None:
        """The stream is over: what has not arrived goes on the next one."""
        self.sent = 0
        self.incarnation = None
        self.highest_sent = 0
        self.acknowledged = 0
        self.ahead.clear()
        self.statements_sent = 0
        self.statements_settled = 0

    def set_apart(self) -> list[Waiting]:
        """Let go of all that waits, and of what is not about this device alone give it back. No stream is open."""
        self.begin_anew()
        for item in self.items:
            item.batch.missing -= 1
        others = [each for each in self.statements if not each.of_device]
        for each in self.statements:
            if each.of_device and each.batch is not None:
                each.batch.missing -= 1
        self.items.clear()
        self.statements.clear()
        return others

    def _reading_arrived(self, *, confirmed: bool) -> None:
        item = self.items.popleft()
        self.sent -= 1
        self.refused = 0
        item.batch.arrived(confirmed=confirmed)

    def _statement_arrived(self, *, confirmed: bool) -> None:
        self.statements.popleft().has_arrived(confirmed=confirmed)
        self.refused = 0
        self.statements_sent -= 1
        self.statements_settled += 1
