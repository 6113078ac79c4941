"""Windows and channels over the real store: what is intended, signed, released and settled, and crashes between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.evidence.cose import low_s
from agent.evidence.statements import Alarm, Kind, SettlementWindow, decode
from agent.ledger import follower
from agent.ledger.errors import LedgerError
from agent.ledger.follower import Ruling
from agent.ledger.frames import Proposal, Reestablish, from_wire, to_wire
from agent.ledger.state import ChannelTerms, SignedState, decode_signed, decode_state
from agent.measure.reading import Quality
from agent.roads import settling as module
from agent.roads.settling import CONFLICT_NOTE, WAITING_NOTE, SettledDevice, Settling
from agent.store import Stage, Store, StoreError
from agent.uplink.errors import LinkDownError
from drivers.device import SignerUnavailableError
from hil_tests.roads_parts import FailingDesk, HandClock, reading, running, settle_down, until
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame
from tests.agent.identity.software import SoftwareSigner

WINDOW_S = 5
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class ChannelKey(SoftwareSigner):
    """Signs digests as contracts want them: with a low s."""

    async def sign_digest(self, digest: bytes) -> bytes:
        return low_s(await super().sign_digest(digest), P256_ORDER)


PLATFORM_KEY = ChannelKey()


GATEWAY_ID = "did:key:zExample"


def terms(device_id: str) -> ChannelTerms:
    return ChannelTerms(
        gateway_id=GATEWAY_ID,
        device_id=device_id,
        chain_id=1,
        contract=b"\x01" * 20,
        participant=b"\x02" * 20,
        counterparty=b"\x03" * 20,
        agreement_hash=b"\x04" * 32,
    )


class DeviceKey(ChannelKey):
    """A device's key. Away while told so; counts its signatures."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.signed = 0

    async def sign_digest(self, digest: bytes) -> bytes:
        if self.away:
            raise SignerUnavailableError("the token is away, says the test")
        self.signed += 1
        return await super().sign_digest(digest)


class Platform:
    """The following side, as a platform keeps it: outlives the gateway's restarts."""

    def __init__(self) -> None:
        self.held: dict[str, SignedState] = {}
        self.proposals: list[Proposal] = []
        self.countersigns = True
        self.answers_lost = False

    async def answer(self, frame: ChannelFrame, key: SoftwareSigner, windows: list[bytes]) -> ChannelFrame | None:
        """What it sends back; None where its answer is lost or there is none."""
        device_id = frame.device_id
        held = self.held.get(device_id)
        match from_wire(frame):
            case Reestablish() as question:
                reply = follower.answer(
                    held, question, terms(device_id), key.verify_key, PLATFORM_KEY.verify_key
                ).message
                return to_wire(device_id, frame.channel_id, reply)
            case Proposal() as proposal:
                self.proposals.append(proposal)
                if not self.countersigns:
                    return None
                verdict = follower.judge(held, proposal, terms(device_id), key.verify_key, windows)
                assert verdict.ruling in (Ruling.COUNTERSIGN, Ruling.REPEAT), verdict.reason
                if verdict.ruling is Ruling.COUNTERSIGN:
                    held = verdict.countersigned(await PLATFORM_KEY.sign_digest(verdict.digest))
                    self.held[device_id] = held
                assert held is not None
                if self.answers_lost:
                    return None
                return to_wire(device_id, frame.channel_id, follower.countersignature(held))
        raise AssertionError("the gateway sent what only a platform sends")


