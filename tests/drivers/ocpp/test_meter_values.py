"""Meter values: units, signs, phases, and what is left out rather than guessed."""

from __future__ import annotations

from importlib.resources import files
from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp import measurands
from drivers.ocpp.messages import MeterValue, SampledValue, SignedMeterValue
from drivers.ocpp.meter_values import MOST_SIGNED, Measured, MeterLook, SignedSample, read_meter_values
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas

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


def read(*values: SampledValue, phases: tuple[int, ...] = (1, 2, 3)) -> tuple[MeterLook, list[str]]:
    (found,), complaints = read_meter_values([{"timestamp": AT, "sampledValue": list(values)}], phases)
    return found, complaints


def test_every_measurand_of_both_versions_of_the_specification_has_a_quantity() -> None:
    for version in ("v201", "v21"):
        schema = files("ocpp") / version / "schemas" / "MeterValuesRequest.json"
        definitions = orjson.loads(schema.read_bytes().removeprefix(b"\xef\xbb\xbf"))["definitions"]
        assert set(definitions["MeasurandEnumType"]["enum"]) <= set(measurands.QUANTITIES)
        assert set(definitions["PhaseEnumType"]["enum"]) <= measurands.PHASE_NAMES
        assert set(definitions["LocationEnumType"]["enum"]) <= measurands.LOCATIONS
        assert set(definitions["ReadingContextEnumType"]["enum"]) == set(measurands.CONTEXTS)


@pytest.mark.parametrize(
    ("measurand", "unit", "value", "expected"),
    [
        ("Current.Import", "A", 15.9, 15_900),
        ("Current.Export.Offered", "A", 32, 32_000),
        ("Energy.Reactive.Import.Register", "kvarh", 1.5, 1_500_000),
        ("Energy.Apparent.Net", "VAh", 2.25, 2_250),
        ("Energy.Active.Net", "kWh", -3, -3_000_000),
        ("Energy.Active.Import.Interval", "Wh", 12.5, 12_500),
        ("Power.Reactive.Export", "kvar", 1.1, 1_100),
        ("Power.Offered", "kVA", 11, 11_000),
        ("Power.Factor", None, 0.987, 987),
        ("Voltage.Minimum", "V", 207.05, 207_050),
        ("Display.RemainingTimeToTargetSOC", "s", 5400, 5_400),
        ("Display.PresentSOC", "Percent", 61.5, 615),
        ("Display.ChargingComplete", None, 1, 1),
        ("EnergyRequest.Minimum.V2X", "Wh", -8_000, -8_000_000),
    ],
)
def test_every_measurand_is_kept_in_its_integer_unit(
    measurand: str, unit: str | None, value: float, expected: int
) -> None:
    (found,) = look(sampled(value, measurand, unit, location="Cable", context="Sample.Clock", phase="L2-N")).measured
    assert found == Measured(measurand, "L2", "Cable", "Sample.Clock", expected)


def test_currents_and_voltages_are_told_per_phase_where_all_are_known() -> None:
    currents = [sampled(amps, "Current.Import", "A", phase=f"L{n}") for n, amps in ((1, 10), (2, 11.5), (3, 0))]
    back = [sampled(12, "Current.Export", "A", phase="L3")]
    volts = [sampled(230 + n, "Voltage", "V", phase=f"L{n}-N") for n in (1, 2, 3)]
    found = look(*currents, *back, *volts)
    assert found.phase_current_milliamperes == (10_000, 11_500, -12_000)
    assert found.phase_voltage_millivolts == (231_000, 232_000, 233_000)
    assert look(*currents[:2]).phase_current_milliamperes == ()


def test_a_register_without_one_of_its_phases_is_no_register() -> None:
    """A sum would fall when the phase goes missing, and jump when it comes back."""
    two = [sampled(1000 * n, IMPORT, "Wh", phase=f"L{n}") for n in (1, 2)]
    found, complaints = read(*two)
    assert found.import_register_milliwatt_hours is None
    assert len(complaints) == 1
    assert read(*two, phases=(1, 2))[0].import_register_milliwatt_hours == 3_000_000


