"""One gateway, its token, disk, link and platform, for a row of faults: started, harmed, and looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from agent.cli.init import Initialised, make_keys
from agent.config import TokenSettings
from agent.identity.keys import verify_key_from_pem
from agent.store import Reader, StoreError
from hil_tests.faults.disk import Disk
from hil_tests.faults.judge import AtPlatform, Held, Judge, Rule, Told, Violation
from hil_tests.faults.source import DEVICES
from hil_tests.rig.broker import PLATFORM, Broker, client_files, running_broker
from hil_tests.rig.demo.child import Child
from hil_tests.rig.demo.stage import free_ports
from hil_tests.rig.link import Link
from hil_tests.rig.platform.book import Kind
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.token import ScratchToken, make_softhsm
from hil_tests.rig.tpm import SoftTpm

RECOVERS_S: Final = 45.0
"""Far beyond every back-off of the agent."""
ENDS_S: Final = 30.0
LOOK_EVERY_S: Final = 0.02
STALL_S: Final = 2
LAST_SECOND_US: Final = 1_000_000
NAME: Final = "faults"


class Carrier(StrEnum):
    """Between gateway and platform."""

    GRPC = "gRPC"
    MQTT = "MQTT"


class WorldError(Exception):
    """The harness itself cannot go on. Says why."""


class Tokens:
    """The token of a run, with the gateway's keys in it: one for all worlds, for its making takes seconds."""

    def __init__(self, folder: Path, token: ScratchToken, made: Initialised) -> None:
        self.token = token
        self.folder = folder
        self.gateway_id = made.gateway_id
        self.request = (made.enrolment_dir / "uplink.csr").read_bytes()
        self.evidence_pem = made.enrolment_dir / "evidence.pem"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"


@contextlib.asynccontextmanager
async def tokens(which: str, folder: Path) -> AsyncIterator[Tokens]:
    """A scratch token, "softhsm" or "tpm", with the keys of a gateway. The folder is there and empty."""
    token: ScratchToken = SoftTpm(folder / "tpm") if which == "tpm" else make_softhsm(folder / "softhsm")
    before = {name: os.environ.get(name) for name in token.environment}
    try:
        pin_file = folder / "pin"
        pin_file.touch(mode=0o600)
        pin_file.write_text(token.pin, encoding="ascii")
        os.environ.update(token.environment)  # PKCS#11 modules read it in this process
        settings = TokenSettings(module=token.module, label=token.label, pin_secret=f"file:{pin_file}")
        yield Tokens(folder, token, await make_keys(settings, token.pin, name=NAME, state_dir=folder, settled=()))
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if isinstance(token, SoftTpm):
            token.close()


@dataclass(slots=True)
class Sweep:
    """Which commit points have had their turn: over all worlds of a run."""

    turns: Counter[str] = field(default_factory=Counter)

    def next(self, name: str, points: int) -> tuple[int, bool]:
        """(number of the sync, whether after it): 1 before, 1 after, 2 before, ... up to `points`, and again."""
        turn = self.turns[name] % (2 * points)
        self.turns[name] += 1
        return turn // 2 + 1, bool(turn % 2)


