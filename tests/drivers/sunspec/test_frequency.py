"""The grid's frequency wherever a device tells it: in the model that measures, else in another one."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.contact import SLOW_PERIOD_S
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    address_of,
    capacity_702,
    common,
    device_of,
    inverter_701,
    model_words,
    set_point,
)
from tests.drivers.sunspec.orders import Rig

NOT_IMPLEMENTED = 0xFFFFFFFF
"""Hz of model 701."""


def older(hertz: int = 5001) -> list[int]:
    return model_words(103, {"W": 1, "W_SF": 0, "WH": 1, "WH_SF": 0, "Hz": hertz, "Hz_SF": -2})


def second_meter() -> list[int]:
    return model_words(203, {"W": 1, "W_SF": 0, "TotWhImp": 5, "TotWh_SF": 0, "Hz": 4998, "Hz_SF": -2})


def inverter(*others: list[int], hertz: int = NOT_IMPLEMENTED) -> FakeDevice:
    return device_of([common(), inverter_701(Hz=hertz), capacity_702(), *others])


async def frequency(device: SunSpecDevice) -> int | None:
    return (await device.look()).frequency_millihertz


@pytest.mark.parametrize(
    ("others", "millihertz"),
    [
        ((older(),), 50_010),
        ((second_meter(),), 49_980),
        ((second_meter(), older()), 50_010),
        ((older(0), second_meter()), 49_980),
        ((), None),
    ],
    ids=["older inverter model", "meter", "own model first", "0 is none", "nowhere"],
)
async def test_a_frequency_that_the_measuring_model_lacks_is_read_from_another(
    others: tuple[list[int], ...], millihertz: int | None
) -> None:
    rig = Rig(inverter(*others), DeviceKind.PV)
    sample = await rig.device.look()
    assert sample.frequency_millihertz == millihertz
    assert (sample.power_w, sample.export_register_milliwatt_hours) == (-5000, 123_456_000), "of the measuring model"


async def test_where_the_measuring_model_tells_it_no_other_is_asked() -> None:
    rig = await Rig(inverter(older(), hertz=50_012), DeviceKind.PV).ready()
    rig.fake.reads.clear()
    rig.time.now_s += 1
    assert await frequency(rig.device) == 50_012
    assert len(rig.fake.reads) == 1


async def test_a_frequency_that_is_nowhere_is_looked_for_rarely_and_found_when_it_is_back() -> None:
    rig = await Rig(inverter(older(0)), DeviceKind.PV).ready()
    at = address_of(rig.fake, 103, "Hz")
    rig.fake.reads.clear()
    rig.time.now_s += 1
    assert await frequency(rig.device) is None
    assert at not in [address for address, _ in rig.fake.reads]
    set_point(rig.fake, 103, "Hz", 5002)
    rig.time.now_s += SLOW_PERIOD_S
    assert await frequency(rig.device) == 50_020


async def test_a_fault_of_the_other_model_costs_no_measurement() -> None:
    rig = await Rig(inverter(older()), DeviceKind.PV).ready()
    start = address_of(rig.fake, 103, "ID")
    rig.fake.unreadable = set(range(start, start + 52))
    rig.time.now_s += 1
    sample = await rig.device.look()
    assert (sample.power_w, sample.frequency_millihertz) == (-5000, None)
