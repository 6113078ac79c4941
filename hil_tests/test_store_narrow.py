"""A store on a file system without any room, whose reserve is spent: read at once, written as soon as it can."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.store import (
    NarrowStore,
    Queued,
    Reader,
    Store,
    StoreError,
    StoreFullError,
    StoreKeyError,
    StoreVersionError,
    open_store,
    room_problem,
)
from agent.store.files import DATABASE, INCARNATION, RESERVE
from agent.store.narrow import PROBE
from agent.store.schema import MIGRATIONS
from agent.store.secret import KeySource
from hil_tests.small_disk import fill, small_disk
from hil_tests.test_store_migrations import old_store

__all__ = ["small_disk"]


def reading(sequence: int) -> Queued:
    return Queued(kind=1, device_id="d", sequence=sequence, timestamp_us=sequence, encoded=b"reading %d" % sequence)


def key() -> bytes:
    return bytes(range(32))


async def made(folder: Path, source: KeySource | None = None) -> None:
    """A store that has ended in order: SQLite has left neither its log nor its shared memory."""
    async with await Store.open(folder, key=source) as store:
        await store.put([reading(1), reading(2)], {"key": b"value"})


def without_room(folder: Path) -> Path:
    """Take all the space, also what was kept back; the file that has it."""
    (folder / RESERVE).unlink()
    taken = folder.parent / "somebody-elses"
    fill(taken)
    return taken


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline_s, f"did not happen: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("source", [None, key], ids=["plain", "encrypted"])
async def test_it_is_read_at_once_refuses_what_is_new_and_goes_on_when_there_is_room(
    small_disk: Path, source: KeySource | None
) -> None:
    folder = small_disk / "state"
    await made(folder, source)
    taken = without_room(folder)
    with pytest.raises(StoreFullError):
        await Store.open(folder, key=source)
    store = await open_store(folder, key=source)
    assert isinstance(store, NarrowStore)
    async with store:
        assert [row.sequence for row in await store.queued()] == [1, 2]
        assert (await store.note("key"), store.incarnation, (await store.counts()).queued) == (b"value", 1, 2)
        assert "no room" in store.trouble
        with pytest.raises(StoreError, match="no room on its disk"):
            async with Reader.beside(folder, source):
                pass
        with pytest.raises(StoreFullError):
            await store.put([reading(3)], {"key": b"other"})
        assert (await store.note("key"), (await store.counts()).queued) == (b"value", 2)
        taken.unlink()

        async def usual() -> bool:
            return not store.trouble

        await until(usual, "the usual connections take over")
        await store.put([reading(3)])
        async with Reader.beside(folder, source) as reader:
            assert [row.sequence for row in await reader.queued()] == [1, 2, 3], "others may read again"
        assert (folder / RESERVE).exists()
    async with await Store.open(folder, key=source) as store:
        assert (store.incarnation, (await store.counts()).queued) == (1, 3)
        assert [row.encoded for row in await store.queued()] == [reading(n).encoded for n in (1, 2, 3)]


async def test_without_its_key_an_encrypted_one_is_waited_for_and_a_plain_one_stays_plain_until_there_is_room(
    small_disk: Path,
) -> None:
    folder = small_disk / "state"
    await made(folder, key)
    taken = without_room(folder)
    with pytest.raises(StoreKeyError, match="no key is named"):
        await open_store(folder)
    taken.unlink()
    plain = small_disk / "plain"
    await made(plain)
    without_room(plain)
    async with await open_store(plain, key=key) as store:
        assert "not encrypted yet" in store.in_the_clear
        assert [row.sequence for row in await store.queued()] == [1, 2]


async def test_who_writes_while_the_connections_change_loses_nothing(small_disk: Path) -> None:
    folder = small_disk / "state"
    await made(folder)
    taken = without_room(folder)
    kept: list[int] = []
    async with await open_store(folder) as store:

        async def write() -> bool:
            sequence = len(kept) + 3
            try:
                await store.put([reading(sequence)])
                assert (await store.queued())[-1].sequence == sequence
                kept.append(sequence)
            except StoreFullError:
                taken.unlink(missing_ok=True)
            return not store.trouble and len(kept) > 50

        await until(write, "the usual connections take over")
        await store.put([reading(len(kept) + 3)])
    async with Reader.beside(folder) as reader:
        assert [row.sequence for row in await reader.queued()] == [*range(1, len(kept) + 4)]


async def test_what_was_committed_before_a_kill_is_there(small_disk: Path, tmp_path: Path) -> None:
    """In the log, which nobody has written into the database."""
    folder, copy = small_disk / "state", tmp_path / "copy"
    copy.mkdir()
    async with await Store.open(folder) as store:
        await store.put([reading(1)])
        for suffix in ("", "-wal"):
            (copy / f"{DATABASE}{suffix}").write_bytes((folder / f"{DATABASE}{suffix}").read_bytes())
    for suffix in ("", "-wal"):
        (folder / f"{DATABASE}{suffix}").write_bytes((copy / f"{DATABASE}{suffix}").read_bytes())
    without_room(folder)
    async with await open_store(folder) as store:
        assert isinstance(store, NarrowStore)
        assert [row.sequence for row in await store.queued()] == [1]


def newer(folder: Path) -> None:
    _change(folder, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


def older(folder: Path) -> None:
    _change(folder, f"PRAGMA user_version = {len(MIGRATIONS) - 1}")


def a_copy(folder: Path) -> None:
    _change(folder, "INSERT INTO property VALUES ('copy', 1)")


def behind(folder: Path) -> None:
    (folder / INCARNATION).write_text("2\n", encoding="ascii")


def gone(folder: Path) -> None:
    (folder / DATABASE).unlink()


def damaged(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"no database at all" * 1000)


def _change(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / DATABASE, isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()


async def test_a_store_of_an_older_format_is_left_as_it_is_until_there_is_room_and_then_brought_to_the_newest(
    small_disk: Path,
) -> None:
    folder = small_disk / "state"
    old = old_store(folder, 1)
    before = (folder / DATABASE).read_bytes()
    taken = small_disk / "somebody-elses"
    fill(taken)
    with pytest.raises(StoreFullError, match=f"{folder}: 0 MiB are free on its disk.*free 5 MiB"):
        await open_store(folder)
    assert "free 5 MiB" in room_problem(folder)
    assert (folder / DATABASE).read_bytes() == before
    taken.unlink()
    assert room_problem(folder) == ""
    assert not (folder / PROBE).exists()
    async with await open_store(folder) as store:
        assert (store.incarnation, store.set_aside) == (1, None)
        assert len(await store.batches(1, 10)) == len(old.batches)


async def test_a_folder_that_takes_no_write_is_no_room_however_much_is_free(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_disk / "state"
    await made(folder)
    assert room_problem(folder) == ""

    def refused(path: Path, _: bytes) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    monkeypatch.setattr("agent.store.files.write_durably", refused)
    assert os.strerror(errno.EDQUOT) in room_problem(folder)


@pytest.mark.parametrize("how", [newer, older, a_copy, behind, gone, damaged])
async def test_what_would_have_to_be_written_first_waits_for_room(
    small_disk: Path, how: Callable[[Path], None]
) -> None:
    folder = small_disk / "state"
    await made(folder)
    how(folder)
    before = (folder / DATABASE).read_bytes() if (folder / DATABASE).exists() else b""
    taken = without_room(folder)
    with pytest.raises(StoreVersionError if how is newer else StoreFullError):
        await open_store(folder)
    if how not in (gone, damaged):
        assert (folder / DATABASE).read_bytes() == before
    taken.unlink()
    if how not in (newer, older):
        async with await open_store(folder) as store:
            assert not isinstance(store, NarrowStore)
            assert store.incarnation > 1
            assert (store.set_aside is not None) is (how is damaged)
