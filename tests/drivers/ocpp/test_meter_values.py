"""Meter values: units, signs, phases, and what is left out rather than guessed."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.messages import MeterValue, SampledValue
from drivers.ocpp.meter_values import MeterLook, read_meter_values

AT = "2026-01-01T00:00:00Z"


def sampled(value: float, measurand: str | None = None, unit: str | None = None, **more: object) -> SampledValue:
    built: dict[str, object] = {"value": value, **more}
    if measurand is not None:
        built["measurand"] = measurand
    if unit is not None:
        built["unitOfMeasure"] = {"unit": unit}
    return cast(SampledValue, built)


def look(*values: SampledValue) -> MeterLook:
    (found,), complaints = read_meter_values([{"timestamp": AT, "sampledValue": list(values)}])
    assert not complaints
    return found


def complaints_of(value: SampledValue) -> tuple[MeterLook, list[str]]:
    (found,), complaints = read_meter_values([{"timestamp": AT, "sampledValue": [value]}])
    return found, complaints


IMPORT, EXPORT = "Energy.Active.Import.Register", "Energy.Active.Export.Register"
POWER_IN, POWER_OUT = "Power.Active.Import", "Power.Active.Export"


def test_registers_become_milliwatt_hours() -> None:
    found = look(sampled(12.3456, IMPORT, "kWh"), sampled(7.5, EXPORT, "Wh"))
    assert found.import_register_milliwatt_hours == 12_345_600
    assert found.export_register_milliwatt_hours == 7_500


def test_a_value_without_measurand_and_unit_is_the_import_register_in_watt_hours() -> None:
    assert look(sampled(5)).import_register_milliwatt_hours == 5_000


def test_the_multiplier_counts() -> None:
    value = sampled(1234, IMPORT, unitOfMeasure={"unit": "Wh", "multiplier": 2})
    assert look(value).import_register_milliwatt_hours == 123_400_000


def test_power_is_import_minus_export() -> None:
    assert look(sampled(0, POWER_IN), sampled(4.2, POWER_OUT, "kW")).power_w == -4200
    assert look(sampled(7400, POWER_IN, "W")).power_w == 7400
    assert look(sampled(-500, POWER_IN, "W")).power_w == -500


def test_phases_are_summed_only_where_no_total_was_sent() -> None:
    phases = [sampled(100 * number, POWER_IN, phase=f"L{number}") for number in (1, 2, 3)]
    assert look(*phases).power_w == 600
    assert look(*phases).phase_power_w == (100, 200, 300)
    assert look(*phases, sampled(601, POWER_IN)).power_w == 601
    assert look(*phases[:2]).phase_power_w == ()


def test_voltage_is_the_mean_of_line_to_neutral() -> None:
    values = [sampled(volts, "Voltage", "V", phase=f"L{n}-N") for n, volts in ((1, 230), (2, 231), (3, 232.3))]
    assert look(*values).voltage_millivolts == 231_100
    assert look(sampled(400, "Voltage", "V", phase="L1-L2")).voltage_millivolts is None


def test_frequency_and_state_of_charge() -> None:
    found = look(sampled(49.98, "Frequency"), sampled(63.5, "SoC", "Percent", location="EV"))
    assert (found.frequency_millihertz, found.state_of_charge_permille) == (49_980, 635)


def test_another_meter_than_the_outlets_is_left_out() -> None:
    assert look(sampled(9000, POWER_IN, location="Inlet"), sampled(1, IMPORT)).power_w is None


def test_absent_is_none_and_not_zero() -> None:
    found = look(sampled(1, "Current.Import"))
    assert (found.power_w, found.import_register_milliwatt_hours, found.state_of_charge_permille) == (None, None, None)


@pytest.mark.parametrize(
    "value",
    [
        sampled(1, IMPORT, "furlong"),
        sampled(1e300, IMPORT, "Wh"),
        sampled(1, IMPORT, unitOfMeasure={"unit": "Wh", "multiplier": 10**9}),
        sampled(-5, IMPORT, "Wh"),
        sampled(140, "SoC", "Percent"),
        sampled(-1, "SoC", "Percent"),
    ],
)
def test_nonsense_is_left_out_and_complained_of(value: SampledValue) -> None:
    found, complaints = complaints_of(value)
    assert len(complaints) == 1
    assert found == MeterLook(timestamp_us=found.timestamp_us)


def test_elements_with_the_same_time_are_one_look_and_looks_are_in_order() -> None:
    values: list[MeterValue] = [
        {"timestamp": "2026-01-01T00:00:05Z", "sampledValue": [sampled(2, IMPORT)]},
        {"timestamp": AT, "sampledValue": [sampled(1, IMPORT)]},
        {"timestamp": "2026-01-01T01:00:00+01:00", "sampledValue": [sampled(7, POWER_IN)]},
    ]
    looks, _ = read_meter_values(values)
    assert [(found.import_register_milliwatt_hours, found.power_w) for found in looks] == [(1000, 7), (2000, None)]


@given(st.integers(0, 10**12))
def test_no_decimal_of_a_register_is_lost(milliwatt_hours: int) -> None:
    """Chargers send kWh with up to six decimals; floats must not eat any."""
    found = look(sampled(milliwatt_hours / 10**6, IMPORT, "kWh"))
    assert found.import_register_milliwatt_hours == milliwatt_hours


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-100, 100), st.sampled_from(["Wh", "kWh", "W", ""])
)
def test_whatever_number_comes_it_is_a_bounded_integer_or_none(value: float, multiplier: int, unit: str) -> None:
    sample = sampled(value, POWER_IN, unitOfMeasure={"unit": unit, "multiplier": multiplier})
    found, _ = complaints_of(sample)
    assert found.power_w is None or (isinstance(found.power_w, int) and abs(found.power_w) < 2**53)
