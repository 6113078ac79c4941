"""How a device is reaches the plan and people: droop, reconnect delay, alarms, islands, registers that fell."""

from __future__ import annotations

from drivers.device import DeviceKind, SampleFlag
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.contact import STANDING_PERIOD_S
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    address_of,
    capacity_702,
    common,
    device_of,
    inverter_701,
    model_words,
    pool_of,
    set_point,
)


def on_line(device: FakeDevice, kind: DeviceKind = DeviceKind.PV) -> tuple[SunSpecDevice, Time]:
    time = Time()
    driver = SunSpecDevice(
        "d-1",
        kind,
        ADDRESS,
        1,
        period_s=1.0,
        timeout_s=1.0,
        connections=pool_of(FakeLine({1: device}), time),
        monotonic_s=time,
        journal=MemoryJournal(),
    )
    return driver, time


def inverter(ena: int = 1, **measured: int) -> FakeDevice:
    enter_service = model_words(703, {"ESDlyTms": 300, "ESRndTms": 60})
    droop = model_words(711, {"Ena": ena})
    return device_of([common(), inverter_701(**measured), capacity_702(), enter_service, droop])


async def test_the_plan_sees_droop_and_reconnect_delay_from_first_contact_on() -> None:
    driver, _ = on_line(inverter())
    await driver.look()
    capabilities = driver.status().capabilities
    assert capabilities is not None
    assert (capabilities.own_droop, capabilities.reconnect_delay_s) == (True, 360)


async def test_a_droop_that_is_switched_off_is_seen_within_its_period() -> None:
    device = inverter()
    driver, time = on_line(device)
    await driver.look()
    set_point(device, 711, "Ena", 0)
    time.now_s += STANDING_PERIOD_S + 1
    await driver.look()
    capabilities = driver.status().capabilities
    assert capabilities is not None
    assert not capabilities.own_droop


async def test_how_a_device_is_is_asked_rarely() -> None:
    device = inverter()
    driver, time = on_line(device)
    await driver.look()
    slow = {address_of(device, number, path) for number, path in ((711, "Ena"), (703, "ESDlyTms"))}

    def asked() -> bool:
        return any(slow & set(range(address, address + count)) for address, count in device.reads)

    device.reads.clear()
    for _ in range(int(STANDING_PERIOD_S) - 1):
        time.now_s += 1
        await driver.look()
    assert len(device.reads) == STANDING_PERIOD_S - 1, "one request a look"
    time.now_s += 1
    await driver.look()
    assert asked()


async def test_a_person_reads_faults_and_alarms_in_the_status() -> None:
    driver, _ = on_line(inverter(InvSt=6, Alrm=1))
    await driver.look()
    assert driver.status().detail.endswith("; is in its state of fault; reports ground fault")
    driver, _ = on_line(inverter())
    await driver.look()
    assert ";" not in driver.status().detail


async def test_an_older_inverter_without_a_grid_in_model_122_is_flagged_islanded() -> None:
    words = model_words(103, {"W": 10, "W_SF": 0, "WH": 9, "WH_SF": 0, "St": 4})
    driver, _ = on_line(device_of([common(), words, model_words(122, {"ECPConn": 0})]))
    assert (await driver.look()).flags == SampleFlag.ISLANDED


async def test_a_register_that_fell_for_one_look_is_left_out_of_the_sample() -> None:
    device = inverter()
    driver, time = on_line(device)
    assert (await driver.look()).export_register_milliwatt_hours == 123_456_000
    set_point(device, 701, "TotWhInj", 7)
    time.now_s += 1
    assert (await driver.look()).export_register_milliwatt_hours is None
    set_point(device, 701, "TotWhInj", 123_457)
    time.now_s += 1
    assert (await driver.look()).export_register_milliwatt_hours == 123_457_000
