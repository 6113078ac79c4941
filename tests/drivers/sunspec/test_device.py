"""The device over time: found, lost, back again, replaced; its state always says in words what is the matter."""

from __future__ import annotations

import asyncio

import pytest

from drivers.device import Device, DeviceKind, DeviceRefusedError, DeviceUnreachableError, LinkState, Sample, Setpoint
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.errors import NoAnswerError, SunSpecError, WrongDeviceError
from drivers.sunspec.obedience import DISOBEDIENCE_AFTER_S
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    address_of,
    battery,
    common,
    device_of,
    inverter_701,
    meter,
    pool_of,
    pv,
    set_point,
)


class Site:
    def __init__(self, device: FakeDevice, kind: DeviceKind = DeviceKind.PV, period_s: float = 1.0) -> None:
        self.time = Time()
        self.line = FakeLine({1: device})
        self.device = SunSpecDevice(
            "d-1",
            kind,
            ADDRESS,
            1,
            period_s=period_s,
            timeout_s=1.0,
            connections=pool_of(self.line, self.time),
            monotonic_s=self.time,
            journal=MemoryJournal(),
        )

    def reconnect_with(self, device: FakeDevice) -> None:
        """The connection breaks; when it is up again, this is at the other end."""
        self.line.close()
        self.line.units[1] = device
        self.time.now_s += 10


async def test_a_poll_of_a_known_device_is_one_request() -> None:
    fake = pv()
    site = Site(fake)
    await site.device.look()
    fake.reads.clear()
    site.time.now_s += 1
    await site.device.look()
    assert fake.reads == [(40070, 121)]


async def test_state_of_charge_is_read_rarely_and_not_reported_when_old() -> None:
    fake = battery()
    site = Site(fake, DeviceKind.BATTERY)
    await site.device.look()
    gauge = address_of(fake, 713, "ID")
    fake.reads.clear()
    site.time.now_s += 1
    assert (await site.device.look()).state_of_charge_permille == 605
    assert gauge not in [address for address, _ in fake.reads]
    fake.unreadable = set(range(gauge, gauge + 9))
    site.time.now_s += 61
    assert (await site.device.look()).state_of_charge_permille is None


async def test_a_device_that_comes_back_is_the_same_without_a_new_discovery() -> None:
    fake = pv()
    site = Site(fake)
    first = await site.device.look()
    site.reconnect_with(fake)
    fake.reads.clear()
    second = await site.device.look()
    assert first.meter_id == second.meter_id
    assert (40000, 2) not in fake.reads, "who it is was asked, its map was not walked again"


async def test_a_replaced_device_has_another_meter_id_and_loses_the_order() -> None:
    site = Site(pv("OLD"))
    assert (await site.device.look()).meter_id == "Maker/Model X/OLD"
    await site.device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason="test"))
    site.reconnect_with(pv("NEW"))
    assert (await site.device.look()).meter_id == "Maker/Model X/NEW"
    assert site.device.status().setpoint is None


async def test_a_device_that_refuses_to_say_who_it_is_is_not_taken_for_another() -> None:
    fake = pv()
    site = Site(fake)
    before = (await site.device.look()).meter_id
    await site.device.apply(Setpoint(lowest_w=-2000, highest_w=None, lease_s=60, reason="test"))
    site.reconnect_with(fake)
    fake.unreadable = set(fake.registers)  # as it restarts
    with pytest.raises(SunSpecError, match="refuses to tell who it is at present"):
        await site.device.look()
    fake.unreadable = set()
    assert (await site.device.look()).meter_id == before
    assert site.device.status().setpoint is not None, "nor is its order forgotten"


async def test_a_device_replaced_in_the_middle_of_a_poll_is_not_mixed_with_the_old_one() -> None:
    site = Site(pv("OLD"))
    await site.device.look()
    new = pv("NEW")
    set_point(new, 701, "TotWhInj", 1)
    site.reconnect_with(new)
    # The poll itself opens the connection: what it read belongs to NEW and must carry its name.
    sample = await site.device.look()
    assert (sample.meter_id, sample.export_register_milliwatt_hours) == ("Maker/Model X/NEW", 1000)


async def test_an_order_never_reaches_a_device_that_was_replaced_by_one_of_another_kind() -> None:
    site = Site(pv("OLD"))
    await site.device.look()
    other = meter("NEW")
    site.reconnect_with(other)
    with pytest.raises(DeviceRefusedError, match="no model to measure a pv with"):
        await site.device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason="test"))
    assert other.writes == []


async def test_an_order_that_meets_a_new_connection_half_way_stops_before_the_next_write() -> None:
    old = pv("OLD")
    site = Site(old)
    await site.device.look()
    new = pv("NEW")

    def swapped(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        site.reconnect_with(new)

    old.on_write = swapped
    with pytest.raises(DeviceUnreachableError, match="who answers now is not known"):
        await site.device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason="test"))
    assert new.writes == []


