"""An old backup takes the place of the store: what came since is given up, and none of its numbers comes again."""

from __future__ import annotations

import asyncio
import random
import shutil
from typing import Final

from agent.store import backup
from agent.store.files import DATABASE
from hil_tests.faults.judge import Rule, Violation, place_of
from hil_tests.faults.world import World

START_SYNCS: Final = 8
LATER_S: Final = 1.5


async def backup_put_back(world: World, chance: random.Random) -> str:
    """By `restore`, or by a person who copies the file; sometimes killed at a sync of the start that finds it."""
    by_hand, killed, later_s = chance.random() < 0.3, chance.random() < 0.5, chance.uniform(0.1, LATER_S)
    copy, key = world.folder / "backup.db", world.tokens.store_key
    copy.unlink(missing_ok=True)
    world.found += [wrong] if (wrong := await world.gets_on()) is not None else []
    await asyncio.to_thread(backup.back_up, world.state_dir, copy, lambda done, total: None, key=key)
    await asyncio.sleep(later_s)
    await world.kill_gateway()
    before = max((place[0] for place, _ in world.told.sealed), default=0)
    if by_hand:
        await asyncio.to_thread(_copy_by_hand, world)
    else:
        await asyncio.to_thread(backup.put_back, world.state_dir, copy, lambda done, total: None, key=key)
    lost = await _give_up(world)
    if killed:
        number, after = chance.randint(1, START_SYNCS), chance.random() < 0.5
        await world.start_gateway(lambda disk: disk.kill_at_sync(number, after=after))
        await world.gateway_dies(LATER_S)
    await world.start_gateway()
    world.found += [wrong] if (wrong := await world.gets_on()) is not None else []
    if (now := max(place[0] for place, _ in world.told.sealed)) <= before:
        world.found.append(Violation(Rule.UNRESTORED, f"incarnation {now} after incarnation {before}"))
    return f"{'by hand' if by_hand else 'by restore'}, {lost} statements given up{', killed' if killed else ''}"


async def _give_up(world: World) -> int:
    """What was promised and is not in the backup: whoever puts it back gives that up. How many statements."""
    held = await world.held()
    batches = [world.judge.verified(each) for each in held.batches]
    there = {each.encoded for batch in batches for each in batch.statements} | {*held.queued}
    places = {place_of(batch) for batch in batches}
    told = world.told
    gone = {each for each in told.puts if each not in there}
    told.given_up |= gone
    sealed = {place for place, _ in told.sealed} | {(incarnation, number) for incarnation, number, _ in told.shown}
    told.places_given_up |= (sealed | world.places_at_platform()) - places
    return len(gone)


def _copy_by_hand(world: World) -> None:
    for suffix in ("-wal", "-shm"):
        (world.state_dir / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(world.folder / "backup.db", world.state_dir / DATABASE)
