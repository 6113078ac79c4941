"""OCPP 2.0.1 and 2.1 block J, meter values, over TLS: sampled, clock-aligned, signed, and what chargers get wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pytest

from drivers.device import Sample, SignatureVerdict
from drivers.ocmf.keys import key_from_der
from drivers.ocpp.measurands import EXPORT_REGISTER, IMPORT_REGISTER, QUANTITIES
from drivers.ocpp.meter_values import Measured
from hil_tests.ocpp_raw import AnsweredError, RawCharger, TlsSite
from hil_tests.ocpp_station import PLAIN, V2G, meter_value, stamp, until
from tests.drivers.ocmf.meters import BEGIN, END, Meter

METER, STRANGER = Meter("brainpool256r1"), Meter("brainpool256r1", 2)
EXPORT = {**BEGIN, "RI": "1-b:2.8.0", "RV": 0.05}


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    """With the key of the first charger's meter registered."""
    settings = [replace(V2G, meter_key=key_from_der(METER.der)), PLAIN]
    async with TlsSite(tmp_path, settings, version=version).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    """It says what a well-made one never would."""
    async with site.charger() as charger:
        yield charger


def values(*sampled: dict[str, Any]) -> dict[str, Any]:
    return {"evseId": 1, "meterValue": [{"timestamp": stamp(), "sampledValue": list(sampled)}]}


REGISTER = {"value": 12.5, "measurand": "Energy.Active.Import.Register", "unitOfMeasure": {"unit": "kWh"}}


def samples_with_values(site: TlsSite) -> list[Sample]:
    return [sample for sample in site.samples if not sample.measures_nothing]


async def test_j01_clock_aligned_values_outside_a_transaction_are_a_sample(site: TlsSite, charger: RawCharger) -> None:
    aligned = [{**REGISTER, "context": "Sample.Clock"}, {"value": 0, "measurand": "Power.Active.Import"}]
    assert await charger.ask("MeterValues", values(*aligned)) == {}
    (sample,) = site.samples
    assert (sample.import_register_milliwatt_hours, sample.power_w) == (12_500_000, 0)


async def test_j01_values_of_the_stations_own_inlet_are_nobodys_register(site: TlsSite, charger: RawCharger) -> None:
    inlet = {"evseId": 0, "meterValue": values(REGISTER)["meterValue"]}
    assert await charger.ask("MeterValues", inlet) == {}
    assert await charger.ask("MeterValues", values({**REGISTER, "location": "Inlet"})) == {}
    assert [sample.import_register_milliwatt_hours for sample in site.samples] in ([], [None])


async def test_j02_sampled_values_of_a_transaction_come_per_phase(site: TlsSite, charger: RawCharger) -> None:
    phases = [{"value": 1000 + n, "measurand": "Power.Active.Import", "phase": f"L{n}"} for n in (1, 2, 3)]
    voltages = [{"value": 229 + n, "measurand": "Voltage", "phase": f"L{n}-N"} for n in (1, 2, 3)]
    event = {
        "eventType": "Started",
        "timestamp": stamp(),
        "triggerReason": "Authorized",
        "seqNo": 0,
        "transactionInfo": {"transactionId": "T1"},
        "evse": {"id": 1, "connectorId": 1},
        "meterValue": values(REGISTER, *phases, *voltages)["meterValue"],
    }
    assert await charger.ask("TransactionEvent", event) == {}
    (sample,) = site.samples
    assert (sample.power_w, sample.phase_power_w, sample.voltage_millivolts) == (3_006, (1001, 1002, 1003), 231_000)


def wire_unit(measurand: str) -> tuple[str, int]:
    """A unit of the specification for it, and the power of ten from that to ours."""
    spelled = {unit: power for unit, power in QUANTITIES[measurand].exponents.items() if unit not in ("", "Wh")}
    return next(iter(spelled.items()), ("", 0))


async def test_j02_every_measurand_phase_place_and_unit_of_the_version_becomes_an_integer(
    site: TlsSite, charger: RawCharger
) -> None:
    folder = {"ocpp2.0.1": "v201", "ocpp2.1": "v21"}[site.version]
    schema = (files("ocpp") / folder / "schemas" / "MeterValuesRequest.json").read_bytes()
    enums = orjson.loads(schema.removeprefix(b"\xef\xbb\xbf"))["definitions"]
    known = enums["MeasurandEnumType"]["enum"] if "MeasurandEnumType" in enums else list(QUANTITIES)
    places, phases = enums["LocationEnumType"]["enum"], enums["PhaseEnumType"]["enum"]
    contexts = enums["ReadingContextEnumType"]["enum"]
    sent: list[dict[str, Any]] = []
    expected: set[Measured] = set()
    for number, measurand in enumerate(known):
        unit, power = wire_unit(measurand)
        place, context = places[number % len(places)], contexts[number % len(contexts)]
        # A register on one phase alone is half a register, and complained of.
        phase = "" if measurand in (IMPORT_REGISTER, EXPORT_REGISTER) else phases[number % len(phases)]
        # 200 of the unit, told as 2 with a multiplier: 1 where that would be more than all.
        value, multiplier = (2, 2) if QUANTITIES[measurand].most >= 200 * 10**power else (1, 0)
        of_unit = {"unit": unit} if unit else {}
        sent.append({
            "value": value, "measurand": measurand, "location": place, "context": context,
            **({"phase": phase} if phase else {}), "unitOfMeasure": {**of_unit, "multiplier": multiplier},
        })  # fmt: skip
        expected.add(Measured(measurand, phase.removesuffix("-N"), place, context, value * 10 ** (multiplier + power)))
    assert len(expected) == len(known) >= 22
    for start in range(0, len(sent), 20):
        part = sent[start : start + 20]
        assert await charger.ask("MeterValues", values(*part)) == {}
        look = site.server.chargers["CP-1"].session.evses[1].latest_look
        assert look is not None
        assert set(look.measured) <= expected
        expected -= set(look.measured)
    assert not expected
    assert site.events == []


