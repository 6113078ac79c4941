"""Space for evidence that runs out, over the real store: what goes, in which order, and what stands for it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.evidence import statements, verify
from agent.evidence.batch import KeyProtection
from agent.evidence.partial import PartialBatch
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import SettlementWindow, Severity, SignedMeterValue, Statement, Thinning
from agent.evidence.thinning_check import ThinningCheck
from agent.evidence.verify import TrustedKey, VerifiedBatch, Verifier
from agent.identity.did import did_of
from agent.ledger.window import Progress
from agent.measure.reading import Quality, Reading
from agent.roads import thinning as module
from agent.roads.desk import Desk
from agent.roads.live_windows import Live, live_readings
from agent.roads.sealing import Sealer
from agent.roads.thinning import PLAN_NOTE, Thinner
from agent.roads.window_notes import PROGRESS_NOTE, WAITING_NOTE
from agent.store import Reader, Store, StoreError, writer
from drivers.device import SignatureVerdict, SignerUnavailableError, ValueSource
from hil_tests.roads_parts import BOOT_ID, START_US, HandClock
from tests.agent.identity.software import SoftwareSigner

SIGNER = SoftwareSigner()
GATEWAY = did_of(SIGNER.public_key_der)
DEVICES = 3
DAY_US = 86_400_000_000
ROOMY = 1 << 40


def measured(device: int, second: int) -> Reading:
    """As `measure` would make it: 1.7 Wh a second, from second 1 on."""
    register = 1_700 * second
    return Reading(
        device_id=f"d{device}",
        incarnation=1,
        boot_id=BOOT_ID,
        sequence=second,
        timestamp_us=START_US + second * 1_000_000,
        net_energy_wh=0 if second == 1 else register // 1000 - 1_700 * (second - 1) // 1000,
        import_register_milliwatt_hours=register,
        export_register_milliwatt_hours=0,
        meter_epoch=1,
        power_w=6_120 + second % 7,
        voltage_millivolts=230_000 + second,
        state_of_charge_permille=None,
        frequency_millihertz=50_000 + second % 3,
        quality=Quality.EPOCH_START if second == 1 else Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )


class Box:
    """A gateway's evidence road, by hand."""

    def __init__(self, store: Store, hand: HandClock, live: Mapping[str, Live] | None = None) -> None:
        self.store = store
        self.hand = hand
        self.desk = Desk(store, lambda: hand.monotonic_s)
        self.alarms: list[tuple[Severity, str]] = []
        self.live = dict(live or {})
        self.sealer = Sealer(
            store=store,
            desk=self.desk,
            clock=hand.clock,
            signer=SIGNER,
            gateway_id=GATEWAY,
            boot_id=BOOT_ID,
            key_protection=KeyProtection.SOFTWARE,
            policy=SealPolicy(),
            on_sealed=lambda _: None,
        )
        self.thinner = self.thin_at(ROOMY)

    def thin_at(self, most_bytes: int) -> Thinner:
        async def live_at(_: int) -> Mapping[str, Live]:
            return self.live

        self.thinner = Thinner(
            store=self.store,
            desk=self.desk,
            clock=self.hand.clock,
            most_bytes=most_bytes,
            retain_days=7,
            live_at=live_at,
            on_alarm=lambda severity, code, _, __: self.alarms.append((severity, code)),
        )
        return self.thinner

    async def measure(self, seconds: Collection[int], extra: Mapping[int, Sequence[Statement]] | None = None) -> None:
        """A batch each second, of all devices."""
        for second in seconds:
            await self.desk.put([*(measured(n, second) for n in range(DEVICES)), *(extra or {}).get(second, ())])
            await self.sealer.seal_once()
        self.hand.advance(len(seconds))

    async def make_room(self, looks: int = 1000) -> None:
        """Look and seal until there is nothing more to do."""
        for _ in range(looks):
            more = await self.thinner.look()
            sealed = await self.sealer.seal_once()
            if not more and not sealed and await self.store.note(PLAN_NOTE) is None:
                return
        raise AssertionError("it never comes to an end")

    async def full_now(self) -> None:
        """From now on the space is used up: by what is there."""
        self.thin_at(await self.store.used_bytes())
        await self.thinner.restore()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with await Store.open(tmp_path / "state", reserve_bytes=64 << 10) as store:
        await store._write.execute("PRAGMA synchronous = OFF")  # hundreds of commits, and no power cut in here
        yield Box(store, HandClock())


async def all_of(store: Reader) -> list[VerifiedBatch]:
    """Every batch, verified, as one chain, in which all claims of thinning hold."""
    verifier = Verifier([TrustedKey(GATEWAY, SIGNER.verify_key)])
    found = [verifier.verify_batch(batch.encoded) for batch in await store.batches(1, 100_000)]
    assert verify.first_break(found) is None
    check = ThinningCheck()
    for batch in found:
        check.see(batch)
    assert check.false_claims() == []
    return found


