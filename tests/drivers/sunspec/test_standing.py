"""How a device is: one vocabulary for all models, and what a device does not say stays unsaid."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.ratings import Bounds, ControlSurface, capabilities, ratings
from drivers.sunspec.standing import Battery, DcString, OperatingState, Standing, StandingPoll
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    Time,
    address_of,
    common,
    device_of,
    inverter_701,
    model_words,
    pool_of,
    real_device,
)
from tests.drivers.sunspec.maps import filled, phantom_storage


async def looked(device: FakeDevice) -> Standing:
    unit = Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)
    poll = await StandingPoll.of(unit.read, await describe(unit))
    return await poll.read(unit.read, 0.0)


async def of_models(*models: list[int]) -> Standing:
    return await looked(device_of([common(), *models]))


@pytest.mark.parametrize(("said", "state"), list(enumerate(OperatingState)))
async def test_model_701_numbers_its_states_from_off(said: int, state: OperatingState) -> None:
    assert (await of_models(inverter_701(InvSt=said))).operating is state


@pytest.mark.parametrize(("said", "state"), list(enumerate(OperatingState, start=1)))
@pytest.mark.parametrize("number", [101, 103, 111])
async def test_older_inverters_number_the_same_states_from_1(number: int, said: int, state: OperatingState) -> None:
    assert (await of_models(model_words(number, {"St": said}))).operating is state


async def test_a_state_that_no_model_knows_is_not_told() -> None:
    assert (await of_models(inverter_701(InvSt=99))).operating is None
    assert (await of_models(model_words(103, {"St": 0}))).operating is None


async def test_alarms_have_names_and_unnamed_bits_a_number() -> None:
    assert (await of_models(inverter_701(Alrm=0b1001 | 1 << 31))).alarms == ("ground fault", "dc disconnect", "bit 31")
    assert (await of_models(model_words(103, {"Evt1": 1 << 5}))).alarms == ("cabinet open",)
    assert (await of_models(model_words(203, {"Evt": 1 << 2}))).alarms == ("power failure",)
    assert (await of_models(model_words(802, {"WHRtg": 9, "WHRtg_SF": 3, "Evt1": 2}))).alarms == ("over temp alarm",)
    assert (await of_models(inverter_701(Alrm=0))).alarms == ()


@pytest.mark.parametrize(
    ("mode", "connected", "state", "islanded"), [(1, 1, 3, False), (2, 1, 3, True), (1, 0, 3, True), (1, 0, 1, False)]
)
async def test_an_island_is_told_from_a_device_that_sleeps(
    mode: int, connected: int, state: int, islanded: bool
) -> None:
    found = await of_models(inverter_701(DERMode=mode, ConnSt=connected, InvSt=state))
    assert (found.connected, found.islanded) == (connected == 1, islanded)


async def test_an_older_inverter_that_runs_while_model_122_sees_no_grid_is_islanded() -> None:
    running = model_words(103, {"St": 4})
    assert (await of_models(running, model_words(122, {"ECPConn": 0}))).islanded is True
    assert (await of_models(running, model_words(122, {"ECPConn": 1}))).islanded is False
    assert (await of_models(running)).islanded is None


@pytest.mark.parametrize(
    ("models", "own_droop"),
    [
        ([model_words(711, {"Ena": 1})], True),
        ([model_words(711, {"Ena": 0})], False),
        ([model_words(711, {})], False),
        ([model_words(127, {"ModEna": 1})], True),
        ([model_words(134, {"ModEna": 1}, 64)], True),
        ([model_words(134, {"ModEna": 0}, 64), model_words(127, {"ModEna": 0})], False),
        ([model_words(122, {"StActCtl": 1 << 4})], True),
        ([model_words(122, {"StActCtl": 1 << 3})], False),
    ],
)
async def test_a_droop_of_its_own_is_seen_wherever_the_device_tells_it(
    models: list[list[int]], own_droop: bool
) -> None:
    assert (await of_models(*models)).own_droop is own_droop


async def test_the_reconnect_delay_includes_the_devices_own_random_part() -> None:
    enter_service = model_words(703, {"ESDlyTms": 300, "ESRndTms": 60, "ESRmpTms": 600, "ESDlyRemTms": 12})
    found = await of_models(enter_service)
    assert (found.reconnect_delay_s, found.reconnect_ramp_s, found.reconnect_remaining_s) == (360, 600, 12)
    assert (await of_models(model_words(703, {"ESRndTms": 60}))).reconnect_delay_s is None


async def test_strings_of_model_160_are_shown_one_by_one() -> None:
    words = model_words(
        160,
        {
            "N": 2,
            "DCA_SF": -2,
            "DCV_SF": -1,
            "DCW_SF": 0,
            "module[1].IDStr": "roof",
            "module[1].DCW": 2100,
            "module[1].DCV": 4201,
            "module[1].DCA": 500,
            "module[2].DCW": 0,
            "module[2].DCEvt": 1 << 15,
            "module[3].DCW": 77,
        },
        8 + 3 * 20,
    )
    assert (await of_models(words)).strings == (
        DcString(name="roof", power_w=2100, voltage_millivolts=420_100, current_milliamperes=5000),
        DcString(name="2", power_w=0, voltage_millivolts=None, current_milliamperes=None, alarms=("arc detection",)),
    )


async def test_ports_of_model_714_are_counted_by_the_device() -> None:
    words = filled(714, 18 + 25 * 2, {"NPrt": 2})
    assert len((await of_models(words)).strings) == 2


async def test_ports_of_a_real_map_are_shown() -> None:
    device, _, _ = real_device("dersec-1547-emulator")
    assert [string.power_w for string in (await looked(device)).strings] == [5500, 5500]


async def test_a_battery_tells_capacity_health_and_what_it_does() -> None:
    gauge = model_words(713, {"WHRtg": 100, "WHAvail": 60, "SoC": 600, "SoH": 985, "WH_SF": 2, "Pct_SF": -1})
    expected = Battery(capacity_wh=10_000, available_wh=6000, state_of_health_permille=985, state=None)
    assert (await of_models(gauge)).battery == expected
    older = model_words(802, {"WHRtg": 9, "WHRtg_SF": 3, "SoH": 97, "SoH_SF": 0, "SoC_SF": 0, "ChaSt": 4})
    expected = Battery(capacity_wh=9000, available_wh=None, state_of_health_permille=970, state="charging")
    assert (await of_models(older)).battery == expected
    oldest = model_words(124, {"WChaMax": 5000, "WChaMax_SF": 0, "ChaState": 50, "ChaState_SF": 0, "ChaSt": 5})
    expected = Battery(capacity_wh=None, available_wh=None, state_of_health_permille=None, state="full")
    assert (await of_models(oldest)).battery == expected


async def test_a_phantom_battery_is_not_shown() -> None:
    assert (await of_models(model_words(103, {"St": 4}), *phantom_storage())).battery is None


async def test_what_a_device_hides_is_not_told_and_costs_nothing_else() -> None:
    device = device_of([common(), inverter_701(Alrm=1), model_words(703, {"ESDlyTms": 300})])
    device.unreadable = {address_of(device, 703, "ESDlyTms"), address_of(device, 701, "ConnSt")}
    found = await looked(device)
    assert (found.reconnect_delay_s, found.connected) == (None, None)
    assert (found.alarms, found.operating) == (("ground fault",), OperatingState.RUNNING)


async def test_names_of_strings_are_made_printable() -> None:
    words = model_words(160, {"module[1].IDStr": "a\x1b[2J", "module[1].DCW": 1, "DCW_SF": 0}, 28)
    assert (await of_models(words)).strings[0].name == "a?[2J"


async def test_the_plan_learns_of_droop_and_reconnect_delay_by_the_capabilities() -> None:
    standing = Standing(own_droop=True, reconnect_delay_s=300)
    found = capabilities(DeviceKind.PV, ratings({}), Bounds(), ControlSurface(), (1, 2, 3), standing)
    assert (found.own_droop, found.reconnect_delay_s) == (True, 300)
    found = capabilities(DeviceKind.PV, ratings({}), Bounds(), ControlSurface(), (1, 2, 3))
    assert (found.own_droop, found.reconnect_delay_s) == (False, 0)
