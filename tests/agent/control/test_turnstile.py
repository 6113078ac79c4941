"""Messages and plans take turns: so many between two plans, first come first served, and nobody waits for no plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.control.turnstile import MOST_BETWEEN_PLANS, Turnstile


class Gate:
    """A turnstile with messages before it, as many streams bring them."""

    def __init__(self) -> None:
        self.hurried = 0
        self.turnstile = Turnstile(self._hurry)
        self.entered: list[int] = []
        self.waited: list[bool] = []

    def _hurry(self) -> None:
        self.hurried += 1

    async def message(self, number: int) -> None:
        self.waited.append(await self.turnstile.enter())
        self.entered.append(number)


@asynccontextmanager
async def before(gate: Gate, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    """So many messages at once."""
    tasks = [asyncio.create_task(gate.message(number)) for number in range(count)]
    await _all_have_gone_as_far_as_they_can()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all_have_gone_as_far_as_they_can() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_come_between_two_plans_and_in_their_order() -> None:
    gate, count = Gate(), 3 * MOST_BETWEEN_PLANS + 1
    gate.turnstile.open()
    async with before(gate, count):
        for plans in range(1, 5):
            assert gate.entered == list(range(min(count, plans * MOST_BETWEEN_PLANS)))
            gate.turnstile.open()
            await _all_have_gone_as_far_as_they_can()
    assert gate.waited == [False] * MOST_BETWEEN_PLANS + [True] * (count - MOST_BETWEEN_PLANS)


async def test_whoever_waits_brings_the_next_plan() -> None:
    gate = Gate()
    gate.turnstile.open()
    async with before(gate, MOST_BETWEEN_PLANS):
        assert gate.hurried == 0
    async with before(gate, 2 * MOST_BETWEEN_PLANS):
        assert gate.hurried
        gate.hurried = 0
        gate.turnstile.open()
        assert gate.hurried, "eight are still waiting"


async def test_one_that_leaves_takes_nobodys_place() -> None:
    gate = Gate()
    gate.turnstile.open()
    async with before(gate, 2 * MOST_BETWEEN_PLANS + 1) as tasks:
        tasks[MOST_BETWEEN_PLANS].cancel()
        await _all_have_gone_as_far_as_they_can()
        gate.turnstile.open()
        await _all_have_gone_as_far_as_they_can()
        assert gate.entered == [n for n in range(2 * MOST_BETWEEN_PLANS + 1) if n != MOST_BETWEEN_PLANS]


async def test_while_no_plan_is_made_nobody_waits_for_one() -> None:
    gate, count = Gate(), 2 * MOST_BETWEEN_PLANS
    async with before(gate, count):
        assert gate.entered == list(range(count)), "no plan was made yet"
    gate.turnstile.open()
    async with before(gate, count):
        assert len(gate.entered) == count + MOST_BETWEEN_PLANS
        gate.turnstile.stay_open()
        await _all_have_gone_as_far_as_they_can()
        assert len(gate.entered) == 2 * count
