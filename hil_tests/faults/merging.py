"""Faults of a gateway that has no room: killed or out of disk at each step of merging the oldest readings.

The platform takes everything and acknowledges nothing meanwhile: what is acknowledged is not merged, it is deleted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from hil_tests.faults import kills
from hil_tests.faults.judge import Rule, Violation
from hil_tests.faults.points import How, Point
from hil_tests.faults.world import LOOK_EVERY_S, World

MERGES_S: Final = 30.0
POINTS: Final = (Point.THINNING_BEGINS, Point.THINNING_SEALED, Point.LEAVES_GO)
DEATHS: Final = (How.BEFORE, How.BEFORE_SYNC, How.AFTER_SYNC, How.AFTER)
LONGEST_S: Final = 1.5


async def killed_at_a_commit(world: World, chance: random.Random) -> str:
    """kill -9 before or after what stands for readings is queued, is sealed, and their leaves go."""
    point, how = chance.choice(POINTS), chance.choice(DEATHS)
    async with _merging(world):
        await _order(world, point, how)
        died = await world.gateway_dies(MERGES_S)
        await world.start_gateway()
        await _goes_on(world)
    return f"{how} {point}{'' if died else ', which did not come'}"


async def disk_full_at_a_commit(world: World, chance: random.Random) -> str:
    """The disk is full from one of these commits on, for a time; sometimes killed meanwhile."""
    point, lasts_s, killed = chance.choice(POINTS), chance.uniform(0.1, LONGEST_S), chance.random() < 0.3
    async with _merging(world):
        since = len(world.gateway.said)
        await _order(world, point, How.FULL_DISK)
        await world.gateway.hear("full_at", since)
        await asyncio.sleep(lasts_s)
        failed = world.disk["failed"]
        if killed:
            await world.kill_gateway()
            await world.start_gateway()
        world.disk.heal()
        await _goes_on(world)
    return f"from when {point}, {failed} writes failed in {lasts_s:.3f} s{', killed meanwhile' if killed else ''}"


async def killed(world: World, chance: random.Random) -> str:
    """kill -9 at a moment of no meaning, while readings are merged."""
    async with _merging(world):
        said = await kills.at_random(world, chance)
        await _goes_on(world)
    return said


async def power_cut(world: World, chance: random.Random) -> str:
    """The power goes while readings are merged."""
    async with _merging(world):
        said = await kills.power_cut(world, chance)
        await _goes_on(world)
    return said


@asynccontextmanager
async def _merging(world: World) -> AsyncIterator[None]:
    """Nothing is acknowledged, and readings are being merged."""
    await world.acknowledge("not")
    await _goes_on(world)
    yield
    # Judged before and after the rest of it is acknowledged.
    world.found += await world.judged()
    await world.acknowledge("at once")


async def _goes_on(world: World) -> None:
    """Wait until leaves have gone; what does not come is found wrong."""
    since, deadline_s = len(world.gateway.said), time.monotonic() + MERGES_S
    while time.monotonic() < deadline_s:
        if any(words.get("cut") for words in world.gateway.said[since:]):
            return
        await asyncio.sleep(LOOK_EVERY_S)
    world.found.append(Violation(Rule.STUCK, f"no reading was merged within {MERGES_S:g} s"))


async def _order(world: World, point: Point, how: How) -> None:
    since = len(world.gateway.said)
    await world.gateway.order(do="harm", at=point.value, how=how.value)
    await world.gateway.hear("done", since)
