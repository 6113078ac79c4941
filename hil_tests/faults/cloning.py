"""A card is cloned: all files of a running gateway are copied, it goes on, and then the copy runs, too or in its place.

A backup says that it is one; such a copy says nothing: database, log, incarnation, markers and (SoftHSM) the token's
files are those of the gateway itself. What tells them apart is the boot id in everything that is signed, and the
platform, which has newer of that name. The copy must be noticed and tell of it, and nothing may have two contents.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm, decode
from agent.store import Reader
from agent.store.files import DATABASE
from agent.uplink.link import OTHER_ROOT, PLATFORM_AHEAD
from hil_tests.faults import channel_judge, clone_judge
from hil_tests.faults.judge import ChannelStage, Held, Place, Rule, Violation
from hil_tests.faults.world import LOOK_EVERY_S, World
from hil_tests.rig.demo.child import Child
from hil_tests.rig.demo.stage import free_ports

LATER_S: Final = 1.5
NOTICED_S: Final = 45.0
MEETS_S: Final = 30.0
ALARMS: Final = frozenset({OTHER_ROOT, PLATFORM_AHEAD, "channel.platform_ahead"})
CONFIG: Final = "gateway.toml"


@dataclass(frozen=True, slots=True)
class Copy:
    """All files of a gateway at one moment, as a box of its own."""

    folder: Path
    environment: dict[str, str]
    place: Place
    """Of its newest batch."""

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"


async def card_put_in_place(world: World, chance: random.Random) -> str:
    """The gateway is killed and its copy takes its place; sometimes it meets the platform only when it has sealed more
    than the platform knows of. People must look then: the next fault begins with another gateway."""
    offline = chance.random() < 0.5
    copy = await _cloned(world, chance)
    await world.kill_gateway()
    first = await _held(world.state_dir)
    stages = await asyncio.to_thread(_stages, world.state_dir)
    newest = max(place for place, _ in world.told.sealed)
    world.state_dir.rename(copy.folder / "worn out")
    copy.state_dir.rename(world.state_dir)
    puts = len(world.told.puts)
    if offline:
        world.link.cut()
    await world.start_gateway()
    if offline:
        await _seals_past(world, copy.place, newest)
        world.link.restore()
    told = await _tells(lambda: _alarms(world, puts))
    if not told:
        world.found.append(_unnoticed(world.gateway))
    await _freezes(world, world.page_port)
    await world.kill_gateway()
    await _judge(world, copy.place, first, stages)
    await world.begin_anew(lambda _: None)
    if world.settling:
        await world.settles()
    return f"in its place{', met late' if offline else ''}: {', '.join(sorted(told)) or 'nothing told'}"


async def second_box(world: World, chance: random.Random) -> str:
    """The copy runs beside the gateway for a time. The gateway is not hindered, and gets on when the copy is gone."""
    copy = await _cloned(world, chance)
    (port,) = free_ports(1)
    config = (world.folder / CONFIG).read_text(encoding="utf-8")
    for ours, its in ((world.state_dir, copy.state_dir), (f"127.0.0.1:{world.page_port}", f"127.0.0.1:{port}")):
        config = config.replace(f'"{ours}"', f'"{its}"')
    (copy.folder / CONFIG).write_text(config, encoding="utf-8")
    box = await Child.start(
        "second",
        ("-m", "hil_tests.faults.victim", str(copy.folder / CONFIG)),
        folder=copy.folder,
        environment={**copy.environment, "PYTHONUNBUFFERED": "1"},
    )
    try:
        told = await _tells(lambda: {code for code in alarm_codes(_puts(box)) if code in ALARMS})
        if not told:
            world.found.append(_unnoticed(box))
        await _freezes(world, port)
    finally:
        await box.kill()
    world.found += [wrong] if (wrong := await world.gets_on()) is not None else []
    second, stages = await _held(copy.state_dir), await asyncio.to_thread(_stages, copy.state_dir)
    await _judge(world, copy.place, second, stages)
    world.explain(copy.place, {world.judge.verified(each).root for each in second.batches})
    if world.settling:
        await world.settles()
    return f"a second box: {', '.join(sorted(told)) or 'nothing told'}"


async def cloned(world: World, chance: random.Random) -> str:
    """One or the other. Where the token is a TPM a second box has no key."""
    softhsm = "SOFTHSM2_CONF" in world.tokens.token.environment
    return await (second_box if softhsm and chance.random() < 0.5 else card_put_in_place)(world, chance)


async def _cloned(world: World, chance: random.Random) -> Copy:
    """Copy the running gateway, and have the platform take more of it since."""
    if world.settling:
        await world.settles()
    world.found += [wrong] if (wrong := await world.gets_on()) is not None else []
    folder = world.folder / f"copy-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    # One moment of it, as a snapshot of the card has it: the log with whatever stands in it.
    os.kill(world.gateway.pid, signal.SIGSTOP)
    try:
        await asyncio.to_thread(_copy_files, world.state_dir, folder / "state")
        environment = await asyncio.to_thread(_copy_token, world.tokens.token.environment, folder / "token")
    finally:
        os.kill(world.gateway.pid, signal.SIGCONT)
    place = await asyncio.to_thread(_newest, folder / "state")
    await asyncio.sleep(chance.uniform(0.1, LATER_S))
    world.found += [wrong] if (wrong := await world.gets_on()) is not None else []
    if world.settling:
        await world.settles()
    return Copy(folder, environment, place)


def _copy_files(source: Path, target: Path) -> None:
    """Memory that processes share, and sockets, are not on a card."""
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        elif path.is_file() and not path.name.endswith("-shm"):
            shutil.copy2(path, target / path.name)


def _copy_token(environment: dict[str, str], target: Path) -> dict[str, str]:
    """SoftHSM's keys are files like others. A TPM stays where it is."""
    conf = environment.get("SOFTHSM2_CONF")
    if conf is None:
        return environment
    source = Path(conf).parent
    shutil.copytree(source, target)
    copied = target / Path(conf).name
    copied.write_text(copied.read_text(encoding="utf-8").replace(str(source), str(target)), encoding="utf-8")
    return {**environment, "SOFTHSM2_CONF": str(copied)}


