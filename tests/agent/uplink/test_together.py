"""Tasks that live and end together."""

from __future__ import annotations

import asyncio

import pytest

from agent.uplink.errors import LinkDownError
from agent.uplink.together import Together, together


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("cancelled")


async def fail(when: asyncio.Event) -> None:
    await when.wait()
    raise RuntimeError("the fault")


async def test_first_fault_ends_the_others_and_is_raised() -> None:
    ended: list[str] = []
    go = asyncio.Event()
    go.set()
    with pytest.raises(RuntimeError, match="the fault"):
        await together(forever(ended), forever(ended), fail(go))
    assert ended == ["cancelled", "cancelled"]


async def test_returns_when_all_have_returned() -> None:
    await together(asyncio.sleep(0), asyncio.sleep(0))


async def test_cancellation_wins_over_a_fault_at_the_same_moment() -> None:
    go = asyncio.Event()
    outer = asyncio.create_task(together(forever([]), fail(go)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    outer.cancel()
    await asyncio.wait([outer])
    assert outer.cancelled()


async def test_task_started_while_it_runs_is_watched_too() -> None:
    tasks = Together()
    go = asyncio.Event()
    go.set()

    async def parent() -> None:
        tasks.start(fail(go))
        await asyncio.Event().wait()

    tasks.start(parent())
    with pytest.raises(RuntimeError, match="the fault"):
        await tasks.run()


async def test_task_that_was_cancelled_from_elsewhere_ends_the_connection() -> None:
    tasks = Together()
    tasks.start(forever([])).cancel()
    with pytest.raises(LinkDownError):
        await tasks.run()