@pytest.mark.parametrize(
    "odd",
    [
        {"value": 5, "measurand": "Energy.Phlogiston.Register"},
        {"value": 5, "measurand": "Energy.Active.Export.Register", "unitOfMeasure": {"unit": "furlong"}},
        {"value": 5, "measurand": "Energy.Active.Export.Register", "location": "Roof"},
        {"value": 5, "measurand": "Energy.Active.Export.Register", "phase": "L9"},
        {"value": -5, "measurand": "Energy.Active.Export.Register"},
        {"value": 1e12, "measurand": "Power.Active.Import"},
        {"value": 5, "measurand": "SoC", "unitOfMeasure": {"unit": "Percent", "multiplier": 9}},
    ],
    ids=["measurand", "unit", "location", "phase", "negative register", "absurd power", "absurd multiplier"],
)
async def test_j02_what_is_unknown_or_absurd_is_told_and_costs_nothing_beside_it(
    site: TlsSite, charger: RawCharger, odd: dict[str, Any]
) -> None:
    assert await charger.ask("MeterValues", values(REGISTER, odd)) == {}
    (sample,) = site.samples
    assert sample.import_register_milliwatt_hours == 12_500_000
    assert (sample.export_register_milliwatt_hours, sample.power_w, sample.state_of_charge_permille) == (None,) * 3
    assert "charger.meter_values" in site.codes()


@pytest.mark.parametrize(
    "payload",
    [
        {**values(REGISTER), "evseId": "one"},
        values({**REGISTER, "value": "12.5"}),
        values(),
        {"evseId": 1, "meterValue": [{"timestamp": "yesterday", "sampledValue": [REGISTER]}]},
        values({**REGISTER, "measurand": "x" * 51}),
    ],
    ids=["wrong type", "value as text", "no value", "no time", "endless name"],
)
async def test_j02_what_the_schema_forbids_is_refused_with_its_reason(
    site: TlsSite, charger: RawCharger, payload: dict[str, Any]
) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("MeterValues", payload)
    assert refused.value.code != "InternalError"
    assert site.samples == []
    assert (await charger.ask("Heartbeat", {}))["currentTime"]


async def test_j02_a_register_that_goes_back_is_told(site: TlsSite, charger: RawCharger) -> None:
    await charger.ask("MeterValues", values(REGISTER))
    await charger.ask("MeterValues", values({**REGISTER, "value": 3}))
    assert "charger.register_back" in site.codes()


def signed(wh: float, record: str, context: str, public_key: str = "") -> dict[str, Any]:
    sent = meter_value(0, wh)
    for value in sent["sampledValue"]:
        value["context"] = context
        if value["measurand"] == "Energy.Active.Import.Register":
            value["signedMeterValue"] = {
                "signedMeterData": record, "signingMethod": "ECDSA-brainpoolP256r1-SHA256",
                "encodingMethod": "OCMF", "publicKey": public_key,
            }  # fmt: skip
    return sent


async def test_j03_signatures_are_asked_for_and_begin_and_end_are_verified(site: TlsSite, charger: RawCharger) -> None:
    await charger.ready()
    switched_on = [
        entry["attributeValue"]
        for call in charger.calls("SetVariables")
        for entry in call["setVariableData"]
        if entry["variable"]["name"] == "SignReadings"
    ]
    assert set(switched_on) == {"true"}
    begin, end = METER.record(BEGIN, EXPORT), METER.record(BEGIN, END, {**EXPORT, "TX": "E"})
    await charger.event("Started", 0, meterValue=[signed(100_250, begin, "Transaction.Begin")])
    await charger.event("Ended", 1, meterValue=[signed(107_500, end, "Transaction.End")])
    first, last = samples_with_values(site)
    assert [value.record for value in (*first.signed, *last.signed)] == [begin.encode(), end.encode()]
    assert {value.verdict for value in (*first.signed, *last.signed)} == {SignatureVerdict.VERIFIED}
    assert first.registers_signed
    assert last.registers_signed
    assert not any(code.startswith("charger.signed") for code in site.codes())


async def test_j03_a_wrong_signature_and_a_strangers_key_are_alarmed_and_the_transaction_goes_on(
    site: TlsSite, charger: RawCharger
) -> None:
    await charger.ready()
    forged = signed(100_250, STRANGER.record(BEGIN, EXPORT), "Transaction.Begin", STRANGER.der.hex())
    await charger.event("Started", 0, meterValue=[forged])
    await until(lambda: "charger.signed_value_wrong" in site.codes(), "the alarm")
    assert "charger.meter_key" in site.codes()
    (sample,) = samples_with_values(site)
    assert (sample.signed[0].verdict, sample.registers_signed) == (SignatureVerdict.WRONG, False)
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.transaction_id == "T1"


async def test_j03_a_format_that_nobody_reads_here_is_kept_and_called_unverifiable(
    site: TlsSite, charger: RawCharger
) -> None:
    await charger.ready()
    told = signed(100_250, "EDL40: anything", "Transaction.Begin")
    for value in told["sampledValue"]:
        if "signedMeterValue" in value:
            value["signedMeterValue"]["encodingMethod"] = "EDL"
    await charger.event("Started", 0, meterValue=[told])
    (sample,) = samples_with_values(site)
    assert [(value.verdict, value.record) for value in sample.signed] == [
        (SignatureVerdict.UNVERIFIABLE, b"EDL40: anything")
    ]
    assert not sample.registers_signed
