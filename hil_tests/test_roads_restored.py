"""A backup that was put back, over real stores: what both signed since is taken over, nothing is settled twice."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.ledger.state import decode_signed
from agent.roads import restored
from agent.roads.settling import CONFLICT_NOTE
from agent.store import Stage, Store
from agent.store import backup as store_backup
from agent.store.files import DATABASE
from hil_tests.roads_parts import HandClock, reading, running, until
from hil_tests.settling_parts import WINDOW_S, DeviceKey, Life, Platform, hand, key, platform, terms

__all__ = ["hand", "key", "platform"]


def quiet(done: int, total: int) -> None:
    """No word of progress."""


@asynccontextmanager
async def box_with_a_past(
    folder: Path, hand: HandClock, platform: Platform, key: DeviceKey, *, lost: int = 2, by_restore: bool = True
) -> AsyncIterator[Store]:
    """The store of a backup that was put back: two windows are settled in it, and `lost` more since, 10 Wh each."""
    state_dir, backup = folder / "state", folder / "backup.db"
    async with await Store.open(state_dir) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        await life.close_windows(2)
        store_backup.back_up(state_dir, backup, quiet)
        await life.close_windows(lost)
        assert platform.held["pv-1"].state.import_wh == 20 + 10 * lost
    store_backup.put_back(state_dir, backup, quiet)
    if not by_restore:
        # As a file that was copied by hand.
        with contextlib.closing(sqlite3.connect(state_dir / DATABASE, isolation_level=None)) as connection:
            connection.execute("DELETE FROM property WHERE name = 'copy'")
    async with await Store.open(state_dir) as store:
        assert store.put_back is by_restore
        yield store


async def measured(life: Life, *, import_wh: int) -> None:
    """The meter is read for the first time after the restore."""
    last = len(await life.store.statements("pv-1", 1, 0, 1 << 62))
    incarnation = life.store.incarnation
    await life.desk.put([reading(last + 1, at_us=life.hand.wall_us, import_wh=import_wh, incarnation=incarnation)])


async def looked(life: Life, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    async with running(life.settling.run()):
        await until(condition, what)


async def test_the_platforms_state_is_taken_over_and_the_next_window_is_countersigned(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        assert "a backup was put back" in life.settling.trouble
        await life.connect()
        await measured(life, import_wh=43)
        held = platform.held["pv-1"]
        assert (life.settling._channels["pv-1"].offered, life.settling.windows_closed) == (held, 2)
        await life.seal()

        async def taken_over() -> bool:
            settled = life.settling._channels["pv-1"].settled == held
            return settled and "channel.adopted" in await life.alarms()

        await looked(life, taken_over, "the state is taken over")
        assert (life.settling.trouble, life.settling.frozen) == ("", {})
        newest = await store.channel_newest(terms("pv-1").channel_id, Stage.COUNTERSIGNED)
        assert newest is not None
        assert decode_signed(newest.encoded) == held
        signed = key.signed

        # 3 Wh since the state, and 10 in the window that follows: what was settled is not settled again.
        await life.close_windows(1)
        state = platform.held["pv-1"].state
        assert (state.incarnation, state.version) == (store.incarnation, held.state.version + 1)
        assert (state.import_wh, state.window_start_us) == (53, held.state.window_end_us)
        assert (key.signed, life.settling.windows_waiting) == (signed + 1, 0)


async def test_it_is_not_taken_over_before_the_marker_is_signed(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        await life.connect()
        await measured(life, import_wh=40)
        assert not await restored.is_sealed(store)
        device = life.settling._devices["pv-1"]
        await life.settling._see_to(device, ask_again=True)
        assert life.settling._channels["pv-1"].settled != platform.held["pv-1"]
        await life.seal()
        await life.settling._see_to(device, ask_again=True)
        assert life.settling._channels["pv-1"].settled == platform.held["pv-1"]


async def test_a_state_above_the_register_freezes_is_kept_and_is_an_alarm(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.seal()
        await life.settling.restore()
        await life.connect()
        await measured(life, import_wh=39)

        async def told() -> bool:
            return "channel.platform_ahead" in await life.alarms()

        await looked(life, told, "the alarm of a frozen channel")
        assert "import 40 Wh, by the meter 39 Wh at most" in life.settling.frozen["pv-1"]
        kept = await store.notes(CONFLICT_NOTE)
        assert [decode_signed(each) for each in kept.values()] == [platform.held["pv-1"]]
        signed = key.signed

        # Frozen over a restart too, whatever the platform says then.
        life = Life(store, hand, platform, pv_1=key)
        del platform.held["pv-1"]
        await life.settling.restore()
        await life.connect()
        assert "pv-1" in life.settling.frozen
        assert key.signed == signed
        # Its windows are closed all the same, and remembered.
        closed = life.settling.windows_closed
        await life.close_windows()
        assert (key.signed, life.settling.windows_closed > closed) == (signed, True)


async def test_a_copy_that_nobody_restored_freezes_as_ever(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key, by_restore=False) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.settling.restore()
        await life.connect()
        assert "was a backup restored" in life.settling.frozen["pv-1"]


async def test_where_the_platform_holds_nothing_newer_windows_go_on_from_the_backup(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    """The platform has windows of the lost life that were never settled: the new life closes that time anew."""
    state_dir, backup = tmp_path / "state", tmp_path / "backup.db"
    async with await Store.open(state_dir) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        await life.close_windows(2)
        store_backup.back_up(state_dir, backup, quiet)
        platform.countersigns = False
        await life.close_windows(2)
        platform.countersigns = True
    assert len(platform.windows["pv-1"]) > 2
    store_backup.put_back(state_dir, backup, quiet)
    async with await Store.open(state_dir) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        await life.connect()
        assert (life.settling.frozen, life.settling.trouble) == ({}, "")
        await measured(life, import_wh=45)
        hand.advance(WINDOW_S * 1.5)
        await looked(life, lambda: life.settling.windows_waiting == 3, "windows are closed")
        await life.converse()
        assert platform.held["pv-1"].state.import_wh == 45
        assert life.settling.windows_waiting == 0
        assert not await restored.is_pending(store, "pv-1")


async def test_a_second_restore_has_a_marker_of_its_own(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await store.set_notes(await restored.done(store, "pv-1"))
        assert not await restored.is_pending(store, "pv-1")
        await restored.mark(store, life.desk, hand.wall_us + 1)
        assert not await restored.is_pending(store, "pv-1"), "one restore has one marker"
    store_backup.put_back(tmp_path / "state", tmp_path / "backup.db", quiet)
    async with await Store.open(tmp_path / "state") as store:
        await store.set_notes(await restored.done(store, "pv-1"))
        assert await restored.is_pending(store, "pv-1"), "before its own marker, too"
        await restored.mark(store, Life(store, hand, platform, pv_1=key).desk, hand.wall_us)
        assert await restored.is_pending(store, "pv-1")


async def test_a_start_that_is_killed_before_the_marker_leaves_it_to_the_next(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key):
        pass  # it has begun its incarnation, and dies there
    async with await Store.open(tmp_path / "state") as store:
        assert (store.put_back, store.restored) == (True, False)
        life = Life(store, hand, platform, pv_1=key)
        await life.settling.restore()
        await life.connect()
        await measured(life, import_wh=43)
        await life.seal()
        await life.settling._see_to(life.settling._devices["pv-1"], ask_again=True)
        # Its marker could not be written yet: it neither takes over nor freezes.
        assert life.settling._channels["pv-1"].settled != platform.held["pv-1"]
        assert (life.settling.frozen, life.settling.windows_closed) == ({}, 2)
    async with await Store.open(tmp_path / "state") as store:
        life = Life(store, hand, platform, pv_1=key)
        for _ in range(2):
            await restored.mark(store, life.desk, hand.wall_us)
        assert (await life.alarms()).count(restored.CODE) == 1
        await life.settling.restore()
        await life.connect()
        await life.seal()
        await life.settling._see_to(life.settling._devices["pv-1"], ask_again=True)
        assert life.settling._channels["pv-1"].settled == platform.held["pv-1"]


async def test_a_marker_at_the_end_of_a_long_queue_is_not_taken_for_a_signed_one(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with box_with_a_past(tmp_path, hand, platform, key) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.desk.put([reading(n, at_us=hand.wall_us, import_wh=0, device_id="other") for n in range(1, 5001)])
        await restored.mark(store, life.desk, hand.wall_us)
        assert not await restored.is_sealed(store)
