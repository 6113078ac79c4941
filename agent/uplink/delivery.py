"""Delivery over devices' streams alone, sans-I/O: what goes next to each device, and what has arrived.

A platform without GatewayLink takes everything on the devices' own streams: readings one after the other, and what is
no reading as points of no energy between them, first of all the receipts of commands. It says how far it is with
`acknowledged_sequence` and `acknowledged_statements`; one that knows only the published contract cannot, and then a
stream that we half-close and that it ends with OK counts as delivered, unconfirmed (DESIGN: Delivery). A batch leaves
the outbox when everything in it has arrived, but for the sealing, which tells of the batch and not of the site. A
device that the platform does not take holds up its own readings and no others (`flow.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Sealing, SettlementWindow, SignedMeterValue, Statement, Thinning
from agent.evidence.partial import AnyBatch, decode_any, numbered_leaves, receipts
from agent.evidence.statements import decode
from agent.measure.reading import Reading
from agent.uplink.ahead import Found
from agent.uplink.errors import PlatformFaultError
from agent.uplink.flow import BEGINNING, Arrived, Flow, Position, Steps
from agent.uplink.lane import Item, Lane, Loaded, Waiting, Word
from agent.uplink.outbox import WaitingBatch
from agent.uplink.telemetry import Stand, telemetry_of
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

StreamOf = Callable[[Statement], "str | None"]
"""The device on whose stream a statement that is no reading goes; None: no device is configured, any will do."""


REFUSALS: Final = 3
"""Streams in a row on which nothing arrived, after which a device is set apart; fewer where it holds up the others."""


class Delivery:
    """What is loaded from the outbox, and how far each device's stream is. `incarnation` is the present one.

    `stream_of`: see `Origins`; None: what is no reading stays here.
    """

    def __init__(
        self,
        incarnation: int,
        stream_of: StreamOf | None = None,
        *,
        passed: Position = BEGINNING,
        behind: Mapping[str, Position] | None = None,
    ) -> None:
        """`passed`, `behind`: places of an earlier connection, as `places` gives them."""
        self._incarnation = incarnation
        self._stream_of = stream_of
        self.flow = Flow(passed, passed)
        """Of all devices but those that are set apart."""
        self.apart = {device_id: Flow(place, place) for device_id, place in (behind or {}).items()}
        """Of devices that the platform does not take, and of those that catch up."""
        self._steps = Steps()
        self._lanes: dict[str, Lane] = {device_id: Lane(device_id) for device_id in self.apart}
        self._without_lane: deque[Waiting] = deque()
        """The gateway's own, while no device has anything: a charger may be approved, or a former one have a rest."""
        self._ahead: dict[tuple[int, int, int], Waiting] = {}
        """(incarnation, batch, index) of statements whose batches have not been loaded yet."""

    @property
    def held_batches(self) -> int:
        """Loaded and not collected, of all devices but those that are set apart."""
        return len(self.flow.batches)

    @property
    def nothing_missing(self) -> bool:
        """Whether everything that is loaded has arrived, of all devices but those that are set apart."""
        return self.flow.nothing_missing

    @property
    def waiting_statements(self) -> int:
        """Those that are no readings and have not arrived."""
        return len(self._without_lane) + sum(len(lane.statements) for lane in self._lanes.values())

    @property
    def device_ids(self) -> frozenset[str]:
        """Devices with something that has not arrived: they need a stream even when no longer configured."""
        return frozenset(device_id for device_id, lane in self._lanes.items() if lane.waits)

    @property
    def without_a_stand(self) -> frozenset[str]:
        """Devices whose statements wait because no reading of them is known."""
        return frozenset(each for each, lane in self._lanes.items() if lane.statements and lane.stand is None)

    @property
    def places(self) -> tuple[Position, dict[str, Position]] | None:
        """What has arrived beyond what may leave the outbox: up to where, but for which devices; None: nothing."""
        if not self.apart:
            return None
        return self.flow.arrived, {device_id: flow.arrived for device_id, flow in self.apart.items()}

    def load(self, batch: WaitingBatch) -> None:
        """Take the next batch of the outbox. Raises EvidenceError when our own store holds something unreadable."""
        loaded = Loaded(batch.incarnation, batch.number)
        self._steps.saw((batch.incarnation, batch.number))
        for index, leaf, statement, proof in _proven(decode_any(batch.encoded)):
            device_id = _device_of(statement)
            apart = None if device_id is None else self.apart.get(device_id)
            if apart is not None and not apart.joined:
                continue
            if isinstance(statement, Reading):
                self._lane(statement.device_id).items.append(Item(telemetry_of(statement, leaf, proof), loaded))
                loaded.missing += 1
            elif self._stream_of is not None:
                waiting = self._ahead.pop((batch.incarnation, batch.number, index), None)
                if waiting is None:
                    waiting = Waiting(leaf, proof, of_device=device_id is not None)
                    self._queue(waiting, self._stream_of(statement))
                waiting.loaded(loaded)
        self.flow.load(loaded)

    def load_apart(self, device_id: str, batch: WaitingBatch) -> None:
        """Take the next batch for a device that is set apart. Raises EvidenceError."""
        lane, loaded = self._lane(device_id), Loaded(batch.incarnation, batch.number)
        self._steps.saw((batch.incarnation, batch.number))
        for _, leaf, statement, proof in _proven(decode_any(batch.encoded)):
            if _device_of(statement) != device_id:
                continue
            if isinstance(statement, Reading):
                lane.items.append(Item(telemetry_of(statement, leaf, proof), loaded))
                loaded.missing += 1
            elif self._stream_of is not None:
                waiting = Waiting(leaf, proof)
                waiting.loaded(loaded)
                lane.statements.append(waiting)
        self.apart[device_id].load(loaded)

    def set_apart(self, *, held_up: bool) -> frozenset[str]:
        """Have the others go on past devices that the platform does not take; which these are now.

        `held_up`: nothing more can be loaded until something arrives. One alone, or all of them, are not set apart.
        """
        least = 1 if held_up else REFUSALS
        lanes = [lane for each, lane in self._lanes.items() if each not in self.apart or self.apart[each].joined]
        refused = [lane for lane in lanes if lane.refused >= least and lane.waits]
        if all(lane.refused for lane in lanes):
            return frozenset()
        for lane in refused:
            before = self.apart.get(lane.device_id)
            place = self.flow.arrived if before is None else before.arrived
            # Where it was set apart before, what counts unconfirmed since the last step stays so.
            self.apart[lane.device_id] = Flow(place, place, confirmed=before is None or before.confirmed)
            for waiting in lane.set_apart():
                self._queue(waiting, lane.device_id)
        return frozenset(lane.device_id for lane in refused)

    def put_ahead(self, found: Found) -> None:
        """Take a statement before its batch, which comes in its turn."""
        if self._stream_of is None or (found.incarnation, found.number) <= self.flow.loaded:
            return
        waiting = Waiting(found.statement, found.receipt, of_device=False)
        if self._ahead.setdefault((found.incarnation, found.number, found.index), waiting) is waiting:
            self._queue(waiting, self._stream_of(decode(found.statement)))

    def _queue(self, waiting: Waiting, device_id: str | None) -> None:
        if device_id is None or (device_id in self.apart and not waiting.of_device):
            device_id = next((each for each in self._lanes if each not in self.apart), None)
        if device_id is None:
            self._without_lane.append(waiting)
        else:
            self._lane(device_id).statements.append(waiting)

    def stand(self, device_id: str, stand: Stand) -> None:
        """The newest reading that is known of a device, where its stream has not carried one."""
        lane = self._lane(device_id)
        if lane.stand is None:
            lane.stand_on(stand)

    def next(self, device_id: str, *, readings: bool = True) -> DeviceTelemetry | None:
        """What goes next on this device's stream, counted as sent; None when there is nothing.

        `readings`: they may go now, and do not have to wait for the line.
        """
        lane = self._lanes.get(device_id)
        if lane is None:
            return None
        return lane.next_statement() or (lane.next_reading() if readings else None)

    def sent_ahead(self, telemetry: DeviceTelemetry) -> bool:
        """Count a live reading as sent before its turn.

        False: this stream has carried it already, or must not (another incarnation); the outbox brings it in turn.
        """
        lane = self._lane(telemetry.device_id)
        older_waits = bool(lane.items) and lane.items[0].batch.incarnation != self._incarnation
        if older_waits or not lane.fits(self._incarnation) or telemetry.sequence <= lane.highest_sent:
            return False
        lane.went_live(telemetry, self._incarnation)
        return True

    def needs_new_stream(self, device_id: str) -> bool:
        """Whether every reading sent on this stream has arrived and what waits is of another incarnation."""
        lane = self._lanes.get(device_id)
        if lane is None or not lane.items or lane.sent > 0:
            return False
        return not lane.fits(lane.items[0].batch.incarnation)

    def in_flight(self, device_id: str, what: Word) -> int:
        """Readings, or statements, written on the present stream that have not arrived yet, as far as we know."""
        lane = self._lanes.get(device_id)
        if lane is None:
            return 0
        return lane.sent if what is Word.READINGS else lane.statements_sent

    def others_in_flight(self, device_id: str) -> bool:
        """Whether anything of other devices was written and has not arrived yet, as far as we know."""
        return any(lane.sent or lane.statements_sent for each, lane in self._lanes.items() if each != device_id)

    def acknowledged(self, device_id: str, sequence: int) -> None:
        """The platform has every reading of this device up to `sequence`.

        Raises PlatformFaultError for a sequence that this stream has not carried.
        """
        lane = self._lanes.get(device_id)
        highest = 0 if lane is None else lane.highest_sent
        if lane is None or sequence > highest:
            raise PlatformFaultError(
                f"the platform acknowledges sequence {sequence} of {device_id}, {highest} is the last one sent"
            )
        lane.refused = 0
        lane.acknowledged = max(lane.acknowledged, sequence)
        lane.settle()

    def acknowledged_statements(self, device_id: str, count: int) -> None:
        """The platform has the first `count` statements of this stream that are no readings.

        Raises PlatformFaultError for more than this stream has carried.
        """
        lane = self._lanes.get(device_id)
        carried = 0 if lane is None else lane.statements_settled + lane.statements_sent
        if lane is None or count > carried:
            raise PlatformFaultError(
                f"the platform acknowledges {count} statements on the stream of {device_id}, which brought {carried}"
            )
        lane.settle_statements(count)

    def ended_well(self, device_id: str, word: Word = Word.NONE) -> None:
        """We half-closed the stream and the platform ended it with OK: what was sent counts as delivered.

        What it would have acknowledged, by what was seen of it (`word`), and did not, is sent again.
        """
        lane = self._lane(device_id)
        lane.ended_well(word)
        lane.refused = 0
        self.lost(device_id)

    def lost(self, device_id: str) -> None:
        """The stream ended in any other way: what has not arrived is sent again on the next one."""
        self._lane(device_id).begin_anew()

    def refused(self, device_id: str) -> int:
        """As `lost`, for no reason that others share; how many times in a row that was, with nothing arrived."""
        lane = self._lane(device_id)
        lane.begin_anew()
        lane.refused += 1
        return lane.refused

    def is_taken(self, device_id: str) -> bool:
        """Whether the platform has not refused the device since something of it arrived, or on this connection."""
        return self._lane(device_id).refused == 0

    def collect(self) -> Arrived | None:
        """The batches that are complete since the last call, as one cumulative step; None when there is none."""
        self.flow.collect()
        for flow in self.apart.values():
            flow.collect()
        step = self._steps.next((self.flow, *self.apart.values()))
        for device_id, flow in list(self.apart.items()):
            if flow.joined and not flow.batches and flow.confirmed:
                del self.apart[device_id]
        return step

    def _lane(self, device_id: str) -> Lane:
        lane = self._lanes.setdefault(device_id, Lane(device_id))
        if device_id not in self.apart:
            lane.statements.extend(self._without_lane)
            self._without_lane.clear()
        return lane


