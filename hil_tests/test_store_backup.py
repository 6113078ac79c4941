"""A backup is one moment of the store, whatever is written meanwhile; put back, it is another life of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from agent.identity.did import did_of
from agent.identity.purposes import EVIDENCE_KEY
from agent.roads.restored import NEW_LIFE_NOTE
from agent.store import Store, StoreCorruptError, StoreError, StoreInUseError, StoreVersionError, converting, schema
from agent.store.backup import back_up, look_at, put_back
from agent.store.files import DATABASE, LOCK, RESTORING, begin_anew, prepare
from hil_tests.test_cli_commands import command, config
from hil_tests.test_store_database import row, seal
from tests.agent.identity.software import SoftwareSigner

__all__ = ["config"]

KEY, STRANGER = SoftwareSigner(), SoftwareSigner()


def silent(_: int, __: int) -> None:
    pass


async def make(folder: Path, batches: int = 3, key: SoftwareSigner = KEY) -> None:
    """A store with some batches and something queued."""
    async with await Store.open(folder, reserve_bytes=4096) as store:
        for n in range(1, batches + 1):
            await store.put([row(n)])
            await seal(store)
        await store.put([row(batches + 1)])
        await store.journal("token").remember(f"pin/{EVIDENCE_KEY.hex()}", key.public_key_der)


async def test_a_backup_of_a_store_in_use_is_one_moment_of_it_and_for_its_owner_alone(tmp_path: Path) -> None:
    """The writer goes on all the time; a copy that began anew with each commit would never end."""
    state, out = tmp_path / "state", tmp_path / "backup"
    told: list[tuple[int, int]] = []
    async with await Store.open(state, reserve_bytes=4096) as store:
        await store.put([row(n) for n in range(1, 4000)])
        ended = asyncio.Event()

        async def go_on() -> int:
            sequence = 4000
            while not ended.is_set():
                await store.put([row(sequence)], {"newest": str(sequence).encode()})
                sequence += 1
            return sequence

        writing = asyncio.create_task(go_on())
        copy = await asyncio.to_thread(back_up, state, out, lambda done, total: told.append((done, total)))
        ended.set()
        assert await writing > 4001
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["backup", "state"], "no log is left beside it"
    assert (copy.incarnation, copy.bytes) == (1, out.stat().st_size)
    assert told[-1][0] == told[-1][1] > 0
    with sqlite3.connect(out) as copied:
        newest, queued = copied.execute("SELECT (SELECT value FROM note), (SELECT max(sequence) FROM queue)").fetchone()
    assert newest is None or int(newest) == queued, "a transaction was cut in two"


async def test_a_backup_that_is_put_back_is_a_new_incarnation_that_no_other_life_ever_had(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "backup"
    await make(state)
    back_up(state, out, silent)
    async with await Store.open(state, reserve_bytes=4096) as store:
        await seal(store)
    aside = put_back(state, out, silent)
    assert aside is not None
    assert aside.name == f"{DATABASE}.replaced-1-1"
    prepared = prepare(state, lambda: 1_900_000_000.5)
    assert (prepared.incarnation, prepared.restored) == (1_900_000_000, True)
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert (store.incarnation, store.restored) == (1_900_000_000, False), "noticed once"
        assert [batch.number for batch in await store.batches(1, 10, incarnation=1)] == [1, 2, 3]
        assert await store.last_batch() is None
        assert [each.sequence for each in await store.queued()] == [4]
    with sqlite3.connect(aside) as replaced:
        assert replaced.execute("SELECT count(*) FROM batch").fetchone() == (4,), "nothing is deleted"


async def test_a_backup_that_is_copied_by_hand_over_the_database_is_noticed_too(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "backup"
    await make(state)
    back_up(state, out, silent)
    shutil.copy(out, state / DATABASE)
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert store.restored
        assert store.incarnation > 1_700_000_000


async def test_a_start_that_is_killed_while_it_begins_the_new_life_begins_another_one(tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "backup"
    await make(state)
    back_up(state, out, silent)
    put_back(state, out, silent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(schema, "write_incarnation", lambda *_: (_ for _ in ()).throw(StoreError("killed")))
        with pytest.raises(StoreError, match="killed"):
            prepare(state, lambda: 2_000_000_000.0)
    prepared = prepare(state, lambda: 1_000.0)
    assert (prepared.incarnation, prepared.restored) == (2_000_000_001, True)


async def test_a_backup_of_a_box_that_is_gone_is_put_into_an_empty_folder(tmp_path: Path) -> None:
    await make(tmp_path / "old")
    back_up(tmp_path / "old", tmp_path / "backup", silent)
    assert put_back(tmp_path / "new", tmp_path / "backup", silent) is None
    async with await Store.open(tmp_path / "new", reserve_bytes=4096) as store:
        assert (store.restored, (await store.counts()).sealed_batches) == (True, 3)


async def test_nothing_is_put_back_under_a_running_agent(tmp_path: Path) -> None:
    await make(tmp_path / "state")
    back_up(tmp_path / "state", tmp_path / "backup", silent)
    async with await Store.open(tmp_path / "state", reserve_bytes=4096) as store:
        with pytest.raises(StoreInUseError):
            put_back(tmp_path / "state", tmp_path / "backup", silent)
        await store.put([row(9)])


@pytest.mark.parametrize("fault", ["newer", "torn", "garbage", "another program's", "unfinished", "missing", "empty"])
async def test_what_is_no_good_backup_is_refused_and_the_store_stays_as_it_was(tmp_path: Path, fault: str) -> None:
    state, out = tmp_path / "state", tmp_path / "backup"
    await make(state, batches=200)
    back_up(state, out, silent)
    content = out.read_bytes()
    match fault:
        case "newer":
            with sqlite3.connect(out) as copy:
                copy.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
        case "torn":
            out.write_bytes(content[: len(content) * 2 // 3])
        case "garbage":
            out.write_bytes(content[:8192] + b"\xff" * 16384 + content[24576:])
        case "another program's":
            out.unlink()
            with sqlite3.connect(out) as other:
                other.execute("PRAGMA application_id = 7")
                other.execute("CREATE TABLE t (x)")
        case "unfinished":
            with sqlite3.connect(out) as copy:
                copy.execute("DELETE FROM property WHERE name = 'incarnation'")
        case "missing":
            out.unlink()
        case "empty":
            out.write_bytes(b"")
    before = (state / DATABASE).read_bytes()
    with pytest.raises(StoreVersionError if fault == "newer" else (StoreCorruptError, StoreError)):
        put_back(state, out, silent)
    assert (state / DATABASE).read_bytes() == before
    assert not (state / RESTORING).exists()
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert (store.incarnation, store.restored, store.set_aside) == (1, False, None)


async def test_a_store_that_this_user_may_not_look_at_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(StoreError, match="try with sudo"):
        async with Store.beside(tmp_path):
            pass


async def test_what_root_puts_back_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    await make(tmp_path / "state")
    back_up(tmp_path / "state", tmp_path / "backup", silent)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    if os.geteuid() == 0:
        os.chown(fresh, 65534, 65534)
    put_back(fresh, tmp_path / "backup", silent)
    assert {path.stat().st_uid for path in fresh.iterdir()} == {fresh.stat().st_uid}


async def test_a_backup_never_overwrites_a_file_and_leaves_none_when_it_fails(tmp_path: Path) -> None:
    await make(tmp_path / "state")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError):
        back_up(tmp_path / "state", tmp_path / "there", silent)
    assert (tmp_path / "there").read_text() == "mine"

    def fails(_: int, __: int) -> None:
        raise RuntimeError("stopped by hand")

    with pytest.raises(RuntimeError):
        back_up(tmp_path / "state", tmp_path / "stopped", fails)
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(StoreError, match="no store"):
        back_up(tmp_path / "nowhere", tmp_path / "out", silent)


def test_a_backup_that_is_killed_leaves_nothing_that_could_be_taken_for_one(tmp_path: Path) -> None:
    """A whole copy without its mark, put in place by hand, would go on under the numbers of the store itself."""
    state, out = tmp_path / "state", tmp_path / "backup"
    asyncio.run(make(state))
    killed = os.fork()
    if not killed:

        def is_killed(_: Path) -> None:
            os._exit(9)

        setattr(schema, "mark_copy", is_killed)  # noqa: B010  # of this child alone
        back_up(state, out, silent)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    with pytest.raises(StoreError):
        look_at(out)
    out.unlink()
    back_up(state, out, silent)
    assert sorted(os.listdir(tmp_path)) == ["backup", "state"]


def test_backup_and_restore_by_their_commands(config: Path, tmp_path: Path) -> None:
    state, out = tmp_path / "state", tmp_path / "out.db"
    asyncio.run(make(state))
    answer = json.loads(command("backup", out, "--config", config, "--json").stdout)
    assert (answer["ok"], answer["batches"], answer["incarnation"]) == (True, 3, 1)
    done = command("backup", out, "--config", config)
    assert (done.returncode, "there already" in done.stderr) == (1, True)
    answer = json.loads(command("restore", out, "--config", config, "--json").stdout)
    assert (answer["ok"], answer["compared"], answer["gateway_id"]) == (True, True, did_of(KEY.public_key_der))
    done = command("restore", out, "--config", config)
    assert (done.returncode, "begins a new one" in done.stdout) == (0, True)
    assert look_at(state / DATABASE).batches == 3


async def test_another_life_is_begun_by_its_command_and_not_while_an_agent_runs(config: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    order = ("new-life", "--because", "cloned", "--config", config, "--json")
    done = await asyncio.to_thread(command, *order)
    assert (done.returncode, "there is no store" in done.stdout + done.stderr) == (1, True)
    await make(state)
    async with await Store.open(state, reserve_bytes=4096):
        done = await asyncio.to_thread(command, *order)
        assert (done.returncode, "stop it" in done.stdout + done.stderr) == (1, True)
    done = await asyncio.to_thread(command, *order)
    assert json.loads(done.stdout) == {"ok": True, "incarnation_before": 1}
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert store.put_back
        assert store.incarnation > 1_700_000_000
        assert await store.note(NEW_LIFE_NOTE) is not None
        assert len(await store.batches(1, 10, incarnation=1)) == 3, "nothing of the life before is gone"


def test_the_backup_of_another_gateway_is_refused(config: Path, tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "theirs", key=STRANGER))
    back_up(tmp_path / "theirs", tmp_path / "backup", silent)
    asyncio.run(make(tmp_path / "state"))
    done = command("restore", tmp_path / "backup", "--config", config)
    assert (done.returncode, "another gateway" in done.stderr) == (1, True)
    assert did_of(STRANGER.public_key_der) in done.stderr
    assert sqlite3.connect(tmp_path / "state" / DATABASE).execute("SELECT count(*) FROM property").fetchone() == (1,)


@pytest.mark.parametrize("had_one", [True, False])
async def test_a_restore_that_is_killed_before_its_last_step_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, had_one: bool
) -> None:
    await make(tmp_path / "old")
    back_up(tmp_path / "old", tmp_path / "backup", silent)
    state = tmp_path / ("old" if had_one else "new")
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name == RESTORING:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put_back(state, tmp_path / "backup", silent)
    assert not (state / DATABASE).exists()
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert (store.put_back, (await store.counts()).sealed_batches) == (True, 3)
    assert not (state / RESTORING).exists()


async def test_a_restore_that_is_killed_while_it_copies_has_changed_nothing(tmp_path: Path) -> None:
    await make(tmp_path / "state")
    back_up(tmp_path / "state", tmp_path / "backup", silent)
    half = (tmp_path / "backup").read_bytes()[:5000]
    for folder in ("state", "new"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / RESTORING).write_bytes(half)
    async with await Store.open(tmp_path / "state", reserve_bytes=4096) as store:
        assert (store.put_back, store.incarnation) == (False, 1)
    async with await Store.open(tmp_path / "new", reserve_bytes=4096) as store:
        assert (store.put_back, (await store.counts()).sealed_batches) == (False, 0)


async def test_a_restore_that_fails_leaves_nothing_that_the_next_start_could_take_for_one(tmp_path: Path) -> None:
    """A box without a store takes the copy of a restore that was killed before its last step; not of a refused one."""
    async with await Store.open(tmp_path / "old", key=lambda: bytes(32), reserve_bytes=4096) as store:
        await store.set_note("a", b"of another key")
    back_up(tmp_path / "old", tmp_path / "backup", silent, key=lambda: bytes(32))
    new = tmp_path / "new"
    with pytest.raises(StoreError, match="name the right one"):
        put_back(new, tmp_path / "backup", silent, key=lambda: b"k" * 32)
    assert os.listdir(new) == [LOCK]
    async with await Store.open(new, key=lambda: b"k" * 32, reserve_bytes=4096) as store:
        assert (store.put_back, await store.note("a")) == (False, None)


async def test_what_a_killed_restore_had_copied_is_removed_where_the_store_is_still_there(tmp_path: Path) -> None:
    """It may be in the clear, and as large as the store."""
    await make(tmp_path / "state")
    back_up(tmp_path / "state", tmp_path / "backup", silent)
    for ending in ("", "-wal", "-shm", "-journal"):
        (tmp_path / "state" / (RESTORING + ending)).write_bytes((tmp_path / "backup").read_bytes())
    async with await Store.open(tmp_path / "state", reserve_bytes=4096) as store:
        assert (store.put_back, store.incarnation) == (False, 1)
    assert not [name for name in os.listdir(tmp_path / "state") if name.startswith(RESTORING)]


@pytest.mark.parametrize("by", ["restore", "begin anew"])
async def test_a_store_whose_conversion_was_killed_between_its_two_files_is_set_aside_and_not_wiped(
    tmp_path: Path, by: str
) -> None:
    state, out = tmp_path / "state", tmp_path / "backup"
    await make(state)
    back_up(state, out, silent)
    shutil.copy(state / DATABASE, state / (DATABASE + converting.WIPING))
    (state / DATABASE).rename(state / (DATABASE + converting.CONVERTING))
    aside = put_back(state, out, silent) if by == "restore" else begin_anew(state)
    assert aside is not None
    assert look_at(aside).batches == 3
    async with await Store.open(state, reserve_bytes=4096) as store:
        assert ((await store.counts()).sealed_batches, store.incarnation > 1) == (3 if by == "restore" else 0, True)
    assert look_at(aside).batches == 3


async def test_a_copy_in_the_clear_removes_no_file_of_somebody_elses(tmp_path: Path) -> None:
    async with await Store.open(tmp_path / "state", key=lambda: bytes(32), reserve_bytes=4096) as store:
        await store.set_note("a", b"b")
    mine = tmp_path / "out.clear"
    mine.write_text("mine")
    back_up(tmp_path / "state", tmp_path / "out", silent, key=lambda: bytes(32), in_the_clear=True)
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["out", "out.clear", "state"]
