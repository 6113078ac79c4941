"""Turns on a line: in order, orders first, bounded, and none is ever lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.errors import NoAnswerError
from drivers.sunspec.turns import MOST_WAITING, Turns, is_urgent, urgently


async def settled() -> None:
    """Every task has gone as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_orders_overtake_polls_and_each_kind_keeps_its_order() -> None:
    turns = Turns("line")
    done: list[str] = []

    async def one(name: str, urgent: bool) -> None:
        await turns.take(urgent=urgent)
        done.append(name)
        turns.give_back()

    await turns.take(urgent=False)
    async with asyncio.TaskGroup() as tasks:
        for name, urgent in (("poll-1", False), ("poll-2", False), ("order-1", True), ("order-2", True)):
            tasks.create_task(one(name, urgent))
        await settled()
        turns.give_back()
    assert done == ["order-1", "order-2", "poll-1", "poll-2"]


async def test_too_many_waiting_polls_fail_at_once_and_orders_still_get_in() -> None:
    turns = Turns("line")
    await turns.take(urgent=False)
    waiting = [asyncio.create_task(turns.take(urgent=False)) for _ in range(MOST_WAITING)]
    await settled()
    with pytest.raises(NoAnswerError, match="line: 256 requests wait"):
        await turns.take(urgent=False)
    order = asyncio.create_task(turns.take(urgent=True))
    await settled()
    turns.give_back()
    await order
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12))
def test_cancelling_whoever_waits_loses_no_turn(asking: list[tuple[bool, bool, bool]]) -> None:
    async def run() -> None:
        turns = Turns("line")
        await turns.take(urgent=False)
        inside = 0

        async def one(urgent: bool) -> None:
            nonlocal inside
            await turns.take(urgent=urgent)
            inside += 1
            assert inside == 1
            try:
                await asyncio.sleep(0)
            finally:
                inside -= 1
                turns.give_back()

        tasks = [asyncio.create_task(one(urgent)) for urgent, _, _ in asking]
        await settled()
        for task, (_, early, _) in zip(tasks, asking, strict=True):
            if early:
                task.cancel()
        turns.give_back()
        for task, (_, _, late) in zip(tasks, asking, strict=True):
            if late:
                task.cancel()  # perhaps with the turn already in its hand
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(1):
            await turns.take(urgent=False)

    asyncio.run(run())


async def test_urgency_ends_with_its_block() -> None:
    assert not is_urgent()
    async with urgently():
        assert is_urgent()
    assert not is_urgent()
