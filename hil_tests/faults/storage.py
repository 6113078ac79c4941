"""The disk fails under a running agent: full, or with EIO in writes, syncs and reads; for a moment or for seconds."""

from __future__ import annotations

import asyncio
import errno
import random
import time

from agent.store.files import DATABASE
from hil_tests.faults.disk import Calls
from hil_tests.faults.world import World

LONGEST_S = 2.5
MOST_CALLS = 6
MOST_SKIPPED = 60
"""Writes; syncs and reads are fewer."""
FIRST_S = 3.0
"""So long the first failure is waited for: what the agent has in its caches it does not read."""
START_S = 20.0
"""Until a starting agent has come to its store."""
LOOK_EVERY_S = 0.01


async def full(world: World, chance: random.Random) -> str:
    """SQLITE_FULL: every write is refused for a time, then there is room again."""
    return await _fails(world, chance, errno.ENOSPC, Calls.WRITE)


async def failing_writes(world: World, chance: random.Random) -> str:
    """EIO from writes."""
    return await _fails(world, chance, errno.EIO, Calls.WRITE)


async def failing_syncs(world: World, chance: random.Random) -> str:
    """EIO from syncs: whether the pages reached the medium, nobody knows."""
    return await _fails(world, chance, errno.EIO, Calls.SYNC)


async def failing_reads(world: World, chance: random.Random) -> str:
    """EIO from reads."""
    return await _fails(world, chance, errno.EIO, Calls.READ)


async def killed_while_failing(world: World, chance: random.Random) -> str:
    """EIO or a full disk, and kill -9 while it lasts; the next start finds a healthy disk."""
    code = chance.choice([errno.EIO, errno.ENOSPC])
    calls = chance.choice([Calls.WRITE, Calls.SYNC, Calls.WRITE | Calls.SYNC])
    world.disk.fail(code, calls, skip=chance.randint(0, MOST_SKIPPED))
    await _first_failure(world)
    after_s = chance.uniform(0.0, LONGEST_S)
    await asyncio.sleep(after_s)
    failed = world.disk["failed"]
    await world.kill_gateway()
    await world.start_gateway()
    return f"{errno.errorcode[code]} on {calls.name}, {failed} calls failed, killed after {after_s:.3f} s"


async def full_at_start(world: World, chance: random.Random) -> str:
    """Started while every write is refused: it reads what it has, waits, and goes on when there is room."""
    ended, killed, lasts_s = chance.random() < 0.4, chance.random() < 0.3, chance.uniform(0.0, LONGEST_S)
    await (world.end_gateway() if ended else world.kill_gateway())
    for again in range(2 if killed else 1):
        if again:
            await world.kill_gateway()
        # Gone after an end in order, and with a power cut: SQLite must make it anew, and has no room.
        (world.state_dir / f"{DATABASE}-shm").unlink(missing_ok=True)
        await world.start_gateway(lambda disk: disk.fail(errno.ENOSPC, Calls.WRITE | Calls.SHARE))
        await _first_failure(world, START_S)
        await asyncio.sleep(lasts_s)
    failed = world.disk["failed"]
    world.disk.heal()
    how = f"{'ended' if ended else 'killed'} before{', and killed and started again meanwhile' if killed else ''}"
    return f"for {lasts_s:.3f} s, {failed} calls failed; {how}"


async def _fails(world: World, chance: random.Random, code: int, calls: Calls) -> str:
    skip = chance.randint(0, MOST_SKIPPED if calls is Calls.WRITE else MOST_SKIPPED // 10)
    if chance.random() < 0.5:
        count, lasts_s = chance.randint(1, MOST_CALLS), 0.5
    else:
        count, lasts_s = -1, chance.uniform(0.0, LONGEST_S)
    world.disk.fail(code, calls, count=count, skip=skip)
    await _first_failure(world)
    await asyncio.sleep(lasts_s)
    failed = world.disk["failed"]
    world.disk.heal()
    return f"{errno.errorcode[code]} on {calls.name}, {failed} calls failed in {lasts_s:.3f} s"


async def _first_failure(world: World, within_s: float = FIRST_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not world.disk["failed"] and time.monotonic() < deadline_s:  # noqa: ASYNC110 (another process counts)
        await asyncio.sleep(LOOK_EVERY_S)