class Life:
    """One life of the agent over a store; ends without a word, as a crash does."""

    def __init__(self, store: Store, hand: HandClock, platform: Platform, **keys: DeviceKey) -> None:
        self.store, self.hand, self.platform = store, hand, platform
        self.keys = {name.replace("_", "-"): key for name, key in keys.items()}
        self.desk = FailingDesk(store, lambda: hand.monotonic_s)
        self.link = True
        self.stages_at_release: list[Stage] = []
        self._frames: list[ChannelFrame] = []
        self.settling = Settling(
            [
                SettledDevice(device_id=name, period_s=1.0, signer=key, terms=terms(name))
                for name, key in self.keys.items()
            ],
            store=store,
            desk=self.desk,
            clock=hand.clock,
            platform_key=PLATFORM_KEY.verify_key,
            window_s=WINDOW_S,
            send=self._send,
            commands_of=lambda device_id, from_us, to_us: [b"\x07" * 32],
        )

    async def _send(self, frame: ChannelFrame) -> None:
        if not self.link:
            raise LinkDownError("no link, says the test")
        if frame.HasField("proposal"):
            newest = await self.store.channel_newest(frame.channel_id)
            assert newest is not None
            self.stages_at_release.append(newest.stage)
        self._frames.append(frame)

    async def converse(self) -> None:
        """Let platform and gateway talk until neither has anything to say."""
        while self._frames:
            frame = self._frames.pop(0)
            windows = await self.store.statements(frame.device_id, Kind.SETTLEMENT_WINDOW, 0, 1 << 62)
            reply = await self.platform.answer(frame, self.keys[frame.device_id], windows)
            if reply is not None and self.link:
                await self.settling.receive(reply)

    async def connect(self) -> None:
        self.link = True
        await self.settling.connected()
        await self.converse()

    async def begin(self) -> None:
        """Restore, and open the first window where none is open."""
        await self.settling.restore()

        async with running(self.settling.run()):
            await until(lambda: len(self.settling._progress) == len(self.keys), "the first window is open")

    async def close_windows(self, count: int = 1, *, energy_wh: int = 10) -> None:
        """Let windows pass, each with its readings, and close them."""
        for _ in range(count):
            for device_id in self.keys:
                await self.measure(device_id, energy_wh)
            self.hand.advance(WINDOW_S)
        self.hand.advance(WINDOW_S / 2)
        expected = self.settling.windows_closed + count * len(self.keys)
        async with running(self.settling.run()):
            await until(
                lambda: self.settling.windows_closed >= expected and self._at_rest(), f"{expected} windows are closed"
            )
        self.hand.advance(-WINDOW_S / 2)
        await self.converse()

    def _at_rest(self) -> bool:
        """No channel is in the middle of what a closed window led to."""
        return not any(lock.locked() for lock in self.settling._locks.values())

    async def measure(self, device_id: str, energy_wh: int) -> None:
        """Two readings at the boundaries of the window that is open."""
        encoded = await self.store.statements(device_id, Kind.READING, 0, 1 << 62)
        last = 0 if not encoded else _counted_wh(encoded[-1])
        sequence = len(encoded)
        await self.desk.put(
            [
                reading(sequence + 1, at_us=self.hand.wall_us + 1, import_wh=last, device_id=device_id),
                reading(
                    sequence + 2,
                    at_us=self.hand.wall_us + WINDOW_S * 1_000_000,
                    import_wh=last + energy_wh,
                    device_id=device_id,
                ),
            ]
        )

    async def stages(self, device_id: str = "pv-1") -> list[Stage]:
        return [row.stage for row in await self.store.channel_rows(terms(device_id).channel_id)]

    async def waiting_notes(self) -> int:
        return len(await self.store.notes(WAITING_NOTE))

    async def alarms(self) -> list[str]:
        found = [decode(row.encoded) for row in await self.store.queued()]
        return [alarm.code for alarm in found if isinstance(alarm, Alarm)]


def _counted_wh(encoded: bytes) -> int:
    statement = decode(encoded)
    return getattr(statement, "import_register_milliwatt_hours", 0) // 1_000


async def stored_windows(store: Store, device_id: str = "pv-1") -> list[SettlementWindow]:
    found = [decode(leaf) for leaf in await store.statements(device_id, Kind.SETTLEMENT_WINDOW, 0, 1 << 62)]
    return [window for window in found if isinstance(window, SettlementWindow)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def key() -> DeviceKey:
    return DeviceKey()


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