def test_a_value_that_was_left_out_is_no_zero_in_a_sum() -> None:
    absurd = sampled(1e12, POWER_IN, "W")
    assert read(absurd, sampled(0, POWER_OUT, "W"))[0].power_w is None
    phases = [sampled(100, POWER_IN, "W", phase="L1"), sampled(100, POWER_IN, "furlong", phase="L2")]
    found, complaints = read(*phases, sampled(7, IMPORT, "kWh"))
    assert (found.power_w, found.import_register_milliwatt_hours) == (None, 7_000_000)
    assert len(complaints) == 1


@pytest.mark.parametrize(
    "odd",
    [
        sampled(1, "Energy.Phlogiston.Register"),
        sampled(1, IMPORT, "Wh", location="Roof"),
        sampled(1, IMPORT, "Wh", phase="L7"),
        sampled(-1, "Frequency", "Hz"),
        sampled(90_000, "Frequency", "Hz"),
        sampled(1e7, "Voltage", "V"),
        sampled(1e9, "Current.Import", "A"),
        sampled(3, "Power.Factor"),
        sampled(float("nan"), "Frequency", "Hz"),
        sampled(float("inf"), POWER_OUT, "W"),
    ],
)
def test_what_is_unknown_or_absurd_is_complained_of_and_the_rest_is_used(odd: SampledValue) -> None:
    found, complaints = read(sampled(7, IMPORT, "kWh"), odd)
    assert len(complaints) == 1
    assert found.import_register_milliwatt_hours == 7_000_000
    assert found.measured == look(sampled(7, IMPORT, "kWh")).measured


def test_two_values_for_one_place_and_moment_are_none() -> None:
    found, complaints = read(sampled(7, IMPORT, "kWh"), sampled(8, IMPORT, "kWh"))
    assert found.import_register_milliwatt_hours is None
    assert len(complaints) == 1
    assert look(sampled(7, IMPORT, "kWh"), sampled(7000, IMPORT, "Wh")).import_register_milliwatt_hours == 7_000_000


def test_the_end_of_a_transaction_goes_before_a_sample_of_the_same_moment() -> None:
    periodic, end = sampled(7, IMPORT, "kWh"), sampled(7001, IMPORT, "Wh", context="Transaction.End")
    assert look(periodic, end) == look(end, periodic)
    assert look(periodic, end).import_register_milliwatt_hours == 7_001_000


def test_the_cars_own_state_of_charge_goes_before_the_chargers() -> None:
    assert look(sampled(50, "SoC"), sampled(61, "SoC", "Percent", location="EV")).state_of_charge_permille == 610


def test_a_frequency_that_is_told_on_each_phase_is_no_sum() -> None:
    assert look(*(sampled(50, "Frequency", "Hz", phase=f"L{n}") for n in (1, 2, 3))).frequency_millihertz == 50_000


def test_signed_values_are_handed_on_unread_and_not_without_bound() -> None:
    sent = {"signedMeterData": "OCMF|{}|{}", "encodingMethod": "OCMF"}
    one = sampled(7, IMPORT, "kWh", signedMeterValue=sent, context="Transaction.Begin")
    assert look(one).signed == (SignedSample("Transaction.Begin", cast(SignedMeterValue, sent)),)
    found, complaints = read(*[one] * 40)
    assert len(found.signed) == MOST_SIGNED
    assert len(complaints) == 1
    many: list[MeterValue] = [
        {"timestamp": f"2026-01-01T00:00:{second:02d}Z", "sampledValue": [one]} for second in range(60)
    ]
    looks, complaints = read_meter_values(many)
    assert len(complaints) == 1
    assert [len(look.signed) for look in looks] == [0] * (60 - MOST_SIGNED) + [1] * MOST_SIGNED


def test_an_unknown_name_does_not_cost_the_whole_message() -> None:
    values: JsonObject = {
        "evseId": 1,
        "meterValue": [{"timestamp": AT, "sampledValue": [{"value": 1, "measurand": "Made.Up", "location": "Roof"}]}],
    }
    assert schemas(Version.V201).violation("MeterValues", Direction.REQUEST, values) is None
    assert schemas(Version.V201).violation("MeterValues", Direction.REQUEST, {**values, "evseId": "1"}) is not None
