"""When to seal, and how much: the policy that keeps the rate of readings independent of the speed of the token.

While the token signs one root, new statements queue; the next signature covers them all. A linger keeps a fast token
from sealing single readings, and urgent statements (command receipts, alarms) cut it short. Pure: the caller waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.evidence.batch import MAX_BATCH_BYTES, MAX_LEAVES

MOST_QUEUED_LEAVES: Final = MAX_LEAVES - 1
"""Leaf 0 is the sealing."""
_ENVELOPE_BYTES: Final = 12 * 1024
"""Room for the sealing, the header with a gateway id of 1 KiB, and the longest signature (ML-DSA-65: 3309 bytes)."""
_LEAF_HEAD_BYTES: Final = 5
"""Longest CBOR head of a leaf that fits a batch."""
MOST_QUEUED_BYTES: Final = MAX_BATCH_BYTES - _ENVELOPE_BYTES - MAX_LEAVES * _LEAF_HEAD_BYTES
"""Of encoded statements in one batch, so that the encoded batch stays within MAX_BATCH_BYTES whatever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealPolicy:
    """From the configuration."""

    linger_s: float = 1.0
    """Longest wait of a statement for its batch to fill."""
    linger_leaves: int = 2048
    """This many queued statements end the wait at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits to be sealed."""

    count: int
    encoded_bytes: int
    oldest_monotonic_s: float
    """When the first of them was queued; meaningless when `count` is 0."""
    urgent: bool
    """One of them is urgent."""


def wait_s(policy: SealPolicy, queue: Queue, now_monotonic_s: float) -> float | None:
    """How long to wait before sealing, seconds: 0 is now, None is until something is queued."""
    if queue.count == 0:
        return None
    if queue.urgent or queue.count >= policy.linger_leaves or queue.encoded_bytes >= MOST_QUEUED_BYTES:
        return 0.0
    waited_s = now_monotonic_s - queue.oldest_monotonic_s
    return min(max(policy.linger_s - waited_s, 0.0), policy.linger_s)


def fitting(sizes: Iterable[int]) -> int:
    """How many of the queued statements, by encoded size in order, go into the next batch.

    At least one when there is any: a statement is at most 64 KiB (`statements.MAX_STATEMENT_BYTES`).
    """
    count = total = 0
    for size in sizes:
        total += size
        if count == MOST_QUEUED_LEAVES or total > MOST_QUEUED_BYTES:
            break
        count += 1
    return count
