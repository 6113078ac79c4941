"""Connect and disconnect: only what we disconnected comes back by us, and that is known after a restart (SAFETY 7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.device import DeviceKind, DeviceRefusedError, DeviceUnreachableError
from drivers.sunspec.contact import STANDING_PERIOD_S
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    MemoryJournal,
    address_of,
    capacity_702,
    common,
    controls_704,
    device_of,
    inverter_701,
    meter,
    model_words,
    point,
    set_point,
)
from tests.drivers.sunspec.orders import Rig, older_pv

ES, CONN = (703, "ES"), (123, "Conn")


def pv_703(**enter_service: int) -> FakeDevice:
    values = {"ES": 1, "ESVHi": 1050, "ESVLo": 900, "ESDlyTms": 300, "V_SF": -1, "Hz_SF": -2}
    enter = model_words(703, values | enter_service)
    return device_of([common(), inverter_701(), capacity_702(), enter, controls_704()])


def with_connection(**more: int) -> FakeDevice:
    return older_pv(Conn_WinTms=30, Conn_RvrtTms=300, **more)


BOTH = pytest.mark.parametrize(("make", "switch"), [(pv_703, ES), (with_connection, CONN)])


@BOTH
async def test_what_was_disconnected_is_connected_again_as_it_was(
    make: Callable[[], FakeDevice], switch: tuple[int, str]
) -> None:
    device = make()
    before = dict(device.registers)
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.device.disconnect("test")
    assert point(device, *switch) == 0
    assert rig.device.is_disconnected_by_us
    assert "disconnected by the gateway: test" in rig.device.status().detail
    await rig.device.connect()
    assert device.registers == before
    assert not rig.device.is_disconnected_by_us


@BOTH
async def test_that_it_was_us_is_known_after_a_restart(make: Callable[[], FakeDevice], switch: tuple[int, str]) -> None:
    device = make()
    before = dict(device.registers)
    first = await Rig(device, DeviceKind.PV).ready()
    await first.device.disconnect("test")
    device.writes.clear()
    again = await Rig(device, DeviceKind.PV, journal=first.journal).ready()
    assert device.writes == []
    assert again.device.is_disconnected_by_us
    await again.device.connect()
    assert device.registers == before
    third = await Rig(device, DeviceKind.PV, journal=first.journal).ready()
    assert not third.device.is_disconnected_by_us


@pytest.mark.parametrize("device", [pv_703(ES=0), with_connection(Conn=0)])
async def test_what_somebody_else_disconnected_stays_theirs(device: FakeDevice) -> None:
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.device.disconnect("test")
    assert not rig.device.is_disconnected_by_us
    with pytest.raises(DeviceRefusedError, match="not the gateway that disconnected it"):
        await rig.device.connect()
    assert device.writes == []


async def test_that_it_is_us_is_on_record_before_the_switch_is_written() -> None:
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV).ready()
    on_record: list[bool] = []

    def looks(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        on_record.append(bool(rig.journal.kept.get("disconnected/Maker/Model X/S-1")))
        fake.store(address, words)

    device.on_write = looks
    await rig.device.disconnect("test")
    assert on_record
    assert all(on_record)


async def test_a_disconnection_of_unknown_fate_is_ours_after_a_restart_if_it_happened() -> None:
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV).ready()

    def goes_deaf(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        fake.deaf = True

    device.on_write = goes_deaf
    with pytest.raises(DeviceUnreachableError):
        await rig.device.disconnect("test")
    device.deaf, device.on_write = False, None
    again = await Rig(device, DeviceKind.PV, journal=rig.journal).ready()
    await again.device.connect()
    assert point(device, *ES) == 1


async def test_a_device_that_was_connected_by_others_meanwhile_is_not_ours_when_it_is_disconnected_next() -> None:
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.device.disconnect("test")
    set_point(device, *ES, 1)
    rig.time.now_s += STANDING_PERIOD_S
    await rig.device.look()
    set_point(device, *ES, 0)
    for gateway in (rig, await Rig(device, DeviceKind.PV, journal=rig.journal).ready()):
        with pytest.raises(DeviceRefusedError, match="not the gateway"):
            await gateway.device.connect()
    assert point(device, *ES) == 0


async def test_the_same_while_the_gateway_was_off() -> None:
    device = pv_703()
    first = await Rig(device, DeviceKind.PV).ready()
    await first.device.disconnect("test")
    set_point(device, *ES, 1)
    await Rig(device, DeviceKind.PV, journal=first.journal).ready()
    set_point(device, *ES, 0)
    third = await Rig(device, DeviceKind.PV, journal=first.journal).ready()
    with pytest.raises(DeviceRefusedError):
        await third.device.connect()


async def test_a_disconnection_does_not_wait_for_a_store_that_is_away_and_is_recorded_later() -> None:
    journal = MemoryJournal()
    journal.broken = True
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV, journal=journal).ready()
    await rig.device.disconnect("test")
    assert point(device, *ES) == 0
    journal.broken = False
    rig.time.now_s += 10
    await rig.device.look()
    again = await Rig(device, DeviceKind.PV, journal=journal).ready()
    assert again.device.is_disconnected_by_us


async def test_a_switch_that_the_device_does_not_turn_is_a_refusal_and_nothing_of_ours() -> None:
    device = pv_703()
    device.on_write = lambda fake, address, words: None
    rig = await Rig(device, DeviceKind.PV).ready()
    with pytest.raises(DeviceRefusedError, match="ES holds 1 instead of 0"):
        await rig.device.disconnect("test")
    assert not rig.device.is_disconnected_by_us
    again = await Rig(device, DeviceKind.PV, journal=rig.journal).ready()
    set_point(device, *ES, 0)
    with pytest.raises(DeviceRefusedError):
        await again.device.connect()


async def test_releasing_a_band_connects_nothing() -> None:
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.hold(-2000, None)
    await rig.device.disconnect("test")
    await rig.device.release()
    assert point(device, *ES) == 0
    assert rig.device.status().follows is None


async def test_what_cannot_be_disconnected_says_so() -> None:
    for device, kind in ((meter(), DeviceKind.METER), (device_of([common(), inverter_701()]), DeviceKind.PV)):
        rig = await Rig(device, kind).ready()
        found = rig.device.status().capabilities
        assert found is not None
        assert not found.disconnects
        with pytest.raises(DeviceRefusedError, match="no connect switch"):
            await rig.device.disconnect("test")
    capable = (await Rig(pv_703(), DeviceKind.PV).ready()).device.status().capabilities
    assert capable is not None
    assert capable.disconnects


async def test_a_timer_that_would_connect_by_itself_is_cleared_before_the_switch() -> None:
    device = with_connection()
    device.refuses_writes_across = {address_of(device, 123, "Conn_WinTms")}
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.device.disconnect("test")
    order = [address for address, _ in device.writes]
    assert order.index(address_of(device, 123, "Conn_RvrtTms")) < order.index(address_of(device, *CONN))
    assert point(device, 123, "Conn_RvrtTms") == 0


@pytest.mark.parametrize("kept", [b"\x00", b"\x02\xbf", b"\x02\xbf\x00\x01\x00", b"\x00\x7b\x00\x01", b"\xff" * 500])
async def test_a_record_that_makes_no_sense_makes_nothing_ours(kept: bytes) -> None:
    journal = MemoryJournal()
    journal.kept["disconnected/Maker/Model X/S-1"] = kept
    device = pv_703(ES=0)
    rig = await Rig(device, DeviceKind.PV, journal=journal).ready()
    with pytest.raises(DeviceRefusedError, match="not the gateway"):
        await rig.device.connect()
    assert device.writes == []


async def test_what_others_connected_is_disconnected_again_when_that_is_asked_for() -> None:
    device = pv_703()
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.device.disconnect("test")
    set_point(device, *ES, 1)
    await rig.device.disconnect("test again")
    assert point(device, *ES) == 0
    assert rig.device.is_disconnected_by_us
