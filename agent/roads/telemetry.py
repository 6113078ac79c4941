"""Live telemetry of a sealed batch: each of its readings in the platform's published form, with its receipt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent.evidence import batch as batches
from agent.evidence import statements
from agent.evidence.batch import SealedBatch
from agent.measure.reading import Reading
from agent.uplink.telemetry import telemetry_of
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

MOST_LIVE: Final = 256
"""Of one batch, the newest: live telemetry shows the present, the batch itself carries everything."""


def live_telemetry(batch: SealedBatch) -> Iterator[tuple[str, DeviceTelemetry]]:
    """(device id, telemetry) of the newest readings of a batch, in their order."""
    newest: list[tuple[int, Reading]] = []
    # From the end: of a large batch most leaves are never read here.
    for index in range(len(batch.leaves) - 1, 0, -1):
        statement = statements.decode(batch.leaves[index])
        if isinstance(statement, Reading):
            newest.append((index, statement))
            if len(newest) == MOST_LIVE:
                break
    newest.reverse()
    receipts = batches.receipts(batch, [index for index, _ in newest])
    for (index, reading), receipt in zip(newest, receipts, strict=True):
        yield reading.device_id, telemetry_of(reading, batch.leaves[index], receipt)