def _newest(state_dir: Path) -> Place:
    connection = sqlite3.connect(state_dir / DATABASE)
    try:
        incarnation, number = connection.execute(
            "SELECT incarnation, number FROM batch ORDER BY batch DESC LIMIT 1"
        ).fetchone()
    finally:
        connection.close()
    return int(incarnation), int(number)


def _stages(state_dir: Path) -> list[ChannelStage]:
    connection = sqlite3.connect(state_dir / DATABASE)
    try:
        return [
            ChannelStage(*row)
            for row in connection.execute("SELECT incarnation, version, stage, encoded FROM channel_state")
        ]
    finally:
        connection.close()


async def _held(state_dir: Path) -> Held:
    async with Reader.beside(state_dir) as reader:
        queued = [row.encoded for row in await reader.queued(limit=1 << 20, most_bytes=1 << 30)]
        batches = [
            each.encoded
            for incarnation in await reader.incarnations()
            for each in await reader.batches(1, 1 << 20, incarnation=incarnation)
        ]
    return Held(batches, queued)


async def _seals_past(world: World, since: Place, newest: Place) -> None:
    """Wait until the copy has sealed as many batches as the platform has, and more, of the same names."""
    deadline_s = time.monotonic() + MEETS_S
    begun = len(world.told.sealed)
    while time.monotonic() < deadline_s:
        world.listen()
        if any(place > newest for place, _ in world.told.sealed[begun:]):
            return
        await asyncio.sleep(LOOK_EVERY_S)
    world.found.append(Violation(Rule.STUCK, f"a copy from {since} sealed nothing behind {newest}"))


def _puts(box: Child) -> list[bytes]:
    return [
        bytes.fromhex(each)
        for words in box.said
        if isinstance(statements := words.get("put"), list)
        for each in statements
    ]


def alarm_codes(statements: Sequence[bytes]) -> set[str]:
    found = set()
    for each in statements:
        try:
            statement = decode(each)
        except EvidenceError:
            continue
        if isinstance(statement, Alarm):
            found.add(statement.code)
    return found


def _alarms(world: World, since: int) -> set[str]:
    world.listen()
    return alarm_codes(world.told.puts[since:]) & ALARMS


async def _tells(told: Callable[[], set[str]]) -> set[str]:
    """The alarms of a copy that was noticed, committed in its store; empty: none came."""
    deadline_s = time.monotonic() + NOTICED_S
    while not (codes := told()) and time.monotonic() < deadline_s:  # noqa: ASYNC110 (another process tells)
        await asyncio.sleep(LOOK_EVERY_S)
    return codes


async def _freezes(world: World, port: int) -> None:
    """Wait until the copy's channel signs nothing any more, where it has one."""
    deadline_s = time.monotonic() + NOTICED_S
    while world.settling and not await world.channels_frozen(port):
        if time.monotonic() > deadline_s:
            world.found.append(Violation(Rule.CHANNEL_FORK, "the channel of a copy was not frozen"))
            return
        await asyncio.sleep(LOOK_EVERY_S * 5)


def _unnoticed(box: Child) -> Violation:
    return Violation(Rule.COPIED, box.words())


async def _judge(world: World, since: Place, other: Held, stages: Sequence[ChannelStage]) -> None:
    """The two lives together: `other`, and what stands where the gateway's store is."""
    held = await world.held()
    platform = world.at_platform()
    world.found += clone_judge.look(world.judge, since, held, other, platform)
    here, states = world.channel()
    world.found += channel_judge.look((), [*here, *stages], states)
