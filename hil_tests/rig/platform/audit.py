"""What one gateway has proven to the platform, and what contradicts it. No I/O: `service.py` feeds it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from agent.evidence.errors import EvidenceError, ProofError
from agent.evidence.statements import Alarm, CommandReceipt, Sealing, SettlementWindow
from agent.evidence.verify import (
    ChainPosition,
    Equivocation,
    TrustedKey,
    VerifiedBatch,
    VerifiedStatement,
    Verifier,
    Witness,
    follow,
)
from agent.identity.errors import HistoryError
from agent.identity.history import continues, decode_history, replay
from agent.measure.reading import Reading
from hil_tests.rig.platform.enrol import Enrolled
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

MOST_ALARMS = 1000


@dataclass(slots=True)
class DeviceRecord:
    """One device's readings that are safe at the platform, and those that were only shown live."""

    digests: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(incarnation, sequence) -> SHA-256 of the statement."""
    live_count: int = 0

    def ranges(self) -> list[tuple[int, int, int]]:
        """Runs without a gap: (incarnation, first sequence, last sequence)."""
        runs: list[tuple[int, int, int]] = []
        for incarnation, sequence in sorted(self.digests):
            if runs and runs[-1][0] == incarnation and runs[-1][2] == sequence - 1:
                runs[-1] = (incarnation, runs[-1][1], sequence)
            else:
                runs.append((incarnation, sequence, sequence))
        return runs

    def missing(self) -> int:
        """Sequences that are absent below the highest one, which begin at 1 in each incarnation."""
        highest: dict[int, int] = {}
        for incarnation, _, last in self.ranges():
            highest[incarnation] = last
        return sum(highest.values()) - len(self.digests)

    def digest(self) -> str:
        """SHA-256 over the statements' SHA-256 in order of (incarnation, sequence), hex."""
        return hashlib.sha256(b"".join(self.digests[key] for key in sorted(self.digests))).hexdigest()


