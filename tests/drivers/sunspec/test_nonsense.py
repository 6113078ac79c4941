"""Registers that make no sense: what nothing can have is never passed on, and its device says so in words."""

from __future__ import annotations

import random

import pytest

from drivers.device import DeviceKind, LinkState, Sample
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.description import METER_MODELS
from drivers.sunspec.errors import BadAnswerError, SunSpecError
from drivers.sunspec.measurement import LARGEST_MILLIWATT_HOURS, LARGEST_W
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    capacity_702,
    common,
    device_of,
    inverter_701,
    model_words,
    pool_of,
)

FLOATS = {"W": -1500.0, "PhV": 230.0, "Hz": 50.0, "TotWhImp": 7000.0, "TotWhExp": 42.0}


def device_at(fake: FakeDevice, kind: DeviceKind) -> SunSpecDevice:
    time = Time()
    return SunSpecDevice(
        "d-1",
        kind,
        ADDRESS,
        1,
        period_s=1.0,
        timeout_s=1.0,
        connections=pool_of(FakeLine({1: fake}), time),
        monotonic_s=time,
        journal=MemoryJournal(),
    )


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (model_words(213, FLOATS | {"W": 3e38}), DeviceKind.METER, r"a power of 3e\+38 W"),
        (model_words(213, FLOATS | {"W": -3e38}), DeviceKind.METER, r"a power of -3e\+38 W"),
        (model_words(103, {"W": 30_000, "W_SF": 10, "Hz": 5000, "Hz_SF": -2}), DeviceKind.PV, r"a power of -3e\+14 W"),
    ],
)
async def test_a_power_that_nothing_has_is_a_fault_with_the_number(
    words: list[int], kind: DeviceKind, says: str
) -> None:
    device = device_at(device_of([common(), words]), kind)
    with pytest.raises(BadAnswerError, match=f"{says}.*makes no sense"):
        await device.look()


@pytest.mark.parametrize("energy", [1e38, -5.0])
async def test_an_energy_that_nothing_has_is_left_out_and_told(energy: float) -> None:
    device = device_at(device_of([common(), model_words(213, FLOATS | {"TotWhImp": energy})]), DeviceKind.METER)
    sample = await device.look()
    assert (sample.power_w, sample.import_register_milliwatt_hours) == (-1500, None)
    assert sample.export_register_milliwatt_hours == 42_000
    status = device.status()
    assert status.link is LinkState.ONLINE
    assert "makes no sense: an imported energy of" in status.detail


async def test_a_wide_counter_that_holds_the_wrong_sentinel_costs_no_power() -> None:
    # Seen as 0x8000000000000000 where 0xFFFFFFFFFFFFFFFF is "not implemented".
    device = device_at(device_of([common(), inverter_701(TotWhAbs=1 << 63), capacity_702()]), DeviceKind.PV)
    sample = await device.look()
    assert (sample.power_w, sample.import_register_milliwatt_hours) == (-5000, None)
    assert sample.export_register_milliwatt_hours == 123_456_000


async def test_a_device_that_tells_no_power_says_so() -> None:
    device = device_at(device_of([common(), model_words(103, {})]), DeviceKind.PV)
    assert (await device.look()).power_w is None
    assert "tells no power at present" in device.status().detail


async def test_a_rating_that_nothing_has_counts_as_not_said() -> None:
    words = model_words(120, {"WRtg": 60_000, "WRtg_SF": 10})
    device = device_at(device_of([common(), model_words(103, {"W": 5, "W_SF": 0}), words]), DeviceKind.PV)
    await device.look()
    found = device.status().capabilities
    assert found is not None
    assert found.rated_export_w == 0
    assert any("does not say its rating" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(100))
async def test_whatever_registers_hold_a_sample_fits_into_64_bits(seed: int) -> None:
    words = _noise(seed, (203, 213, 103, 113, 701)[seed % 5])
    device = device_at(device_of([common(), words]), DeviceKind.METER if words[0] in METER_MODELS else DeviceKind.PV)
    try:
        sample = await device.look()
    except SunSpecError:
        return
    _fits(sample)


def _noise(seed: int, number: int) -> list[int]:
    draw, empty = random.Random(seed), model_words(number, {})
    return [*empty[:2], *[draw.choice((draw.randrange(1 << 16), 0x7F7F, 0, 10)) for _ in empty[2:]]]


def _fits(sample: Sample) -> None:
    for power in (sample.power_w, *sample.phase_power_w):
        assert power is None or abs(power) <= 3 * LARGEST_W
    for register in (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours):
        assert register is None or 0 <= register <= LARGEST_MILLIWATT_HOURS
    for other in (sample.voltage_millivolts, sample.frequency_millihertz, sample.state_of_charge_permille):
        assert other is None or 0 <= other < 1 << 31
