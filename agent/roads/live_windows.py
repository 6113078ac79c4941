"""Which readings are under a live window root: the window is open, not settled by both sides, or may be corrected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.evidence import statements
from agent.evidence.statements import SettlementWindow
from agent.ledger.window import decode_progress
from agent.roads.window_notes import PROGRESS_NOTE, WAITING_NOTE
from agent.store import Reader


@dataclass(frozen=True, slots=True)
class Live:
    """What of a device must stay as it is."""

    from_sequence: int
    """All from here on: open windows, and those that wait for a signature."""
    from_us: int
    """All that was measured from here on: windows that may still be corrected."""

    def covers(self, sequence: int, timestamp_us: int) -> bool:
        """Whether a reading is under a live root."""
        return sequence >= self.from_sequence or timestamp_us >= self.from_us


async def live_readings(
    store: Reader, settled: Iterable[str], *, now_us: int, window_us: int, grace_us: int
) -> dict[str, Live]:
    """By settled device. One whose windows have not begun is live from its first reading. Raises StoreError."""
    found = {}
    for device_id in settled:
        note = await store.note(PROGRESS_NOTE + device_id)
        waiting = (await store.notes(f"{WAITING_NOTE}{device_id}/")).values()
        windows = [window for window in map(statements.decode, waiting) if isinstance(window, SettlementWindow)]
        firsts = [window.first_sequence for window in windows if window.first_sequence is not None]
        first = 1 if note is None else decode_progress(note).last_sequence + 1
        found[device_id] = Live(min([first, *firsts]), now_us - grace_us - window_us)
    return found
