"""Windows and channels over the real store: what is intended, signed, released and settled, and crashes between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.ledger.errors import LedgerError
from agent.ledger.state import decode_signed, decode_state
from agent.measure.reading import Quality
from agent.roads import settling as module
from agent.roads.settling import CONFLICT_NOTE
from agent.store import Stage, Store, StoreError
from hil_tests.roads_parts import HandClock, reading, running, settle_down, until
from hil_tests.settling_parts import (
    WINDOW_S,
    DeviceKey,
    Life,
    Platform,
    hand,
    key,
    platform,
    stored_windows,
    terms,
)
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

__all__ = ["hand", "key", "platform"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
async def life(store: Store, hand: HandClock, platform: Platform, key: DeviceKey) -> Life:
    """The first life, with its first window open and no link."""
    life = Life(store, hand, platform, pv_1=key)
    life.link = False
    await life.begin()
    return life


@pytest.fixture
def again(store: Store, hand: HandClock, platform: Platform, key: DeviceKey) -> Callable[[], Life]:
    """The next life over the same store."""
    return lambda: Life(store, hand, platform, pv_1=key)


# Windows


async def test_windows_are_closed_settled_and_counted(life: Life) -> None:
    await life.connect()
    await life.close_windows(2, energy_wh=10)
    assert (life.settling.windows_closed, life.settling.windows_countersigned) == (2, 2)
    assert (life.settling.windows_waiting, life.settling.trouble, life.settling.frozen) == (0, "", {})
    assert life.settling.last_window_end_us == life.hand.wall_us
    windows = await stored_windows(life.store)
    assert [w.import_wh for w in windows] == [10, 10]
    assert windows[0].command_hashes == (b"\x07" * 32,)
    assert life.platform.held["pv-1"].state.import_wh == 20
    assert await life.waiting_notes() == 0


async def test_consecutive_windows_meet_and_each_reading_is_in_one(life: Life) -> None:
    await life.close_windows(3)
    windows = await stored_windows(life.store)
    assert [w.window_start_us for w in windows[1:]] == [w.window_end_us for w in windows[:-1]]
    assert [(w.first_sequence, w.last_sequence) for w in windows] == [(1, 2), (3, 4), (5, 6)]
    assert all(Quality.ESTIMATED not in w.quality for w in windows[1:])


async def test_no_window_begins_or_ends_while_the_time_is_not_trusted(store: Store, platform: Platform) -> None:
    hand = HandClock(synchronised=False)
    life = Life(store, hand, platform, pv_1=DeviceKey())
    await life.settling.restore()
    async with running(life.settling.run()):
        hand.advance(10 * WINDOW_S)
        await life.desk.put([reading(1, at_us=hand.wall_us)])
        await settle_down(store)
        assert await store.notes("window/") == {}
    assert life.settling.windows_closed == 0


async def test_a_window_whose_commit_fails_is_closed_later_with_the_same_readings(life: Life) -> None:
    await life.measure("pv-1", 10)
    life.hand.advance(WINDOW_S * 1.5)
    life.desk.refusing = True
    async with running(life.settling.run()):
        await until(lambda: "no space left" in life.settling.trouble, "the trouble is named")
        assert life.settling.windows_closed == 0
        life.desk.refusing = False
        await until(lambda: life.settling.windows_closed == 1, "the window is closed")
    assert [(w.reading_count, w.import_wh) for w in await stored_windows(life.store)] == [(2, 10)]


async def test_windows_that_wait_survive_a_restart_and_are_settled_together(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.close_windows(3)
    assert (life.settling.windows_waiting, key.signed) == (3, 0)
    assert await life.waiting_notes() == 3

    life = again()
    await life.begin()
    assert (life.settling.windows_closed, life.settling.windows_waiting) == (3, 3)
    assert life.settling.windows_countersigned == 0
    await life.connect()
    assert (life.settling.windows_countersigned, key.signed) == (3, 1)
    assert life.platform.held["pv-1"].state.version == 1
    assert life.platform.held["pv-1"].state.import_wh == 30
    assert await life.waiting_notes() == 0


# Order: intent, signature, release


async def test_an_intent_is_durable_before_it_is_signed_and_a_signature_before_it_is_released(
    store: Store, hand: HandClock, platform: Platform
) -> None:
    stages_seen: list[Stage] = []

    class WatchfulKey(DeviceKey):
        async def sign_digest(self, digest: bytes) -> bytes:
            newest = await store.channel_newest(terms("pv-1").channel_id)
            assert newest is not None
            assert decode_signed(newest.encoded).state.digest == digest
            stages_seen.append(newest.stage)
            return await super().sign_digest(digest)

    key = WatchfulKey()
    life = Life(store, hand, platform, pv_1=key)
    await life.begin()
    await life.connect()
    await life.close_windows()
    await life.close_windows()
    assert stages_seen == [Stage.INTENT, Stage.INTENT]
    assert life.stages_at_release == [Stage.SIGNED, Stage.SIGNED]
    assert await life.stages() == [Stage.INTENT, Stage.SIGNED, Stage.COUNTERSIGNED] * 2


async def test_an_intent_that_cannot_be_committed_is_not_signed(life: Life, key: DeviceKey) -> None:
    await life.connect()
    life.desk.refused_stage = Stage.INTENT
    await life.close_windows()
    assert (key.signed, await life.stages(), life.platform.proposals) == (0, [], [])
    assert "no space left" in life.settling.trouble


async def test_a_signature_that_cannot_be_committed_is_not_released(life: Life, key: DeviceKey) -> None:
    await life.connect()
    life.desk.refused_stage = Stage.SIGNED
    await life.close_windows()
    assert key.signed == 1
    assert (await life.stages(), life.platform.proposals) == ([Stage.INTENT], [])


async def test_nothing_is_signed_before_the_platform_has_told_what_it_holds(life: Life, key: DeviceKey) -> None:
    life.link = True
    await life.close_windows(2)
    assert (key.signed, await life.stages()) == (0, [])


# Crashes


async def test_a_crash_after_the_intent_goes_on_with_exactly_that_state(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.connect()
    key.away = True
    await life.close_windows()
    [intent] = await life.store.channel_rows(terms("pv-1").channel_id)
    assert intent.stage is Stage.INTENT
    await life.close_windows()  # a second window must not slip into what was intended

    key.away = False
    life = again()
    await life.begin()
    assert key.signed == 0
    await life.connect()
    assert life.platform.proposals[0].state == decode_signed(intent.encoded).state.encode()
    assert await life.stages() == [Stage.INTENT, Stage.SIGNED, Stage.COUNTERSIGNED] * 2
    assert life.settling.windows_countersigned == 2


async def test_a_crash_after_the_signature_releases_the_stored_bytes_and_signs_nothing_anew(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.connect()
    life.link = False
    await life.close_windows()
    signed = await life.store.channel_newest(terms("pv-1").channel_id)
    assert signed is not None
    assert signed.stage is Stage.SIGNED
    assert key.signed == 1

    life = again()
    await life.begin()
    await life.connect()
    [proposal] = life.platform.proposals
    stored = decode_signed(signed.encoded)
    assert (proposal.state, proposal.gateway_signature) == (stored.state.encode(), stored.gateway_signature)
    assert key.signed == 1
    assert life.settling.windows_countersigned == 1


async def test_a_crash_after_the_release_sends_the_same_bytes_again(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.connect()
    life.platform.countersigns = False
    await life.close_windows()
    life.platform.countersigns = True
    life = again()
    await life.begin()
    await life.connect()
    first, second = life.platform.proposals
    assert first == second
    assert key.signed == 1
    assert life.settling.windows_countersigned == 1


async def test_a_countersignature_that_was_lost_comes_with_the_next_connection(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.connect()
    life.platform.answers_lost = True
    await life.close_windows()
    life = again()
    await life.begin()
    assert life.settling.windows_waiting == 1
    await life.connect()
    assert (life.settling.windows_countersigned, life.settling.windows_waiting, key.signed) == (1, 0, 1)
    assert await life.stages() == [Stage.INTENT, Stage.SIGNED, Stage.COUNTERSIGNED]


async def test_a_crash_before_the_countersignature_is_kept_settles_once(
    life: Life, again: Callable[[], Life], key: DeviceKey
) -> None:
    await life.connect()
    life.desk.refused_stage = Stage.COUNTERSIGNED
    with pytest.raises(StoreError, match="no space left"):
        await life.close_windows()
    assert await life.waiting_notes() == 1
    life = again()
    await life.begin()
    await life.connect()
    await life.close_windows()
    assert (life.settling.windows_closed, life.settling.windows_countersigned) == (2, 2)
    assert (life.platform.held["pv-1"].state.import_wh, key.signed) == (20, 2)
    assert [decode_state(p.state).version for p in life.platform.proposals] == [1, 2]


# Other troubles


async def test_a_token_that_comes_back_signs_what_waits_by_itself(
    life: Life, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await life.connect()
    key.away = True
    await life.close_windows()
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    async with running(life.settling.run()):
        assert "the token is away" in life.settling.trouble
        key.away = False
        await until(lambda: key.signed == 1, "the signature")
        await until(lambda: life.settling.trouble == "", "the trouble has passed")
    await life.converse()
    assert life.settling.windows_countersigned == 1


async def test_a_settlement_point_without_its_key_keeps_no_other_one_from_settling(
    store: Store, hand: HandClock, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, good = DeviceKey(), DeviceKey()
    life = Life(store, hand, platform, a_1=lost, b_2=good)
    await life.begin()
    await life.connect()
    lost.away = good.away = True
    await life.close_windows()
    good.away = False
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    async with running(life.settling.run()):
        await until(lambda: good.signed == 1, "the good key signs")
        await until(lambda: "b-2" not in life.settling.trouble, "the good device is out of trouble")
        assert life.settling.trouble.startswith("a-1: ")
    await life.converse()
    assert life.settling.windows_countersigned == 1


async def test_a_device_whose_readings_contradict_one_another_keeps_no_other_one_from_its_windows(
    store: Store, hand: HandClock, platform: Platform
) -> None:
    life = Life(store, hand, platform, a_1=DeviceKey(), b_2=DeviceKey())
    await life.begin()
    await life.desk.put([reading(n, at_us=hand.wall_us, device_id="a-1") for n in (2, 1)])
    hand.advance(WINDOW_S * 1.5)
    async with running(life.settling.run()):
        await until(lambda: life.settling.windows_closed == 1, "the other device's window")
        await until(lambda: "out of order" in life.settling.trouble, "the trouble is named")
    assert len(await stored_windows(store, "b-2")) == 1
    assert await stored_windows(store, "a-1") == []


async def test_a_restored_backup_freezes_the_channel_shows_it_and_signs_nothing(
    life: Life, key: DeviceKey, platform: Platform, hand: HandClock, tmp_path: Path
) -> None:
    await life.connect()
    await life.close_windows()
    await life.close_windows()
    assert key.signed == 2
    async with await Store.open(tmp_path / "a box from yesterday") as older:
        clone = Life(older, hand, platform, pv_1=key)
        await clone.begin()
        await clone.close_windows()
        await clone.connect()
        assert "this store does not know it" in clone.settling.frozen["pv-1"]
        assert "channel.platform_ahead" in await clone.alarms()
        assert [decode_signed(kept) for kept in (await older.notes(CONFLICT_NOTE)).values()] == [platform.held["pv-1"]]
        await clone.close_windows()
        assert (key.signed, await clone.stages(), clone.settling.windows_waiting) == (2, [], 2)


async def test_a_frame_about_no_channel_of_ours_is_refused(life: Life) -> None:
    ours = terms("pv-1").channel_id
    for device_id, channel_id in (("stranger", ours), ("pv-1", bytes(32))):
        with pytest.raises(LedgerError, match="no such channel"):
            await life.settling.receive(ChannelFrame(device_id=device_id, channel_id=channel_id))
    with pytest.raises(LedgerError, match="no content"):
        await life.settling.receive(ChannelFrame(device_id="pv-1", channel_id=ours))
