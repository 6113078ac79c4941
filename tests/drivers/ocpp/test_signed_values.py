"""Signed meter values in OCPP messages: judged by the registered key, kept verbatim, alarmed; nothing else stops."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import Sample, SignatureVerdict, SignedValue, ValueSource
from drivers.ocmf.keys import key_from_der
from drivers.ocpp.messages import MeterValue, TransactionEvent
from drivers.ocpp.meter_values import Measured
from drivers.ocpp.session import EvseSession, Moment, Outcome
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.signed_values import KEPT_AT_ONCE_BYTES, KEPT_BYTES_PER_S
from drivers.ocpp.timestamps import format_timestamp
from tests.drivers.ocmf.meters import BEGIN, END, Meter

WALL_US = 1_772_355_600_000_000
METER, STRANGER = Meter("secp256r1"), Meter("secp256r1", 2)
VERIFIED, UNVERIFIABLE, WRONG = SignatureVerdict.VERIFIED, SignatureVerdict.UNVERIFIABLE, SignatureVerdict.WRONG


def session(*, registered: bool = True) -> EvseSession:
    key = key_from_der(METER.der) if registered else None
    settings = ChargerSettings(device_id="car-1", charger_id="CP", meter_key=key)
    return EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.AUTHENTICATED_LINK)


def meter_value(seconds: float, wh: float, *records: str, public_key: str = "", method: str = "OCMF") -> MeterValue:
    sampled: list[dict[str, Any]] = [
        {
            "value": wh,
            "context": "Transaction.Begin",
            "signedMeterValue": {
                "signedMeterData": record,
                "encodingMethod": method,
                "signingMethod": "",
                "publicKey": public_key,
            },
        }
        for record in records
    ] or [{"value": wh}]
    return cast(MeterValue, {"timestamp": format_timestamp(WALL_US + round(seconds * 1e6)), "sampledValue": sampled})


def take(evse: EvseSession, kind: str, number: int, seconds: float, *values: MeterValue, at_s: float = 0) -> Outcome:
    event = {
        "eventType": kind,
        "timestamp": format_timestamp(WALL_US + round(seconds * 1e6)),
        "triggerReason": "MeterValuePeriodic",
        "seqNo": number,
        "transactionInfo": {"transactionId": "T1"},
        "meterValue": list(values),
    }
    moment = at_s or seconds
    now = Moment(5_000 + moment, WALL_US + round(moment * 1e6))
    return evse.transaction_event(cast(TransactionEvent, event), token_id=None, now=now)


def one(outcome: Outcome) -> tuple[Sample, SignedValue]:
    (sample,) = outcome.samples
    (value,) = sample.signed
    return sample, value


def codes(outcome: Outcome) -> list[str]:
    return [notice.code for notice in outcome.notices]


def test_a_verified_value_is_kept_verbatim_with_the_registered_key_and_covers_its_register() -> None:
    record = base64.b64encode(METER.record(BEGIN).encode()).decode()
    outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, record))
    sample, value = one(outcome)
    assert outcome.notices == []
    assert sample.registers_signed
    assert value == SignedValue(
        record=record.encode(), encoding_method="OCMF", verdict=VERIFIED, reason="", key_der=METER.der,
        transaction_id="T1", context="Transaction.Begin",
    )  # fmt: skip


def test_a_flipped_byte_is_wrong_and_alarmed_once_and_the_plain_value_is_used() -> None:
    evse = session()
    flipped = METER.record(BEGIN).replace("M-1", "M-2")
    outcome = take(evse, "Started", 0, 0, meter_value(0, 100_250, flipped))
    sample, value = one(outcome)
    assert codes(outcome) == ["charger.signed_value_wrong"]
    assert (value.verdict, value.record) == (WRONG, flipped.encode())
    assert sample.import_register_milliwatt_hours == 100_250_000
    assert (sample.registers_signed, sample.source) == (False, ValueSource.AUTHENTICATED_LINK)
    again = take(evse, "Updated", 1, 5, meter_value(5, 100_260, flipped))
    assert (codes(again), one(again)[1].verdict) == ([], WRONG)


def test_a_record_under_the_key_that_its_message_brings_along_is_wrong() -> None:
    record = STRANGER.record(BEGIN)
    outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, record, public_key=STRANGER.der.hex()))
    assert one(outcome)[1].verdict is WRONG
    assert sorted(codes(outcome)) == ["charger.meter_key", "charger.signed_value_wrong"]


def test_the_registered_key_in_a_message_is_no_news_and_an_empty_one_neither() -> None:
    for sent in ("", METER.der.hex(), base64.b64encode(METER.pem.encode()).decode()):
        outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, METER.record(BEGIN), public_key=sent))
        assert codes(outcome) == []


def test_without_a_registered_key_it_is_unverifiable_and_the_installer_learns_what_to_compare() -> None:
    evse = session(registered=False)
    outcome = take(evse, "Started", 0, 0, meter_value(0, 100_250, METER.record(BEGIN), public_key=METER.pem))
    sample, value = one(outcome)
    assert (value.verdict, value.key_der, sample.registers_signed) == (UNVERIFIABLE, None, False)
    assert codes(outcome) == ["charger.meter_key"]
    assert key_from_der(METER.der).fingerprint.hex() in outcome.notices[0].text


def test_another_format_is_unverifiable_and_said_where_a_key_is_registered() -> None:
    outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, "<sml/>", method="SML"))
    assert one(outcome)[1].verdict is UNVERIFIABLE
    assert codes(outcome) == ["charger.signed_value_unverifiable"]


def test_a_charger_that_tells_another_register_than_its_meter_signed_is_alarmed() -> None:
    outcome = take(session(), "Started", 0, 0, meter_value(0, 90_000, METER.record(BEGIN)))
    sample, value = one(outcome)
    assert codes(outcome) == ["charger.signed_value_differs"]
    assert (value.verdict, sample.registers_signed) == (VERIFIED, False)


def test_a_register_that_nobody_signed_keeps_the_reading_from_counting_as_signed() -> None:
    values = meter_value(0, 100_250, METER.record(BEGIN))
    values["sampledValue"].append({"value": 5, "measurand": "Energy.Active.Export.Register"})
    assert not one(take(session(), "Started", 0, 0, values))[0].registers_signed
    export = METER.record({**BEGIN, "RI": "1-b:2.8.0", "RV": 0.005})
    values["sampledValue"].append(meter_value(0, 100_250, export)["sampledValue"][0])
    (sample,) = take(session(), "Started", 0, 0, values).samples
    assert sample.registers_signed
    assert [value.verdict for value in sample.signed] == [VERIFIED, VERIFIED]


def test_one_record_at_two_registers_is_kept_once() -> None:
    record = METER.record(BEGIN)
    assert one(take(session(), "Started", 0, 0, meter_value(0, 100_250, record, record)))[1].record == record.encode()


def test_begin_and_end_in_one_record_or_in_two_are_a_session() -> None:
    evse = session()
    assert codes(take(evse, "Started", 0, 0, meter_value(0, 100_250, METER.record(BEGIN)))) == []
    assert codes(take(evse, "Ended", 1, 3600, meter_value(3600, 107_500, METER.record(BEGIN, END)))) == []


@pytest.mark.parametrize(
    "end", [METER.record({**END, "RV": 90.0}), METER.record(END).replace("M-1", "M-9")], ids=["lower", "flipped"]
)
def test_an_end_that_does_not_follow_its_begin_is_alarmed(end: str) -> None:
    evse = session()
    take(evse, "Started", 0, 0, meter_value(0, 100_250, METER.record(BEGIN)))
    wh = 90_000 if "90.0" in end else 107_500
    outcome = take(evse, "Ended", 1, 3600, meter_value(3600, wh, end))
    expected = "charger.signed_session" if "90.0" in end else "charger.signed_value_wrong"
    assert expected in codes(outcome)


def test_a_signed_begin_that_comes_with_the_end_is_kept_though_it_is_no_reading_any_more() -> None:
    evse = session()
    take(evse, "Updated", 1, 3000, meter_value(3000, 105_000))
    late, now = meter_value(0, 100_250, METER.record(BEGIN)), meter_value(3600, 107_500, METER.record(END))
    kept, sample = take(evse, "Ended", 2, 3600, late, now).samples
    assert (kept.import_register_milliwatt_hours, kept.signed[0].verdict) == (None, VERIFIED)
    assert sample.registers_signed
    assert evse.last_sample is not None
    assert evse.last_sample.import_register_milliwatt_hours == 107_500_000


def test_a_record_that_is_too_long_or_empty_is_left_out_and_said() -> None:
    for record in ("", "é" * 20_000):
        outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, record))
        assert outcome.samples[0].signed == ()
        assert codes(outcome) == ["charger.signed_value_wrong"]


def test_a_meter_that_does_not_stand_by_its_value_is_alarmed() -> None:
    outcome = take(session(), "Started", 0, 0, meter_value(0, 100_250, METER.record({**BEGIN, "ST": "M", "EF": "E"})))
    sample, value = one(outcome)
    assert codes(outcome) == ["charger.meter_status"]
    assert (value.verdict, sample.registers_signed) == (VERIFIED, False)


def test_what_one_meter_has_kept_is_bounded_however_much_its_charger_sends() -> None:
    evse = session()
    filler = "x" * 30_000
    said: list[str] = []
    kept = 0
    for number in range(100):
        outcome = take(evse, "Updated", number, 0.01 * number, meter_value(0, 100_250, f"OCMF|{number}{filler}|{{}}"))
        kept += sum(len(value.record) for sample in outcome.samples for value in sample.signed)
        said += codes(outcome)
    assert kept <= KEPT_AT_ONCE_BYTES + KEPT_BYTES_PER_S
    assert "charger.signed_values_left_out" in said
    later = take(evse, "Updated", 100, 60, meter_value(60, 100_250, METER.record(BEGIN)))
    assert one(later)[1].verdict is VERIFIED


def test_the_latest_look_has_every_measurand_for_a_person() -> None:
    evse = session()
    values = meter_value(0, 100_250)
    values["sampledValue"].append({"value": 15.5, "measurand": "Current.Import", "phase": "L2", "location": "Cable"})
    take(evse, "Started", 0, 0, values)
    assert evse.latest_look is not None
    assert Measured("Current.Import", "L2", "Cable", "Sample.Periodic", 15_500) in evse.latest_look.measured


@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=100), st.booleans())
def test_whatever_a_charger_calls_a_signature_it_is_kept_as_it_came_and_never_verified(
    record: str, method: str, public_key: str, registered: bool
) -> None:
    outcome = take(
        session(registered=registered),
        "Started",
        0,
        0,
        meter_value(0, 100_250, record, public_key=public_key, method=method),
    )
    (sample,) = outcome.samples
    assert [value.record for value in sample.signed] == ([record.encode("utf-8", "replace")] if record else [])
    assert all(value.verdict is not VERIFIED for value in sample.signed)
    assert (sample.import_register_milliwatt_hours, sample.registers_signed) == (100_250_000, False)
