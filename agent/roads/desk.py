"""The desk: the only way of a statement into the store. What it has taken survives a power cut and will be sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from agent.evidence import statements
from agent.evidence.seal import Queue
from agent.evidence.statements import (
    Alarm,
    CommandReceipt,
    Sealing,
    SettlementWindow,
    SignedMeterValue,
    Statement,
    Thinning,
)
from agent.measure.reading import Reading
from agent.store import ChannelRow, Queued, Store

Notes = Mapping[str, bytes | None]


class Desk:
    """Takes statements, and tells the sealer that they are there."""

    def __init__(self, store: Store, monotonic_s: Callable[[], float]) -> None:
        self._store = store
        self._monotonic_s = monotonic_s
        self._oldest_monotonic_s = monotonic_s()
        self.arrived = asyncio.Event()
        """Something was queued. Set at the start: what an earlier run left is sealed first."""
        self.arrived.set()

    async def put(
        self, taken: Sequence[Statement], notes: Notes | None = None, channel: Sequence[ChannelRow] = ()
    ) -> None:
        """Commit statements, notes (None deletes) and channel rows in one transaction.

        Raises StoreError; then nothing of it was taken.
        """
        await self._store.put([row_of(statement) for statement in taken], notes, channel)
        if taken:
            self.arrived.set()

    async def queue(self) -> Queue:
        """What waits to be sealed, for the policy."""
        counts = await self._store.counts()
        return Queue(
            count=counts.queued,
            encoded_bytes=counts.queued_bytes,
            oldest_monotonic_s=self._oldest_monotonic_s,
            urgent=counts.queued_urgent > 0,
        )

    def begin_wait(self) -> None:
        """The sealer starts to wait for company for what is queued now: the linger runs from here."""
        self._oldest_monotonic_s = self._monotonic_s()


def row_of(statement: Statement) -> Queued:
    """The row of one statement: its leaf bytes, and what it is found by."""
    device_id: str | None = None
    sequence: int | None = None
    match statement:
        case Reading():
            device_id, sequence, timestamp_us = statement.device_id, statement.sequence, statement.timestamp_us
        case SettlementWindow():
            device_id, timestamp_us = statement.device_id, statement.window_start_us
        case SignedMeterValue():
            device_id, timestamp_us = statement.device_id, statement.timestamp_us
        case Thinning():
            device_id, timestamp_us = statement.device_id, statement.slots[0].first_us
        case Sealing():
            raise ValueError("a sealing is made with its batch and is never queued")
        case _:
            timestamp_us = statement.timestamp_us
    return Queued(
        kind=statements.kind_of(statement),
        device_id=device_id,
        sequence=sequence,
        timestamp_us=timestamp_us,
        encoded=statements.encode(statement),
        # Thinning makes room: it must find some, and nothing goes before it is sealed.
        urgent=isinstance(statement, CommandReceipt | Alarm | Thinning),
    )
