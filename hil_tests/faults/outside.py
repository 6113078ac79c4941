"""What the agent does not have in its hand: its token, its clock, the link, and the platform at the other end."""

from __future__ import annotations

import asyncio
import random
import time

from hil_tests.faults.world import LAST_SECOND_US, LOOK_EVERY_S, STALL_S, World

HOUR_S = 3600
LONGEST_S = 2.5
STALLS_S = STALL_S + 1.5
"""Longer than the agent waits for an acknowledgement."""
BATCHES_TO_LOSE_S = 10.0


async def token_loss(world: World, chance: random.Random) -> str:
    """The token is unplugged for a time. Sometimes the agent is killed meanwhile and starts without it."""
    away_s, killed = chance.uniform(0.2, LONGEST_S), chance.random() < 0.3
    world.tokens.token.take_away()
    try:
        await asyncio.sleep(away_s)
        if killed:
            await world.kill_gateway()
            await world.start_gateway()
            await asyncio.sleep(away_s)
    finally:
        world.tokens.token.put_back()
    return f"away for {away_s:.3f} s{', killed meanwhile' if killed else ''}"


async def clock_forward(world: World, chance: random.Random) -> str:
    """The system clock is set an hour ahead."""
    return await _clock(world, chance, HOUR_S)


async def clock_back(world: World, chance: random.Random) -> str:
    """The system clock is set an hour back."""
    return await _clock(world, chance, -HOUR_S)


async def _clock(world: World, chance: random.Random, by_s: int) -> str:
    """Held by NTP, which steps it, or by nobody; for good, or until it is set right again; over a restart or not."""
    held, for_good, killed = chance.random() < 0.5, chance.random() < 0.3, chance.random() < 0.3
    await world.set_clock(world.clock_offset_s + by_s, held=held)
    await asyncio.sleep(chance.uniform(0.2, 1.0))
    if killed:
        await world.kill_gateway()
        await world.start_gateway()
        await world.gets_on()
    if not for_good:
        await world.set_clock(0, held=True)
    return f"{by_s} s, {'held by NTP' if held else 'not held'}{', killed' if killed else ''}, {for_good=}"


async def link_cut(world: World, chance: random.Random) -> str:
    """Connections are reset, and new ones refused, for a time."""
    cut_s = chance.uniform(0.0, LONGEST_S)
    world.link.cut()
    await asyncio.sleep(cut_s)
    world.link.restore()
    return f"for {cut_s:.3f} s"


async def half_open(world: World, chance: random.Random) -> str:
    """Connections stay, and nothing gets through: for a moment, or until the agent gives them up."""
    frozen_s = chance.choice([chance.uniform(0.1, 1.0), STALLS_S])
    world.link.freeze()
    await asyncio.sleep(frozen_s)
    dropped = chance.random() < 0.5
    if dropped:
        world.link.cut()
    world.link.restore()
    return f"for {frozen_s:.3f} s, then {'reset' if dropped else 'all that was sent arrives'}"


async def frozen_platform(world: World, chance: random.Random) -> str:
    """The platform's process stands still while its kernel takes what is sent."""
    frozen_s = chance.choice([chance.uniform(0.1, 1.0), STALLS_S])
    world.freeze_platform(True)
    try:
        await asyncio.sleep(frozen_s)
    finally:
        world.freeze_platform(False)
    return f"for {frozen_s:.3f} s"


async def mixed_acknowledgements(world: World, chance: random.Random) -> str:
    """Acknowledgements come late, twice, and in any order."""
    return await _acknowledge(world, chance, "mixed")


async def no_acknowledgements(world: World, chance: random.Random) -> str:
    """Batches arrive, and nobody says so."""
    return await _acknowledge(world, chance, "not")


async def _acknowledge(world: World, chance: random.Random, how: str) -> str:
    lasts_s, killed = chance.uniform(0.3, STALLS_S), chance.random() < 0.3
    await world.acknowledge(how)
    await asyncio.sleep(lasts_s)
    if killed:
        await world.kill_gateway()
        await world.start_gateway()
    await world.acknowledge("at once")
    return f"for {lasts_s:.3f} s{', killed meanwhile' if killed else ''}"


async def platform_killed(world: World, chance: random.Random) -> str:
    """The platform is killed and comes back with all that it had acknowledged."""
    lost = await world.restart_platform(losing_us=0)
    return f"{lost} batches lost"


async def platform_loses_its_last_second(world: World, chance: random.Random) -> str:
    """The platform comes back without the last second of its book, which it had acknowledged."""
    # There must be something to lose: a batch that was acknowledged just now.
    sealed, deadline_s = len(world.told.sealed), time.monotonic() + BATCHES_TO_LOSE_S
    while len(world.told.sealed) < sealed + 3 and time.monotonic() < deadline_s:
        await asyncio.sleep(LOOK_EVERY_S)
        world.listen()
    lost = await world.restart_platform(losing_us=LAST_SECOND_US)
    return f"{lost} batches lost"
