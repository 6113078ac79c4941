"""What goes into the store and comes out of it, as values. The store gives them no meaning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class Queued:
    """A statement on its way into a batch."""

    kind: int
    """As in the statement itself (`agent.evidence.statements.Kind`)."""
    device_id: str | None
    """What it is found by; None for what is about no device."""
    sequence: int | None
    """Rises with each statement of this device and kind; None for kinds that have none."""
    timestamp_us: int
    """Unix time that it is found by, microseconds."""
    encoded: bytes
    """The leaf bytes."""
    urgent: bool = False
    """Does not wait for the linger, and may use the space that is reserved."""


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A statement that waits to be sealed, with its place in the queue."""

    rowid: int
    """Ascending in the order of `put`."""
    kind: int
    device_id: str | None
    sequence: int | None
    timestamp_us: int
    encoded: bytes
    urgent: bool


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A sealed batch. Its leaf 0 is the sealing; leaf i is the i-th of the queued rows that it replaced."""

    incarnation: int
    number: int
    """From 1, without gaps within an incarnation."""
    root: bytes
    """32 bytes."""
    previous_root: bytes
    """32 bytes: the root of the batch before, zeros for number 1."""
    encoded: bytes
    """The batch as sent (proto/EVIDENCE.md section 5)."""
    sealed_at_us: int
    leaf_count: int
    """With leaf 0."""


class Stage(IntEnum):
    """How far a channel state has come. Each stage of a state is one row, written once."""

    INTENT = 0
    """It will be signed: this state and no other has this version."""
    SIGNED = 1
    COUNTERSIGNED = 2


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """One stage of one channel state."""

    channel_id: bytes
    incarnation: int
    version: int
    stage: Stage
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is where. Statements are counted without the sealing that each batch adds."""

    queued: int = 0
    """Statements that wait to be sealed."""
    queued_bytes: int = 0
    queued_urgent: int = 0
    sealed_batches: int = 0
    """Batches held, acknowledged or not; pruned ones no longer count."""
    sealed_statements: int = 0
    unacknowledged_batches: int = 0
    unacknowledged_statements: int = 0