def readings_of(batch: AnyBatch) -> Sequence[DeviceTelemetry]:
    """Every reading that a batch holds with its receipt, in order of the leaves. What was thinned is gone."""
    return [telemetry_of(each, leaf, proof) for _, leaf, each, proof in _proven(batch) if isinstance(each, Reading)]


def _device_of(statement: Statement) -> str | None:
    """The device that a statement is of, on whose stream alone it goes; None: it is the gateway's own."""
    if isinstance(statement, Reading | SettlementWindow | SignedMeterValue | Thinning):
        return statement.device_id
    return None


def _proven(batch: AnyBatch) -> Iterator[tuple[int, bytes, Statement, bytes]]:
    """(index, leaf, statement, receipt) of all that a batch holds, but for the sealing."""
    found: list[tuple[int, bytes, Statement]] = []
    for index, leaf in numbered_leaves(batch):
        try:
            statement = decode(leaf)
        except EvidenceError:
            # A kind that a later version of this gateway wrote, before it was set back: nothing that we know.
            continue
        if not isinstance(statement, Sealing):
            found.append((index, leaf, statement))
    proofs = receipts(batch, [index for index, _, _ in found])
    for (index, leaf, statement), proof in zip(found, proofs, strict=True):
        yield index, leaf, statement, proof
