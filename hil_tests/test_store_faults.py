"""The store on a full disk, with a damaged, newer or foreign file, and with numbers that must never come again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.store import (
    Queued,
    Reader,
    Store,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreInUseError,
    StoreVersionError,
    schema,
)
from agent.store.files import DATABASE, INCARNATION, RESERVE, SUSPECT, Reserve, write_durably

LARGE = bytes(10_000)


def row(sequence: int, *, urgent: bool = False, encoded: bytes = LARGE) -> Queued:
    return Queued(1, "pv-1", sequence, sequence, encoded, urgent)


async def fill(store: Store) -> int:
    """Put until the store says that it is full; returns how many it took."""
    taken = 0
    try:
        while taken < 10_000:
            await store.put([row(taken + 1)])
            taken += 1
    except StoreFullError:
        return taken
    pytest.fail("the store is never full")


@pytest.fixture
async def bounded(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path, most_bytes=1 << 20, reserve_bytes=256 << 10) as store:
        yield store


async def test_a_full_store_refuses_and_keeps_what_it_had(bounded: Store) -> None:
    taken = await fill(bounded)
    assert taken > 20
    assert [q.sequence for q in await bounded.queued(most_bytes=1 << 30)] == list(range(1, taken + 1))
    assert await bounded.counts() == await Reader.counts(bounded)


async def test_urgent_statements_still_fit_into_a_full_store(bounded: Store) -> None:
    taken = await fill(bounded)
    for n in range(10):
        await bounded.put([row(taken + 1 + n, urgent=True)], {"command/1": b"state"})
    with pytest.raises(StoreFullError):
        await bounded.put([row(99)])
    assert (await bounded.counts()).queued_urgent == 10


async def test_an_urgent_statement_in_one_group_with_others_is_kept_when_they_are_not(bounded: Store) -> None:
    taken = await fill(bounded)
    normal = asyncio.create_task(bounded.put([row(taken + 1)]))
    urgent = asyncio.create_task(bounded.put([row(1, urgent=True)]))
    results = await asyncio.gather(normal, urgent, return_exceptions=True)
    assert isinstance(results[0], StoreFullError)
    assert results[1] is None


async def test_the_reserve_has_an_end_too(bounded: Store) -> None:
    await fill(bounded)
    urgent = [bounded.put([row(n, urgent=True)]) for n in range(100)]
    results = await asyncio.gather(*urgent, return_exceptions=True)
    assert any(isinstance(result, StoreFullError) for result in results)


async def test_reading_goes_on_while_the_store_is_full(bounded: Store) -> None:
    taken = await fill(bounded)
    assert len(await bounded.statements("pv-1", 1, 0, 1 << 62)) == taken


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if mount is None or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_gives_its_reserve_to_the_urgent_and_recovers_by_itself(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.store.writer.RESERVE_RETRY_S", 0.0)
    ballast = small_disk / "somebody-elses-file"
    ballast.write_bytes(bytes(500 << 10))
    async with await Store.open(small_disk, reserve_bytes=512 << 10) as store:
        assert (small_disk / RESERVE).stat().st_blocks * 512 >= 512 << 10
        taken = await fill(store)
        await store.put([row(taken + 1, urgent=True)])
        assert not (small_disk / RESERVE).exists()
        with pytest.raises(StoreFullError):
            await store.put([row(taken + 2, encoded=b"small, but the space is not for it")])
        ballast.unlink()
        await store.put([row(taken + 2, encoded=b"there is room again")])
        assert (small_disk / RESERVE).exists()
        assert len(await store.queued(most_bytes=1 << 30)) == taken + 2


def test_a_reserve_that_does_not_fit_takes_nothing(small_disk: Path) -> None:
    reserve = Reserve(small_disk, 8 << 20)
    assert not reserve.hold()
    assert not reserve.held
    assert list(small_disk.iterdir()) == []


async def make(folder: Path, rows: int = 200) -> None:
    async with await Store.open(folder, reserve_bytes=4096) as store:
        await store.put([row(n, encoded=bytes(500)) for n in range(1, rows + 1)])


def spoil(path: Path, start: int, length: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)


@pytest.mark.parametrize("start", [0, 100, 40_000])
async def test_a_damaged_database_is_set_aside_and_work_goes_on_with_a_new_incarnation(
    tmp_path: Path, start: int
) -> None:
    await make(tmp_path)
    spoil(tmp_path / DATABASE, start)
    damaged = (tmp_path / DATABASE).read_bytes()
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == 2
        assert store.set_aside is not None
        assert store.set_aside.read_bytes() == damaged, "what was set aside is as it was found"
        assert (await store.counts()).queued == 0
        await store.put([row(1)])
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert (store.incarnation, store.set_aside) == (2, None)
        assert (await store.counts()).queued == 1


@pytest.mark.parametrize("permille", [0, 3, 250, 500, 777, 999])
@pytest.mark.parametrize("tail", [b"", b"\xa5" * 5000])
async def test_a_torn_log_costs_what_was_torn_off_and_nothing_before_it(
    tmp_path: Path, permille: int, tail: bytes
) -> None:
    """The log as it is while the agent runs, copied and cut: what opens is the store as it was after some commit."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    torn.mkdir()
    async with await Store.open(whole, reserve_bytes=4096) as store:
        for n in range(1, 41):
            await store.put([row(n, encoded=bytes(500))], {"newest": str(n).encode()})
        for name in (DATABASE, f"{DATABASE}-wal", INCARNATION):
            shutil.copy(whole / name, torn / name)
    log = torn / f"{DATABASE}-wal"
    content = log.read_bytes()
    log.write_bytes(content[: len(content) * permille // 1000] + tail)
    async with await Store.open(torn, reserve_bytes=4096) as store:
        assert (store.set_aside, store.incarnation) == (None, 1)
        kept = [each.sequence for each in await store.queued(most_bytes=1 << 30)]
        newest = int(await store.note("newest") or b"0")
        assert kept == list(range(1, newest + 1))
        assert newest < 40 or permille == 999
        assert await store.counts() == await Reader.counts(store)


async def test_a_second_damaged_database_is_set_aside_beside_the_first(tmp_path: Path) -> None:
    for incarnation in (2, 3):
        await make(tmp_path)
        spoil(tmp_path / DATABASE, 0)
        async with await Store.open(tmp_path, reserve_bytes=4096) as store:
            assert store.incarnation == incarnation
    assert sum(name.startswith(f"{DATABASE}.damaged-") for name in os.listdir(tmp_path)) == 2


async def test_another_programs_database_is_set_aside(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript("PRAGMA application_id = 77; CREATE TABLE theirs (x)")
    connection.close()
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.set_aside is not None


async def test_damage_met_while_running_has_the_next_start_check_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file too large to be checked whole at every start.
    monkeypatch.setattr(schema, "WHOLE_CHECK_BYTES", 0)
    await make(tmp_path)
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        with pytest.raises(StoreCorruptError):
            store._checked(_damaged, b"")
    assert (tmp_path / SUSPECT).exists()
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.set_aside is None, "it was sound after all"
    assert not (tmp_path / SUSPECT).exists()


def _damaged(_: bytes) -> None:
    raise StoreCorruptError("a batch is damaged")


@pytest.mark.parametrize("whole_bytes", [0, 1 << 40])
async def test_a_damaged_table_is_found_with_and_without_the_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(schema, "WHOLE_CHECK_BYTES", whole_bytes)
    await make(tmp_path)
    spoil(tmp_path / DATABASE, 60_000)
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == 2


async def test_a_newer_format_is_refused_and_not_touched(tmp_path: Path) -> None:
    await make(tmp_path)
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreVersionError, match="newer version"):
        await (await Store.open(tmp_path)).close()  # one that opens all the same must not hang the tests
    assert (tmp_path / DATABASE).read_bytes() == before


def test_migrations_are_applied_each_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    steps = ["CREATE TABLE t (x); INSERT INTO t VALUES (1);", "ALTER TABLE t ADD y;", "UPDATE t SET x = x + 1, y = 7;"]
    schema.migrate(path, steps[:2])
    schema.migrate(path, steps)
    schema.migrate(path, steps)
    assert sqlite3.connect(path).execute("SELECT x, y FROM t").fetchall() == [(2, 7)]


def test_a_migration_that_fails_leaves_the_format_before_it(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with pytest.raises(StoreError):
        schema.migrate(path, ["CREATE TABLE t (x);", "INSERT INTO t VALUES (1); INSERT INTO nothing VALUES (1);"])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


async def test_a_lost_database_never_comes_back_under_an_old_incarnation(tmp_path: Path) -> None:
    await make(tmp_path)
    (tmp_path / DATABASE).unlink()
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == 2


async def test_an_older_database_put_back_is_a_new_incarnation_that_keeps_its_content(tmp_path: Path) -> None:
    await make(tmp_path, rows=3)
    shutil.copy(tmp_path / DATABASE, tmp_path / "backup")
    (tmp_path / DATABASE).unlink()
    await make(tmp_path)
    shutil.copy(tmp_path / "backup", tmp_path / DATABASE)
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == 3
        assert (await store.counts()).queued == 3


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"-4\n"])
async def test_a_damaged_incarnation_file_is_mended_from_the_database(tmp_path: Path, content: bytes | None) -> None:
    await make(tmp_path)
    if content is None:
        (tmp_path / INCARNATION).unlink()
    else:
        (tmp_path / INCARNATION).write_bytes(content)
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == 1
    assert (tmp_path / INCARNATION).read_bytes() == b"1\n"


async def test_a_second_writer_is_kept_out_and_a_reader_is_not(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        await store.put([row(1)])
        with pytest.raises(StoreInUseError, match="another v2g-gateway"):
            await Store.open(tmp_path)
        async with Reader.beside(tmp_path) as reader:
            assert (await reader.counts()).queued == 1
    async with await Store.open(tmp_path, reserve_bytes=4096):
        pass


async def test_a_reader_without_a_store_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        async with Reader.beside(tmp_path):
            pass


async def test_a_reader_of_a_store_whose_maker_was_killed_is_told_so(tmp_path: Path) -> None:
    schema.migrate(tmp_path / DATABASE)
    with pytest.raises(StoreError, match="not finished"):
        async with Reader.beside(tmp_path):
            pass


async def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        await Store.open(tmp_path / "file" / "state")


async def test_a_store_that_was_closed_well_opens_on_a_disk_that_is_full_since(small_disk: Path) -> None:
    state_dir, reserve_bytes = small_disk / "state", 512 << 10
    async with await Store.open(state_dir, reserve_bytes=reserve_bytes) as store:
        await store.set_note("before", b"1")
    ballast, chunk = small_disk / "somebody-elses-file", bytes(4096)
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(chunk) == len(chunk):
            pass
    assert os.statvfs(small_disk).f_bavail == 0
    async with await Store.open(state_dir, reserve_bytes=reserve_bytes) as store:
        assert await store.note("before") == b"1"
        await store.put([row(1, urgent=True)])
        ballast.unlink()
    async with await Store.open(state_dir, reserve_bytes=reserve_bytes) as store:
        assert (await store.counts()).queued == 1
        assert (state_dir / RESERVE).stat().st_size == reserve_bytes


@pytest.mark.parametrize("left", [b"", bytes(2), None], ids=["empty", "zeros", "gone"])
async def test_a_disk_that_damages_the_incarnation_file_too_has_no_number_given_out_again(
    tmp_path: Path, left: bytes | None
) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put([row(1)])
        before = store.incarnation
    (tmp_path / DATABASE).write_bytes(b"no database any more" * 1000)
    (tmp_path / INCARNATION).unlink() if left is None else (tmp_path / INCARNATION).write_bytes(left)
    async with await Store.open(tmp_path) as store:
        assert store.set_aside is not None
        assert store.incarnation > before + 1_000_000


def test_what_is_written_goes_through_no_link_that_the_services_user_has_laid(tmp_path: Path) -> None:
    """Root may run this there."""
    roots = tmp_path / "roots"
    roots.write_bytes(b"of root's")
    (tmp_path / f"{INCARNATION}.new").symlink_to(roots)
    write_durably(tmp_path / INCARNATION, b"7\n")
    assert (roots.read_bytes(), (tmp_path / INCARNATION).read_bytes()) == (b"of root's", b"7\n")
    assert not (tmp_path / INCARNATION).is_symlink()
