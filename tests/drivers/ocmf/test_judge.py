"""Verdicts on signed values: of real meters, of records made by another library, and one per way of being wrong."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import SignatureVerdict
from drivers.ocmf.judge import Judgement, Registers, contradictions, covers, judge
from drivers.ocmf.keys import MeterKey, key_from_der, key_from_text
from drivers.ocmf.record import MOST_BYTES, Payload
from tests.drivers.ocmf.meters import BEGIN, CURVES, END, Meter

VERIFIED, UNVERIFIABLE, WRONG = SignatureVerdict.VERIFIED, SignatureVerdict.UNVERIFIABLE, SignatureVerdict.WRONG
SAMPLES = next(
    (
        found
        for folder in Path(__file__).resolve().parents
        if (found := folder / "shared" / "fixtures" / "ocmf").is_dir()
    ),
    Path("../shared/fixtures/ocmf"),
)
MUST_NOT = {("test_ocmf_keba_kcp30_fail.xml", 0), ("second_key_fail_ocmf.xml", 1)}


def key_of(meter: Meter) -> MeterKey:
    return key_from_der(meter.der)


def judged(record: str, key: MeterKey | None, encoding_method: str = "OCMF") -> Judgement:
    return judge(record.encode(), encoding_method, key)


def samples() -> list[tuple[str, int, str, str]]:
    pair = re.compile(r"<signedData[^>]*>(.*?)</signedData>\s*<publicKey[^>]*>(.*?)</publicKey>", re.DOTALL)
    return [
        (path.name, number, html.unescape(found[1]), html.unescape(found[2]))
        for path in sorted(SAMPLES.glob("*.xml"))
        for number, found in enumerate(pair.finditer(path.read_text(encoding="utf-8-sig")))
    ]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/fixtures/ocmf is not here")
def test_records_of_real_meters_get_the_verdict_that_they_are_known_for() -> None:
    found = {(name, n): judged(record, key_from_text(key)).verdict for name, n, record, key in samples()}
    assert len(found) >= 11
    assert {place for place, verdict in found.items() if verdict is not VERIFIED} == MUST_NOT
    assert {found[place] for place in MUST_NOT} == {WRONG}


@pytest.mark.parametrize("curve", CURVES)
def test_a_record_verifies_on_every_curve_and_no_flipped_bit_does(curve: str) -> None:
    meter = Meter(curve)
    record = meter.record()
    assert judged(record, key_of(meter)).verdict is VERIFIED
    assert judged(record, key_of(Meter(curve, 2))).verdict is WRONG
    place = record.index("100.25")
    assert judged(record[:place] + "9" + record[place + 1 :], key_of(meter)).verdict is WRONG


@pytest.mark.parametrize("spelling", ["ECDSA-brainpool256r1-SHA256", "ECDSA-brainpoolP256r1-SHA256"])
def test_brainpool_is_spelled_with_and_without_p(spelling: str) -> None:
    meter = Meter("brainpool256r1")
    assert judged(meter.record(SA=spelling), key_of(meter)).verdict is VERIFIED


def test_without_an_algorithm_it_is_p256() -> None:
    p256, k256 = Meter("secp256r1"), Meter("secp256k1")
    assert judged(p256.record(SA=None), key_of(p256)).verdict is VERIFIED
    assert judged(k256.record(SA=None), key_of(k256)).verdict is WRONG


def test_the_curve_that_is_said_must_be_the_keys() -> None:
    meter = Meter("secp256k1")
    found = judged(meter.record(SA="ECDSA-secp256r1-SHA256"), key_of(meter))
    assert found.verdict is WRONG
    assert "secp256k1" in found.reason


@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("said", [False, True])
def test_signatures_are_der_or_raw_in_hex_or_base64(encoding: str, raw: bool, said: bool) -> None:
    meter = Meter()
    payload = meter.record().split("|")[1]
    signature = meter.sign(payload.encode(), raw=raw)
    text = signature.hex() if encoding == "hex" else base64.b64encode(signature).decode()
    more = {"SE": encoding} if said else {}
    assert judged(meter.record(SD=text, **more), key_of(meter)).verdict is VERIFIED


@pytest.mark.parametrize("hash_name", ["sha384", "sha512"])
@pytest.mark.parametrize("curve", ["secp192r1", "secp256r1", "brainpool512r1"])
def test_longer_hashes_are_cut_to_the_curve(curve: str, hash_name: str) -> None:
    meter = Meter(curve)
    signature = meter.sign(meter.record().split("|")[1].encode(), hash_name=hash_name)
    record = meter.record(SA=f"ECDSA-{curve}-{hash_name.upper()}", SD=signature.hex())
    assert judged(record, key_of(meter)).verdict is VERIFIED


def test_what_is_signed_are_the_bytes_as_they_came() -> None:
    """Spaces, order, line ends, and a pipe within the payload."""
    meter = Meter()
    payload = (
        ' { "RD" : [ {"TM":"2026-03-01T10:00:00,000+0100 S" , "RV":  1.50,\r\n"RI":"1-0:1.8.0","RU":"kWh","ST":"G"} ], '
    )
    payload += '"GI" : "a|b" }\n'
    record = f'OCMF|{payload}|{{"SD":"{meter.sign(payload.encode()).hex()}"}}'
    assert judged(record, key_of(meter)).verdict is VERIFIED
    assert judged(record.replace("1.50", "1.5"), key_of(meter)).verdict is WRONG


def test_base64_around_a_record_is_taken_off() -> None:
    meter = Meter()
    wrapped = base64.encodebytes(meter.record(BEGIN, END).encode()).decode()
    found = judged(wrapped, key_of(meter))
    assert found.verdict is VERIFIED
    assert found.payload is not None
    assert [(r.begins, r.ends, r.milliwatt_hours) for r in found.payload.readings] == [
        (True, False, 100_250_000),
        (False, True, 107_500_000),
    ]


def test_without_a_registered_key_nothing_is_verified_or_wrong() -> None:
    found = judged(Meter().record(PK=Meter().der.hex()), None)
    assert found.verdict is UNVERIFIABLE
    assert "meter_key_file" in found.reason


def test_other_formats_are_unverifiable_unless_they_are_ocmf_after_all() -> None:
    meter = Meter()
    assert judged("<signedMeterValue/>", key_of(meter), "EDL").verdict is UNVERIFIABLE
    assert judged(meter.record(), key_of(meter), "whatever").verdict is VERIFIED
    assert judged(meter.record(SA="ECDSA-secp256r1-SHA999"), key_of(meter)).verdict is UNVERIFIABLE


@pytest.mark.parametrize(
    "record",
    [
        "OCMF|{}|{}",
        "OCMF|{}",
        "OCMF|",
        "OCMF",
        "nothing of the kind",
        'OCMF|{}|{"SD":"zz"}',
        'OCMF|{}|{"SD":"00","SE":"runes"}',
        'OCMF|{}|{"SD":"' + "00" * 64 + '"}',
        'OCMF|{}|{"SD":"3006020100020100"}',
        'OCMF|{}|{"SD":"30060201ff0201ff"}',
        'OCMF|{}|{"SD":1e999999999}',
        'OCMF|{}|{"SD":"00","SD":"01"}',
        'OCMF|{}|{"SA":"RSA-2048","SD":"00"}',
        "OCMF|{}|" + "[" * 100_000,
        "OCMF|{}|" + "[" * 500,
        "OCMF|" + "x" * MOST_BYTES,
    ],
)
def test_what_cannot_be_read_is_wrong_and_harms_nobody(record: str) -> None:
    found = judged(record, key_of(Meter()))
    assert found.verdict is WRONG
    assert 0 < len(found.reason) < 300


@pytest.mark.parametrize("payload", ["{}", "[]", "x", '{"RD":[]}', '{"RD":[1]}', '{"RD":[{"RV":"many"}]}', "[" * 300])
def test_a_signature_over_what_cannot_be_read_holds_and_gives_no_reading(payload: str) -> None:
    meter = Meter()
    record = f'OCMF|{payload}|{{"SD":"{meter.sign(payload.encode()).hex()}"}}'
    found = judged(record, key_of(meter))
    assert (found.verdict, found.payload) == (VERIFIED, None)
    assert found.reason


RECORD, KEY = Meter().record(BEGIN, END), key_from_der(Meter().der)
TAIL = RECORD.rindex("|")


@given(st.integers(0, TAIL - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_record_before_its_signature_verifies(place: int, change: int) -> None:
    octets = bytearray(RECORD.encode())
    octets[place] ^= change
    assert judge(bytes(octets), "OCMF", KEY).verdict is WRONG


@given(st.binary(max_size=400), st.sampled_from(["OCMF", "", "EDL"]))
def test_any_bytes_get_a_verdict_and_none_of_them_verified(octets: bytes, encoding_method: str) -> None:
    for record in (octets, b"OCMF|" + octets, b"OCMF|" + octets + b'|{"SD":"3006020101020101"}'):
        assert judge(record, encoding_method, KEY).verdict is not VERIFIED


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["TM", "RV", "RI", "RU", "ST", "RD"]), inner)
    ),
    max_leaves=12,
)


@given(json_like)
def test_whatever_a_meter_signs_its_readings_are_numbers_or_absent(readings: object) -> None:
    found = judged(Meter().record({"RV": readings, "TM": readings, "RI": readings}), KEY)
    assert found.verdict is VERIFIED
    if found.payload is not None:
        for reading in found.payload.readings:
            assert reading.milliwatt_hours is None or isinstance(reading.milliwatt_hours, int)


def payload_of(*readings: dict[str, object]) -> Payload:
    found = judged(Meter().record(*readings), KEY).payload
    assert found is not None
    return found


def test_what_is_the_same_as_before_may_be_left_out_but_never_the_value() -> None:
    first, second, third = payload_of(BEGIN, {"TX": "C", "RV": 101}, {"TX": "X"}).readings
    assert (second.obis, second.unit, second.status, second.milliwatt_hours) == ("1-b:1.8.0", "kWh", "G", 101_000_000)
    assert second.timestamp_us == first.timestamp_us == 1_772_355_600_000_000
    assert (third.value, third.usable) == (None, False)


@pytest.mark.parametrize(
    ("obis", "unit", "register"),
    [
        ("1-b:1.8.0", "kWh", "IMPORT"),
        ("01-00:01.08.00.FF", "Wh", "IMPORT"),
        ("1-0:1.8.1", "kWh", "IMPORT"),
        ("1-b:2.8.0", "kWh", "EXPORT"),
        ("01-00:B0.08.00*FF", "kWh", "IMPORT"),
        ("01-00:B2.08.00*FF", "kWh", "IMPORT_SESSION"),
        ("01-00:C1.08.00.FF", "kWh", "EXPORT"),
        ("01-00:00.08.06.FF", "sec", "OTHER"),
        ("1-0:1.7.0", "kW", "OTHER"),
        ("1-0:10.8.0", "kWh", "OTHER"),
        ("", "kWh", "OTHER"),
    ],
)
def test_obis_codes_are_read_however_they_are_written(obis: str, unit: str, register: str) -> None:
    (reading,) = payload_of({**BEGIN, "RI": obis, "RU": unit}).readings
    assert reading.register.name == register


def test_a_plain_register_is_covered_by_the_newest_signed_one() -> None:
    payload = payload_of(BEGIN, END)
    assert covers([payload], Registers(107_500_400, None))
    assert not covers([payload], Registers(100_250_000, None))
    assert not covers([payload], Registers(107_500_000, 0))
    assert not covers([payload], Registers(None, None))
    export = payload_of({**END, "RI": "1-b:2.8.0", "RV": 0})
    assert covers([payload, export], Registers(107_500_000, 0))


@pytest.mark.parametrize("flaw", [{"ST": "M"}, {"EF": "E"}, {"ST": ""}])
def test_what_the_meter_itself_does_not_stand_by_covers_nothing(flaw: dict[str, str]) -> None:
    assert not covers([payload_of({**END, **flaw})], Registers(107_500_000, None))


def test_a_charger_that_tells_another_register_than_its_meter_signed_contradicts_it() -> None:
    payload = payload_of(END)
    assert contradictions([payload], Registers(107_500_000, 5)) == []
    (said,) = contradictions([payload], Registers(97_500_000, None))
    assert "97500000" in said
    assert "107500000" in said
