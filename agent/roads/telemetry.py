"""Live telemetry of a sealed batch: each of its readings in the platform's published form, with its receipt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent.evidence import batch as batches
from agent.evidence import statements
from agent.evidence.batch import SealedBatch
from agent.evidence.statements import Kind
from agent.measure.reading import Reading
from agent.uplink.telemetry import telemetry_of
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

MOST_LIVE: Final = 256
"""Of one batch, the newest: live telemetry shows the present, the batch itself carries everything."""


def live_telemetry(batch: SealedBatch) -> Iterator[tuple[str, DeviceTelemetry]]:
    """(device id, telemetry) of the newest readings of a batch, in their order."""
    found: list[tuple[int, Reading]] = []
    for index, leaf in enumerate(batch.leaves):
        if not index:
            continue
        statement = statements.decode(leaf)
        if statements.kind_of(statement) is Kind.READING:
            assert isinstance(statement, Reading)
            found.append((index, statement))
    newest = found[-MOST_LIVE:]
    receipts = batches.receipts(batch, [index for index, _ in newest])
    for (index, reading), receipt in zip(newest, receipts, strict=True):
        yield reading.device_id, telemetry_of(reading, batch.leaves[index], receipt)