def in_force(batches: Sequence[VerifiedBatch]) -> list[Thinning]:
    found = {s.hash: s.statement for batch in batches for s in batch.statements if isinstance(s.statement, Thinning)}
    replaced = {thinning.replaces for thinning in found.values()}
    return [thinning for hash_, thinning in found.items() if hash_ not in replaced]


def readings_of(batches: Sequence[VerifiedBatch]) -> list[Reading]:
    return [s.statement for batch in batches for s in batch.statements if isinstance(s.statement, Reading)]


def judge(batches: Sequence[VerifiedBatch], seconds: int, *, finished: bool = True) -> None:
    """Every reading is there once, as a leaf or in one slot, and the energy of each device is its register's.

    Not `finished`: leaves may still be there that a statement stands for already. They are the same readings.
    """
    for device in range(DEVICES):
        name = f"d{device}"
        whole = {r.sequence: r.net_energy_wh for r in readings_of(batches) if r.device_id == name}
        assert len(whole) == sum(r.device_id == name for r in readings_of(batches)), f"{name}: doubled"
        slots = [slot for each in in_force(batches) if each.device_id == name for slot in each.slots]
        merged = [n for slot in slots for n in range(slot.first_sequence, slot.last_sequence + 1)]
        if finished:
            assert not set(whole) & set(merged), f"{name}: leaves that should be gone"
        alone = {n: energy for n, energy in whole.items() if n not in set(merged)}
        assert sorted([*alone, *merged]) == list(range(1, seconds + 1)), f"{name}: lost or doubled"
        energy = sum(slot.net_energy_wh for slot in slots) + sum(alone.values())
        assert energy == 1_700 * seconds // 1000 - 1_700 // 1000


async def test_the_oldest_readings_are_merged_to_minutes_then_quarters_and_no_energy_is_lost(box: Box) -> None:
    await box.measure(range(1, 701))
    box.hand.advance(7_200)
    await box.full_now()
    before = await box.store.used_bytes()
    await box.make_room()
    batches = await all_of(box.store)
    judge(batches, 700)
    assert box.thinner.merged_readings == 700 * DEVICES
    assert await box.store.used_bytes() < before * 0.9, "three devices: headers and signatures are most of it"
    assert {each.slot_s for each in in_force(batches)} <= {60, 900}
    assert (Severity.WARNING, "evidence.thinning") in box.alarms
    assert box.alarms.count((Severity.WARNING, "evidence.thinning")) == 1
    # Headers and signatures stay: all 700 of the readings' batches, as the same ones.
    thinned = [batch for batch in batches if isinstance(batch.sealed, PartialBatch)]
    assert [batch.identity.number for batch in thinned[:700]] == list(range(1, 701))
    await box.full_now()
    assert box.thinner.merged_readings == 700 * DEVICES, "the count that people see is kept over restarts"


