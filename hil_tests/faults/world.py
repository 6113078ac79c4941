"""One gateway, its token, disk, link and platform, for a row of faults: started, harmed, and looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Set
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from agent.cli.init import Initialised, make_keys
from agent.config import TokenSettings
from agent.identity.folder import IdentityFolder
from agent.identity.history import continues, decode_history, replay
from agent.store import KeySource, Reader, Stage, StoreError, secret
from agent.store.cipher import of_channel
from agent.store.files import DATABASE
from agent.token.store_key import store_key
from hil_tests.faults import channel_judge
from hil_tests.faults.clone_judge import contradicts_copy
from hil_tests.faults.disk import Disk
from hil_tests.faults.judge import AtPlatform, ChannelStage, Held, Judge, Place, Rule, Told, Violation, place_of
from hil_tests.faults.source import DEVICES
from hil_tests.rig.broker import PLATFORM, Broker, client_files
from hil_tests.rig.demo.child import Child
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
SETTLED: Final = DEVICES[0]
"""The settlement point, where there is one."""
SETTLES_S: Final = 60.0


class Carrier(StrEnum):
    """Between gateway and platform."""

    GRPC = "gRPC"
    MQTT = "MQTT"
    SETTLING = "gRPC, with a settled device"
    """Windows of 5 s: the others have none, for an hour of a clock that jumps is hundreds of windows."""
    MERGING = "gRPC, with no room for evidence"
    """Readings are merged within seconds."""
    ROTATING = "gRPC, with a history"
    """Its name is not its key, which changes."""


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
        self.device_pem = made.enrolment_dir / f"device-{SETTLED}.pem"
        self.store_key_file: Path | None = None
        """Stores are encrypted under it."""

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def store_key(self) -> KeySource | None:
        return store_key(None if self.store_key_file is None else f"file:{self.store_key_file}")

    def encrypt_stores(self) -> None:
        """Have every gateway of the run keep what it stores encrypted."""
        self.store_key_file = self.folder / "store-key"
        self.store_key_file.touch(mode=0o600)
        self.store_key_file.write_text(secrets.token_hex(32), encoding="ascii")


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
        made = await make_keys(settings, token.pin, name=NAME, state_dir=folder, settled=(SETTLED,))
        yield Tokens(folder, token, made)
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
    """Made by `setting.world`."""

    def __init__(
        self,
        folder: Path,
        held: Tokens,
        disk: Disk,
        link: Link,
        platform_port: int,
        seed: int,
        broker: Broker | None = None,
        *,
        merging: bool = False,
        settling: bool = False,
        gateway_id: str | None = None,
    ) -> None:
        """Use `setting.world`. `gateway_id`: of a gateway that has a history."""
        self._merging = merging
        self.settling = settling
        """It has a settled device."""
        self.environment: dict[str, str] = {}
        """What the gateway's process is given beside all of this."""
        self._explained: set[str] = set()
        """What the platform rightly found of a copy of this gateway."""
        self._has_history = gateway_id is not None
        self._history = b""
        self.rotations = 0
        """Number of the entry that the newest order shall make."""
        self.broker = broker
        """None where the carrier is gRPC."""
        self.found: list[Violation] = []
        """What a fault itself found wrong, until the next judgement takes it."""
        self.page_port = 0
        self.folder = folder
        self.tokens = held
        self.disk = disk
        self.link = link
        self.told = Told()
        self.judge = Judge(gateway_id or held.gateway_id)
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
            "V2G_FAULTS_THINNING": str(int(self._merging)),
            **self.environment,
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
                case {"channel": list(rows)}:
                    self.told.channel += [ChannelStage(i, v, s, bytes.fromhex(e)) for i, v, s, e in rows]
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

    async def settles(self, within_s: float = SETTLES_S) -> None:
        """Wait until another state of the channel is signed by both sides; what does not come is found wrong."""
        before = max((each.version for each in self._closed()), default=0)
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if max((each.version for each in self._closed()), default=0) > before:
                return
            await asyncio.sleep(LOOK_EVERY_S)
        self.found.append(Violation(Rule.UNSETTLED, f"no state after {before} within {within_s:g} s"))

    def _closed(self) -> list[ChannelStage]:
        self.listen()
        return [each for each in self.told.channel if each.stage == Stage.COUNTERSIGNED]

    async def channels_frozen(self, port: int | None = None) -> int:
        """By a gateway's own page, this one's or that at a port; 0 while it does not answer."""

        def ask() -> int:
            try:
                with urlopen(f"http://127.0.0.1:{port or self.page_port}/api/status", timeout=2) as answer:
                    return int(json.load(answer)["settlement"]["channels_frozen"])
            except OSError:
                return 0

        return await asyncio.to_thread(ask)

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
        if self._has_history:
            self._trust_history()
        platform = self.at_platform(complete=complete)
        try:
            held = await self.held()
        except StoreError as error:
            return [Violation(Rule.LOST, f"the store cannot be read: {error}")] if told.puts else []
        return [*self.judge.look(told, held, platform), *channel_judge.look(told.channel, *self.channel())]

    def channel(self) -> tuple[list[ChannelStage], list[bytes]]:
        """What store and platform hold of the channel, the platform's first."""
        book = sqlite3.connect(f"file:{self._book}?mode=ro", uri=True)
        store = sqlite3.connect(f"file:{self.state_dir / DATABASE}?mode=ro", uri=True)
        try:
            states = [
                octets for (octets,) in book.execute("SELECT octets FROM entry WHERE kind = ?", (Kind.CHANNEL.value,))
            ]
            rows = store.execute(
                "SELECT channel_id, incarnation, version, stage, encoded FROM channel_state"
            ).fetchall()
            content = secret.content(store, self.tokens.store_key, self.state_dir, writes=False)
        finally:
            book.close()
            store.close()
        opened = [(*place[1:], content.open(of_channel(*place), encoded)) for *place, encoded in rows]
        return [ChannelStage(*row) for row in opened], states

    def at_platform(self, *, complete: bool = False) -> AtPlatform:
        connection = sqlite3.connect(f"file:{self._book}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT kind, octets, note FROM entry ORDER BY id").fetchall()
        finally:
            connection.close()
        return AtPlatform(
            [octets for kind, octets, _ in rows if kind == Kind.BATCH.value],
            [note for kind, _, note in rows if kind == Kind.CONFLICT.value and note not in self._explained],
            complete,
        )

    def explain(self, since: Place, roots: Set[bytes]) -> None:
        """A copy of this gateway as of a batch sealed batches of these roots, and is gone: what the platform was shown
        of it, and found to contradict, is no fault of the gateway."""
        self.listen()
        for each in [key for key in self.told.shown if key[:2] > since and key[2] in roots]:
            if (each[:2], each[2]) not in self.told.sealed:
                del self.told.shown[each]
        self._explained |= {text for text in self.at_platform().conflicts if contradicts_copy(text, since)}

    def _trust_history(self) -> None:
        """The keys of the gateway's own history, which it may only lengthen."""
        history = IdentityFolder(self.state_dir).history_file.read_bytes()
        if history != self._history:
            entries = decode_history(history)
            if self._history and not continues(entries, decode_history(self._history)):
                self.found.append(Violation(Rule.UNROTATED, "the history is another one, and not a longer one"))
            self.judge.trust(replay(entries).trusted_keys())
            self._history = history

    def places_at_platform(self) -> set[tuple[int, int]]:
        """Incarnation and number of all batches that it has."""
        return {place_of(self.judge.verified(each)) for each in self.at_platform(complete=False).batches}

    async def held(self) -> Held:
        """What the store has. Raises StoreError."""
        async with Reader.beside(self.state_dir, self.tokens.store_key) as reader:
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
            platform = self.at_platform(complete=True)
            held = await self.held()
            # By what they are: one that was merged since it arrived is the same batch.
            there, here = ({self.judge.verified(e).sealed.hash for e in of} for of in (platform.batches, held.batches))
            if not held.queued and here <= there:
                return
            await asyncio.sleep(0.1)
