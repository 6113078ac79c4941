"""Two faults at once: the link or the platform fails while the agent is killed or its disk fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from hil_tests.faults import kills, outside, storage
from hil_tests.faults.world import World

_AFAR: Final[tuple[Callable[[World, random.Random], Awaitable[str]], ...]] = (
    outside.link_cut,
    outside.half_open,
    outside.frozen_platform,
    outside.platform_killed,
    outside.platform_loses_its_last_second,
)
_AT_HOME: Final[tuple[Callable[[World, random.Random], Awaitable[str]], ...]] = (
    kills.at_random,
    kills.at_commit_while_running,
    kills.in_a_write,
    kills.power_cut,
    kills.while_ending,
    storage.full,
    storage.failing_writes,
    storage.failing_syncs,
    storage.killed_while_failing,
)


async def two_at_once(world: World, chance: random.Random) -> str:
    """One afar and one at home, begun together."""
    afar, at_home = chance.choice(_AFAR), chance.choice(_AT_HOME)
    # Each draws from a stream of its own: which of them runs first must not matter.
    streams = [random.Random(chance.getrandbits(32)) for _ in range(2)]
    details = await asyncio.gather(afar(world, streams[0]), at_home(world, streams[1]))
    return f"{afar.__name__} ({details[0]}) and {at_home.__name__} ({details[1]})"
