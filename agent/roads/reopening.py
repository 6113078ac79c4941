"""Windows of a chain that was left: closed in the life that was left, and never seen by the platform.

The new life closes their time anew, on top of what both sides signed last, so that nothing is settled twice or lost.
Where a state over them is under way, it is for the platform to judge: then it gets these windows again, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.evidence import statements
from agent.evidence.kinds import Kind
from agent.evidence.statements import SettlementWindow
from agent.ledger.window import Progress, decode_progress, standing_behind
from agent.measure.reading import Reading
from agent.roads.desk import Desk
from agent.roads.restored import has_left_a_chain
from agent.roads.window_notes import BEFORE_NOTE, CLOSED_NOTE, PROGRESS_NOTE, WAITING_NOTE
from agent.store import Store

DONE_NOTE: Final = "windows-reopened/"
LOOK_BACK: Final = 1000
"""Readings before a window from which its registers are reckoned, where that was not kept."""


async def reopen_windows(store: Store, desk: Desk, device_id: str, *, under_way: bool) -> None:
    """Once in a life that left a chain. `under_way`: a state of the channel is signed, or intended.

    Raises StoreError.
    """
    life = str(store.incarnation).encode()
    if not await has_left_a_chain(store) or await store.note(DONE_NOTE + device_id) == life:
        return
    kept = await store.notes(f"{WAITING_NOTE}{device_id}/")
    decoded = [statements.decode(each) for each in kept.values()]
    windows = sorted((w for w in decoded if isinstance(w, SettlementWindow)), key=lambda w: w.window_start_us)
    note = await store.note(PROGRESS_NOTE + device_id)
    notes: dict[str, bytes | None] = {DONE_NOTE + device_id: life}
    if windows and note is not None and not under_way:
        began = await store.notes(f"{BEFORE_NOTE}{device_id}/")
        progress = before(windows, decode_progress(note))
        known = [
            each for each in map(decode_progress, began.values()) if each.closed_until_us == progress.closed_until_us
        ]
        if known:
            progress = known[0]
        else:
            # Closed by a version that did not keep it.
            after = max(0, progress.last_sequence - LOOK_BACK)
            leaves = await store.statements_after(device_id, Kind.READING, after, LOOK_BACK)
            readings = [each for each in map(statements.decode, leaves) if isinstance(each, Reading)]
            standing = standing_behind([each for each in readings if each.sequence <= progress.last_sequence])
            progress = replace(progress, standing=standing)
        closed = int(await store.note(CLOSED_NOTE) or b"0") - len(windows)
        notes |= dict.fromkeys((*kept, *began))
        notes |= {PROGRESS_NOTE + device_id: progress.encode(), CLOSED_NOTE: str(max(0, closed)).encode()}
        windows = []
    await desk.put(windows, notes)


def before(windows: Sequence[SettlementWindow], progress: Progress) -> Progress:
    """Where windows stood before the first of these was closed, but for the registers."""
    firsts = [window.first_sequence for window in windows if window.first_sequence is not None]
    last = firsts[0] - 1 if firsts else progress.last_sequence
    return Progress(windows[0].window_start_us, last)
