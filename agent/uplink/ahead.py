"""Command receipts and critical alarms of the outbox on their way past the backlog: sealed, committed, proven alone.

Nothing leaves the outbox by this: the batch of each comes in its turn, and is what the platform acknowledges. So each
connection begins anew with what is not acknowledged, as nobody knows what of it arrived on the one before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Alarm, CommandReceipt, Kind, Severity
from agent.evidence.partial import decode_any, numbered_leaves, receipts
from agent.evidence.statements import decode
from agent.uplink.outbox import Outbox, WaitingBatch

KINDS: Final = (Kind.COMMAND_RECEIPT, Kind.ALARM)
MOST_BATCHES: Final = 2048
"""On one connection: a link that fails every minute must not carry the same receipts only. The rest comes in turn."""


@dataclass(frozen=True, slots=True)
class Found:
    """A statement, its receipt, and where it stands."""

    incarnation: int
    number: int
    """Of its batch."""
    index: int
    statement: bytes
    receipt: bytes


class Ahead:
    """Of one gateway. `begin` with each connection; `next` until it gives nothing."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._unread: list[int] = []
        self._looked: dict[int, int] = {}
        self._batches_left = 0
        self._found: deque[tuple[int, int]] = deque()

    def begin(self, incarnations: Sequence[int], *, after: Mapping[int, int] | None = None) -> None:
        """A connection is up. `incarnations`: those with batches that wait, the present one last; `after`: of which
        what is up to a number has gone ahead or in its turn, and is not acknowledged for another reason."""
        self._looked = dict.fromkeys(incarnations, 0) | dict(after or {})
        self._unread = list(incarnations)
        self._batches_left = MOST_BATCHES
        self._found.clear()

    def sealed(self, incarnation: int) -> None:
        """A batch was sealed and committed."""
        if incarnation in self._looked and incarnation not in self._unread:
            self._unread.append(incarnation)

    async def next(self, turn: tuple[int, int] | None) -> Sequence[Found]:
        """What goes ahead out of one batch, in order; empty: there is nothing (more) now.

        `turn`: (incarnation, number) of the batch that is sent now anyway: if it is all there is, nothing goes ahead.
        """
        while self._batches_left:
            await self._look()
            if not self._found:
                break
            incarnation, number = self._found.popleft()
            if (incarnation, number) == turn and not self._found:
                continue
            for batch in await self._outbox.batches(number, 1, incarnation=incarnation):
                if batch.number == number and (urgent := urgent_of(batch)):
                    self._batches_left -= 1
                    return urgent
        return ()

    async def _look(self) -> None:
        while not self._found and self._unread:
            incarnation = self._unread.pop(0)
            numbers = await self._outbox.unacknowledged_with(KINDS, self._looked[incarnation], incarnation=incarnation)
            if numbers:
                self._looked[incarnation] = numbers[-1]
                self._found.extend((incarnation, number) for number in numbers)


def urgent_of(batch: WaitingBatch) -> Sequence[Found]:
    """Receipts of commands and critical alarms in a batch, in order. Of one that is damaged none: the link goes on."""
    try:
        whole = decode_any(batch.encoded)
        found = [(index, leaf) for index, leaf in numbered_leaves(whole) if _is_urgent(leaf)]
        proofs = receipts(whole, [index for index, _ in found])
    except EvidenceError:
        return ()
    return [
        Found(batch.incarnation, batch.number, index, leaf, proof)
        for (index, leaf), proof in zip(found, proofs, strict=True)
    ]


def _is_urgent(leaf: bytes) -> bool:
    try:
        statement = decode(leaf)
    except EvidenceError:
        # A kind that a later version of this gateway wrote, before it was set back.
        return False
    return isinstance(statement, CommandReceipt) or (
        isinstance(statement, Alarm) and statement.severity is Severity.CRITICAL
    )
