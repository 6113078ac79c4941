"""Faults of a settlement channel: kills at each stage of a state, a platform that is ahead, messages again."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from typing import Final

from agent.store import Stage
from agent.store.files import DATABASE
from hil_tests.faults.judge import Rule, Violation
from hil_tests.faults.world import LOOK_EVERY_S, World

NEXT_WINDOW_S: Final = 30.0
"""Windows of 5 s, their settling, and a start before."""
FROZEN_S: Final = 45.0


async def killed_at_a_stage(world: World, chance: random.Random) -> str:
    """kill -9 right after the intent, our signature or the countersignature is committed: before the next step."""
    stage = chance.choice([*Stage])
    await world.settles()
    since = len(world.gateway.said)
    await world.gateway.order(do="die", stage=int(stage))
    await world.gateway.hear("done", since)
    died = await world.gateway_dies(NEXT_WINDOW_S)
    await world.start_gateway()
    await world.settles()
    return f"after {stage.name}{'' if died else ', which did not come'}"


async def messages_replayed(world: World, chance: random.Random) -> str:
    """Everything that the platform has said about the channel comes again, shuffled: old nonces, old countersignatures.

    Sometimes to a gateway that has just started, and waits for the answer to a nonce of its own.
    """
    restarted = chance.random() < 0.5
    await world.settles()
    if restarted:
        await world.kill_gateway()
        await world.start_gateway()
        await world.gets_on()
    since = len(world.platform.said)
    await world.platform.order(do="replay")
    replayed = int(str((await world.platform.hear("replayed", since))["replayed"]))
    await world.settles()
    return f"{replayed} messages{', after a restart' if restarted else ''}"


async def platform_ahead(world: World, chance: random.Random) -> str:
    """The gateway has lost its newest state, which the platform holds: it must sign nothing, and say so.

    The channel stays frozen until people have looked; the next fault begins with another gateway.
    """
    await world.settles()
    await world.kill_gateway()
    lost = await asyncio.to_thread(_lose_newest, world)
    world.told.channel = [each for each in world.told.channel if each.version < lost]
    await world.start_gateway()
    deadline_s = time.monotonic() + FROZEN_S
    while not await world.channels_frozen():
        if time.monotonic() > deadline_s:
            world.found.append(Violation(Rule.CHANNEL_FORK, f"behind the platform by state {lost}, and not frozen"))
            break
        await asyncio.sleep(LOOK_EVERY_S * 5)
    world.found += await world.judged()
    await world.begin_anew(lambda _: None)
    await world.settles()
    return f"by state {lost}"


def _lose_newest(world: World) -> int:
    """Takes the newest version out of a store that forbids it; the version."""
    connection = sqlite3.connect(world.state_dir / DATABASE, isolation_level=None)
    try:
        (trigger,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'channel_state_is_never_deleted'"
        ).fetchone()
        (newest,) = connection.execute("SELECT max(version) FROM channel_state WHERE stage = 2").fetchone()
        connection.execute("DROP TRIGGER channel_state_is_never_deleted")
        connection.execute("DELETE FROM channel_state WHERE version >= ?", (newest,))
        connection.execute(trigger)
    finally:
        connection.close()
    return int(newest)
