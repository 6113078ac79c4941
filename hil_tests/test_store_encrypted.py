"""An encrypted store: what is promised of any store, and that the disk says nothing and a moved row does not open."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agent.config import SecretError
from agent.store import (
    ChannelRow,
    Cut,
    Kept,
    Queued,
    Reader,
    Stage,
    Store,
    StoreCorruptError,
    StoreError,
    StoreKeyError,
    converting,
    files,
    schema,
    secret,
)
from agent.store.files import DATABASE
from hil_tests.test_store_database import row, seal

ROOT = Path(__file__).parent.parent
KEY, OTHER = os.urandom(32), os.urandom(32)
MARKER = b"MEASURED-AND-ORDERED"
CHANNEL = b"c" * 32


def key() -> bytes:
    return KEY


def other_key() -> bytes:
    return OTHER


def away() -> bytes:
    raise SecretError("the TPM does not answer")


async def opened(folder: Path, source: secret.KeySource | None = key) -> Store:
    return await Store.open(folder, key=source, reserve_bytes=4096)


def marked(sequence: int) -> Queued:
    return Queued(1, "d1", sequence, sequence * 1_000_000, MARKER + b"%06d" % sequence)


async def fill(store: Store) -> None:
    """Something of everything that the store can hold."""
    for n in range(1, 4):
        await store.put([marked(10 * n + i) for i in range(5)], {f"note/{n}": MARKER + b"%d" % n})
        await seal(store)
    await store.channel_append(CHANNEL, 1, 1, Stage.INTENT, MARKER + b"intent")
    await store.channel_append(CHANNEL, 1, 1, Stage.SIGNED, MARKER + b"signed")
    await store.acknowledge(1, 2, 0)
    await store.put([marked(100 + i) for i in range(3)])
    await store.put([marked(110)], {"note/4": MARKER})


async def all_of(store: Reader) -> dict[str, object]:
    return {
        "counts": await Reader.counts(store),
        "batches": await store.batches(1, 100),
        "queued": await store.queued(),
        "notes": await store.notes("note/"),
        "statements": await store.statements("d1", 1, 0, 1 << 62),
        "after": await store.statements_after("d1", 1, 31),
        "channel": await store.channel_rows(CHANNEL),
        "bodies": await store.bodies_between(1, 100),
        "kinds": await store.of_kind_between(1, 1, 100),
        "kept": await store.kept(0, 1 << 62, 0, 100),
        "acknowledged": await store.acknowledged_number(),
    }


def clear_files(folder: Path) -> list[str]:
    """Files below a folder in which the marker can be read."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and MARKER in p.read_bytes()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_what_an_encrypted_store_returns_is_what_a_plain_one_returns(tmp_path: Path) -> None:
    told = []
    for folder, source in (("plain", None), ("encrypted", key)):
        async with await opened(tmp_path / folder, source) as store:
            await fill(store)
            told.append(await all_of(store))
            assert await store.is_queued(marked(101).encoded)
            assert not await store.is_queued(marked(11).encoded)
            assert await store.counts() == await Reader.counts(store)
    assert told[0] == told[1]
    async with await opened(tmp_path / "encrypted") as store:
        assert await all_of(store) == told[0], "and after a restart"


