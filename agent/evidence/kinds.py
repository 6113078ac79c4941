"""What can be proven, as values: each kind of statement, and the number that stands first in its encoding.

The encoding is in `statements.py`, which has all of this too; readings are in `agent.measure.reading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from agent.clock import ClockQuality
from agent.measure.reading import Quality, Reading
from drivers.device import SignatureVerdict, ValueSource


class Kind(IntEnum):
    """First element of every statement. Numbers are for ever."""

    SEALING = 0
    READING = 1
    COMMAND_RECEIPT = 2
    SETTLEMENT_WINDOW = 3
    ATTESTATION = 4
    ALARM = 5
    METERING_TREE = 6
    SIGNED_METER_VALUE = 7
    THINNING = 8


class CommandState(IntEnum):
    """Life of a command. Exactly one of the last five ends it; PARTIAL and ACCEPTED go on."""

    RECEIVED = 0
    ACCEPTED = 1
    PARTIAL = 2
    EXECUTING = 3
    REJECTED = 10
    COMPLETED = 11
    SUPERSEDED = 12
    EXPIRED = 13
    FAILED = 14

    @property
    def final(self) -> bool:
        """True for the one receipt that ends a command."""
        return self >= 10  # REJECTED: a book of a day's commands asks often


class Severity(IntEnum):
    """Of an alarm."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """Leaf 0 of every batch: when it was sealed, and how far that time is to be trusted."""

    sealed_at_us: int
    clock_quality: ClockQuality
    clock_error_bound_us: int | None
    """None when the time is untrusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceipt:
    """What became of a command. `command_hash` is SHA-256 of its signed body."""

    command_hash: bytes
    """32 bytes; for a command without authorization, SHA-256 of its plain fields (proto/COMMANDS.md)."""
    command_id: str
    state: CommandState
    timestamp_us: int
    reason: str
    """For a person; empty when there is nothing to explain."""
    delivered_energy_wh: int | None
    """+ import, - export; in final receipts of commands that were executing, else None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementWindow:
    """One device, one window, closed. `readings_root` is RFC 9162 over the reading statements in order of sequence."""

    device_id: str
    incarnation: int
    window_start_us: int
    window_end_us: int
    revision: int
    """0 at the close; a correction within the grace is one more."""
    import_wh: int
    export_wh: int
    net_energy_wh: int
    """import_wh - export_wh."""
    first_sequence: int | None
    last_sequence: int | None
    reading_count: int
    readings_root: bytes
    """32 bytes; the hash of the empty tree when there was no reading."""
    meter_epoch: int
    quality: Quality
    """Union of the readings' flags; ESTIMATED when a boundary was interpolated or readings are missing."""
    command_hashes: tuple[bytes, ...]
    """Commands that were in force for the device in the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmQuote:
    """What the machine's TPM says it booted, in the TPM's own structures (TCG TPM 2.0 Library, Part 2)."""

    public: bytes
    """TPMT_PUBLIC of the attestation key."""
    message: bytes
    """TPMS_ATTEST: a nonce, the TPM's clock and count of resets, and a digest over the PCRs."""
    signature: bytes
    """TPMT_SIGNATURE over the message."""
    pcrs: tuple[bytes, ...]
    """The PCRs themselves (SHA-256 bank), in order of their numbers, which the message has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What ran on the gateway: digests of the installed agent and of its metrology-relevant settings."""

    timestamp_us: int
    valid_until_us: int
    software_version: str
    software_digest: bytes
    """32 bytes: firmware_attest says over what."""
    metrology_digest: bytes
    """32 bytes."""
    quote: TpmQuote | None = None
    """Over all of the above; None where there is no TPM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that an auditor or operator must know of, with the moment it was noticed."""

    timestamp_us: int
    severity: Severity
    code: str
    """Stable, for machines: "command.equivocation", "meter.replaced"."""
    subject: str
    """Device, key or command that it is about."""
    text: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringPoint:
    """One node of the metering tree."""

    device_id: str
    parent_id: str | None
    """None at the top."""
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteringTree:
    """Which device is metered behind which, and which ones are settled: exactly one on any path."""

    timestamp_us: int
    points: tuple[MeteringPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMeterValue:
    """A value as the meter itself signed it, verbatim, and what became of its signature."""

    device_id: str
    timestamp_us: int
    """Of the sample that it came with; the record has the meter's own time."""
    verdict: SignatureVerdict
    reason: str
    """For a person; empty when there is nothing to add."""
    encoding_method: str
    """Its format by the charger's word: "OCMF"."""
    record: bytes
    """Exactly as it was received, 1 to MOST_RECORD_BYTES."""
    key_der: bytes | None
    """SubjectPublicKeyInfo of the key that was registered for the meter; None when none was."""
    transaction_id: str | None
    context: str
    """Why it was measured, by the charger's word: "Transaction.Begin"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldBatches:
    """Batches that leaves were taken from: a run of one incarnation without gaps, and the root over their roots."""

    incarnation: int
    first_number: int
    last_number: int
    roots_root: bytes
    """RFC 9162 over the roots of these batches, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Readings of consecutive sequences, merged. What they had in common is in the statement around it."""

    first_sequence: int
    reading_count: int
    first_us: int
    """Earliest timestamp; the latest is `span_us` after it."""
    span_us: int
    net_energy_wh: int
    """Sum of the readings' own: exactly."""
    import_register_milliwatt_hours: int | None
    """As the last reading with a register had them: both None when none had one."""
    export_register_milliwatt_hours: int | None
    lowest_power_w: int | None
    highest_power_w: int | None
    state_of_charge_permille: int | None
    """The last one that was known."""
    quality: Quality
    """Union of the readings'. ISLANDED holds for all of them or for none."""

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + self.reading_count - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinning:
    """Readings of one device that were merged to save space, and whose leaves are no longer kept."""

    device_id: str
    incarnation: int
    """With boot_id, meter_epoch and source: of each of the merged readings."""
    boot_id: bytes
    meter_epoch: int
    source: ValueSource
    thinned_at_us: int
    slot_s: int
    """Most seconds, aligned to UTC, that one slot covers."""
    old: tuple[OldBatches, ...]
    """Where the merged leaves were: the readings' own batches first, then that of the statement that this replaces."""
    reading_count: int
    readings_root: bytes
    """RFC 9162 over the merged readings' statement bytes, in order of sequence: who still has them can prove them."""
    net_energy_wh: int
    """Sum of all slots."""
    replaces: bytes | None
    """SHA-256 of the finer statement that this one was made from; None: it was made from readings."""
    slots: tuple[Slot, ...]


Statement: TypeAlias = (
    Sealing
    | Reading
    | CommandReceipt
    | SettlementWindow
    | Attestation
    | Alarm
    | MeteringTree
    | SignedMeterValue
    | Thinning
)
