"""A copied card that is to go on: windows of its own that the platform never saw are left, and no energy is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.ledger.channel import Phase
from agent.ledger.state import SignedState
from agent.roads import restored
from agent.roads.restored import NEW_LIFE_NOTE
from agent.roads.window_notes import BEFORE_NOTE, CLOSED_NOTE
from agent.store import Stage, Store
from agent.store.backup import begin_another_life
from agent.uplink.left import left_incarnations
from hil_tests.roads_parts import HandClock, running, until
from hil_tests.settling_parts import WINDOW_S, DeviceKey, Life, Platform, hand, key, platform, stored_windows
from hil_tests.test_roads_restored import measured

__all__ = ["hand", "key", "platform"]


async def copied(folder: Path, hand: HandClock, platform: Platform, key: DeviceKey, *, since: int) -> Path:
    """The folder of a copy of a store in which two windows are settled; the original has settled `since` more."""
    ours, theirs = folder / "copy", folder / "original"
    async with await Store.open(ours) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        await life.close_windows(2)
        await life.seal()
    shutil.copytree(ours, theirs)
    async with await Store.open(theirs) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        await life.close_windows(since)
    assert platform.held["pv-1"].state.import_wh == 20 + 10 * since
    return ours


async def takes_over(life: Life, held: SignedState) -> None:
    async with running(life.settling.run()):
        await until(lambda: life.settling._channels["pv-1"].settled == held, "the state is taken over")


async def test_a_frozen_channel_takes_over_what_both_signed_and_closes_what_follows_anew(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    folder = await copied(tmp_path, hand, platform, key, since=2)
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        assert life.settling._channels["pv-1"].phase is Phase.FROZEN
        await life.close_windows(2)
        await life.seal()
        assert await life.waiting_notes() >= 2, "of the time that the original has settled, and of other energy"
    assert begin_another_life(folder, {NEW_LIFE_NOTE: b"a test said so"}) == 1
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        assert await left_incarnations(store) == {1}
        await life.settling.restore()
        assert (await life.waiting_notes(), life.settling.windows_closed) == (0, 2)
        await life.connect()
        await measured(life, import_wh=43)
        await life.seal()
        held = platform.held["pv-1"]
        await takes_over(life, held)
        assert (life.settling.trouble, life.settling.frozen) == ("", {})

        # What the meter counted since the state, once: the 3 Wh that nobody had settled.
        for _ in range(6):
            await life.close_windows(1, energy_wh=0)
        hand.advance(WINDOW_S / 2)
        async with running(life.settling.run()):
            due = "and the two windows that the original has settled since, closed anew"
            await until(lambda: life.settling.windows_closed == 2 + 2 + 6 and life._at_rest(), due)
        await life.converse()
        state = platform.held["pv-1"].state
        assert (state.incarnation, state.import_wh) == (store.incarnation, 43)
        assert await life.waiting_notes() == 0
        lives = {window.incarnation for window in await stored_windows(store)}
        assert lives == {1, store.incarnation}, "what was left is still here"


async def test_it_happens_once_and_where_nothing_is_left_nothing_is_reopened(
    tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    folder = await copied(tmp_path, hand, platform, key, since=1)
    begin_another_life(folder, {NEW_LIFE_NOTE: b"a test said so"})
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        assert await store.note(NEW_LIFE_NOTE) is None
        await life.settling.restore()
        assert life.settling.windows_closed == 2
        await life.connect()
        await measured(life, import_wh=33)
        await life.seal()
        await takes_over(life, platform.held["pv-1"])
        life.link = False
        await life.close_windows(1)
        assert (life.settling.windows_closed, await life.waiting_notes()) == (3, 1)
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        assert (life.settling.windows_closed, await life.waiting_notes()) == (3, 1)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "by a version that kept nothing"])
async def test_a_register_that_was_held_where_it_fell_is_held_there_again(
    kept: bool, tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    async with await Store.open(tmp_path) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.connect()
        await life.close_windows(2)
        await measured(life, import_wh=5)
        await life.close_windows(1, energy_wh=0)
        await life.connect()
        assert platform.held["pv-1"].state.import_wh == 20, "what has fallen stands where it was"
        assert await life.waiting_notes() == 0
    async with await Store.open(tmp_path) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        await life.close_windows(1, energy_wh=26)
        await life.seal()
        before = await store.notes(BEFORE_NOTE)
        assert len(before) == await life.waiting_notes() == 1
        if not kept:
            await store.set_notes(dict.fromkeys(before))
    begin_another_life(tmp_path, {NEW_LIFE_NOTE: b"a test said so"})
    async with await Store.open(tmp_path) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        assert await store.notes(BEFORE_NOTE) == {}
        await life.connect()
        hand.advance(WINDOW_S / 2)
        async with running(life.settling.run()):
            await until(lambda: life.settling.windows_closed == 4 and life._at_rest(), "it is closed anew")
        await life.converse()
        state = platform.held["pv-1"].state
        assert (state.incarnation, state.import_wh) == (store.incarnation, 31), "from 20 to 31, and not from 5"


@pytest.mark.parametrize("since", [1, 2])
async def test_a_state_of_the_left_life_beside_one_that_the_copy_settled_freezes_its_channel_and_loses_no_window(
    since: int, tmp_path: Path, hand: HandClock, platform: Platform, key: DeviceKey
) -> None:
    folder = await copied(tmp_path, hand, platform, key, since=since)
    # The copy took up its channel while the original was still, and lost the link then.
    held, platform.held = platform.held, {}
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await life.begin()
        channel = life.settling._channels["pv-1"]
        assert channel.settled is not None
        platform.held = {"pv-1": channel.settled}
        await life.connect()
        life.link = False
        await life.close_windows(2)
        await life.seal()
        newest = await store.channel_newest(channel.terms.channel_id)
        assert newest is not None
        assert newest.stage is Stage.SIGNED
    platform.held = held
    begin_another_life(folder, {NEW_LIFE_NOTE: b"a test said so"})
    async with await Store.open(folder) as store:
        life = Life(store, hand, platform, pv_1=key)
        await restored.mark(store, life.desk, hand.wall_us)
        await life.settling.restore()
        await life.connect()
        await measured(life, import_wh=43)
        await life.seal()
        async with running(life.settling.run()):
            await until(lambda: bool(life.settling.frozen), "two states of one name are for people")
        await life.close_windows(2, energy_wh=0)
        assert platform.held == held
        # As the store knows them: what was stopped in the middle of a window's close may know of one less.
        closed = int(await store.note(CLOSED_NOTE) or b"0")
        assert await life.waiting_notes() == closed - 2, "and all that nobody settled waits"
