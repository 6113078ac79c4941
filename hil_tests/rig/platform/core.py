"""The platform's desk: takes evidence into the book before it acknowledges, issues commands, and tells what it holds.

No sockets here: `service.py` brings what gateways send and carries away what is put into their queues.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from agent.control.errors import CommandFormatError
from agent.evidence.acknowledgement import Acknowledgement, prepare
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm, CommandReceipt, SettlementWindow
from agent.evidence.verify import Equivocation, VerifiedBatch, VerifiedStatement
from agent.ledger.errors import ChannelError
from hil_tests.rig.platform.audit import Audit
from hil_tests.rig.platform.book import Book, Entry, Kind
from hil_tests.rig.platform.books import alarm_json, command_json, gateway_json, receipt_json
from hil_tests.rig.platform.channels import Channels
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.orders import Issued, OrderError, issue
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from proto.energysettlement.v1.gateway_pb2 import (
    BatchPosition,
    ChannelFrame,
    FlexibilityBid,
    GatewayHello,
    PlatformFrame,
    UrgentStatement,
    Welcome,
)

PLATFORM_ID: Final = "practice-platform"

Say = Callable[[dict[str, object]], None]
"""One event for whoever watches: always with "event"."""


class Platform:
    """All enrolled gateways. `acknowledging` may be switched off to see what a gateway does then."""

    def __init__(self, practice: Practice, book: Book, *, say: Say, now_us: Callable[[], int]) -> None:
        self._practice = practice
        self._book = book
        self._say = say
        self.now_us = now_us
        self._key = practice.key("platform")
        self._operational = practice.key("operational")
        self._governance = practice.key("governance")
        self.audits = {gateway_id: Audit(enrolled) for gateway_id, enrolled in practice.gateways().items()}
        self.acknowledging = True
        self._issued: dict[str, list[Issued]] = {gateway_id: [] for gateway_id in self.audits}
        self._conflicts: dict[str, list[str]] = {gateway_id: [] for gateway_id in self.audits}
        self._channels = {gateway_id: self._channels_of(gateway_id) for gateway_id in self.audits}
        self.bids: dict[str, FlexibilityBid] = {}
        self._links: dict[str, asyncio.Queue[PlatformFrame | None]] = {}
        self._displaced: defaultdict[str, list[asyncio.Queue[PlatformFrame | None]]] = defaultdict(list)
        """Links that were up when another one of the same gateway came up: a copy of it may be on that."""
        self._streams: dict[tuple[str, str], asyncio.Queue[GridCommand | None]] = {}
        self._replay()

    def _channels_of(self, gateway_id: str) -> Channels:
        audit = self.audits[gateway_id]
        return Channels(
            audit.enrolled,
            self._key,
            windows=lambda device_id: audit.window_statements[device_id],
            commit=lambda signed, device_id: self._write(Kind.CHANNEL, gateway_id, signed, device_id),
            conflict=lambda text, octets: self._conflict(gateway_id, text, octets),
            say=lambda event: self._say({"gateway_id": gateway_id, **event}),
        )

    def _replay(self) -> None:
        """Stand where the book ends."""
        for entry in self._book.entries():
            audit = self.audits.get(entry.gateway_id)
            if audit is None:
                continue
            match entry.kind:
                case Kind.BATCH:
                    audit.take_batch(audit.check_batch(entry.octets))
                case Kind.READING:
                    audit.take_telemetry(audit.check_telemetry(DeviceTelemetry.FromString(entry.octets)), carried=True)
                case Kind.STATEMENT:
                    if (carried := audit.check_carried(DeviceTelemetry.FromString(entry.octets))) is not None:
                        audit.take_urgent(carried)
                case Kind.URGENT:
                    urgent = UrgentStatement.FromString(entry.octets)
                    if (ahead := audit.check_urgent(urgent.statement, urgent.receipt)) is not None:
                        audit.take_urgent(ahead)
                case Kind.COMMAND:
                    self._issued[entry.gateway_id].append(Issued.restore(entry.octets, entry.note))
                case Kind.CHANNEL:
                    self._channels[entry.gateway_id].restore(entry.octets, entry.note)
                case Kind.CONFLICT:
                    self._conflicts[entry.gateway_id].append(entry.note)

    # Evidence

    def take_batch(self, gateway_id: str, encoded: bytes) -> bytes | None:
        """Verify, write, acknowledge. Returns the signed acknowledgement, None when told to withhold it.

        Raises EvidenceError for a batch that is refused; what contradicts earlier evidence is in the book then.
        """
        audit = self.audits[gateway_id]
        try:
            batch = audit.check_batch(encoded)
        except EvidenceError as error:
            self._conflict(gateway_id, str(error), encoded)
            raise
        if audit.holds(batch):
            audit.batches_repeated += 1
        else:
            self._write(Kind.BATCH, gateway_id, encoded)
            news = audit.news(batch)
            self._note_contradictions(gateway_id, audit.take_batch(batch), encoded)
            self._tell(gateway_id, batch, news)
            self._send_channel(gateway_id, self._channels[gateway_id].windows_arrived())
        return self._acknowledgement(audit) if self.acknowledging else None

    def take_urgent(self, gateway_id: str, urgent: UrgentStatement) -> None:
        """Verify and write what comes ahead of its batch; nothing is acknowledged by it. Raises EvidenceError."""
        audit = self.audits[gateway_id]
        try:
            verified = audit.check_urgent(urgent.statement, urgent.receipt)
        except EvidenceError as error:
            self._conflict(gateway_id, str(error), urgent.SerializeToString())
            raise
        if verified is not None:
            self._write(Kind.URGENT, gateway_id, urgent.SerializeToString())
            audit.take_urgent(verified)
            self._tell_statement(gateway_id, verified)

    def _acknowledgement(self, audit: Audit) -> bytes:
        position = audit.position
        assert position is not None
        unsigned = prepare(
            Acknowledgement(
                gateway_id=audit.enrolled.gateway_id,
                incarnation=position.incarnation,
                batch_number=position.number,
                root=position.root,
                platform_time_us=self.now_us(),
            ),
            algorithm=self._key.algorithm,
            key_id=self._key.verify_key.key_id,
        )
        return unsigned.encode(self._key.sign_now(unsigned.to_be_signed))

    def take_telemetry(self, gateway_id: str, telemetry: DeviceTelemetry, *, carried: bool) -> int:
        """Verify a reading of a device's stream, and write it when this stream is what carries the evidence.

        Returns the sequence up to which the device's readings are here without a gap (0: none, or told to withhold).
        Raises EvidenceError.
        """
        audit = self.audits[gateway_id]
        try:
            verified = audit.check_telemetry(telemetry)
        except EvidenceError as error:
            self._conflict(gateway_id, str(error), telemetry.SerializeToString())
            raise
        if carried:
            self._write(Kind.READING, gateway_id, telemetry.SerializeToString())
        self._note_contradictions(
            gateway_id, audit.take_telemetry(verified, carried=carried), telemetry.SerializeToString()
        )
        return audit.contiguous_sequence(telemetry.device_id) if carried and self.acknowledging else 0

    def take_statement(self, gateway_id: str, telemetry: DeviceTelemetry) -> bool:
        """Verify and write a statement that is no reading and came on a device's stream, which carries everything.

        Returns whether it may be acknowledged. Raises EvidenceError.
        """
        audit = self.audits[gateway_id]
        try:
            verified = audit.check_carried(telemetry)
        except EvidenceError as error:
            self._conflict(gateway_id, str(error), telemetry.SerializeToString())
            raise
        if verified is not None:
            self._write(Kind.STATEMENT, gateway_id, telemetry.SerializeToString())
            audit.take_urgent(verified)
            self._tell_statement(gateway_id, verified)
        return self.acknowledging

    def _write(self, kind: Kind, gateway_id: str, octets: bytes, note: str = "") -> None:
        self._book.append(Entry(kind, gateway_id, self.now_us(), octets, note))

    def _note_contradictions(self, gateway_id: str, found: tuple[Equivocation, ...], octets: bytes) -> None:
        for each in found:
            self._conflict(
                gateway_id,
                f"equivocation: {each.subject} ({each.first_hash.hex()[:16]}, {each.second_hash.hex()[:16]})",
                octets,
            )

    def _conflict(self, gateway_id: str, text: str, octets: bytes) -> None:
        self._write(Kind.CONFLICT, gateway_id, octets, text)
        self._conflicts[gateway_id].append(text)
        self._say({"event": "conflict", "gateway_id": gateway_id, "text": text})

    def _tell(self, gateway_id: str, batch: VerifiedBatch, news: list[VerifiedStatement]) -> None:
        self._say(
            {
                "event": "batch",
                "gateway_id": gateway_id,
                "incarnation": batch.identity.incarnation,
                "number": batch.identity.number,
                "leaves": batch.identity.leaf_count,
            }
        )
        for verified in news:
            self._tell_statement(gateway_id, verified)

    def _tell_statement(self, gateway_id: str, verified: VerifiedStatement) -> None:
        match verified.statement:
            case CommandReceipt() as receipt:
                self._say({"event": "command_receipt", "gateway_id": gateway_id, **receipt_json(receipt)})
            case SettlementWindow() as window:
                self._say(
                    {
                        "event": "window",
                        "gateway_id": gateway_id,
                        "device_id": window.device_id,
                        "start_us": window.window_start_us,
                        "end_us": window.window_end_us,
                        "net_energy_wh": window.net_energy_wh,
                        "readings": window.reading_count,
                        "quality": int(window.quality),
                    }
                )
            case Alarm() as alarm:
                self._say({"event": "alarm", "gateway_id": gateway_id, **alarm_json(alarm)})
            case _:
                pass

    # Channels

    def take_channel(self, gateway_id: str, frame: ChannelFrame) -> None:
        """Handle a channel frame; what there is to answer goes to the gateway's link.

        Raises ChannelError for a frame that a gateway has no business to send.
        """
        try:
            self._send_channel(gateway_id, self._channels[gateway_id].receive(frame))
        except ChannelError as error:
            self._conflict(gateway_id, f"channel frame refused: {error}", frame.SerializeToString())
            raise

    def _send_channel(self, gateway_id: str, frames: list[ChannelFrame]) -> None:
        link = self._links.get(gateway_id)
        if link is not None:
            for frame in frames:
                link.put_nowait(PlatformFrame(channel=frame))

    # Commands

    async def issue(self, order: object) -> Issued:
        """Sign a command, write it down, and send it as soon as there is a link. Raises OrderError."""
        if len(self.audits) != 1:
            raise OrderError(f"{len(self.audits)} gateways are enrolled; this platform commands one")
        gateway_id = next(iter(self.audits))
        try:
            issued = await issue(
                order,
                gateway_id=gateway_id,
                now_us=self.now_us(),
                next_sequence=1 + max((i.command.sequence for i in self._issued[gateway_id]), default=0),
                operational=self._operational,
                governance=self._governance,
            )
        except CommandFormatError as error:
            raise OrderError(str(error)) from error
        self._write(Kind.COMMAND, gateway_id, issued.message.SerializeToString(), issued.note)
        self._issued[gateway_id].append(issued)
        sent = self._send(gateway_id, issued)
        self._say({"event": "issued", "gateway_id": gateway_id, "sent": sent, **command_json(issued)})
        return issued

    def send_signed(self, gateway_id: str, frame: PlatformFrame) -> None:
        """A schedule or a value of a feed, to a gateway whose link is up."""
        self._links[gateway_id].put_nowait(frame)

    def take_bid(self, gateway_id: str, bid: FlexibilityBid) -> None:
        """The newest of each gateway is kept."""
        self.bids[gateway_id] = bid
        self._say({"event": "bid", "gateway_id": gateway_id, "power_up_kw": bid.power_up_kw})

    def _send(self, gateway_id: str, issued: Issued) -> bool:
        link = self._links.get(gateway_id)
        if issued.stream is None and link is not None:
            link.put_nowait(PlatformFrame(command=issued.message))
            return True
        if issued.stream is None:
            streams = [queue for (owner, _), queue in self._streams.items() if owner == gateway_id]
        else:
            streams = [q for key, q in self._streams.items() if key == (gateway_id, issued.stream)]
        if not streams:
            return False
        streams[0].put_nowait(issued.message)
        return True

    def _receipts_of(self, gateway_id: str, issued: Issued) -> list[CommandReceipt]:
        receipts = self.audits[gateway_id].command_receipts
        if issued.message.authorization:
            return receipts[issued.hash]
        # The identity of an unsigned command is made by the gateway, so its id must do.
        return [r for each in receipts.values() for r in each if r.command_id == issued.message.command_id]

    def _owed(self, gateway_id: str, stream: str | None) -> list[Issued]:
        """Commands that have no receipt yet and have not ended: sent again on each connection."""
        return [
            issued
            for issued in self._issued[gateway_id]
            if issued.stream == stream
            and issued.command.end_us > self.now_us()
            and not self._receipts_of(gateway_id, issued)
        ]

    # Connections

    @property
    def streams(self) -> frozenset[tuple[str, str]]:
        """(gateway, device) of the device streams that are up."""
        return frozenset(self._streams)

    def welcome(self, hello: GatewayHello) -> Welcome:
        """The answer to a hello: also says how far this gateway's evidence is here. Raises HistoryError."""
        audit = self.audits[hello.gateway_id]
        if audit.learn(hello.identity_history):
            self._practice.keep_history(audit.enrolled, hello.identity_history)
        position = audit.position
        held = (
            BatchPosition()
            if position is None
            else BatchPosition(incarnation=position.incarnation, batch_number=position.number, root=position.root)
        )
        return Welcome(platform_id=PLATFORM_ID, platform_time_us=self.now_us(), held=held)

    def link_up(self, gateway_id: str, *, certificate: str = "") -> asyncio.Queue[PlatformFrame | None]:
        """The queue of frames for a gateway's link, with the commands that it is owed. `certificate`: the serial
        number of the one that the gateway showed."""
        queue: asyncio.Queue[PlatformFrame | None] = asyncio.Queue()
        if gateway_id in self._links:
            self._displaced[gateway_id].append(self._links[gateway_id])
        self._links[gateway_id] = queue
        for issued in self._owed(gateway_id, None):
            queue.put_nowait(PlatformFrame(command=issued.message))
        self._say({"event": "connected", "gateway_id": gateway_id, "service": "link", "certificate": certificate})
        return queue

    def link_down(self, gateway_id: str, queue: asyncio.Queue[PlatformFrame | None]) -> None:
        displaced = self._displaced[gateway_id]
        if queue in displaced:
            displaced.remove(queue)
        elif self._links.get(gateway_id) is queue:
            del self._links[gateway_id]
            if displaced:
                self._links[gateway_id] = displaced.pop()
                return
            self._say({"event": "disconnected", "gateway_id": gateway_id, "service": "link"})

    def stream_up(self, gateway_id: str, device_id: str) -> asyncio.Queue[GridCommand | None]:
        """The queue of commands for one device's stream, with those that are owed to it."""
        queue: asyncio.Queue[GridCommand | None] = asyncio.Queue()
        first = not any(owner == gateway_id for owner, _ in self._streams)
        self._streams[gateway_id, device_id] = queue
        owed = self._owed(gateway_id, device_id)
        if first and gateway_id not in self._links:
            owed += self._owed(gateway_id, None)
        for issued in owed:
            queue.put_nowait(issued.message)
        return queue

    def stream_down(self, gateway_id: str, device_id: str, queue: asyncio.Queue[GridCommand | None]) -> None:
        if self._streams.get((gateway_id, device_id)) is queue:
            del self._streams[gateway_id, device_id]

    # Books

    def books(self) -> dict[str, object]:
        """Everything that the platform can say about what it got. Layout: `books.py`."""
        gateways = {
            gateway_id: gateway_json(
                audit,
                self._channels[gateway_id],
                [(issued, self._receipts_of(gateway_id, issued)) for issued in self._issued[gateway_id]],
                self._conflicts[gateway_id],
            )
            for gateway_id, audit in self.audits.items()
        }
        return {"platform_id": PLATFORM_ID, "written_us": self.now_us(), "gateways": gateways}


def books_text(platform: Platform) -> str:
    """The books as the text of `books.json`."""
    return json.dumps(platform.books(), indent=2) + "\n"
