"""The store's key: sealed to a TPM, away for a while, on a replacement box; and what the agent does without it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.config import Settings, read_settings
from agent.gateway import Gateway, StartError
from agent.roads import store_key as waiting
from agent.store import Counts, LockedStore, Stage, Store, StoredBatch, StoreKeyError, secret
from agent.store.files import DATABASE, LOCK, Lock
from agent.token import tpm
from agent.token.store_key import read_store_key, store_key
from hil_tests.gateway_parts import DEVICES, gateway_site, needs_softhsm, problem_of, until
from hil_tests.rig.tpm import SoftTpm, tpm_module
from hil_tests.test_store_encrypted import MARKER, all_of, clear_files, fill

needs_tpm = pytest.mark.skipif(
    tpm_module() is None or tpm.absence() is not None, reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed"
)


class Box:
    """A gateway's configuration and folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.state_dir = folder / "state"
        self.state_dir.mkdir()
        self.config = folder / "gateway.toml"
        self.use(None)

    def use(self, reference: str | None) -> None:
        """Name a key in the configuration, or none."""
        evidence = "" if reference is None else f'[evidence]\nstore_key_secret = "{reference}"\n'
        token = '[token]\nlabel = "none"\nmodule = "/nowhere.so"\npin_secret = "file:/nowhere"\n'
        device = (
            '[[device]]\nid = "grid"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1"\nunit = 1\n'
        )
        web = '[web]\nlisten = "127.0.0.1:0"\n'
        text = f'[gateway]\nstate_dir = "{self.state_dir}"\n{token}{evidence}{web}{device}'
        self.config.write_text(text, encoding="utf-8")

    def key_file(self, name: str = "key") -> Path:
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32), encoding="ascii")
        return file

    @property
    def settings(self) -> Settings:
        return read_settings(self.config)

    def key(self) -> secret.KeySource | None:
        return store_key(self.settings.evidence.store_key_secret)

    def fill(self) -> dict[str, object]:
        """Put something of everything into the store; all that it says then."""

        async def work() -> dict[str, object]:
            async with await Store.open(self.state_dir, key=self.key(), reserve_bytes=4096) as store:
                await fill(store)
                return await all_of(store)

        return asyncio.run(work())

    def said(self) -> dict[str, object]:
        async def work() -> dict[str, object]:
            async with Store.beside(self.state_dir, self.key()) as store:
                return await all_of(store)

        return asyncio.run(work())

    def run(self, *arguments: str | Path, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(self.config), "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


@needs_tpm
def test_one_command_makes_a_key_that_this_tpm_opens_and_a_copy_to_be_taken_away(at_tpm: SoftTpm, box: Box) -> None:
    sealed, copy = box.folder / "store.tpm", box.folder / "copy"
    told = box.run("store-key", sealed, "--copy", copy)
    key = copy.read_text().strip()
    assert len(key) == 64
    assert [stat.S_IMODE(file.stat().st_mode) for file in (sealed, copy)] == [0o600, 0o600]
    assert key not in json.dumps(told)
    assert key.encode() not in sealed.read_bytes()
    assert read_store_key(told["store_key_secret"]).hex() == key
    box.run("store-key", sealed, "--no-copy", code=1)
    for same in (box.folder / "other", box.folder / "other.copy"):
        assert "two of the files" in box.run("store-key", box.folder / "other", "--copy", same, code=1)["error"]
    box.run("store-key", box.folder / "other", code=2)
    assert "name the plain copy" in box.run("store-key", box.folder / "again", "--from", sealed, code=1)["error"]
    box.run("store-key", box.folder / "again", "--from", copy)
    assert read_store_key(f"tpm:{box.folder / 'again'}").hex() == key


@needs_tpm
def test_a_store_under_a_sealed_key_opens_on_another_tpm_with_the_copy_and_not_without(
    at_tpm: SoftTpm, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    box.use(box.run("store-key", box.folder / "store.tpm", "--copy", copy)["store_key_secret"])
    before = box.fill()
    assert box.said() == before
    assert clear_files(box.state_dir) == []
    other = SoftTpm(tmp_path / "other-tpm")
    try:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        refused = box.run("backup", tmp_path / "backup", code=1)
        assert "the store's key cannot be had" in refused["error"]
        box.use(box.run("store-key", box.folder / "other.tpm", "--from", copy)["store_key_secret"])
        assert box.said() == before
    finally:
        other.close()


@needs_tpm
async def test_a_tpm_that_is_away_orphans_nothing_and_the_agent_waits_for_it_and_says_so(
    at_tpm: SoftTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "ASK_AGAIN_LEAST_S", 0.05)
    monkeypatch.setattr(waiting, "ASK_AGAIN_MOST_S", 0.05)
    box = await asyncio.to_thread(Box, tmp_path / "box")
    sealed = await asyncio.to_thread(box.run, "store-key", box.folder / "store.tpm", "--no-copy")
    await asyncio.to_thread(box.use, sealed["store_key_secret"])
    before = await asyncio.to_thread(box.fill)
    database = (box.state_dir / DATABASE).read_bytes()
    await asyncio.to_thread(at_tpm.take_away)
    try:
        async with Gateway.open(box.settings) as gateway:
            work = asyncio.create_task(gateway.run())
            try:
                await until(lambda: _told(gateway, "store key"), "what the gateway waits for")
                (problem,) = [p for p in gateway.snapshot().problems if p.subject == "store key"]
                assert "cannot be had" in problem.sentence
                await gateway.stop("test")
                await until(lambda: _stopped(gateway), "STOP, which needs no store")
                await gateway.clear_stop("test")
                assert (box.state_dir / DATABASE).read_bytes() == database
                await asyncio.to_thread(at_tpm.put_back)
                await asyncio.wait_for(gateway.unlocked.wait(), 60)
            finally:
                await gateway.shut_down()
                await work
    finally:
        if not at_tpm._programs:
            await asyncio.to_thread(at_tpm.put_back)
    assert [alarm.code for alarm in gateway.unrecorded] == ["store.locked"]
    async with Gateway.open(box.settings, alarms=gateway.unrecorded) as after:
        assert not after.unlocked.is_set()
        assert after.snapshot().incarnation == 1
        assert after.unrecorded == gateway.unrecorded, "what happened meanwhile is to be told"
    assert (await asyncio.to_thread(box.said))["batches"] == before["batches"]
    assert not [name for name in os.listdir(box.state_dir) if name.startswith(f"{DATABASE}.")]


@needs_tpm
async def test_a_sealed_key_whose_file_is_damaged_opens_the_store_by_its_second_copy_and_it_is_told(
    at_tpm: SoftTpm, tmp_path: Path
) -> None:
    box = await asyncio.to_thread(Box, tmp_path / "box")
    sealed = await asyncio.to_thread(box.run, "store-key", box.folder / "store.tpm", "--no-copy")
    await asyncio.to_thread(box.use, sealed["store_key_secret"])
    before = await asyncio.to_thread(box.fill)
    kept = (box.folder / "store.tpm").read_bytes()
    (box.folder / "store.tpm").write_bytes(bytes(len(kept)))
    async with Gateway.open(box.settings) as gateway:
        (problem,) = [p for p in gateway.snapshot().problems if p.subject == "sealed store key"]
        assert "look after the disk" in problem.sentence
        assert [alarm.code for alarm in gateway.unrecorded] == ["secret.damaged"]
    assert (box.folder / "store.tpm").read_bytes() == (box.folder / "store.tpm.copy").read_bytes() == kept
    assert (await asyncio.to_thread(box.said))["batches"] == before["batches"]


async def _told(gateway: Gateway, subject: str) -> bool:
    return any(problem.subject == subject for problem in gateway.snapshot().problems)


async def _stopped(gateway: Gateway) -> bool:
    return gateway.snapshot().stopped_by is not None


@needs_softhsm
async def test_the_agent_controls_its_site_without_the_key_and_takes_its_work_up_with_it(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage, key_file = site.stage, tmp_path / "store-key"
        text = stage.config.read_text(encoding="utf-8")
        stage.config.write_text(
            text.replace("[site]", f'[evidence]\nstore_key_secret = "file:{key_file}"\n\n[site]'), encoding="utf-8"
        )
        await stage.start_all()
        status = await site.shows(
            lambda s: {line["link"] for line in s["devices"]} == {"online"} and bool(problem_of(s, "store key")),
            "every device online, and what is waited for",
        )
        assert status["verdict"] == "trouble"
        assert "No such file" in problem_of(status, "store key")
        assert status["control_age_s"] < 5, "the control loop stands still"
        assert status["evidence"]["sealed"] == 0
        assert not (stage.state_dir / DATABASE).exists(), "nothing is stored in the clear"
        assert not (stage.state_dir / "decisions").exists()
        await stage.run("stop", "--config", str(stage.config))
        await site.delivers(0, "battery-1", "charger-1", "charger-2")
        await stage.run("clear-stop", "--config", str(stage.config))
        key_file.touch(mode=0o600)
        key_file.write_text(secrets.token_hex(32), encoding="ascii")
        await site.well()
        await site.grows(*DEVICES, beyond={})
        locked = [alarm for alarm in (await site.page())["alarms"] if alarm["code"] == "store.locked"]
        assert ["No such file" in alarm["text"] for alarm in locked] == [True], "the platform learns of it, signed"
        await site.discharge(5_000, 20, "battery-1")
        await site.delivers(-5_000, "battery-1")
        assert await stage.gateway.end() == 0
        await site.nothing_lost()
        for told in ("power_w", "demo-site"):
            assert told.encode() not in (stage.state_dir / DATABASE).read_bytes()
        listed = await stage.run("commands", "--config", str(stage.config))
        assert listed["commands"]


def test_a_backup_is_encrypted_as_the_store_is_and_opens_on_a_replacement_box_with_the_copy(
    box: Box, tmp_path: Path
) -> None:
    copy = box.key_file()
    box.use(f"file:{copy}")
    before = box.fill()
    backup = tmp_path / "backup"
    assert box.run("backup", backup)["encrypted"] is True
    assert MARKER not in backup.read_bytes()
    new = Box(tmp_path / "new")
    assert "no key" in new.run("restore", backup, code=1)["error"]
    new.use(f"file:{new.key_file()}")
    assert "name the right one" in new.run("restore", backup, code=1)["error"]
    new.use(None)
    assert "no key" in new.run("restore", backup, "--key-file", copy, code=1)["error"]
    assert os.listdir(new.state_dir) == [LOCK], "what was refused is not there for the next start"
    new.use(f"file:{new.folder / 'key'}")
    new.run("restore", backup, "--key-file", copy)
    copy.unlink()
    after = new.said()
    assert {name: after[name] for name in ("bodies", "notes", "statements", "channel")} == {
        name: before[name] for name in ("bodies", "notes", "statements", "channel")
    }
    new.fill()
    assert clear_files(new.state_dir) == []


def test_a_backup_in_the_clear_is_made_only_when_it_is_asked_for_and_is_encrypted_where_it_is_put_back(
    box: Box, tmp_path: Path
) -> None:
    box.use(f"file:{box.key_file()}")
    before = box.fill()
    clear = tmp_path / "clear"
    assert box.run("backup", clear, "--in-the-clear")["encrypted"] is False
    assert stat.S_IMODE(clear.stat().st_mode) == 0o600
    assert MARKER in clear.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["box", "clear"]
    new = Box(tmp_path / "new")
    new.use(f"file:{new.key_file()}")
    new.run("restore", clear)

    async def start() -> Any:
        async with await Store.open(new.state_dir, key=new.key(), reserve_bytes=4096) as store:
            return await store.bodies_between(1, 100)

    assert asyncio.run(start()) == before["bodies"]
    assert clear_files(new.state_dir) == []


def test_the_store_is_put_in_the_clear_by_command_and_only_with_its_key(box: Box) -> None:
    assert "there is no store" in box.run("decrypt", code=1)["error"]
    key = box.key_file()
    box.use(f"file:{key}")
    before = box.fill()
    box.use(f"file:{box.key_file('another')}")
    assert "name the right one" in box.run("decrypt", code=1)["error"]
    box.use(f"file:{key}")
    box.run("decrypt")
    assert "in the clear already" in box.run("decrypt", code=1)["error"]
    box.use(None)
    assert box.said() == before


def test_what_reads_beside_the_agent_finds_the_key_by_itself_and_says_when_there_is_none(box: Box) -> None:
    box.use(f"file:{box.key_file()}")
    box.fill()
    assert box.run("commands")["ok"]
    box.use(None)
    assert "no key is named: set store_key_secret" in box.run("commands", code=1)["error"]


@needs_tpm
def test_who_lost_the_key_begins_anew_by_command_and_what_was_there_is_set_aside(at_tpm: SoftTpm, box: Box) -> None:
    lost = box.key_file()
    box.use(f"file:{lost}")
    before = box.fill()
    told = box.run("store-key", box.folder / "new.tpm", "--no-copy", "--begin-anew")
    box.use(told["store_key_secret"])

    async def start() -> tuple[int, Any]:
        async with await Store.open(box.state_dir, key=box.key(), reserve_bytes=4096) as store:
            return store.incarnation, await store.batches(1, 10)

    assert asyncio.run(start()) == (2, [])
    Path(told["set_aside"]).rename(box.state_dir / DATABASE)
    (box.state_dir / f"{DATABASE}-wal").unlink(missing_ok=True)
    box.use(f"file:{lost}")
    assert box.said()["bodies"] == before["bodies"], "nothing of it was lost"


async def test_a_newest_batch_that_does_not_open_stops_no_start(tmp_path: Path) -> None:
    box = await asyncio.to_thread(Box, tmp_path / "box")
    await asyncio.to_thread(box.use, f"file:{await asyncio.to_thread(box.key_file)}")
    await asyncio.to_thread(box.fill)
    with sqlite3.connect(box.state_dir / DATABASE) as database:
        database.execute("UPDATE body SET encoded = zeroblob(99) WHERE batch = (SELECT max(batch) FROM body)")
    async with Gateway.open(box.settings) as gateway:
        assert gateway.snapshot().incarnation == 1


async def test_a_store_that_fails_while_the_agent_takes_up_its_work_ends_the_start_with_words(tmp_path: Path) -> None:
    box = await asyncio.to_thread(Box, tmp_path / "box")
    await asyncio.to_thread(box.fill)
    with sqlite3.connect(box.state_dir / DATABASE) as database:
        database.execute("DROP TABLE note")
    with pytest.raises(StartError, match=f"the store in {box.state_dir}: .*note"):
        async with Gateway.open(box.settings):
            pass


async def test_a_second_agent_does_not_start_beside_one_that_waits_for_its_key(tmp_path: Path) -> None:
    """Both would control the same devices."""
    box = await asyncio.to_thread(Box, tmp_path / "box")
    await asyncio.to_thread(box.use, "file:/nowhere/key")
    async with Gateway.open(box.settings):
        with pytest.raises(StartError, match="another v2g-gateway"):
            async with Gateway.open(box.settings):
                pass
    async with Gateway.open(box.settings):
        pass


async def test_whatever_is_asked_of_a_store_whose_key_is_away_fails_as_a_store_does(tmp_path: Path) -> None:
    store = LockedStore("no key")
    batch = StoredBatch(1, 1, bytes(32), bytes(32), b"batch", 1, 2)
    asked: list[Awaitable[object]] = [
        store.put([]),
        store.seal(batch, 1),
        store.acknowledge(1, 1, 1),
        store.prune(1, 7),
        store.forget_kept(1),
        store.cut([], {}, 1),
        store.set_note("a", b"b"),
        store.delete_note("a"),
        store.channel_append(bytes(32), 1, 1, Stage.INTENT, b"state"),
        store.journal("a").remember("b", b"c"),
        store.queued(),
        store.newest_of("a", 1),
        store.note("a"),
    ]
    for each in asked:
        with pytest.raises(StoreKeyError, match="no key"):
            await each
    assert await store.counts() == Counts()


@needs_tpm
def test_a_store_that_an_agent_has_is_not_set_aside_and_no_key_is_made_for_nothing(at_tpm: SoftTpm, box: Box) -> None:
    lock = Lock(box.state_dir)
    try:
        told = box.run("store-key", box.folder / "k", "--copy", box.folder / "copy", "--begin-anew", code=1)
    finally:
        lock.release()
    assert "another v2g-gateway" in told["error"]
    assert not (box.folder / "k").exists()
    assert not (box.folder / "copy").exists()
