"""`new-life` at the store: ordered whole or not at all, also of an encrypted one, and only with its key."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.store import Store, StoreError, StoreKeyError
from agent.store.backup import begin_another_life, note_in
from agent.store.files import DATABASE

ORDER = {"new-life": b"a test said so"}


def key() -> bytes:
    return bytes(32)


async def make(folder: Path, *, encrypted: bool = False) -> None:
    async with await Store.open(folder, key=key if encrypted else None, reserve_bytes=4096) as store:
        await store.set_note("other", b"kept")


async def test_an_order_that_is_cut_short_leaves_nothing_for_a_later_backup_to_find(tmp_path: Path) -> None:
    await make(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(
            "CREATE TRIGGER cut BEFORE INSERT ON property WHEN NEW.name = 'copy' BEGIN SELECT RAISE(ABORT, 'cut'); END"
        )
    connection.close()
    with pytest.raises(StoreError):
        begin_another_life(tmp_path, ORDER)
    assert note_in(tmp_path / DATABASE, "new-life") is None
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert (store.incarnation, store.put_back) == (1, False)


async def test_ordered_twice_before_a_start_it_is_one_new_life(tmp_path: Path) -> None:
    await make(tmp_path)
    assert [begin_another_life(tmp_path, ORDER) for _ in range(2)] == [1, 1]
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        life = store.incarnation
        assert (store.put_back, await store.note("new-life")) == (True, ORDER["new-life"])
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        assert store.incarnation == life > 1


async def test_an_encrypted_store_begins_another_life_with_its_key_and_without_it_stays_as_it_is(
    tmp_path: Path,
) -> None:
    await make(tmp_path, encrypted=True)
    for wrong in (None, lambda: b"k" * 32):
        with pytest.raises(StoreKeyError):
            begin_another_life(tmp_path, ORDER, key=wrong)
    async with await Store.open(tmp_path, key=key, reserve_bytes=4096) as store:
        assert (store.incarnation, await store.note("new-life")) == (1, None)
    assert begin_another_life(tmp_path, ORDER, key=key) == 1
    assert ORDER["new-life"] not in (tmp_path / DATABASE).read_bytes()
    async with await Store.open(tmp_path, key=key, reserve_bytes=4096) as store:
        assert store.incarnation > 1
        assert (await store.note("new-life"), await store.note("other")) == (ORDER["new-life"], b"kept")
