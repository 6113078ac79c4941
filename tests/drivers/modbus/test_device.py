"""A mapped device over time: read exactly, never written, known by its serial number, its state always in words."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field

import pytest

from drivers.device import DeadMan, Device, DeviceKind, DeviceRefusedError, LinkState, Sample, Setpoint
from drivers.modbus import MapDevice, RegisterMap
from drivers.modbus.device import NO_SERIAL, READ_ONLY
from drivers.modbus.register_map import parse_map
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError, SunSpecError
from drivers.sunspec.relearning import RELEARN_LEAST_S
from tests.drivers.sunspec.fakes import ADDRESS, FakeDevice, FakeLine, Time, pool_of

MAP = """
title = "Maker X"
source = "here"
kinds = ["meter", "pv"]
readable = [[100, 120]]
[points.power]
address = 100
type = "int32"
unit = "W"
positive = "import"
[points.import_energy]
address = 102
type = "uint32"
unit = "Wh"
[points.export_energy]
address = 104
type = "uint32"
unit = "Wh"
[points.frequency]
address = 110
type = "uint16"
scale = 0.01
unit = "Hz"
"""
SERIAL = '[points.serial]\naddress = 200\ntype = "string"\nlength = 4\n'


def words(data: bytes) -> list[int]:
    return list(struct.unpack(f">{len(data) // 2}H", data))


def meter(serial: str = "S1", power_w: int = -1500, import_wh: int = 7000) -> FakeDevice:
    device = FakeDevice(dict.fromkeys(range(100, 121), 0))
    device.store(100, words(struct.pack(">iII", power_w, import_wh, 42)))
    device.store(110, [5001])
    device.store(200, words(serial.encode().ljust(8, b"\0")))
    return device


@dataclass
class Site:
    fake: FakeDevice
    text: str = MAP + SERIAL
    kind: DeviceKind = DeviceKind.METER
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.line = FakeLine({1: self.fake})
        self.map: RegisterMap = parse_map(self.text, "m.toml")
        self.device = MapDevice(
            "d-1",
            self.kind,
            ADDRESS,
            1,
            self.map,
            period_s=1.0,
            timeout_s=1.0,
            connections=pool_of(self.line, self.time),
            monotonic_s=self.time,
            rated_export_w=5000,
        )

    def reconnect_with(self, fake: FakeDevice) -> None:
        self.line.close()
        self.line.units[1] = self.fake = fake
        self.time.now_s += 10


async def test_a_sample_is_in_the_common_vocabulary() -> None:
    site = Site(meter())
    sample = await site.device.look()
    assert sample == Sample(
        device_id="d-1",
        monotonic_s=sample.monotonic_s,
        power_w=-1500,
        import_register_milliwatt_hours=7_000_000,
        export_register_milliwatt_hours=42_000,
        meter_id="Maker X/S1",
        frequency_millihertz=50_010,
    )


async def test_a_sample_has_the_moment_of_its_first_answer() -> None:
    site = Site(meter())
    await site.device.look()
    site.fake.reads.clear()
    read, began_s = site.fake.read, site.time.now_s + 1

    def slowly(address: int, count: int) -> list[int]:
        site.time.now_s += 0.4
        return read(address, count)

    site.fake.read = slowly  # type: ignore[method-assign] # a line that takes its time
    site.fake.unreadable = {104, 105}  # exported energy: the poll takes several requests
    site.time.now_s = began_s
    sample = await site.device.look()
    assert sample.export_register_milliwatt_hours is None
    assert site.time.now_s > began_s + 0.4
    assert sample.monotonic_s == pytest.approx(began_s + 0.6), "the first request was refused, the second was not"


async def test_a_poll_of_a_known_device_is_one_request() -> None:
    site = Site(meter())
    await site.device.look()
    site.fake.reads.clear()
    await site.device.look()
    assert site.fake.reads == [(100, 11)]


async def test_nothing_is_ever_written_and_an_order_is_refused() -> None:
    site = Site(meter())
    await site.device.look()
    with pytest.raises(DeviceRefusedError, match="cannot be controlled"):
        await site.device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason="test"))
    await site.device.release()
    assert site.fake.writes == []


async def test_capabilities_say_that_it_cannot_be_controlled() -> None:
    site = Site(meter(), kind=DeviceKind.PV)
    await site.device.look()
    found = site.device.status().capabilities
    assert found is not None
    assert (found.limits_import, found.limits_export, found.follows_setpoint) == (False, False, False)
    assert (found.dead_man, found.rated_export_w, found.fallback_lowest_w) == (DeadMan.NONE, 5000, -5000)
    assert READ_ONLY in found.notes


async def test_a_replaced_device_has_another_meter_id() -> None:
    site = Site(meter("OLD"))
    assert (await site.device.look()).meter_id == "Maker X/OLD"
    site.reconnect_with(meter("NEW", import_wh=3))
    sample = await site.device.look()
    assert (sample.meter_id, sample.import_register_milliwatt_hours) == ("Maker X/NEW", 3000)


async def test_a_failure_to_tell_its_serial_number_does_not_make_it_another_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(meter())
    before = (await site.device.look()).meter_id
    site.line.close()
    site.time.now_s += 10
    right = site.fake.read

    def failing(address: int, count: int) -> list[int]:
        if address == 200:
            raise ModbusExceptionError("reading", 4)
        return right(address, count)

    monkeypatch.setattr(site.fake, "read", failing)
    with pytest.raises(ModbusExceptionError, match="device failure"):
        await site.device.look()
    monkeypatch.undo()
    assert (await site.device.look()).meter_id == before


async def test_a_device_replaced_in_the_middle_of_a_poll_is_not_mixed_with_the_old_one() -> None:
    site = Site(meter("OLD"))
    await site.device.look()
    site.reconnect_with(meter("NEW", power_w=1))
    sample = await site.device.look()
    assert (sample.meter_id, sample.power_w) == ("Maker X/NEW", 1)
    assert (200, 4) in site.fake.reads


async def test_without_a_serial_number_it_is_known_by_its_place_and_says_so() -> None:
    for text, fake in ((MAP, meter()), (MAP + SERIAL, meter(serial=""))):
        site = Site(fake, text)
        assert (await site.device.look()).meter_id == f"Maker X/-/{ADDRESS} unit 1"
        capabilities = site.device.status().capabilities
        assert capabilities is not None
        assert NO_SERIAL in capabilities.notes


async def test_registers_that_the_device_refuses_cost_only_themselves_and_are_tried_again() -> None:
    site = Site(meter())
    site.fake.unreadable = {104, 105}
    sample = await site.device.look()
    assert (sample.power_w, sample.import_register_milliwatt_hours) == (-1500, 7_000_000)
    assert sample.export_register_milliwatt_hours is None
    capabilities = site.device.status().capabilities
    assert capabilities is not None
    assert "refuses registers of its map: export_energy" in capabilities.notes
    site.fake.reads.clear()
    await site.device.look()
    assert (104, 2) not in site.fake.reads, "what was learned is kept"
    site.fake.unreadable = set()
    site.time.now_s += RELEARN_LEAST_S
    assert (await site.device.look()).export_register_milliwatt_hours == 42_000


async def test_a_device_that_refuses_all_of_its_map_is_told_so() -> None:
    site = Site(FakeDevice({}), MAP)
    for _ in range(2):
        with pytest.raises(BadAnswerError, match="is it the right map"):
            await site.device.look()


async def test_a_moment_of_refusing_everything_costs_seconds_and_not_minutes() -> None:
    site = Site(meter())
    await site.device.look()
    site.fake.unreadable = set(site.fake.registers)
    with pytest.raises(BadAnswerError, match="is it the right map"):
        await site.device.look()
    site.fake.unreadable = set()
    site.time.now_s += RELEARN_LEAST_S
    assert (await site.device.look()).power_w == -1500


async def test_a_frequency_that_makes_no_sense_is_a_fault_and_a_dead_line_is_none() -> None:
    site = Site(meter())
    site.fake.store(110, [2300])
    with pytest.raises(BadAnswerError, match=r"23 Hz makes no sense; is it a Maker X"):
        await site.device.look()
    site.fake.store(110, [0])
    assert (await site.device.look()).frequency_millihertz is None


FLOATS = MAP.replace('type = "int32"', 'type = "float32"', 1)


async def test_a_power_that_nothing_has_is_a_fault_and_no_sample() -> None:
    site = Site(meter(), FLOATS)
    site.fake.store(100, words(struct.pack(">f", 3e38)))
    with pytest.raises(BadAnswerError, match=r"a power of 3e\+38 W: that makes no sense; is it a Maker X"):
        await site.device.look()


async def test_an_energy_that_nothing_has_is_left_out_and_told() -> None:
    site = Site(meter(), MAP.replace('unit = "Wh"', 'unit = "MWh"\nscale = 1e9', 1))
    sample = await site.device.look()
    assert (sample.power_w, sample.import_register_milliwatt_hours) == (-1500, None)
    assert "makes no sense: an imported energy of 7e+18 Wh" in site.device.status().detail


async def test_a_register_that_falls_while_the_device_wakes_is_held_back() -> None:
    site = Site(meter())
    await site.device.look()
    site.fake.store(102, [0, 0])
    assert (await site.device.look()).import_register_milliwatt_hours is None


async def test_a_kind_that_the_map_is_not_of_is_refused() -> None:
    with pytest.raises(ValueError, match="is of meter or pv, not of a battery"):
        Site(meter(), kind=DeviceKind.BATTERY)


async def until(device: MapDevice, link: LinkState) -> None:
    while device.status().link is not link:  # noqa: ASYNC110 - the state has no event, and the clock is ours
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "link"), [(NoAnswerError("gone"), LinkState.SILENT), (BadAnswerError("odd"), LinkState.FAULT)]
)
async def test_its_state_says_what_is_wrong(error: SunSpecError, link: LinkState) -> None:
    site = Site(meter())

    async def fail() -> Sample:
        raise error

    as_device: Device = site.device
    site.device.look = fail  # type: ignore[method-assign] # the fault, whatever its cause
    running = asyncio.create_task(as_device.run(lambda sample: None))
    try:
        async with asyncio.timeout(5):
            await until(site.device, link)
        assert site.device.status().detail == str(error)
    finally:
        running.cancel()


async def test_it_reports_until_cancelled() -> None:
    site = Site(meter())
    seen: list[Sample] = []
    running = asyncio.create_task(site.device.run(seen.append))
    try:
        async with asyncio.timeout(5):
            await until(site.device, LinkState.ONLINE)
    finally:
        running.cancel()
    assert [sample.power_w for sample in seen] == [-1500]
    assert site.device.status().detail == f"Maker X at {ADDRESS} unit 1"


CAPACITY = '[points.capacity]\naddress = 112\ntype = "uint16"\nscale = 0.1\nunit = "kWh"\n'
STORAGE_MAP = (MAP + SERIAL + CAPACITY).replace('["meter", "pv"]', '["battery"]')


@pytest.mark.parametrize(("count", "told_wh"), [(102, 10_200), (0, None)])
async def test_a_battery_tells_its_capacity_where_its_map_has_it(count: int, told_wh: int | None) -> None:
    site = Site(meter(), text=STORAGE_MAP, kind=DeviceKind.BATTERY)
    site.fake.store(112, [count])
    await site.device.look()
    found = site.device.status().capabilities
    assert found is not None
    assert found.energy_capacity_wh == told_wh
    if told_wh is not None:
        site.fake.store(112, [0])  # what it said once and does not say now is still so
        await site.device.look()
        again = site.device.status().capabilities
        assert again is not None
        assert again.energy_capacity_wh == told_wh


async def test_another_battery_in_its_place_has_its_own_capacity() -> None:
    site = Site(meter(), text=STORAGE_MAP, kind=DeviceKind.BATTERY)
    site.fake.store(112, [102])
    await site.device.look()
    site.reconnect_with(meter("S2"))
    await site.device.look()
    found = site.device.status().capabilities
    assert found is not None
    assert found.energy_capacity_wh is None
