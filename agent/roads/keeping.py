"""What outlives its batch: values that meters signed, the windows, and the readings at their boundaries.

A batch is deleted some days after its acknowledgement. For years after, a quarrel about energy is settled by registers
at the boundaries of windows and by what the meter signed itself; each stays with its proof, in the batch with gaps.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.evidence.partial import cut, decode_any
from agent.evidence.statements import Kind, SettlementWindow
from agent.store import Kept, Reader

KEPT_DAYS: Final = 3 * 366
LONGEST_WINDOW_US: Final = 3_600_000_000
_WHOLE_KINDS: Final = frozenset({Kind.SETTLEMENT_WINDOW, Kind.SIGNED_METER_VALUE})


async def worth_keeping(store: Reader, first_place: int, last_place: int) -> Sequence[Kept]:
    """What to keep of the batches between two places. Raises StoreError."""
    held = await store.spans_between(first_place, last_place)
    boundaries = await boundary_sequences(store, first_place, last_place)
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for span in held:
        of_device = boundaries.get(span.device_id or "", ())
        wanted[span.place].update(
            leaf.index
            for leaf in span.leaves
            if span.kind in _WHOLE_KINDS or (span.kind == Kind.READING and leaf.sequence in of_device)
        )
    kept = []
    for place, indexes in wanted.items():
        body = await store.body_at(place) if indexes else None
        if body is not None:
            try:
                encoded = await asyncio.to_thread(_cut, body, indexes | {0})
            except EvidenceError:
                # Of a later version of this gateway, before it was set back: kept as it is.
                encoded = body
            kept.append(Kept(place, encoded))
    return kept


async def boundary_sequences(store: Reader, first_place: int, last_place: int) -> dict[str, set[int]]:
    """By device, the sequences of readings in batches between two places that end a settlement window."""
    newest = await store.latest_us(first_place, last_place)
    # The statement of a window is sealed after its last reading, and a window after it at the latest.
    after = max(last_place, await store.last_place_before(newest + 2 * LONGEST_WINDOW_US))
    found: dict[str, set[int]] = {}
    for _, leaf in await store.of_kind_between(Kind.SETTLEMENT_WINDOW, first_place, after):
        window = statements.decode(leaf)
        if isinstance(window, SettlementWindow) and window.last_sequence is not None:
            found.setdefault(window.device_id, set()).add(window.last_sequence)
    return found


def _cut(encoded: bytes, keep: Collection[int]) -> bytes:
    return cut(decode_any(encoded), keep).encode()
