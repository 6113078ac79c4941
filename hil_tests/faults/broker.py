"""What befalls the broker between gateway and platform, where MQTT is the carrier."""

from __future__ import annotations

import asyncio
import random

from hil_tests.faults.outside import STALLS_S
from hil_tests.faults.world import World
from hil_tests.rig.broker import Broker

LONGEST_S = 2.5


async def killed(world: World, chance: random.Random) -> str:
    """The broker is killed, or ends in order, and comes back with what it has kept of its sessions."""
    kill, down_s = chance.random() < 0.7, chance.uniform(0.0, LONGEST_S)
    broker = _of(world)
    await broker.stop(kill=kill)
    await asyncio.sleep(down_s)
    await broker.start()
    return f"{'killed' if kill else 'ended'}, down for {down_s:.3f} s"


async def frozen(world: World, chance: random.Random) -> str:
    """The broker's process stands still while its kernel takes what is sent: for a moment, or until it is given up."""
    frozen_s = chance.choice([chance.uniform(0.1, 1.0), STALLS_S])
    broker = _of(world)
    broker.freeze(True)
    try:
        await asyncio.sleep(frozen_s)
    finally:
        broker.freeze(False)
    return f"for {frozen_s:.3f} s"


async def session_lost(world: World, chance: random.Random) -> str:
    """The broker comes back without any session: subscriptions, and all that it had taken and not delivered, are gone.

    Sometimes the gateway is killed meanwhile, and finds no session that it has left.
    """
    killed_too = chance.random() < 0.3
    broker = _of(world)
    await broker.stop(kill=True)
    if killed_too:
        await world.kill_gateway()
    broker.forget()
    await broker.start()
    if killed_too:
        await world.start_gateway()
    return f"lost{', gateway killed meanwhile' if killed_too else ''}"


def _of(world: World) -> Broker:
    assert world.broker is not None, "a fault of the broker in a world without one"
    return world.broker
