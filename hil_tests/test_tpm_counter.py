"""The TPM's counter: it only rises, only this gateway raises it, and behind it channels are signed while offline."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.evidence.statements import Alarm, decode
from agent.ledger.counter import Known, decode_known
from agent.roads.offline import AWAY_S, NOTE, Counter
from agent.store import Stage, Store
from agent.token import counter as tpm_counter
from agent.token import tpm
from agent.token.counter import FILE, INDEX, TpmCounter, open_counter
from agent.token.tpm import TpmError
from hil_tests.rig.tpm import SoftTpm, tpm_module
from hil_tests.roads_parts import HandClock
from hil_tests.settling_parts import DeviceKey, Life, Platform

pytestmark = pytest.mark.skipif(
    tpm_module() is None or tpm.absence() is not None, reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed"
)


@pytest.fixture
def counter(at_tpm: SoftTpm, tmp_path: Path) -> Iterator[TpmCounter]:
    """A counter of its own for each test."""
    (tmp_path / FILE).write_bytes(tpm_counter.define())
    opened = open_counter(tmp_path / FILE)
    assert opened is not None
    yield opened
    tpm_counter.undefine()


class PowerCutError(Exception):
    """The machine loses its power."""


class DyingCounter:
    """Loses power before or after it is raised."""

    def __init__(self, counter: Counter, *, before: bool) -> None:
        self._counter = counter
        self._before = before

    def read(self) -> int:
        return self._counter.read()

    def increment(self) -> int:
        if not self._before:
            self._counter.increment()
        raise PowerCutError


# The counter itself


def test_it_rises_by_one_and_never_falls(counter: TpmCounter) -> None:
    first = counter.read()
    assert [counter.increment(), counter.increment(), counter.read()] == [first + 1, first + 2, first + 2]
    tpm_counter.undefine()
    tpm_counter.define()
    with pytest.raises(TpmError, match="authorization failure"):
        counter.read()


def test_it_outlives_the_power(counter: TpmCounter, at_tpm: SoftTpm) -> None:
    before = counter.increment()
    at_tpm.take_away()
    with pytest.raises(TpmError):
        counter.read()
    at_tpm.put_back()
    assert counter.read() == before


def test_another_tpm_has_another_counter(
    counter: TpmCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_tpm: SoftTpm
) -> None:
    other = SoftTpm(tmp_path / "other")
    try:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TpmError, match="tpm2_nvread failed"):
            counter.read()
        tpm_counter.define()
        with pytest.raises(TpmError, match="authorization failure"):
            counter.read()
    finally:
        other.close()
        for name, value in at_tpm.environment.items():
            monkeypatch.setenv(name, value)


def test_the_command_defines_it_once_and_keeps_its_guard_for_the_owner_alone(at_tpm: SoftTpm, tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'[gateway]\nstate_dir = "{tmp_path}"\n[token]\nlabel = "any"\npin_secret = "file:/nowhere"\n', encoding="utf-8"
    )
    arguments = ["counter", "--config", str(config), "--json"]
    first = CliRunner().invoke(app, arguments)
    try:
        assert first.exit_code == 0, first.output
        kept = tmp_path / FILE
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert json.loads(kept.read_text())["guard"] not in first.output
        opened = open_counter(kept)
        assert opened is not None
        assert opened.read() == json.loads(first.output)["counter"]
        assert CliRunner().invoke(app, arguments).exit_code == 1, "it is there already"
        kept.unlink()
        again = CliRunner().invoke(app, arguments)
        assert again.exit_code == 1, "it may be another gateway's"
        assert f"tpm2_nvundefine -C o {INDEX}" in again.output
        assert not kept.exists()
    finally:
        tpm_counter.undefine()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format":"v2g-gateway/tpm-counter","version":2,"index":"0x01805632","guard":""}']
)
def test_a_damaged_file_is_refused_and_none_is_no_counter(tmp_path: Path, content: str) -> None:
    assert open_counter(tmp_path / FILE) is None
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(TpmError, match="counter"):
        open_counter(tmp_path / FILE)


def test_without_the_tools_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TpmError, match="tpm2-tools"):
        tpm_counter.define()


# Behind it


class Box:
    """A box with its disk, over boots: each `boot` is a life of the agent that ends without a word."""

    def __init__(self, folder: Path, counter: Counter) -> None:
        self.folder = folder
        self.counter = counter
        self.hand = HandClock()
        self.platform = Platform()
        self.key = DeviceKey()
        self.store: Store | None = None

    async def boot(self, *, link: bool = False, counter: Counter | None = None) -> Life:
        await self.halt()
        self.store = await Store.open(self.folder / "state")
        life = Life(self.store, self.hand, self.platform, counter=counter or self.counter, pv_1=self.key)
        life.link = link
        await life.begin()
        if link:
            await life.connect()
        return life

    async def halt(self) -> None:
        if self.store is not None:
            await self.store.close()
            self.store = None

    async def stay_away(self, life: Life) -> None:
        """The platform does not answer for as long as it takes to give up waiting."""
        life.settling.offline._began_s -= AWAY_S  # no window ends meanwhile
        await life.settling._see_to(life.settling._devices["pv-1"], ask_again=True)

    async def known(self) -> Known | None:
        assert self.store is not None
        note = await self.store.note(NOTE)
        return None if note is None else decode_known(note)


@pytest.fixture
async def box(tmp_path: Path, counter: TpmCounter) -> AsyncIterator[Box]:
    """A box whose first windows were settled, and that knows its counter since."""
    made = Box(tmp_path, counter)
    life = await made.boot(link=True)
    await life.close_windows()
    assert life.settling.windows_countersigned == 1
    assert await made.known() == Known(counter.read())
    yield made
    await made.halt()


async def test_a_window_is_signed_after_a_reboot_without_the_platform_behind_one_raise(
    box: Box, counter: TpmCounter
) -> None:
    before, signed = counter.read(), box.key.signed
    life = await box.boot()
    await life.close_windows()
    await life.settling._see_to(life.settling._devices["pv-1"], ask_again=True)
    assert (box.key.signed, counter.read()) == (signed, before), "the platform may still answer"
    await box.stay_away(life)
    assert (box.key.signed, counter.read(), await box.known()) == (signed + 1, before + 1, Known(before + 1))
    assert (await life.stages())[-1] is Stage.SIGNED
    told = [decode(row.encoded) for row in await life.store.queued()]
    assert any(isinstance(a, Alarm) and a.code == "channel.counter_raised" and str(before + 1) in a.text for a in told)
    # One raise is enough for a run, and the state is settled when the platform is back.
    await life.close_windows()
    await box.stay_away(life)
    assert counter.read() == before + 1
    await life.connect()
    assert life.settling.windows_countersigned == 3
    assert life.settling.offline.status.counter == before + 1


async def test_without_a_counter_windows_wait_unsigned(box: Box) -> None:
    await box.halt()
    async with await Store.open(box.folder / "state") as store:
        life = Life(store, box.hand, box.platform, pv_1=box.key)
        life.link = False
        await life.begin()
        signed = box.key.signed
        await life.close_windows()
        await box.stay_away(life)
        assert (box.key.signed, life.settling.windows_waiting) == (signed, 1)
        assert "no TPM counter" in life.settling.offline.status.sentence


async def test_a_copied_card_signs_no_second_state_and_freezes(box: Box, counter: TpmCounter) -> None:
    await box.halt()
    shutil.copytree(box.folder / "state", box.folder / "card")
    life = await box.boot()
    await life.close_windows()
    await box.stay_away(life)
    signed = box.key.signed
    await box.halt()
    shutil.move(box.folder / "state", box.folder / "worn out")
    shutil.move(box.folder / "card", box.folder / "state")

    clone = await box.boot()
    assert "the TPM's counter stands at" in clone.settling.frozen["pv-1"]
    assert "channel.counter_ahead" in await clone.alarms()
    await clone.close_windows()
    await box.stay_away(clone)
    await clone.connect()
    assert box.key.signed == signed
    assert clone.settling.windows_waiting > 0
    # Over a restart too.
    again = await box.boot(link=True)
    assert again.settling.frozen
    assert box.key.signed == signed


@pytest.mark.parametrize("before", [True, False], ids=["before it rises", "after it rose"])
async def test_a_power_cut_at_the_raise_freezes_no_honest_box(box: Box, counter: TpmCounter, before: bool) -> None:
    at_first = counter.read()
    life = await box.boot(counter=DyingCounter(counter, before=before))
    await life.close_windows()
    with pytest.raises(PowerCutError):
        await box.stay_away(life)
    assert await box.known() == Known(at_first, at_first + 1)
    signed = box.key.signed

    life = await box.boot()
    assert life.settling.frozen == {}
    await box.stay_away(life)
    assert (box.key.signed, await box.known()) == (signed + 1, Known(counter.read()))
    assert counter.read() == at_first + (1 if before else 2)


async def test_a_power_cut_between_the_raise_and_the_signature_signs_what_was_intended(
    box: Box, counter: TpmCounter
) -> None:
    life = await box.boot()
    await life.close_windows()
    box.key.away = True
    await box.stay_away(life)
    assert "the token is away" in life.settling.trouble
    assert (await life.stages())[-1] is Stage.INTENT
    box.key.away = False
    life = await box.boot()
    await box.stay_away(life)
    assert (await life.stages())[-1] is Stage.SIGNED
    await life.connect()
    assert (life.settling.windows_countersigned, life.settling.frozen) == (2, {})


async def test_a_store_that_never_met_its_counter_asks_the_platform_first(tmp_path: Path, counter: TpmCounter) -> None:
    box = Box(tmp_path, counter)
    try:
        life = await box.boot()
        await life.close_windows()
        await box.stay_away(life)
        assert (box.key.signed, await box.known()) == (0, None)
        assert "must answer once" in life.settling.offline.status.sentence
        await life.connect()
        assert (box.key.signed, await box.known()) == (1, Known(counter.read()))
    finally:
        await box.halt()


async def test_a_tpm_that_is_away_is_told_and_stops_nothing_that_the_platform_answers(
    box: Box, at_tpm: SoftTpm
) -> None:
    at_tpm.take_away()
    try:
        life = await box.boot()
        assert "is there a TPM" in life.settling.offline.trouble
        signed = box.key.signed
        await life.close_windows()
        await box.stay_away(life)
        assert box.key.signed == signed
        await life.connect()
        assert life.settling.windows_countersigned == 2
    finally:
        at_tpm.put_back()


async def test_a_counter_that_somebody_else_raises_too_is_no_leave_to_sign(box: Box, counter: TpmCounter) -> None:
    class Shared(DyingCounter):
        def increment(self) -> int:
            counter.increment()
            return counter.increment()

    life = await box.boot(counter=Shared(counter, before=True))
    await life.close_windows()
    signed = box.key.signed
    await box.stay_away(life)
    assert box.key.signed == signed
    assert "somebody else" in life.settling.offline.trouble