class World:
    """Made by `world`."""

    def __init__(
        self,
        folder: Path,
        held: Tokens,
        disk: Disk,
        link: Link,
        platform_port: int,
        seed: int,
        broker: Broker | None = None,
    ) -> None:
        """Use `world`."""
        self.broker = broker
        """None where the carrier is gRPC."""
        self.folder = folder
        self.tokens = held
        self.disk = disk
        self.link = link
        self.told = Told()
        self.judge = Judge(held.gateway_id)
        self.sweep = Sweep()
        self.clock_offset_s = 0
        self.clock_held = True
        self._platform_port = platform_port
        self._seed = seed
        self.told_before = self.sealed_before = 0
        """Statements and batches of the stores before this one."""
        self._stores = 0
        self._starts = 0
        self._heard = self._heard_afar = 0
        self.gateway: Child
        self.platform: Child

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def practice(self) -> Practice:
        return Practice.open(self.folder / "platform")

    # -- The gateway ------------------------------------------------------------------------------------------------

    async def start_gateway(self, arm: Callable[[Disk], None] = lambda _: None) -> None:
        """Start it on a healthy disk; `arm` may say what befalls it. Returns at once."""
        self.disk.fresh()
        self.disk["record"] = 1
        arm(self.disk)
        environment = {
            **self.tokens.token.environment,
            **self.disk.environment,
            "PYTHONUNBUFFERED": "1",
            "V2G_FAULTS_CLOCK_OFFSET_S": str(self.clock_offset_s),
            "V2G_FAULTS_CLOCK_HELD": str(int(self.clock_held)),
        }
        arguments = ("-m", "hil_tests.faults.victim", str(self.folder / "gateway.toml"))
        self.gateway = await Child.start("gateway", arguments, folder=self.folder, environment=environment)
        self._heard = 0

    async def kill_gateway(self) -> None:
        """SIGKILL, and everything that it had told before."""
        await self.gateway.kill()
        self.listen()

    async def end_gateway(self) -> int:
        """SIGTERM; its exit code, negative when a signal ended it."""
        code = await self.gateway.end()
        self.listen()
        return code

    async def gateway_dies(self, within_s: float = ENDS_S) -> bool:
        """Wait for its end. False: it went on, and was killed after this time."""
        try:
            await self.gateway.ended(within_s)
        except TimeoutError:
            await self.gateway.kill()
            return False
        finally:
            self.listen()
        return True

    async def set_clock(self, offset_s: int, *, held: bool) -> None:
        """The system clock of the gateway's process, now and over its restarts."""
        self.clock_offset_s, self.clock_held = offset_s, held
        since = len(self.gateway.said)
        await self.gateway.order(do="clock", offset_s=offset_s, held=held)
        await self.gateway.hear("done", since)

    def listen(self) -> None:
        """Take down what the gateway has told since the last time, and what the platform was shown."""
        said = self.gateway.said
        for words in said[self._heard :]:
            match words:
                case {"put": list(statements)}:
                    self.told.puts += [bytes.fromhex(each) for each in statements]
                case {"sealed": [int(incarnation), int(number), str(root)]}:
                    self.told.sealed.append(((incarnation, number), bytes.fromhex(root)))
                case {"acknowledged": [int(incarnation), int(number)]}:
                    known = self.told.acknowledged
                    known[incarnation] = max(known.get(incarnation, 0), number)
        self._heard = len(said)
        shown = self.platform.said
        for words in shown[self._heard_afar :]:
            match words:
                case {"shown": [int(incarnation), int(number), str(root)]}:
                    self.told.shown[incarnation, number, bytes.fromhex(root)] = None
        self._heard_afar = len(shown)

    async def gets_on(self, within_s: float = RECOVERS_S) -> Violation | None:
        """Wait until something new was put, then sealed, and that is acknowledged: the whole road works."""
        self.listen()
        puts, sealed = len(self.told.puts), len(self.told.sealed)
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            self.listen()
            if len(self.told.puts) == puts:
                sealed = len(self.told.sealed)
            elif len(self.told.sealed) > sealed:
                incarnation, number = self.told.sealed[sealed][0]
                if self.told.acknowledged.get(incarnation, 0) >= number:
                    return None
            if not self.gateway.running:
                await self.gateway.ended(1)
                return Violation(Rule.DIED, self.gateway.words())
            await asyncio.sleep(LOOK_EVERY_S)
        stage = "puts" if len(self.told.puts) == puts else "seals" if len(self.told.sealed) == sealed else "is heard"
        return Violation(Rule.STUCK, f"nothing new {stage} within {within_s:g} s: {self.gateway.words()}")

    async def begin_anew(self, arm: Callable[[Disk], None]) -> None:
        """Another first start: of a gateway without a store, at a platform that has never heard of it."""
        await self.gateway.kill()
        await self.platform.kill()
        self.listen()  # to what is of the store before, and not of the one to come
        self._stores += 1
        self.state_dir.rename(self.folder / f"state-{self._stores}")
        self.state_dir.mkdir(mode=0o700)
        for path in self._book.parent.glob(f"{self._book.name}*"):
            path.unlink()
        self.told_before += len(self.told.puts)
        self.sealed_before += len(self.told.sealed)
        self.told = Told()
        await self.start_platform()
        await self.start_gateway(arm)

    # -- The platform -----------------------------------------------------------------------------------------------

    async def start_platform(self) -> None:
        """Returns when it is ready."""
        if self._starts:
            self.listen()
        self._starts += 1
        self.platform = await Child.start(
            "platform",
            ("-m", "hil_tests.faults.platform", str(self.folder / "platform"), "--port", str(self._platform_port),
             "--seed", str(self._seed + self._starts), *self._at_broker()),
            folder=self.folder,
            environment={"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._heard_afar = 0
        await self.platform.hear("ready")

    def _at_broker(self) -> tuple[str, ...]:
        if self.broker is None:
            return ()
        files = client_files(self.practice, self.folder / "clients", PLATFORM)
        return (
            "--broker-port", str(self.broker.port), "--broker-certificate", str(files.certificate),
            "--broker-key", str(files.key),
        )  # fmt: skip

    async def acknowledge(self, how: str) -> None:
        """How the platform acknowledges from now on."""
        since = len(self.platform.said)
        await self.platform.order(do="acknowledge", how=how)
        await self.platform.hear("acknowledging", since)

    async def restart_platform(self, *, losing_us: int) -> int:
        """Kill it, take the newest part of its book, start it again. How many batches it has lost."""
        await self.platform.kill()
        connection = sqlite3.connect(self._book)
        try:
            with connection:
                (newest_us,) = connection.execute("SELECT coalesce(max(at_us), 0) FROM entry").fetchone()
                lost = connection.execute(
                    "DELETE FROM entry WHERE at_us > ? AND kind = ?", (newest_us - losing_us, Kind.BATCH.value)
                ).rowcount
        finally:
            connection.close()
        await self.start_platform()
        return int(lost)

    def freeze_platform(self, frozen: bool) -> None:
        """Its process stands still, and the kernel goes on taking what is sent to it."""
        os.kill(self.platform.pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    @property
    def _book(self) -> Path:
        return self.folder / "platform" / "book.sqlite"

    # -- Judgement --------------------------------------------------------------------------------------------------

    async def judged(self, *, complete: bool = False) -> list[Violation]:
        """What is wrong now. What was told is taken first, then the platform's book, then the store: in that order
        each must hold what the one before has."""
        self.listen()
        told = self.told.copy()
        platform = self._at_platform(complete=complete)
        try:
            held = await self._held()
        except StoreError as error:
            return [Violation(Rule.LOST, f"the store cannot be read: {error}")] if told.puts else []
        return self.judge.look(told, held, platform)

    def _at_platform(self, *, complete: bool) -> AtPlatform:
        connection = sqlite3.connect(f"file:{self._book}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT kind, octets, note FROM entry ORDER BY id").fetchall()
        finally:
            connection.close()
        return AtPlatform(
            [octets for kind, octets, _ in rows if kind == Kind.BATCH.value],
            [note for kind, _, note in rows if kind == Kind.CONFLICT.value],
            complete,
        )

    async def _held(self) -> Held:
        async with Reader.beside(self.state_dir) as reader:
            # Statements move from the queue into a batch while we read: never the other way.
            queued = [row.encoded for row in await reader.queued(limit=1 << 20, most_bytes=1 << 30)]
            batches = []
            for incarnation in await reader.incarnations():
                batches += [each.encoded for each in await reader.batches(1, 1 << 20, incarnation=incarnation)]
        return Held(batches, queued)

    async def everything_arrives(self, within_s: float = RECOVERS_S) -> None:
        """Wait, at the end, until the platform has all that is sealed; the judge says what it lacks."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            platform = self._at_platform(complete=True)
            held = await self._held()
            if not held.queued and set(held.batches) <= set(platform.batches):
                return
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def world(
    folder: Path, held: Tokens, shim: Path, seed: int, carrier: Carrier = Carrier.GRPC
) -> AsyncIterator[World]:
    """A fresh gateway and platform, both running. Everything that was started ends with the context.

    `folder` is there and empty.
    """
    state_dir = folder / "state"
    platform_port, page_port = free_ports(2)
    practice = Practice.make(folder / "platform")
    evidence_key = verify_key_from_pem(held.evidence_pem.read_bytes(), what="evidence key")
    practice.enrol(held.request, {"evidence": evidence_key.public_key_der})
    async with contextlib.AsyncExitStack() as around:
        broker, login = None, ""
        if carrier is Carrier.MQTT:
            broker = await around.enter_async_context(running_broker(practice, folder / "broker"))
            ours = client_files(practice, folder / "clients", held.gateway_id)
            login = f'mqtt_certificate_file = "{ours.certificate}"\nmqtt_certificate_key_file = "{ours.key}"\n'
        link = await around.enter_async_context(Link("127.0.0.1", platform_port if broker is None else broker.port))
        address = link.address if broker is None else f"mqtts://{link.address}"
        (folder / "gateway.toml").write_text(
            _configuration(held, practice, state_dir, address, login, page_port), encoding="utf-8"
        )
        made = World(folder, held, Disk(shim, state_dir, folder), link, platform_port, seed, broker)
        await made.start_platform()
        try:
            await made.start_gateway()
            try:
                yield made
            finally:
                await made.gateway.kill()
        finally:
            made.freeze_platform(False)
            await made.platform.kill()
            if broker is not None:
                broker.freeze(False)


def _configuration(held: Tokens, practice: Practice, state_dir: Path, address: str, login: str, page_port: int) -> str:
    devices = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1"\n'
        f"unit = {unit}\n"
        for unit, device_id in enumerate(DEVICES, start=1)
    )
    return f"""\
[gateway]
name = "{NAME}"
state_dir = "{state_dir}"

[token]
module = "{held.token.module}"
label = "{held.token.label}"
pin_secret = "file:{held.pin_file}"

[evidence]
linger_s = 0.1

[platform]
endpoints = ["{address}"]
server_name = "localhost"
ca_file = "{practice.public_file("ca")}"
certificate_file = "{practice.certificate_file(NAME)}"
platform_key_file = "{practice.public_file("platform")}"
trust_root_file = "{practice.public_file("trust-root")}"
trust_list_file = "{practice.trust_list_file}"
{login}reconnect_least_s = 0.1
reconnect_most_s = 1.0
stall_s = {STALL_S}

[web]
listen = "127.0.0.1:{page_port}"

{devices}"""
