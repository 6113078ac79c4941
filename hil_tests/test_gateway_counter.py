"""The whole agent with a TPM counter: windows are signed after a reboot without the platform, and a copy signs none."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest

from agent.ledger.counter import Known, decode_known
from agent.ledger.state import decode_signed
from agent.roads.offline import NOTE
from agent.store import Reader, Stage
from agent.token import tpm
from agent.token.counter import FILE, TpmCounter, open_counter
from hil_tests.faults import channel_judge
from hil_tests.faults.cloning import alarm_codes
from hil_tests.faults.disk import build, compiler
from hil_tests.faults.setting import world
from hil_tests.faults.world import Carrier, Tokens, World, tokens
from hil_tests.rig.tpm import tpm_module

pytestmark = [
    pytest.mark.skipif(
        tpm_module() is None or tpm.absence() is not None, reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed"
    ),
    pytest.mark.skipif(compiler() is None, reason="no C compiler (package gcc)"),
    pytest.mark.timeout(300),
]
PATIENCE_S: Final = 60.0
AWAY_S: Final = "3"


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline_s, f"did not happen within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.1)


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Tokens]:
    folder = tmp_path / "token"
    folder.mkdir()
    async with tokens("tpm", folder) as made:
        yield made


class Box:
    """A box whose agent runs as a process, over boots."""

    def __init__(self, at: World, counter: TpmCounter) -> None:
        self.at = at
        self.counter = counter
        self._boots = 0

    async def boot(self, *, link: bool) -> None:
        """The machine comes up again, and its agent with it."""
        self._boots += 1
        self.at.environment = {"V2G_FAULTS_BOOT": f"boot-{self._boots}", "V2G_FAULTS_AWAY_S": AWAY_S}
        if link:
            self.at.link.restore()
        else:
            self.at.link.cut()
        self._since = len(self.at.told.channel), len(self.at.told.puts)
        await self.at.start_gateway()

    def signed(self) -> list[tuple[int, int]]:
        """(incarnation, version) of the states that were signed since the boot."""
        self.at.listen()
        return [(s.incarnation, s.version) for s in self.at.told.channel[self._since[0] :] if s.stage == Stage.SIGNED]

    def alarms(self) -> set[str]:
        """Codes of those that were committed since the boot."""
        self.at.listen()
        return alarm_codes(self.at.told.puts[self._since[1] :])

    async def known(self) -> Known | None:
        async with Reader.beside(self.at.state_dir) as reader:
            note = await reader.note(NOTE)
        return None if note is None else decode_known(note)

    async def page(self) -> dict[str, object]:
        def ask() -> dict[str, object]:
            with urlopen(f"http://127.0.0.1:{self.at.page_port}/api/status", timeout=5) as answer:
                said: dict[str, object] = json.load(answer)
                return said

        return await asyncio.to_thread(ask)


async def define(at: World) -> TpmCounter:
    """`v2g-gateway counter`, as an installer runs it."""
    arguments = ("-m", "agent.cli.main", "counter", "--config", str(at.folder / "gateway.toml"), "--json")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    words, _ = await process.communicate()
    assert process.returncode == 0, words.decode()
    made = open_counter(at.state_dir / FILE)
    assert made is not None
    assert json.loads(words)["counter"] == made.read()
    return made


async def test_windows_are_signed_behind_it_after_a_reboot_a_copy_is_frozen_and_then_all_is_agreed(
    held: Tokens, tmp_path: Path
) -> None:
    folder = tmp_path / "world"
    (folder / "state").mkdir(parents=True, mode=0o700)
    async with world(folder, held, build(tmp_path), 1, Carrier.SETTLING) as at:
        await at.settles()
        box = Box(at, await define(at))
        first = box.counter.read()
        assert await at.end_gateway() == 0

        # The agent meets its counter in step with the platform.
        await box.boot(link=True)
        await at.settles()

        async def bound() -> bool:
            return await box.known() == Known(first)

        await until(bound, "the store knows its counter")
        assert box.counter.read() == first, "nothing was signed without the platform"
        assert await at.end_gateway() == 0
        card = folder / "card"
        shutil.copytree(at.state_dir, card)

        # A reboot, and no platform.
        await box.boot(link=False)

        async def signs() -> bool:
            return bool(box.signed())

        await until(signs, "windows are signed after the reboot")
        signed_since = await waiting(box)

        async def goes_on() -> bool:
            return await waiting(box) >= signed_since + 2

        await until(goes_on, "windows close after that, which the next state will hold")
        assert box.counter.read() == first + 1, "one raise is enough for a run"
        assert await box.known() == Known(first + 1)
        assert "channel.counter_raised" in box.alarms()
        offline = box.signed()
        await at.kill_gateway()

        # The card that was copied before it, in the same box: another boot, and still no platform.
        worn_out = folder / "worn out"
        at.state_dir.rename(worn_out)
        card.rename(at.state_dir)
        before = at.told.copy()
        await box.boot(link=False)

        async def frozen() -> bool:
            return await at.channels_frozen() == 1

        await until(frozen, "the copy's channel is frozen")
        assert "the TPM's counter stands at" in json.dumps(await box.page())

        async def told() -> bool:
            return "channel.counter_ahead" in box.alarms()

        await until(told, "the copy tells of it")
        windows = await waiting(box)

        async def closes() -> bool:
            return await waiting(box) > windows

        await until(closes, "the copy closes a window, and signs it not")
        assert box.signed() == []
        assert box.counter.read() == first + 1
        await at.kill_gateway()
        assert channel_judge.look((), at.told.channel, []) == [], "no version has two states"

        # The gateway itself again, and the platform is back.
        at.told = before
        at.state_dir.rename(card)
        worn_out.rename(at.state_dir)
        await box.boot(link=True)
        await at.settles()
        assert await at.channels_frozen() == 0
        closed = {(s.incarnation, s.version) for s in at.told.channel if s.stage == Stage.COUNTERSIGNED}
        assert {*offline} <= closed, "what was signed offline is signed by both"
        _, states = at.channel()
        assert {*offline} <= {decode_signed(each).state.order for each in states}
        assert await at.gets_on() is None
        assert [*at.found, *await at.judged()] == []


async def waiting(box: Box) -> int:
    """Windows that are closed and not signed by both."""
    settlement = (await box.page())["settlement"]
    assert isinstance(settlement, dict)
    return int(settlement["windows_waiting"])
