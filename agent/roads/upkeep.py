"""The clock's note each minute, and the counts for the status page each second."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent.clock import Clock, ClockQuality
from agent.roads.measuring import Measuring
from agent.roads.thinning import Thinner
from agent.status import EvidenceLine
from agent.store import Store, StoreError

CLOCK_NOTE: Final = "clock"
CLOCK_NOTE_EVERY_S: Final = 60.0

log = structlog.get_logger()


class Upkeep:
    """One for the gateway."""

    def __init__(self, store: Store, *, clock: Clock, measuring: Measuring, thinner: Thinner, most_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._measuring = measuring
        self._thinner = thinner
        self._most_bytes = most_bytes
        self.counts = EvidenceLine(readings=0, queued=0, sealed=0, acknowledged=0, batches_waiting=0)

    async def run(self) -> None:
        """Until cancelled."""
        noted_s = float("-inf")
        noted_trust = False
        while True:
            now = self._clock.now()
            trusted = now.quality is not ClockQuality.UNTRUSTED
            await self.count()
            # Trust that was just won is noted at once: whoever is killed now would start again without it.
            if now.monotonic_s - noted_s >= CLOCK_NOTE_EVERY_S or trusted != noted_trust:
                await self.note_clock()
                noted_s, noted_trust = now.monotonic_s, trusted
            await asyncio.sleep(1.0)

    async def note_clock(self) -> None:
        """Keep the clock's state over a restart. What cannot be kept on a full disk costs trust, and nothing else."""
        try:
            await self._store.set_note(CLOCK_NOTE, self._clock.state())
        except StoreError as error:
            log.warning("gateway.clock_not_noted", reason=str(error))

    async def count(self) -> None:
        """What evidence there is now. Raises StoreError."""
        counts = await self._store.counts()
        self.counts = EvidenceLine(
            readings=self._measuring.readings,
            queued=counts.queued,
            sealed=counts.sealed_statements,
            acknowledged=counts.sealed_statements - counts.unacknowledged_statements,
            batches_waiting=counts.unacknowledged_batches,
            merged=self._thinner.merged_readings,
            store_bytes=self._thinner.used_bytes,
            store_most_bytes=self._most_bytes,
        )
