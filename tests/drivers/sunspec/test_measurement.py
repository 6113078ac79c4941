"""What a look at a device means: signs, units, phases, islands. Over the whole road from registers to Sample."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind, Sample, SampleFlag, ValueSource
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.codec import layout
from drivers.sunspec.description import METER_MODELS, DeviceDescription, FoundModel
from drivers.sunspec.measurement import Measurement, measuring_model
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    battery,
    capacity_702,
    common,
    definition,
    device_of,
    inverter_701,
    meter,
    model_words,
    pool_of,
    pv,
    real_device,
)


async def looked(device: FakeDevice, kind: DeviceKind, phases: tuple[int, ...] = (1, 2, 3)) -> Sample:
    time = Time()
    return await SunSpecDevice(
        "d-1",
        kind,
        ADDRESS,
        1,
        period_s=1.0,
        timeout_s=1.0,
        connections=pool_of(FakeLine({1: device}), time),
        monotonic_s=time,
        journal=MemoryJournal(),
        phases=phases,
    ).look()


async def test_generation_is_negative_power_and_counts_as_export() -> None:
    assert await looked(pv(), DeviceKind.PV) == Sample(
        device_id="d-1",
        monotonic_s=1000.0,
        power_w=-5000,
        import_register_milliwatt_hours=789_000,
        export_register_milliwatt_hours=123_456_000,
        meter_id="Maker/Model X/S-1",
        phase_power_w=(-2500, -1250, -1250),
        voltage_millivolts=230_100,
        frequency_millihertz=50_012,
        source=ValueSource.OPEN_BUS,
    )


async def test_a_charging_battery_imports_and_tells_its_state_of_charge() -> None:
    sample = await looked(battery(), DeviceKind.BATTERY)
    assert (sample.power_w, sample.state_of_charge_permille) == (2000, 605)


async def test_a_meters_power_is_positive_for_import_already() -> None:
    sample = await looked(meter(), DeviceKind.METER)
    assert (sample.power_w, sample.phase_power_w) == (-1500, (-500, -400, -600))
    assert sample.import_register_milliwatt_hours == 987_650_000
    assert sample.export_register_milliwatt_hours == 43_210_000
    assert (sample.voltage_millivolts, sample.frequency_millihertz) == (229_800, 49_980)


async def test_a_solaredge_with_model_1_of_65_registers_is_measured_as_it_displays() -> None:
    device, _, _ = real_device("solaredge-se3000h")
    sample = await looked(device, DeviceKind.PV, (2,))
    # W 5092 x 10^-1, WH 17679 x 10^0, AB 2407 x 10^-1, Hz 50006 x 10^-3
    assert (sample.power_w, sample.export_register_milliwatt_hours) == (-509, 17_679_000)
    assert (sample.voltage_millivolts, sample.frequency_millihertz) == (240_700, 50_006)
    assert sample.phase_power_w == (0, -509, 0)


@pytest.mark.parametrize("name", ["sma-sb3.6-2025-06", "sma-sb3.6-night-holes"])
async def test_an_inverter_at_night_has_no_power_rather_than_zero_and_keeps_its_energy(name: str) -> None:
    device, _, _ = real_device(name)
    sample = await looked(device, DeviceKind.PV)
    assert sample.power_w is None
    assert sample.frequency_millihertz is None
    assert sample.export_register_milliwatt_hours is not None
    assert sample.export_register_milliwatt_hours > 29_000_000_000


async def test_a_ieee_1547_device_is_measured_by_model_701() -> None:
    device, _, _ = real_device("dersec-1547-emulator")
    sample = await looked(device, DeviceKind.PV)
    assert (sample.power_w, sample.phase_power_w) == (-9800, (-3200, -3300, -3500))
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (0, 150_000)


async def test_model_701_is_preferred_to_103_whatever_they_say() -> None:
    older = model_words(103, {"W": 1, "W_SF": 0, "WH": 1, "WH_SF": 0})
    silent_701 = model_words(701, {"W_SF": 0, "TotWh_SF": 0})
    sample = await looked(device_of([common(), older, silent_701]), DeviceKind.PV)
    assert (sample.power_w, sample.export_register_milliwatt_hours) == (None, None)


async def test_model_103_counts_generation_only() -> None:
    words = model_words(103, {"W": -7, "W_SF": 1, "WH": 5, "WH_SF": 2, "PhVphA": 230, "PhVphB": 232, "V_SF": 0})
    sample = await looked(device_of([common(), words]), DeviceKind.PV)
    assert (sample.power_w, sample.voltage_millivolts) == (70, 231_000)
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (None, 500_000)


async def test_float_models_measure_like_integer_ones() -> None:
    words = model_words(213, {"W": -1500.4, "TotWhImp": 98765.5, "TotWhExp": 12.25, "Hz": 49.98})
    sample = await looked(device_of([common(), words]), DeviceKind.METER)
    assert (sample.power_w, sample.frequency_millihertz) == (-1500, 49_980)
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (98_765_500, 12_250)


@pytest.mark.parametrize("number", [101, 102, 103, 111, 112, 113, 701])
async def test_every_model_of_inverters_gives_power_frequency_and_energy(number: int) -> None:
    if number == 701:
        words = inverter_701(4000, TotWhInj=98765, TotWhAbs=0)
    elif number > 110:
        words = model_words(number, {"W": 4000.0, "Hz": 50.012, "WH": 98765.0, "St": 4})
    else:
        factors = {"W_SF": 1, "Hz_SF": -3, "WH_SF": 0}
        words = model_words(number, {"W": 400, "Hz": 50012, "WH": 98765, "St": 4, **factors})
    sample = await looked(device_of([common(), words]), DeviceKind.PV)
    assert (sample.power_w, sample.frequency_millihertz) == (-4000, 50_012)
    assert sample.export_register_milliwatt_hours == 98_765_000


async def test_a_counter_of_zero_in_an_accumulator_is_not_a_reading() -> None:
    words = model_words(103, {"W": 10, "W_SF": 0, "WH": 0, "WH_SF": 0})
    assert (await looked(device_of([common(), words]), DeviceKind.PV)).export_register_milliwatt_hours is None


@pytest.mark.parametrize(
    ("mode", "connected", "state", "islanded"),
    [(1, 1, 3, False), (2, 1, 3, True), (1, 0, 3, True), (1, 0, 4, True), (1, 0, 1, False), (1, 0, 0, False)],
)
async def test_islands_are_flagged_and_sleep_is_not_an_island(
    mode: int, connected: int, state: int, islanded: bool
) -> None:
    device = device_of([common(), inverter_701(DERMode=mode, ConnSt=connected, InvSt=state)])
    sample = await looked(device, DeviceKind.PV)
    assert sample.flags == (SampleFlag.ISLANDED if islanded else SampleFlag.NONE)


@pytest.mark.parametrize("hertz", [0, 30, 80])
async def test_a_frequency_that_no_grid_has_is_not_reported(hertz: int) -> None:
    device = device_of([common(), inverter_701(Hz=hertz * 1000)])
    assert (await looked(device, DeviceKind.PV)).frequency_millihertz is None


async def test_power_follows_the_phases_that_the_device_is_wired_to() -> None:
    assert (await looked(pv(), DeviceKind.PV, (3, 1, 2))).phase_power_w == (-1250, -1250, -2500)
    assert (await looked(pv(), DeviceKind.PV, (2,))).phase_power_w == (0, -5000, 0)


@pytest.mark.parametrize(("rating", "charge"), [(0, 605), (10000, 1001), (10000, 0xFFFF)])
async def test_a_phantom_or_impossible_state_of_charge_is_not_reported(rating: int, charge: int) -> None:
    gauge = model_words(713, {"WHRtg": rating, "WH_SF": 0, "SoC": charge, "Pct_SF": -1})
    device = device_of([common(), inverter_701(), capacity_702(), gauge])
    assert (await looked(device, DeviceKind.BATTERY)).state_of_charge_permille is None


async def test_state_of_charge_comes_from_model_802_or_124_where_713_is_absent() -> None:
    for gauge in (
        model_words(802, {"WHRtg": 9, "WHRtg_SF": 3, "SoC": 61, "SoC_SF": 0}),
        model_words(124, {"ChaState": 6100, "ChaState_SF": -2}),
    ):
        device = device_of([common(), inverter_701(), capacity_702(), gauge])
        assert (await looked(device, DeviceKind.BATTERY)).state_of_charge_permille == 610


METERED = {
    "W": -1500,
    "WphA": -500,
    "WphB": -400,
    "WphC": -600,
    "W_SF": 0,
    "PhV": 2298,
    "V_SF": -1,
    "Hz": 4998,
    "Hz_SF": -2,
    "TotWhExp": 4321,
    "TotWhImp": 98765,
    "TotWh_SF": 0,
}


@pytest.mark.parametrize(
    ("number", "total", "phases", "voltage"),
    [
        (201, -500, (-500, 0, 0), 229_800),
        (202, -900, (-500, -400, 0), 229_800),
        (203, -1500, (-500, -400, -600), 229_800),
        (204, -1500, (), None),
        (211, -500, (-500, 0, 0), 230_000),
        (212, -900, (-500, -400, 0), 230_000),
        (213, -1500, (-500, -400, -600), 230_000),
        (214, -1500, (), None),
    ],
)
async def test_a_meter_tells_the_phases_that_its_connection_has(
    number: int, total: int, phases: tuple[int, ...], voltage: int | None
) -> None:
    values: dict[str, int | float | str] = {**METERED, "W": total}
    if number > 210:
        values = {path: value for path, value in values.items() if not path.endswith("_SF")} | {
            "PhV": 230.0,
            "Hz": 50.0,
        }
    sample = await looked(device_of([common(), model_words(number, values)]), DeviceKind.METER)
    assert (sample.power_w, sample.phase_power_w, sample.voltage_millivolts) == (total, phases, voltage)
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (98_765_000, 4_321_000)
    assert sample.frequency_millihertz in (49_980, 50_000)


async def test_phases_that_do_not_add_up_to_the_power_are_not_believed() -> None:
    # Powers of phases without their sign: 500 + 400 + 600 where the meter feeds out 1500.
    words = model_words(203, METERED | {"WphA": 500, "WphB": 400, "WphC": 600})
    sample = await looked(device_of([common(), words]), DeviceKind.METER)
    assert (sample.power_w, sample.phase_power_w) == (-1500, ())


@pytest.mark.parametrize(("ac_type", "phases"), [(0, (-5000, 0, 0)), (1, (-2500, -2500, 0)), (2, (-2500, -2500, 0))])
async def test_an_inverter_tells_the_phases_that_it_has(ac_type: int, phases: tuple[int, ...]) -> None:
    values = {"ACType": ac_type, "W": 5000, "W_SF": 0, "InvSt": 3}
    if ac_type:
        values |= {"WL1": 2500, "WL2": 2500} | ({"WL3": 0} if ac_type == 2 else {})
    sample = await looked(device_of([common(), model_words(701, values)]), DeviceKind.PV)
    assert sample.phase_power_w == phases


@pytest.mark.parametrize(("state", "counted"), [(0, False), (1, False), (2, False), (6, False), (3, True), (7, True)])
async def test_wide_counters_of_zero_are_a_reading_on_a_device_that_is_awake(state: int, counted: bool) -> None:
    device = device_of([common(), inverter_701(InvSt=state, TotWhInj=0, TotWhAbs=0)])
    sample = await looked(device, DeviceKind.PV)
    registers = (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours)
    assert registers == ((0, 0) if counted else (None, None))


async def test_a_counter_of_zero_beside_one_that_counts_is_a_reading() -> None:
    sample = await looked(device_of([common(), inverter_701(InvSt=1, TotWhAbs=0)]), DeviceKind.PV)
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (0, 123_456_000)


@pytest.mark.parametrize(("state", "register"), [(1, None), (3, None), (4, 0)])
async def test_a_float_counter_of_zero_is_a_reading_on_a_device_that_is_awake(state: int, register: int | None) -> None:
    words = model_words(111, {"W": 0.0, "WH": 0.0, "St": state})
    sample = await looked(device_of([common(), words]), DeviceKind.PV)
    assert sample.export_register_milliwatt_hours == register


async def test_float_counters_of_a_meter_that_are_both_zero_are_no_reading() -> None:
    words = model_words(213, {"W": 1.0, "TotWhImp": 0.0, "TotWhExp": 0.0})
    sample = await looked(device_of([common(), words]), DeviceKind.METER)
    assert (sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours) == (None, None)


@pytest.mark.parametrize(("factor", "limit"), [(0, (1 << 32) * 1000), (1, (1 << 32) * 10_000), (-1, (1 << 32) * 100)])
def test_registers_of_32_bits_say_where_they_roll_over(factor: int, limit: int) -> None:
    words = model_words(203, {"TotWhImp": 5, "TotWhExp": 6, "TotWh_SF": factor})
    assert interpreted(203, words).rolls_over_milliwatt_hours == limit


def test_wider_registers_and_floats_do_not_roll_over() -> None:
    assert interpreted(701, inverter_701()).rolls_over_milliwatt_hours is None
    assert interpreted(213, model_words(213, {"TotWhImp": 5.0})).rolls_over_milliwatt_hours is None


def interpreted(number: int, words: list[int]) -> Measurement:
    found = FoundModel(number, 40070, words[1])
    kind = DeviceKind.METER if number in METER_MODELS else DeviceKind.PV
    description = DeviceDescription(
        address=ADDRESS,
        manufacturer="",
        model="",
        options="",
        version="",
        serial="",
        unit=1,
        base=40000,
        models=(found,),
        notes=(),
    )
    chosen = measuring_model(kind, description)
    assert chosen is not None
    return chosen[1].interpret(layout(definition(number), words[1]).decode(words))
