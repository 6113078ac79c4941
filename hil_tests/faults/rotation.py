"""Faults of a gateway that has a history: killed at each step of a rotation of its evidence key.

Owner and operator are two key files; the order is made, signed and put where `v2g-gateway identity apply` puts it.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.cli.identity_orders import Proposal, carry_out, propose, sign_order
from agent.cli.init import Initialised, make_keys
from agent.config.file import read_settings
from agent.identity.cosign import Cosigned
from agent.identity.folder import IdentityFolder
from agent.identity.history import IdentityState
from agent.identity.orders import Kind, draft
from hil_tests.faults import kills
from hil_tests.faults.judge import Rule, Violation
from hil_tests.faults.points import How, Point
from hil_tests.faults.world import LOOK_EVERY_S, World

ROTATES_S: Final = 45.0
POINTS: Final = (Point.HISTORY_WRITTEN, Point.ORDER_DONE)
DEATHS: Final = (How.BEFORE, How.BEFORE_SYNC, How.AFTER)
PARTIES: Final = ("owner", "operator")


async def killed_at_a_commit(world: World, chance: random.Random) -> str:
    """kill -9 before, within and after the write that makes the new key the gateway's, and the end of the order."""
    point, how = chance.choice(POINTS), chance.choice(DEATHS)
    order = await _rotation(world)
    since = len(world.gateway.said)
    await world.gateway.order(do="harm", at=point.value, how=how.value)
    await world.gateway.hear("done", since)
    _put(world, order)
    died = await world.gateway_dies(ROTATES_S)
    await world.start_gateway()
    await _carried_out(world)
    return f"{how} {point}{'' if died else ', which did not come'}"


async def killed(world: World, chance: random.Random) -> str:
    """kill -9 at a moment of no meaning, with an order that waits; sometimes it comes while nothing runs."""
    order, stopped = await _rotation(world), chance.random() < 0.3
    if stopped:
        await world.kill_gateway()
        _put(world, order)
        await world.start_gateway()
    else:
        _put(world, order)
    said = await kills.at_random(world, chance)
    await _carried_out(world)
    return f"{said}{', the order came while it was stopped' if stopped else ''}"


async def token_away(world: World, chance: random.Random) -> str:
    """The token is unplugged when the order comes, and back some time later."""
    order, away_s = await _rotation(world), chance.uniform(0.2, 2.5)
    world.tokens.token.take_away()
    try:
        _put(world, order)
        await asyncio.sleep(away_s)
    finally:
        world.tokens.token.put_back()
    await _carried_out(world)
    return f"away for {away_s:.3f} s"


async def name_by_history(config: Path, pin: str, name: str) -> Initialised:
    """Give a gateway that never ran a history, and keys and request under its new name."""
    settings = read_settings(config)
    _write_parties(config.parent)
    envelope = await _signed(config, None, Kind.CREATE, config.parent / "subject.toml")
    await carry_out(settings, envelope)
    return await make_keys(settings.token, pin, name=name, state_dir=settings.gateway.state_dir, settled=())


async def _rotation(world: World) -> Cosigned:
    return await _signed(world.folder / "gateway.toml", _state(world), Kind.ROTATE, None)


async def _signed(config: Path, state: IdentityState | None, kind: Kind, subject: Path | None) -> Cosigned:
    proposal = Proposal(
        kind=kind, subject_file=subject, believed=None, algorithm="es256", now_us=time.time_ns() // 1000
    )
    envelope = draft(await propose(read_settings(config), state, proposal))
    for party in PARTIES:
        envelope, _ = sign_order(envelope, (config.parent / f"{party}.key.pem").read_bytes(), None)
    return envelope


def _put(world: World, order: Cosigned) -> None:
    world.rotations = _state(world).number + 1
    IdentityFolder(world.state_dir).write_order(order)


async def _carried_out(world: World) -> None:
    """Wait until the history has the order, and no order waits; what does not come is found wrong."""
    deadline_s = time.monotonic() + ROTATES_S
    folder = IdentityFolder(world.state_dir)
    while time.monotonic() < deadline_s:
        if _state(world).number >= world.rotations and not folder.order_file.exists():
            return
        await asyncio.sleep(LOOK_EVERY_S)
    world.found.append(Violation(Rule.UNROTATED, f"order {world.rotations}: {world.gateway.words()}"))


def _state(world: World) -> IdentityState:
    held = IdentityFolder(world.state_dir).history()
    assert held is not None
    return held.state


def _write_parties(folder: Path) -> None:
    for party, key in (
        ("owner", ec.generate_private_key(ec.SECP256R1())),
        ("operator", ed25519.Ed25519PrivateKey.generate()),
    ):
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{party}.pem").write_bytes(public)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{party}.key.pem").write_bytes(secret)
    (folder / "subject.toml").write_text(
        'location = "52.5,13.4"\n[owner]\nname = "A. Owner"\nkey_file = "owner.pem"\n'
        '[operator]\nname = "Grid Ltd"\nkey_file = "operator.pem"\n',
        encoding="utf-8",
    )
