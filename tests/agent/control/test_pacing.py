"""When the next plan is made: what came is seen to soon, what cannot wait at once, and nothing is slept through."""

from __future__ import annotations

import asyncio

from agent.control.pacing import LEAST_BETWEEN_PLANS_S, Pacing

NEVER_S = 3_600.0
LIMIT_S = 30.0
"""Reached on failure only."""


async def test_nothing_comes_and_the_interval_passes() -> None:
    async with asyncio.timeout(LIMIT_S):
        await Pacing().rest(0.01)


async def test_what_cannot_wait_ends_the_rest_at_once() -> None:
    pacing = Pacing()
    rest = asyncio.create_task(pacing.rest(NEVER_S))
    await asyncio.sleep(0)
    pacing.hurry()
    async with asyncio.timeout(LIMIT_S):
        await rest


async def test_a_meter_sample_brings_a_plan_but_not_more_often_than_is_useful() -> None:
    pacing = Pacing()
    pacing.soon()
    begun_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(LIMIT_S):
        await pacing.rest(NEVER_S)
    assert asyncio.get_running_loop().time() - begun_s >= LEAST_BETWEEN_PLANS_S * 0.95


async def test_what_came_while_a_plan_was_made_brings_the_next_one() -> None:
    pacing = Pacing()
    pacing.begin()
    pacing.hurry()
    async with asyncio.timeout(LIMIT_S):
        await pacing.rest(NEVER_S)


async def test_a_plan_that_has_begun_has_seen_what_came_before_it() -> None:
    pacing = Pacing()
    pacing.hurry()
    pacing.begin()
    rest = asyncio.create_task(pacing.rest(NEVER_S))
    done, _ = await asyncio.wait([rest], timeout=0.02)
    assert not done
    rest.cancel()