class Audit:
    """Of one enrolled gateway."""

    def __init__(self, enrolled: Enrolled) -> None:
        self.enrolled = enrolled
        self._history = enrolled.history
        self.verifier = Verifier(
            replay(decode_history(enrolled.history)).trusted_keys()
            if enrolled.history
            else [TrustedKey(enrolled.gateway_id, enrolled.keys["evidence"])]
        )
        self._witness = Witness()
        self._batches: dict[tuple[int, int], bytes] = {}
        self.position: ChainPosition | None = None
        self.devices: defaultdict[str, DeviceRecord] = defaultdict(DeviceRecord)
        self.statement_counts: Counter[str] = Counter()
        self.command_receipts: defaultdict[bytes, list[CommandReceipt]] = defaultdict(list)
        self.windows: defaultdict[str, list[SettlementWindow]] = defaultdict(list)
        self.window_statements: defaultdict[str, list[bytes]] = defaultdict(list)
        self.alarms: list[Alarm] = []
        self._ahead: set[tuple[int, int, int]] = set()
        """(incarnation, batch, index) of statements that came ahead of their batch: counted once."""
        self._roots_ahead: dict[tuple[int, int], bytes] = {}
        self.batches_repeated = 0
        self.batches_rejected = 0
        self.receipts_verified = 0
        self.receipts_rejected = 0

    def learn(self, history: bytes) -> bool:
        """Go by a history that continues the one at hand; True when it is longer. Raises HistoryError.

        A gateway that was enrolled by its key has none, and none is taken from it.
        """
        if not self._history or history == self._history:
            return False
        entries = decode_history(history)
        state = replay(entries, gateway_id=self.enrolled.gateway_id)
        if not continues(entries, decode_history(self._history)):
            raise HistoryError("this history does not continue the one that the platform has: it is older, or another")
        self._history = history
        self.verifier = Verifier(state.trusted_keys())
        return True

    @property
    def batches_verified(self) -> int:
        return len(self._batches)

    def check_batch(self, encoded: bytes) -> VerifiedBatch:
        """Verify a batch and that it is one we hold, or the next one. Raises EvidenceError and counts the rejection."""
        try:
            batch = self.verifier.verify_batch(encoded)
            known = self._batches.get((batch.identity.incarnation, batch.identity.number))
            if known is None:
                follow(self.position, batch)
            elif known != batch.sealed.hash:
                raise ProofError(
                    f"equivocation: batch {batch.identity.number} of incarnation {batch.identity.incarnation} "
                    "was delivered before with another content"
                )
            self._check_root((batch.identity.incarnation, batch.identity.number), batch.root)
        except EvidenceError:
            self.batches_rejected += 1
            raise
        return batch

    def holds(self, batch: VerifiedBatch) -> bool:
        """Whether it was delivered before."""
        return (batch.identity.incarnation, batch.identity.number) in self._batches

    def take_batch(self, batch: VerifiedBatch) -> tuple[Equivocation, ...]:
        """Enter a batch that `check_batch` gave and the book has. Returns what contradicts earlier evidence."""
        self._batches[batch.identity.incarnation, batch.identity.number] = batch.sealed.hash
        self.position = batch.position
        for statement in self.news(batch):
            self._take_statement(statement)
        return self._witness.see_batch(batch)

    def news(self, batch: VerifiedBatch) -> list[VerifiedStatement]:
        """What of a batch has not come ahead of it."""
        return [each for each in batch.statements if _place(each) not in self._ahead]

    def check_urgent(self, statement: bytes, receipt: bytes) -> VerifiedStatement | None:
        """Verify a statement that came ahead of its batch; None: it is here already, by itself or in its batch.

        Raises EvidenceError and counts the rejection.
        """
        try:
            verified = self.verifier.verify_receipt(receipt, statement)
            if not isinstance(verified.statement, CommandReceipt | Alarm):
                raise ProofError("urgent statement: neither a command receipt nor an alarm")
            return self._news(verified)
        except EvidenceError:
            self.receipts_rejected += 1
            raise

    def check_carried(self, telemetry: DeviceTelemetry) -> VerifiedStatement | None:
        """Verify a statement that is no reading and came on a device's stream; None: it is here already.

        Raises EvidenceError and counts the rejection, also where its plain fields could move a reader that knows no
        statements.
        """
        try:
            verified = self.verifier.verify_receipt(telemetry.signature, telemetry.statement)
            if isinstance(verified.statement, Reading | Sealing) or telemetry.net_energy_wh or telemetry.sequence:
                raise ProofError("telemetry of no energy: it has some, or its statement has no business there")
            return self._news(verified)
        except EvidenceError:
            self.receipts_rejected += 1
            raise

    def _news(self, verified: VerifiedStatement) -> VerifiedStatement | None:
        place = _place(verified)
        self._check_root(place[:2], verified.root)
        self.receipts_verified += 1
        return None if place in self._ahead or place[:2] in self._batches else verified

    def _check_root(self, batch: tuple[int, int], root: bytes) -> None:
        if self._roots_ahead.get(batch, root) != root:
            raise ProofError(
                f"equivocation: batch {batch[1]} of incarnation {batch[0]} has another root than the statements that "
                "came ahead of it"
            )

    def take_urgent(self, verified: VerifiedStatement) -> None:
        """Enter what `check_urgent` or `check_carried` gave and the book has."""
        place = _place(verified)
        self._ahead.add(place)
        self._roots_ahead[place[:2]] = verified.root
        self._take_statement(verified)

    def _take_statement(self, verified: VerifiedStatement) -> None:
        statement = verified.statement
        self.statement_counts[type(statement).__name__] += 1
        match statement:
            case Reading():
                self._enter(statement, verified.hash)
            case CommandReceipt():
                self.command_receipts[statement.command_hash].append(statement)
            case SettlementWindow():
                self.windows[statement.device_id].append(statement)
                self.window_statements[statement.device_id].append(verified.encoded)
            case Alarm():
                self.alarms = [*self.alarms, statement][-MOST_ALARMS:]

    def _enter(self, reading: Reading, digest: bytes) -> None:
        self.devices[reading.device_id].digests.setdefault((reading.incarnation, reading.sequence), digest)

    def check_telemetry(self, telemetry: DeviceTelemetry) -> VerifiedStatement:
        """Verify the receipt of a reading on a device's stream, and that the plain fields say what was signed.

        Raises EvidenceError and counts the rejection.
        """
        try:
            verified = self.verifier.verify_receipt(telemetry.signature, telemetry.statement)
            reading = verified.statement
            if not isinstance(reading, Reading):
                raise ProofError("telemetry: its statement is no reading")
            self._check_plain_fields(telemetry, reading)
        except EvidenceError:
            self.receipts_rejected += 1
            raise
        self.receipts_verified += 1
        return verified

    def _check_plain_fields(self, telemetry: DeviceTelemetry, reading: Reading) -> None:
        percent = None if reading.state_of_charge_permille is None else reading.state_of_charge_permille // 10
        plain = (
            telemetry.device_id,
            telemetry.timestamp_us,
            telemetry.net_energy_wh,
            telemetry.sequence,
            telemetry.state_of_charge_percent if telemetry.HasField("state_of_charge_percent") else None,
        )
        if plain != (reading.device_id, reading.timestamp_us, reading.net_energy_wh, reading.sequence, percent):
            raise ProofError(f"telemetry: the plain fields {plain} differ from the signed statement")

    def take_telemetry(self, verified: VerifiedStatement, *, carried: bool) -> tuple[Equivocation, ...]:
        """Enter a reading from a device's stream. `carried`: the book has it; else it was only shown."""
        reading = verified.statement
        assert isinstance(reading, Reading)
        if carried:
            self._enter(reading, verified.hash)
        else:
            self.devices[reading.device_id].live_count += 1
        return self._witness.see_statement(verified)

    def contiguous_sequence(self, device_id: str) -> int:
        """Every reading of the device's newest incarnation is here up to this sequence; 0 for none."""
        ranges = self.devices[device_id].ranges()
        newest = [run for run in ranges if run[0] == ranges[-1][0]]
        return newest[0][2] if newest and newest[0][1] == 1 else 0


def _place(verified: VerifiedStatement) -> tuple[int, int, int]:
    return verified.batch.incarnation, verified.batch.number, verified.index
