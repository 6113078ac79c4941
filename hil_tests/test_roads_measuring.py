"""Samples become readings in the real store: no sequence is lost or used twice, over failures and restarts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.evidence.signed_values import SignedValueCheck
from agent.evidence.statements import Alarm, Kind, SignedMeterValue, Statement, decode, encode
from agent.measure.meter import MeteredDevice
from agent.measure.reading import Quality, Reading, SignatureReference
from agent.roads import measuring as module
from agent.roads.desk import Desk, Notes
from agent.roads.measuring import NOTE_PREFIX, Measuring
from agent.store import ChannelRow, Store, StoreError
from drivers.device import Sample, SignatureVerdict, SignedValue, ValueSource
from hil_tests.roads_parts import (
    BOOT_ID,
    OTHER_BOOT_ID,
    START_US,
    WATT_HOUR,
    FailingDesk,
    HandClock,
    reading,
    running,
    until,
)
from hil_tests.signed_value_cases import signed_value

DEVICES = [MeteredDevice(device_id="pv-1", period_s=1.0), MeteredDevice(device_id="grid", period_s=1.0)]
FAR_US = 1 << 62


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


def measuring(store: Store, hand: HandClock, desk: Desk | None = None, boot_id: bytes = BOOT_ID) -> Measuring:
    return Measuring(
        DEVICES,
        desk=desk or Desk(store, lambda: hand.monotonic_s),
        clock=hand.clock,
        incarnation=store.incarnation,
        boot_id=boot_id,
    )


def sample(hand: HandClock, import_wh: int, device_id: str = "pv-1") -> Sample:
    return Sample(
        device_id=device_id,
        monotonic_s=hand.monotonic_s,
        meter_id="meter",
        import_register_milliwatt_hours=import_wh * WATT_HOUR,
    )


async def kept(store: Store, device_id: str = "pv-1") -> list[Reading]:
    found = [decode(leaf) for leaf in await store.statements(device_id, Kind.READING, 0, FAR_US)]
    return [statement for statement in found if isinstance(statement, Reading)]


def newest_wh(part: Measuring) -> int:
    """What the newest committed reading counted, -1 before the first."""
    newest = part.latest.get("pv-1")
    return -1 if newest is None else (newest.import_register_milliwatt_hours or 0) // WATT_HOUR


async def test_a_reading_is_shown_only_once_it_is_committed(store: Store, hand: HandClock) -> None:
    desk = FailingDesk(store, lambda: hand.monotonic_s)
    part = measuring(store, hand, desk)
    desk.refusing = True
    part.offer(sample(hand, 1))
    with pytest.raises(StoreError):
        await part.commit_waiting()
    assert (part.latest, part.readings) == ({}, 0)
    desk.refusing = False
    await part.commit_waiting()
    assert part.readings == 1
    assert [part.latest["pv-1"]] == await kept(store)


async def test_a_backlog_is_committed_in_parts_without_a_gap(
    store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 4)
    part = measuring(store, hand)
    for import_wh in range(10):
        hand.advance(1.0)
        part.offer(sample(hand, import_wh))
    await part.commit_waiting()
    assert [reading.sequence for reading in await kept(store)] == [*range(1, 11)]
    assert newest_wh(part) == 9


async def test_a_put_that_fails_uses_no_sequence_and_the_next_reading_covers_the_gap(
    store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    desk = FailingDesk(store, lambda: hand.monotonic_s)
    part = measuring(store, hand, desk)
    async with running(part.run()):
        part.offer(sample(hand, 100))
        await until(lambda: part.readings == 1, "the first reading")
        desk.refusing = True
        for import_wh in (107, 115, 130):
            hand.advance(10.0)
            part.offer(sample(hand, import_wh))
            before = desk.refusals
            await until(lambda before=before: desk.refusals > before, "the store is tried")  # type: ignore[misc]
        await until(lambda: "no space left" in part.trouble, "the trouble is named")
        desk.refusing = False
        await until(lambda: part.readings == 2, "the second reading")
        await until(lambda: part.trouble == "", "the trouble has passed")

    first, second = await kept(store)
    assert (first.sequence, second.sequence) == (1, 2)
    assert second.net_energy_wh == 30
    assert Quality.AFTER_GAP in second.quality


async def test_a_store_that_fails_costs_each_device_its_older_samples_only(
    store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    desk = FailingDesk(store, lambda: hand.monotonic_s)
    desk.refusing = True
    part = measuring(store, hand, desk)
    for import_wh in range(5):
        part.offer(sample(hand, import_wh, "pv-1"))
        part.offer(sample(hand, 1_000 + import_wh, "grid"))
    async with running(part.run()):
        await until(lambda: desk.refusals > 2, "the store is tried")
        desk.refusing = False
        await until(lambda: part.readings == 2, "one reading of each device")
    assert [r.import_register_milliwatt_hours for r in await kept(store, "pv-1")] == [4 * WATT_HOUR]
    assert [r.import_register_milliwatt_hours for r in await kept(store, "grid")] == [1_004 * WATT_HOUR]


async def test_a_restart_goes_on_with_the_sequence_and_the_registers(hand: HandClock, tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        part = measuring(store, hand)
        for import_wh in (100, 101):
            part.offer(sample(hand, import_wh))
        await part.commit_waiting()
    hand.advance(1.0)
    async with await Store.open(tmp_path) as store:
        part = measuring(store, hand, boot_id=OTHER_BOOT_ID)
        await part.restore(store)
        assert part.readings == 2
        part.offer(sample(hand, 105))
        await part.commit_waiting()
        readings = await kept(store)
    assert [r.sequence for r in readings] == [1, 2, 3]
    assert (readings[2].net_energy_wh, readings[2].boot_id, readings[2].meter_epoch) == (4, OTHER_BOOT_ID, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 37])
async def test_a_damaged_note_is_replaced_by_the_readings_wherever_the_clock_is(
    store: Store, hand: HandClock, count: int
) -> None:
    part = measuring(store, hand)
    for import_wh in range(count):
        part.offer(sample(hand, import_wh))
    await part.commit_waiting()
    await store.set_note(NOTE_PREFIX + "pv-1", b"{ torn")
    hand.advance(-30 * 86_400)
    part = measuring(store, hand)
    await part.restore(store)
    hand.advance(60 * 86_400)
    part.offer(sample(hand, count + 6))
    await part.commit_waiting()
    newest = (await kept(store))[-1]
    assert (newest.sequence, newest.net_energy_wh) == (count + 1, 7)


async def test_a_damaged_note_loses_no_energy_behind_readings_without_registers(store: Store, hand: HandClock) -> None:
    desk = Desk(store, lambda: hand.monotonic_s)
    await desk.put(
        [reading(1, at_us=START_US, import_wh=50), *(reading(n, at_us=START_US + n, counted=False) for n in (2, 3))],
        {NOTE_PREFIX + "pv-1": b"{ torn"},
    )
    part = measuring(store, hand, desk)
    await part.restore(store)
    hand.advance(1.0)
    part.offer(sample(hand, 58))
    await part.commit_waiting()
    newest = (await kept(store))[-1]
    assert (newest.sequence, newest.net_energy_wh) == (4, 8)


async def test_a_damaged_note_of_a_device_without_readings_begins_anew(store: Store, hand: HandClock) -> None:
    await store.set_note(NOTE_PREFIX + "pv-1", b"")
    part = measuring(store, hand)
    await part.restore(store)
    assert part.readings == 0


class SlowDesk(Desk):
    """Commits when the test lets it."""

    def __init__(self, store: Store, hand: HandClock) -> None:
        super().__init__(store, lambda: hand.monotonic_s)
        self.entered = asyncio.Event()
        self.let = asyncio.Event()

    async def put(
        self, taken: Sequence[Statement], notes: Notes | None = None, channel: Sequence[ChannelRow] = ()
    ) -> None:
        self.entered.set()
        await self.let.wait()
        await super().put(taken, notes, channel)


async def test_a_commit_beside_the_running_one_gives_no_sequence_twice(store: Store, hand: HandClock) -> None:
    desk = SlowDesk(store, hand)
    part = measuring(store, hand, desk)
    async with running(part.run()):
        part.offer(sample(hand, 1))
        await desk.entered.wait()
        part.offer(sample(hand, 2))
        beside = asyncio.create_task(part.commit_waiting())
        desk.let.set()
        await beside
        await until(lambda: part.readings == 2, "both readings")
    assert [r.sequence for r in await kept(store)] == [1, 2]


async def test_a_flood_of_samples_during_a_slow_commit_loses_nothing_of_that_commit(
    store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    desk = SlowDesk(store, hand)
    part = measuring(store, hand, desk)
    async with running(part.run()):
        for import_wh in range(5):
            part.offer(sample(hand, import_wh))
        await desk.entered.wait()
        for import_wh in range(5, 100):
            part.offer(sample(hand, import_wh))
        desk.let.set()
        # What waited is thinned out to the newest, which carries the energy of all.
        await until(lambda: newest_wh(part) == 99, "the newest")
    readings = await kept(store)
    assert [r.sequence for r in readings] == list(range(1, len(readings) + 1))
    assert 6 <= len(readings) <= 15
    assert sum(r.net_energy_wh for r in readings) == 99


async def test_what_is_odd_about_a_meter_becomes_an_urgent_alarm_beside_its_reading(
    store: Store, hand: HandClock
) -> None:
    part = measuring(store, hand)
    part.offer(sample(hand, 100))
    await part.commit_waiting()
    part.offer(Sample(device_id="pv-1", monotonic_s=hand.monotonic_s, meter_id="new", power_w=5))
    part.offer(
        Sample(device_id="pv-1", monotonic_s=hand.monotonic_s, meter_id="new", import_register_milliwatt_hours=0)
    )
    await part.commit_waiting()
    alarms = [decode(row.encoded) for row in await store.queued() if row.urgent]
    assert [(a.code, a.subject) for a in alarms if isinstance(a, Alarm)] == [("meter.replaced", "pv-1")]


async def test_a_sample_that_says_nothing_leaves_no_reading(store: Store, hand: HandClock) -> None:
    part = measuring(store, hand)
    part.offer(Sample(device_id="pv-1", monotonic_s=hand.monotonic_s))
    await part.commit_waiting()
    assert part.readings == 0
    assert await kept(store) == []


async def test_a_sample_of_a_stranger_is_refused(store: Store, hand: HandClock) -> None:
    with pytest.raises(ValueError, match="not configured"):
        measuring(store, hand).offer(sample(hand, 1, "stranger"))


def signed_by_meter(number: int = 1) -> SignedValue:
    value = signed_value(transaction_id=f"T-{number}")
    return SignedValue(
        record=value.record, encoding_method="OCMF", verdict=value.verdict, reason="", key_der=value.key_der,
        transaction_id=value.transaction_id, context="Sample.Clock",
    )  # fmt: skip


async def signed_kept(store: Store) -> list[SignedMeterValue]:
    found = [decode(leaf) for leaf in await store.statements("pv-1", Kind.SIGNED_METER_VALUE, 0, FAR_US)]
    return [statement for statement in found if isinstance(statement, SignedMeterValue)]


async def test_what_a_meter_signed_is_kept_verbatim_and_its_reading_names_it(store: Store, hand: HandClock) -> None:
    part = measuring(store, hand)
    part.offer(replace(sample(hand, 5_000), registers_signed=True, signed=(signed_by_meter(),)))
    hand.advance(1)
    part.offer(sample(hand, 5_000))
    await part.commit_waiting()
    first, second = await kept(store)
    (value,) = await signed_kept(store)
    assert value.record == signed_by_meter().record
    assert value.timestamp_us == first.timestamp_us
    digest = hashlib.sha256(encode(value)).digest()
    assert first.signed_values == (SignatureReference(digest, SignatureVerdict.VERIFIED),)
    assert (first.source, second.source, second.signed_values) == (
        ValueSource.SIGNED_BY_METER, ValueSource.OPEN_BUS, (),
    )  # fmt: skip
    check = SignedValueCheck()
    assert check.see(value, digest) + check.see(first, b"") == []
    assert check.signed_readings == 1


async def test_a_signature_without_a_reading_is_kept_alone(store: Store, hand: HandClock) -> None:
    part = measuring(store, hand)
    part.offer(Sample(device_id="pv-1", monotonic_s=hand.monotonic_s, signed=(signed_by_meter(),)))
    await part.commit_waiting()
    assert (await kept(store), len(await signed_kept(store)), part.readings) == ([], 1, 0)


async def test_a_store_that_fails_loses_no_signature_and_no_newest_value(
    store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    desk = FailingDesk(store, lambda: hand.monotonic_s)
    part = measuring(store, hand, desk)
    desk.refusing = True
    for number in range(1, 4):
        hand.advance(1)
        part.offer(replace(sample(hand, number), signed=(signed_by_meter(number),)))
    part.offer(Sample(device_id="pv-1", monotonic_s=hand.monotonic_s, signed=(signed_by_meter(4),)))
    async with running(part.run()):
        await until(lambda: desk.refusals > 2, "the store is tried")
        desk.refusing = False
        await until(lambda: part.readings == 1, "the reading")
    (found,) = await kept(store)
    assert found.import_register_milliwatt_hours == 3 * WATT_HOUR
    assert sorted(str(value.transaction_id) for value in await signed_kept(store)) == ["T-1", "T-2", "T-3", "T-4"]
    assert len(found.signed_values) == 1