async def test_no_file_of_the_folder_shows_what_was_stored_while_open_or_closed(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        await store.prune(10**18, 0, None)
        assert clear_files(tmp_path) == []
        assert (tmp_path / f"{DATABASE}-wal").stat().st_size > 0
    assert clear_files(tmp_path) == []
    async with await opened(tmp_path / "control", None) as store:
        await fill(store)
        assert clear_files(tmp_path) != [], "the test can see it where it is"


async def test_batches_that_lose_leaves_and_what_is_kept_of_deleted_ones_stay_encrypted(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        for n in range(1, 4):
            await store.put([marked(n)])
            await seal(store)
        body = await store.body_at(1)
        assert body is not None
        await store.cut([Cut(1, MARKER + b"cut", frozenset({1}))], {"plan": MARKER}, 99)
        assert await store.body_at(1) == MARKER + b"cut"
        await store.acknowledge(1, 3, 0)

        async def keep(first: int, last: int) -> list[Kept]:
            return [Kept(first, MARKER + b"kept")]

        assert await store.prune(10**18, 7, keep) == 2
        assert [encoded for _, encoded in await store.kept(0, 1 << 62, 0, 10)] == [MARKER + b"kept"]
        assert clear_files(tmp_path) == []


async def test_sealing_in_the_midst_of_a_chunk_leaves_the_rest_of_it_to_the_next_batch(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        rows = [marked(n) for n in range(1, 8)]
        await store.put(rows)
        await seal(store, 3)
        assert [each.encoded for each in await store.queued()] == [r.encoded for r in rows[3:]]
        assert await store.statements("d1", 1, 0, 1 << 62) == [r.encoded for r in rows]
        await seal(store)
        assert await store.queued() == []
        await store.put(rows[:2])
        assert [each.encoded for each in await store.queued()] == [r.encoded for r in rows[:2]]
    with sqlite3.connect(tmp_path / DATABASE) as database:
        assert database.execute("SELECT count(*) FROM chunk").fetchone() == (1,), "sealed chunks are gone"


@pytest.mark.parametrize("read", ["statements", "queued"])
async def test_a_place_in_the_queue_that_was_given_anew_while_it_was_read_is_not_taken_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """A queue that was emptied begins at its first place again."""
    async with await opened(tmp_path) as store:
        rows = [marked(n) for n in range(1, 4)]
        await store.put(rows)
        in_chunks = Reader._in_chunks

        async def sealed_first(reader: Reader, places: Sequence[int]) -> dict[int, bytes]:
            monkeypatch.setattr(Reader, "_in_chunks", in_chunks)
            await seal(store)
            await store.put([Queued(1, "other", n, n, b"another") for n in range(1, 4)])
            return await in_chunks(reader, places)

        monkeypatch.setattr(Reader, "_in_chunks", sealed_first)
        if read == "statements":
            assert await store.statements("d1", 1, 0, 1 << 62) == [r.encoded for r in rows]
        else:
            assert {(each.device_id, each.encoded) for each in await store.queued()} == {("other", b"another")}


@pytest.mark.parametrize("source", [other_key, away, None], ids=["another key", "key away", "no key named"])
async def test_without_its_key_nothing_of_the_store_is_touched_and_it_is_said_what_to_do(
    tmp_path: Path, source: secret.KeySource | None
) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        before = await all_of(store)
    found = bytes_of(tmp_path)
    with pytest.raises(StoreKeyError, match=r"TPM does not answer|store_key_secret") as raised:
        await opened(tmp_path, source)
    with pytest.raises(StoreKeyError):
        async with Reader.beside(tmp_path, source):
            pass
    assert files.key_problem(tmp_path, source)
    assert KEY.hex() not in str(raised.value)
    assert OTHER.hex() not in str(raised.value)
    assert {name: content for name, content in bytes_of(tmp_path).items() if name in found} == found
    assert not [name for name in os.listdir(tmp_path) if name.startswith(f"{DATABASE}.")], "nothing was set aside"
    assert files.key_problem(tmp_path, key) == ""
    async with await opened(tmp_path) as store:
        assert (store.incarnation, await all_of(store)) == (1, before)


async def test_a_store_is_not_begun_in_the_clear_while_its_key_is_away(tmp_path: Path) -> None:
    with pytest.raises(StoreKeyError):
        await opened(tmp_path, away)
    assert not (tmp_path / DATABASE).exists()


@pytest.mark.parametrize(
    ("swap", "read"),
    [
        ("UPDATE note SET value = (SELECT value FROM note WHERE key = 'note/1') WHERE key = 'note/2'", "note"),
        ("UPDATE body SET encoded = (SELECT encoded FROM body WHERE batch = 1) WHERE batch = 2", "batches"),
        ("UPDATE body SET encoded = CAST('plain' AS BLOB) WHERE batch = 2", "batches"),
        ("UPDATE chunk SET encoded = (SELECT encoded FROM chunk ORDER BY first DESC LIMIT 1)", "queued"),
        (
            "DROP TRIGGER channel_state_is_never_changed; UPDATE channel_state SET encoded = (SELECT encoded FROM "
            "channel_state WHERE stage = 0) WHERE stage = 1",
            "channel",
        ),
    ],
)
async def test_a_value_that_is_moved_or_replaced_does_not_open(tmp_path: Path, swap: str, read: str) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        with sqlite3.connect(tmp_path / DATABASE) as database:
            database.executescript(swap)
        reads = {
            "note": lambda: store.note("note/2"),
            "batches": lambda: store.batches(1, 10),
            "queued": store.queued,
            "channel": lambda: store.channel_rows(CHANNEL),
        }
        with pytest.raises(StoreCorruptError, match="altered, moved or damaged"):
            await reads[read]()  # type: ignore[operator]


async def test_damaged_notes_and_queued_statements_stop_no_start_and_are_told(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute("UPDATE note SET value = zeroblob(40) WHERE key = 'note/2'")
        database.execute("UPDATE chunk SET encoded = zeroblob(40) WHERE first = (SELECT min(first) FROM chunk)")
    async with await opened(tmp_path) as store:
        assert store.damaged_values == 1 + 3
        assert set(await store.notes("note/")) == {"note/1", "note/3", "note/4"}
        assert [each.encoded for each in await store.queued()] == [marked(110).encoded]
        await seal(store)
        assert await store.counts() == await Reader.counts(store)
    async with await opened(tmp_path) as store:
        assert store.damaged_values == 0


async def test_a_damaged_name_of_the_key_keeps_nobody_out_who_has_it(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await store.set_note("a", b"b")
    with sqlite3.connect(tmp_path / DATABASE) as database:
        for table in ("secret", "secret_copy"):
            database.execute(f"UPDATE {table} SET key_id = zeroblob(8)")
    with pytest.raises(StoreKeyError, match="name the right one"):
        await opened(tmp_path, other_key)
    async with await opened(tmp_path) as store:
        assert (store.set_aside, await store.note("a")) == (None, b"b")


HARMS = pytest.mark.parametrize(
    "harm",
    ["DELETE FROM secret", "UPDATE secret SET wrapped = zeroblob(60)", "UPDATE secret SET wrapped = 'text'"],
    ids=["gone", "overwritten", "no bytes"],
)


@HARMS
@pytest.mark.parametrize("table", ["secret", "secret_copy"])
async def test_of_the_two_places_of_its_key_one_may_be_damaged_and_is_written_anew(
    tmp_path: Path, harm: str, table: str
) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        before = await all_of(store)
        assert not store.key_mended
    path = tmp_path / DATABASE
    with sqlite3.connect(path) as database:
        whole = rows_of(database)
        database.execute(harm.replace("secret", table))
    async with Store.beside(tmp_path, key) as reader:
        assert await all_of(reader) == before, "who only reads needs no mending"
    with pytest.raises(StoreKeyError, match="name the right one"):
        await opened(tmp_path, other_key)
    async with await opened(tmp_path) as store:
        assert (store.set_aside, store.key_mended, await all_of(store)) == (None, True, before)
    with sqlite3.connect(path) as database:
        assert rows_of(database) == whole
    async with await opened(tmp_path) as store:
        assert not store.key_mended


def rows_of(database: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    return [database.execute(f"SELECT * FROM {table}").fetchall() for table in ("secret", "secret_copy")]


@pytest.mark.parametrize("bad", [0x00, 0xFF])
async def test_a_block_of_the_disk_that_holds_its_key_may_be_lost_and_the_rest_opens(tmp_path: Path, bad: int) -> None:
    """The file is set aside for it, as for any damage; what is in it can be read."""
    async with await opened(tmp_path) as store:
        await fill(store)
        before = await all_of(store)
    path = tmp_path / DATABASE
    with sqlite3.connect(path) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'secret'").fetchall()
        ((size,),) = database.execute("PRAGMA page_size").fetchall()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes([bad]) * size)
    async with Store.beside(tmp_path, key) as reader:
        assert await all_of(reader) == before


@pytest.mark.parametrize("free", [0, 100, 1000], ids=lambda free: f"{free} free pages")
async def test_the_two_places_of_the_key_are_in_no_block_together(tmp_path: Path, free: int) -> None:
    path = tmp_path / DATABASE
    schema.migrate(path)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE was_here (filler BLOB)")
        database.execute("INSERT INTO was_here VALUES (zeroblob(?))", (free * 1024,))
        database.execute("DROP TABLE was_here")
    secret.make_in(path, KEY)
    with sqlite3.connect(path) as database:
        pages = dict(database.execute("SELECT name, rootpage FROM sqlite_schema WHERE name LIKE 'secret%'"))
    assert sorted(pages) == ["secret", "secret_copy"]
    assert abs(pages["secret"] - pages["secret_copy"]) * schema.PAGE_BYTES >= secret.APART_BYTES


async def test_a_store_of_a_version_that_had_its_key_once_gets_the_second_place_without_a_word(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute("DROP TABLE secret_copy")
    async with await opened(tmp_path) as store:
        assert not store.key_mended
    with sqlite3.connect(tmp_path / DATABASE) as database:
        first, second = rows_of(database)
    assert first == second != []


async def test_under_another_sites_key_both_places_are_written_anew_and_in_the_clear_none_is_left(
    tmp_path: Path,
) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        before = await all_of(store)
    path = tmp_path / DATABASE
    secret.rewrap(path, key, OTHER)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        first, second = rows_of(database)
        assert first == second
        assert first[0][1] == secret.key_id(OTHER)
        database.execute("DELETE FROM secret")
    with pytest.raises(StoreKeyError, match="name the right one"):
        await opened(tmp_path)
    async with await opened(tmp_path, other_key) as store:
        assert await all_of(store) == before
    assert converting.in_place(path, secret.content_of(path, other_key), None) == 0
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM secret").fetchone() == (0,)
        assert database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'secret_copy'").fetchone() is None


@HARMS
async def test_an_encrypted_store_that_lost_its_key_is_set_aside_and_never_taken_for_a_plain_one(
    tmp_path: Path, harm: str
) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute(harm)
        database.execute(harm.replace("secret", "secret_copy"))
    async with await opened(tmp_path) as store:
        assert (store.set_aside is not None, store.incarnation, store.content.is_plain) == (True, 2, False)
        await store.put([marked(1)], {"note/1": MARKER})
    assert clear_files(tmp_path) == []


async def test_no_nonce_is_ever_used_twice_over_restarts_and_copies(tmp_path: Path) -> None:
    """Lives that begin from the same file have keys of their own."""
    async with await opened(tmp_path / "one") as store:
        await store.set_note("a", b"x")
    (tmp_path / "two").mkdir()
    for each in (tmp_path / "one").iterdir():
        (tmp_path / "two" / each.name).write_bytes(each.read_bytes())
    kept = []
    for folder in ("one", "two"):
        async with await opened(tmp_path / folder) as store:
            await store.set_note("b", b"the same")
        with sqlite3.connect(tmp_path / folder / DATABASE) as database:
            kept.append(database.execute("SELECT value FROM note WHERE key = 'b'").fetchone()[0])
    assert kept[0][:12] == kept[1][:12], "number and epoch are the same in both"
    assert kept[0][12:] != kept[1][12:], "and the key is not"


async def test_a_plain_store_is_encrypted_at_the_next_start_and_nothing_plain_is_left(tmp_path: Path) -> None:
    async with await opened(tmp_path, None) as store:
        await fill(store)
        before = await all_of(store)
        # Also what is not in any table any more.
        await store.set_note("gone", MARKER)
        await store.delete_note("gone")
    assert clear_files(tmp_path) == [DATABASE]
    async with await opened(tmp_path) as store:
        assert (store.incarnation, store.in_the_clear, store.newly_encrypted) == (1, "", True)
        assert await all_of(store) == before
        assert await store._all("PRAGMA journal_mode") == [("wal",)]
        assert clear_files(tmp_path) == []
        await store.put([marked(200)])
        await seal(store)
    assert sorted(os.listdir(tmp_path)) == [DATABASE, "evidence.lock", "incarnation", "reserve"]
    with pytest.raises(StoreKeyError):
        await opened(tmp_path, None)


async def test_an_encrypted_store_is_put_in_the_clear_whole(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await fill(store)
        await seal(store, 2)
        before = await all_of(store)
    path = tmp_path / DATABASE
    assert converting.in_place(path, secret.content_of(path, key), None) == 0
    async with await opened(tmp_path, None) as store:
        assert await all_of(store) == before


async def test_where_there_is_no_room_to_encrypt_the_store_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await opened(tmp_path, None) as store:
        await fill(store)
    with monkeypatch.context() as patched:
        patched.setattr(converting, "_ROOM_BYTES", 1 << 60)
        async with await opened(tmp_path) as store:
            assert "must be free" in store.in_the_clear
            assert await store._all("PRAGMA journal_mode") == [("wal",)], "readers stop no writer"
            await store.put([row(1)])
    async with await opened(tmp_path) as store:
        assert store.in_the_clear == ""
    assert clear_files(tmp_path) == []


async def test_another_reader_of_the_plain_store_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that somebody still reads would be applied to the new file."""
    async with await opened(tmp_path, None) as store:
        await fill(store)
        before = await all_of(store)
    with sqlite3.connect(tmp_path / DATABASE) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM note").fetchone()
        async with await opened(tmp_path) as store:
            assert store.in_the_clear
            assert await all_of(store) == before
    reader.close()
    async with await opened(tmp_path) as store:
        assert store.in_the_clear == ""
        assert await all_of(store) == before


async def test_databases_that_were_set_aside_in_the_clear_are_named(tmp_path: Path) -> None:
    async with await opened(tmp_path, None) as store:
        await fill(store)
    files.begin_anew(tmp_path)
    async with await opened(tmp_path) as store:
        assert f"{DATABASE}.former-1-1" in store.in_the_clear


async def test_a_channel_row_that_is_appended_again_is_compared_in_the_clear(tmp_path: Path) -> None:
    async with await opened(tmp_path) as store:
        await store.channel_append(CHANNEL, 1, 1, Stage.INTENT, b"one")
        await store.channel_append(CHANNEL, 1, 1, Stage.INTENT, b"one")
        with pytest.raises(StoreError, match="another INTENT"):
            await store.put([], channel=[ChannelRow(CHANNEL, 1, 1, Stage.INTENT, b"two")])


async def test_killed_at_any_step_of_its_encryption_a_store_loses_nothing_and_the_next_start_ends_it(
    tmp_path: Path,
) -> None:
    key_file = tmp_path / "key"
    key_file.touch(mode=0o600)
    key_file.write_text(KEY.hex(), encoding="ascii")
    async with await opened(tmp_path / "plain", None) as store:
        await fill(store)
        before = await all_of(store)
    steps = [-3, -8, *range(1, 70)]
    for step in steps:
        shutil.copytree(tmp_path / "plain", tmp_path / str(step))
    arguments = [sys.executable, "-m", "hil_tests.converting_victim", str(tmp_path), str(key_file), *map(str, steps)]
    done = await asyncio.to_thread(subprocess.run, arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    words = [line.split() for line in done.stdout.splitlines()]
    ended = {int(each[1]): int(each[2]) for each in words if each[0] == "ended"}
    assert set(ended.values()) == {0, -signal.SIGKILL}
    assert ended[steps[-1]] == 0, "there are more steps than were tried"
    killed = [step for step, code in ended.items() if code]
    assert len(killed) > 20
    for step in killed:
        async with await opened(tmp_path / str(step)) as store:
            assert (store.incarnation, store.in_the_clear) == (1, "")
            assert await all_of(store) == before, f"killed at step {step}"
            assert clear_files(tmp_path / str(step)) == [], f"killed at step {step}"
        left = sorted(os.listdir(tmp_path / str(step)))
        assert left == [DATABASE, "evidence.lock", "incarnation", "reserve"], f"killed at step {step}"


@pytest.mark.parametrize("with_key", [False, True], ids=["before its key", "after its key"])
async def test_a_first_start_that_is_killed_before_it_has_ended_leaves_an_encrypted_store_to_the_next(
    tmp_path: Path, with_key: bool
) -> None:
    schema.migrate(tmp_path / DATABASE)
    if with_key:
        secret.make_in(tmp_path / DATABASE, KEY)
    async with await opened(tmp_path) as store:
        assert (store.incarnation, store.content.is_plain, store.newly_encrypted) == (1, False, False)
        await fill(store)
        assert clear_files(tmp_path) == []
