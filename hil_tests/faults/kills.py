"""kill -9 at any moment, at every commit point and within writes; power cuts, which lose what was not synced."""

from __future__ import annotations

import asyncio
import random

from hil_tests.faults import power
from hil_tests.faults.disk import Disk
from hil_tests.faults.world import World
from hil_tests.rig.token import SoftHsm

LATEST_S = 1.5
"""After a start: sometimes the agent only opens its store, sometimes everything flows."""
FIRST_START_SYNCS = 12
"""Of them the first nine make the store; then the gateway's first statements are put, sealed and acknowledged."""
START_SYNCS = 12
"""A start finds its store made: the road runs from the first sync on."""
END_SYNCS = 5
MOST_AHEAD = 30
SLOW_SYNC_US = 60_000
MOST_WRITES_AHEAD = 120


async def at_random(world: World, chance: random.Random) -> str:
    """kill -9 at a moment of no meaning."""
    after_s = chance.uniform(0.0, LATEST_S)
    await asyncio.sleep(after_s)
    await world.kill_gateway()
    await world.start_gateway()
    return f"after {after_s:.3f} s"


async def at_commit_of_a_start(world: World, chance: random.Random) -> str:
    """kill -9 at a sync of a start: at the first one, before it and after it, then at the second, and so on."""
    number, after = world.sweep.next("start", START_SYNCS)
    await world.kill_gateway()
    await world.start_gateway(lambda disk: disk.kill_at_sync(number, after=after))
    await _dies_and_starts(world)
    return f"{'after' if after else 'before'} sync {number} of a start"


async def at_commit_of_a_first_start(world: World, chance: random.Random) -> str:
    """The same with the first start of all, which makes the store."""
    number, after = world.sweep.next("first start", FIRST_START_SYNCS)
    await world.begin_anew(lambda disk: disk.kill_at_sync(number, after=after))
    await _dies_and_starts(world)
    return f"{'after' if after else 'before'} sync {number} of a first start"


async def at_login(world: World, chance: random.Random) -> str:
    """kill -9 in the login of a start, where SoftHSM has emptied the token's file and not written it yet.

    A TPM's module writes nothing at a login: there the start is killed at some sync.
    """
    await world.kill_gateway()
    if not isinstance(world.tokens.token, SoftHsm):
        number = chance.randint(1, START_SYNCS)
        await world.start_gateway(lambda disk: disk.kill_at_sync(number, after=True))
        await _dies_and_starts(world)
        return f"no SoftHSM; after sync {number} of a start"
    await world.start_gateway(lambda disk: disk.kill_at_cut(1))
    died = await world.gateway_dies()
    await world.start_gateway()
    return f"the token's file was {'empty' if died else 'whole'}"


async def while_ending(world: World, chance: random.Random) -> str:
    """SIGTERM, and kill -9 at one of the syncs of an end in order: the last readings are sealed and sent then."""
    number = world.disk["syncs"] + chance.randint(1, END_SYNCS)
    world.disk.kill_at_sync(number, after=chance.random() < 0.5)
    code = await world.end_gateway()
    await world.start_gateway()
    return f"at sync {number}, exit code {code}"


async def at_commit_while_running(world: World, chance: random.Random) -> str:
    """kill -9 before or after one of the next syncs; on a slow medium much may happen meanwhile, and must not."""
    slow = chance.random() < 0.5
    world.disk["sync_us"] = SLOW_SYNC_US if slow else 0
    number, after = world.disk["syncs"] + chance.randint(1, MOST_AHEAD), chance.random() < 0.5
    world.disk.kill_at_sync(number, after=after)
    await _dies_and_starts(world)
    return f"{'after' if after else 'before'} sync {number}{' of a slow medium' if slow else ''}"


async def in_a_write(world: World, chance: random.Random) -> str:
    """kill -9 within one of the next writes, with a part of it written."""
    number, permille = world.disk["writes"] + chance.randint(1, MOST_WRITES_AHEAD), chance.randint(0, 999)
    world.disk.kill_at_write(number, permille)
    await _dies_and_starts(world)
    return f"in write {number}, {permille} permille of it done"


async def power_cut(world: World, chance: random.Random) -> str:
    """The power goes in a write or at a sync: what was not synced is lost, cut off at some sector, or torn."""
    loss = chance.choice(list(power.Loss))
    where = _arm_power_cut(world.disk, chance)
    await world.gateway_dies()
    record = world.disk.record_file.read_bytes() if world.disk.record_file.exists() else b""
    changed = power.cut(world.state_dir, record, loss, chance)
    await world.start_gateway()
    return f"{where}; {loss.value}; bytes changed: {changed or 'none'}"


def _arm_power_cut(disk: Disk, chance: random.Random) -> str:
    if chance.random() < 0.3:
        number = disk["syncs"] + chance.randint(1, MOST_AHEAD)
        disk.kill_at_sync(number, after=False)
        return f"before sync {number}"
    number, permille = disk["writes"] + chance.randint(1, MOST_WRITES_AHEAD), chance.randint(0, 999)
    disk.kill_at_write(number, permille)
    return f"in write {number}"


async def _dies_and_starts(world: World) -> None:
    """A start that does not come to its point goes on, and is killed then."""
    await world.gateway_dies()
    await world.start_gateway()