async def test_a_map_that_moved_under_the_same_connection_is_noticed_and_learned_anew() -> None:
    fake = pv()
    site = Site(fake)
    await site.device.look()
    fake.registers = device_of([common(), [64999, 1, 0], inverter_701(4321)]).registers
    with pytest.raises(WrongDeviceError, match="its map has changed"):
        await site.device.look()
    assert (await site.device.look()).power_w == -4321


async def test_the_wrong_kind_of_device_says_what_is_there() -> None:
    with pytest.raises(WrongDeviceError, match=r"no model to measure a meter with \(it has 1, 701, 702, 704\)"):
        await Site(pv(), DeviceKind.METER).device.look()


async def test_a_device_that_hides_its_measurements_is_a_fault_and_not_a_zero() -> None:
    fake = pv()
    site = Site(fake)
    await site.device.look()
    fake.unreadable = set(range(40070, 40225))
    with pytest.raises(SunSpecError, match="refuses every register"):
        await site.device.look()


async def test_it_is_a_device_for_the_gateway() -> None:
    device: Device = Site(pv()).device  # mypy holds the promise; this holds mypy's
    assert (device.device_id, device.kind) == ("d-1", DeviceKind.PV)


def test_a_charger_is_not_for_this_driver() -> None:
    with pytest.raises(ValueError, match="OCPP"):
        Site(pv(), DeviceKind.CHARGER)


async def test_metered_power_outside_of_a_confirmed_band_is_reported_after_a_while() -> None:
    site = Site(pv())
    await site.device.look()
    await site.device.apply(Setpoint(lowest_w=-1000, highest_w=None, lease_s=600, reason="test"))
    await site.device.look()
    assert "does not follow" not in site.device.status().detail
    assert site.device.status().follows is None, "it has its time to get there"
    site.time.now_s += DISOBEDIENCE_AFTER_S
    await site.device.look()
    assert "does not follow: -5000 W" in site.device.status().detail
    assert site.device.status().follows is False
    set_point(site.line.units[1], 701, "W", 1000)
    site.time.now_s += 1
    await site.device.look()
    assert "does not follow" not in site.device.status().detail
    assert site.device.status().follows is True
    await site.device.release()
    assert site.device.status().follows is None, "nothing is ordered, so there is nothing to follow"


async def test_a_device_that_is_known_to_be_slow_is_given_its_own_time() -> None:
    site = Site(pv())
    inverter = site.line.units[1]
    slow_s = 3 * DISOBEDIENCE_AFTER_S
    await site.device.look()
    await site.device.apply(Setpoint(lowest_w=-1000, highest_w=None, lease_s=600, reason="test"))
    site.time.now_s += slow_s
    set_point(inverter, 701, "W", 1000)
    await site.device.look()  # it got there: so long it takes
    await site.device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=600, reason="test"))
    site.time.now_s += 1
    await site.device.look()
    site.time.now_s += 2 * DISOBEDIENCE_AFTER_S
    await site.device.look()
    assert site.device.status().follows is None
    assert "does not follow" not in site.device.status().detail
    site.time.now_s += DISOBEDIENCE_AFTER_S
    await site.device.look()
    assert site.device.status().follows is False


async def _running(site: Site, until: asyncio.Event, samples: list[Sample], enough: int) -> None:
    def emit(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) >= enough:
            until.set()

    task = asyncio.create_task(site.device.run(emit))
    try:
        async with asyncio.timeout(10):
            await until.wait()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_run_emits_samples_until_cancelled() -> None:
    site = Site(pv(), period_s=0.001)
    samples: list[Sample] = []
    await _running(site, asyncio.Event(), samples, 3)
    status = site.device.status()
    assert status.link is LinkState.ONLINE
    assert status.detail == "Maker Model X at tcp://192.0.2.10:502 unit 1"
    assert status.last_sample == samples[-1]


async def test_a_device_that_was_never_there_is_silent_with_a_reason_and_no_capabilities() -> None:
    site = Site(pv())
    site.line.refuses_connections = True
    task = asyncio.create_task(site.device.run(lambda sample: None))
    for _ in range(100):  # turns of the loop, no time
        await asyncio.sleep(0)
    task.cancel()
    status = site.device.status()
    assert status.link is LinkState.SILENT
    assert "no connection within 1 s" in status.detail
    assert status.capabilities is None


async def test_a_dead_unit_fails_alone_on_a_shared_endpoint() -> None:
    alive, dead = pv("A"), pv("B")
    dead.deaf = True
    time = Time()
    line = FakeLine({1: alive, 2: dead})
    pool = pool_of(line, time)

    def device(unit: int) -> SunSpecDevice:
        return SunSpecDevice(
            f"d-{unit}",
            DeviceKind.PV,
            ADDRESS,
            unit,
            period_s=1.0,
            timeout_s=1.0,
            connections=pool,
            monotonic_s=time,
            journal=MemoryJournal(),
        )

    first, second = device(1), device(2)
    await first.look()
    with pytest.raises(NoAnswerError):
        await second.look()
    time.now_s += 10
    assert (await first.look()).meter_id == "Maker/Model X/A"
    dead.deaf = False
    time.now_s += 10
    assert (await second.look()).meter_id == "Maker/Model X/B"