async def test_minutes_become_quarters_of_an_hour_when_it_is_still_too_much(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEGIN_SHARE", 0.01)
    monkeypatch.setattr(module, "END_SHARE", 0.01)
    await box.measure(range(1, 1001))
    box.hand.advance(7_200)
    await box.full_now()
    await box.make_room()
    batches = await all_of(box.store)
    judge(batches, 1000)
    (of_one,) = [each for each in in_force(batches) if each.device_id == "d1"]
    assert of_one.slot_s == 900
    assert of_one.replaces is not None
    assert len(of_one.slots) == 2
    assert [old.first_number for old in of_one.old] == [1, 1001]
    # It cannot be made smaller, and that is said.
    assert "nothing of it can be merged further" in box.thinner.trouble
    assert box.alarms[-1] == (Severity.CRITICAL, "evidence.space")


async def test_nothing_is_merged_while_there_is_room(box: Box) -> None:
    await box.measure(range(1, 100))
    box.hand.advance(7_200)
    await box.make_room()
    assert len(readings_of(await all_of(box.store))) == 99 * DEVICES
    assert (box.thinner.merged_readings, box.thinner.trouble, box.alarms) == (0, "", [])


async def test_readings_of_the_last_hour_are_never_merged(box: Box) -> None:
    await box.measure(range(1, 300))
    box.hand.advance(3_000)
    await box.full_now()
    await box.make_room()
    assert len(readings_of(await all_of(box.store))) == 299 * DEVICES
    assert "nothing of it can be merged" in box.thinner.trouble


async def test_nothing_is_merged_while_the_time_is_not_trusted(box: Box) -> None:
    await box.measure(range(1, 300))
    box.hand.advance(7_200)
    box.hand.synchronised = False
    await box.full_now()
    await box.make_room()
    assert len(readings_of(await all_of(box.store))) == 299 * DEVICES
    assert "not trusted" in box.thinner.trouble


async def test_what_the_platform_has_goes_before_anything_is_merged(box: Box) -> None:
    await box.measure(range(1, 1001))
    await box.store.acknowledge(1, 900, box.hand.wall_us)
    box.hand.advance(2 * 86_400)
    await box.full_now()
    await box.make_room()
    batches = await all_of(box.store)
    assert batches[0].identity.number == 901
    assert (box.thinner.merged_readings, len(readings_of(batches))) == (0, 100 * DEVICES)
    assert box.alarms == [(Severity.WARNING, "evidence.pruned_early")]


async def test_nothing_under_a_live_window_root_is_merged(box: Box) -> None:
    await box.measure(range(1, 501))
    box.hand.advance(7_200)
    box.live = {"d0": Live(201, 1 << 62), "d1": Live(1 << 62, START_US + 301 * 1_000_000)}
    await box.full_now()
    await box.make_room()
    batches = await all_of(box.store)
    judge(batches, 500)
    left = {n: [r.sequence for r in readings_of(batches) if r.device_id == f"d{n}"] for n in range(DEVICES)}
    assert left == {0: list(range(201, 501)), 1: list(range(301, 501)), 2: []}
    # Later they are under a live root no more.
    box.live = {}
    box.hand.advance(module.REST_S + 1)
    await box.full_now()
    await box.make_room()
    batches = await all_of(box.store)
    judge(batches, 500)
    assert readings_of(batches) == []


def window(device_id: str, first: int, last: int) -> SettlementWindow:
    return SettlementWindow(
        device_id=device_id, incarnation=1, window_start_us=START_US + (first - 1) * 1_000_000,
        window_end_us=START_US + last * 1_000_000, revision=0, import_wh=1, export_wh=0, net_energy_wh=1,
        first_sequence=first, last_sequence=last, reading_count=last - first + 1, readings_root=bytes(32),
        meter_epoch=1, quality=Quality.GOOD, command_hashes=(),
    )  # fmt: skip


VALUE = SignedMeterValue(
    device_id="d1", timestamp_us=START_US + 350_000_000, verdict=SignatureVerdict.UNVERIFIABLE, reason="",
    encoding_method="OCMF", record=b"OCMF|{}|{}", key_der=None, transaction_id=None, context="",
)  # fmt: skip


async def test_registers_at_boundaries_and_what_meters_signed_stay_as_they_are(box: Box) -> None:
    extra: dict[int, list[Statement]] = {305: [window("d0", 1, 300)], 350: [VALUE], 605: [window("d0", 301, 600)]}
    await box.measure(range(1, 701), extra)
    box.hand.advance(7_200)
    await box.full_now()
    await box.make_room()
    batches = await all_of(box.store)
    judge(batches, 700)
    assert [(r.device_id, r.sequence) for r in readings_of(batches)] == [("d0", 300), ("d0", 600)]
    kept = [s.statement for batch in batches for s in batch.statements]
    assert VALUE in kept
    assert sum(isinstance(statement, SettlementWindow) for statement in kept) == 2


async def test_boundaries_and_what_meters_signed_outlive_their_batches_for_three_years(box: Box) -> None:
    extra: dict[int, list[Statement]] = {35: [window("d0", 1, 30)], 40: [VALUE]}
    await box.measure(range(1, 101), extra)
    await box.store.acknowledge(1, 100, box.hand.wall_us)
    box.hand.advance(8 * 86_400)
    assert await box.store.prune(box.hand.wall_us, 7, box.thinner._keep) == 99
    verifier = Verifier([TrustedKey(GATEWAY, SIGNER.verify_key)])
    left = [verifier.verify_batch(encoded) for _, encoded in await box.store.kept(0, 1 << 62, 0, 100)]
    assert [batch.identity.number for batch in left] == [30, 35, 40]
    assert [(r.device_id, r.sequence) for r in readings_of(left)] == [("d0", 30)]
    assert VALUE in [s.statement for batch in left for s in batch.statements]
    three_years_us = 3 * 366 * DAY_US
    await box.thinner.prune(START_US + three_years_us)
    assert len(await box.store.kept(0, 1 << 62, 0, 100)) == 3
    await box.thinner.prune(box.hand.wall_us + three_years_us)
    assert await box.store.kept(0, 1 << 62, 0, 100) == []


async def test_no_leaf_goes_before_what_stands_for_it_is_sealed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.measure(range(1, 501))
    box.hand.advance(7_200)
    await box.full_now()

    async def away(_: bytes) -> bytes:
        raise SignerUnavailableError("the token is away, says the test")

    with monkeypatch.context() as patched:
        patched.setattr(SIGNER, "sign", away)
        assert await box.thinner.look()
        for _ in range(3):
            assert not await box.thinner.look()
            with pytest.raises(SignerUnavailableError):
                await box.sealer.seal_once()
        assert len(readings_of(await all_of(box.store))) == 500 * DEVICES
    await box.make_room()
    judge(await all_of(box.store), 500)
    assert box.thinner.merged_readings == 500 * DEVICES


async def test_killed_at_any_commit_of_thinning_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files hold before and after each commit is what kill -9 leaves; each such life is lived to its end."""
    monkeypatch.setattr(module, "BEGIN_SHARE", 0.01)
    monkeypatch.setattr(module, "END_SHARE", 0.01)
    state, seconds = tmp_path / "state", 150
    monkeypatch.setattr(module, "STEP_BATCHES", 64)
    lives: list[Path] = []

    def remember() -> None:
        lives.append(tmp_path / f"life-{len(lives)}")
        shutil.copytree(state, lives[-1], ignore=shutil.ignore_patterns("reserve", "evidence.lock"))

    async with await Store.open(state, reserve_bytes=64 << 10) as store:
        await store._write.execute("PRAGMA synchronous = OFF")
        box = Box(store, HandClock())
        await box.measure(range(1, seconds + 1))
        box.hand.advance(7_200)
        await box.full_now()
        most_bytes = await store.used_bytes()
        commit = writer.commit

        def watched(connection: sqlite3.Connection) -> None:
            remember()
            commit(connection)
            remember()

        monkeypatch.setattr(writer, "commit", watched)
        await box.make_room()
        monkeypatch.setattr(writer, "commit", commit)
        judge(await all_of(store), seconds)
    assert len(lives) >= 14, "put, seal and cut, for both lengths of slots"
    for life in lives:
        async with await Store.open(life, reserve_bytes=64 << 10) as store:
            await store._write.execute("PRAGMA synchronous = OFF")
            assert store.incarnation == 1
            judge(await all_of(store), seconds, finished=False)
            again = Box(store, replace(box.hand))
            again.thin_at(most_bytes)
            await again.thinner.restore()
            await again.make_room()
            batches = await all_of(store)
            judge(batches, seconds)
            assert readings_of(batches) == []
            assert again.thinner.merged_readings == seconds * DEVICES
            assert await store.counts() == await Reader.counts(store)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_FULL])
async def test_a_disk_that_fails_at_any_commit_of_thinning_loses_and_doubles_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(module, "BEGIN_SHARE", 0.01)
    monkeypatch.setattr(module, "END_SHARE", 0.01)
    monkeypatch.setattr(module, "STEP_BATCHES", 64)
    await box.measure(range(1, 151))
    box.hand.advance(7_200)
    await box.full_now()
    commit, asked, refused = writer.commit, 0, 0

    def failing(connection: sqlite3.Connection) -> None:
        """Twice of three times: what is urgent is tried once more by itself."""
        nonlocal asked, refused
        asked += 1
        if asked % 3:
            refused += 1
            error = sqlite3.OperationalError("the disk fails, says the test")
            error.sqlite_errorcode = code
            raise error
        commit(connection)

    monkeypatch.setattr(writer, "commit", failing)
    for _ in range(100):
        with contextlib.suppress(StoreError):
            await box.thinner.look()
        with contextlib.suppress(StoreError):
            await box.sealer.seal_once()
        judge(await all_of(box.store), 150, finished=False)
        if box.thinner.trouble and await box.store.note(PLAN_NOTE) is None:
            break
    assert refused > 6
    batches = await all_of(box.store)
    judge(batches, 150)
    assert readings_of(batches) == []
    assert box.thinner.merged_readings == 150 * DEVICES


async def test_a_device_is_live_from_its_open_or_waiting_windows_on_and_while_they_may_be_corrected(box: Box) -> None:
    store = box.store
    await store.set_notes(
        {
            PROGRESS_NOTE + "d0": Progress(START_US, 600).encode(),
            PROGRESS_NOTE + "d1": Progress(START_US, 600).encode(),
            f"{WAITING_NOTE}d1/x": statements.encode(window("d1", 301, 600)),
        }
    )
    live = await live_readings(store, ["d0", "d1", "d2"], now_us=START_US, window_us=900, grace_us=100)
    assert live == {
        "d0": Live(601, START_US - 1000),
        "d1": Live(301, START_US - 1000),
        "d2": Live(1, START_US - 1000),
    }
    assert live["d0"].covers(601, 0)
    assert live["d0"].covers(1, START_US - 1000)
    assert not live["d0"].covers(600, START_US - 1001)
