"""Delivery over the published contract alone, sans-I/O: which reading goes next to each device, and what has arrived.

A platform without GatewayLink takes one reading after the other on the devices' own streams. It says how far it is with
`acknowledged_sequence`; one that knows only the published contract cannot, and then a stream that we half-close and
that it ends with OK counts as delivered, unconfirmed (DESIGN: Delivery). A batch leaves the outbox when every reading
in it has arrived. What is no reading has no place in the published contract: it stays in the evidence kept here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.evidence.errors import EvidenceError
from agent.evidence.partial import AnyBatch, decode_any, numbered_leaves, receipts
from agent.evidence.statements import decode
from agent.measure.reading import Reading
from agent.uplink.errors import PlatformFaultError
from agent.uplink.outbox import WaitingBatch
from agent.uplink.telemetry import telemetry_of
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry


@dataclass(frozen=True, slots=True)
class Arrived:
    """Every reading of every batch up to this one has arrived."""

    incarnation: int
    up_to_number: int
    confirmed: bool
    """False: at least one reading only by the half-close rule."""


@dataclass(slots=True)
class _Loaded:
    """A batch whose readings are on their way."""

    incarnation: int
    number: int
    missing: int
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class _Item:
    telemetry: DeviceTelemetry
    batch: _Loaded


@dataclass(slots=True)
class _Lane:
    """One device's stream: readings in order, the first `sent` of them written on the present stream."""

    items: deque[_Item] = field(default_factory=deque)
    sent: int = 0
    ahead: set[int] = field(default_factory=set)
    """Sequences that went out live on this stream, before their turn: not sent a second time on it."""
    incarnation: int | None = None
    """Of everything that this stream has carried: `acknowledged_sequence` names none, so a stream never carries two."""
    highest_sent: int = 0
    acknowledged: int = 0
    """Highest sequence that the platform acknowledged on this stream."""

    def settle(self) -> None:
        """Let go of what was sent and is acknowledged."""
        while self.sent > 0 and self.items[0].telemetry.sequence <= self.acknowledged:
            self.arrived(confirmed=True)

    def fits(self, incarnation: int) -> bool:
        """Whether readings of the incarnation may go on this stream."""
        return self.incarnation in (None, incarnation)

    def arrived(self, *, confirmed: bool) -> None:
        item = self.items.popleft()
        self.sent -= 1
        item.batch.missing -= 1
        item.batch.confirmed = item.batch.confirmed and confirmed


class Delivery:
    """What is loaded from the outbox, and how far each device's stream is. `incarnation` is the present one."""

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._batches: deque[_Loaded] = deque()
        self._lanes: dict[str, _Lane] = {}

    @property
    def loaded_batches(self) -> int:
        return len(self._batches)

    @property
    def device_ids(self) -> frozenset[str]:
        """Devices with readings that have not arrived: they need a stream even when no longer configured."""
        return frozenset(device_id for device_id, lane in self._lanes.items() if lane.items)

    def load(self, batch: WaitingBatch) -> None:
        """Take the next batch of the outbox. Raises EvidenceError when our own store holds something unreadable."""
        loaded = _Loaded(batch.incarnation, batch.number, 0)
        self._batches.append(loaded)
        for telemetry in readings_of(decode_any(batch.encoded)):
            self._lanes.setdefault(telemetry.device_id, _Lane()).items.append(_Item(telemetry, loaded))
            loaded.missing += 1

    def next(self, device_id: str) -> DeviceTelemetry | None:
        """The next reading for this device's stream, counted as sent; None when there is none."""
        lane = self._lanes.get(device_id)
        while lane is not None and lane.sent < len(lane.items):
            telemetry, batch = lane.items[lane.sent].telemetry, lane.items[lane.sent].batch
            if not lane.fits(batch.incarnation):
                return None
            lane.incarnation = batch.incarnation
            lane.sent += 1
            if telemetry.sequence in lane.ahead:
                lane.ahead.discard(telemetry.sequence)
                lane.settle()  # it may have been acknowledged before its batch was loaded
                continue
            lane.highest_sent = max(lane.highest_sent, telemetry.sequence)
            return telemetry
        return None

    def sent_ahead(self, device_id: str, sequence: int) -> bool:
        """Count a live reading as sent before its turn.

        False: this stream has carried it already, or must not (another incarnation); the outbox brings it in turn.
        """
        lane = self._lanes.setdefault(device_id, _Lane())
        older_waits = bool(lane.items) and lane.items[0].batch.incarnation != self._incarnation
        if older_waits or not lane.fits(self._incarnation) or sequence <= lane.highest_sent:
            return False
        lane.incarnation = self._incarnation
        lane.ahead.add(sequence)
        lane.highest_sent = sequence
        return True

    def needs_new_stream(self, device_id: str) -> bool:
        """Whether everything sent on this stream has arrived and what waits is of another incarnation."""
        lane = self._lanes.get(device_id)
        if lane is None or not lane.items or lane.sent > 0:
            return False
        return not lane.fits(lane.items[0].batch.incarnation)

    def in_flight(self, device_id: str) -> int:
        """Readings written on the present stream that have not arrived yet, as far as we know."""
        lane = self._lanes.get(device_id)
        return 0 if lane is None else lane.sent

    def acknowledged(self, device_id: str, sequence: int) -> None:
        """The platform has everything of this device up to `sequence`.

        Raises PlatformFaultError for a sequence that this stream has not carried.
        """
        lane = self._lanes.get(device_id)
        highest = 0 if lane is None else lane.highest_sent
        if lane is None or sequence > highest:
            raise PlatformFaultError(
                f"the platform acknowledges sequence {sequence} of {device_id}, {highest} is the last one sent"
            )
        lane.acknowledged = max(lane.acknowledged, sequence)
        lane.settle()

    def ended_well(self, device_id: str) -> None:
        """We half-closed the stream and the platform ended it with OK: what was sent counts as delivered."""
        lane = self._lanes.setdefault(device_id, _Lane())
        while lane.sent > 0:
            lane.arrived(confirmed=False)
        self.lost(device_id)

    def lost(self, device_id: str) -> None:
        """The stream ended in any other way: what has not arrived is sent again on the next one."""
        lane = self._lanes.setdefault(device_id, _Lane())
        lane.sent = 0
        lane.incarnation = None
        lane.highest_sent = 0
        lane.acknowledged = 0
        lane.ahead.clear()

    def collect(self) -> Arrived | None:
        """The batches that are complete since the last call, as one cumulative step; None when there is none."""
        done: list[_Loaded] = []
        while self._batches and self._batches[0].missing == 0:
            if done and done[-1].incarnation != self._batches[0].incarnation:
                break
            done.append(self._batches.popleft())
        if not done:
            return None
        return Arrived(done[-1].incarnation, done[-1].number, all(batch.confirmed for batch in done))


def readings_of(batch: AnyBatch) -> Sequence[DeviceTelemetry]:
    """Every reading that a batch holds with its receipt, in order of the leaves. What was thinned is gone."""
    found: list[tuple[int, Reading, bytes]] = []
    for index, leaf in numbered_leaves(batch):
        try:
            statement = decode(leaf)
        except EvidenceError:
            # A kind that a later version of this gateway wrote, before it was set back: no reading that we know.
            continue
        if isinstance(statement, Reading):
            found.append((index, statement, leaf))
    proofs = receipts(batch, [index for index, _, _ in found])
    return [telemetry_of(reading, leaf, proof) for (_, reading, leaf), proof in zip(found, proofs, strict=True)]
