"""The record of decisions is encrypted where the store is, from the start on which the store is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.control.decision_log import RECORD, recode_all
from agent.roads.problems import Problems
from agent.store import Store


async def protect_record(store: Store, state_dir: Path, problems: Problems) -> None:
    """At the start: encrypt what an earlier run left in the clear. What stays in the clear is told."""
    if store.in_the_clear:
        problems.note("store key", store.in_the_clear)
    if store.content.is_plain:
        return
    left = await asyncio.to_thread(recode_all, state_dir / RECORD, None, store.content)
    if left:
        problems.note("record", f"parts of the record of decisions are not encrypted: {'; '.join(left)[:400]}")
