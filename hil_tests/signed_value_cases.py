"""The cases behind proto/vectors/evidence/signed_values.json: what meters signed, and each way of claiming it wrongly.

Records are written and signed here by hand, with a published key: they prove nothing outside tests.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agent.evidence import cbor, cose, statements
from agent.evidence.statements import SignedMeterValue
from agent.measure.reading import Reading, SignatureReference
from drivers.device import SignatureVerdict, ValueSource
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case, TestKey

METER_KEY: Final = TestKey("meter of charger-1", cose.ES256)
OTHER_METER_KEY: Final = TestKey("another meter", cose.ES256)
VERIFIED, UNVERIFIABLE, WRONG = SignatureVerdict.VERIFIED, SignatureVerdict.UNVERIFIABLE, SignatureVerdict.WRONG


def record(wh: int, *, transaction: str = "B", key: TestKey = METER_KEY) -> bytes:
    """An OCMF record of the import register, as a meter writes it."""
    payload = (
        '{"FV":"1.0","GI":"Vectors","GS":"1","PG":"T7","MS":"M-1","RD":[{"TM":"2026-09-21T13:46:40,000+0000 S",'
        f'"TX":"{transaction}","RV":{wh // 1000}.{wh % 1000:03d},"RI":"1-b:1.8.0","RU":"kWh","RT":"AC","EF":"",'
        '"ST":"G"}]}'
    )
    raw = key.sign(payload.encode())
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    return f'OCMF|{payload}|{{"SA":"ECDSA-secp256r1-SHA256","SD":"{der.hex().upper()}"}}'.encode()


def signed_value(wh: int = 5_000, **changes: object) -> SignedMeterValue:
    """A verified one; `changes` replace fields."""
    plain = SignedMeterValue(
        device_id="charger-1",
        timestamp_us=made.START_US,
        verdict=VERIFIED,
        reason="",
        encoding_method="OCMF",
        record=record(wh),
        key_der=METER_KEY.public_key_der,
        transaction_id="T-1",
        context="Transaction.Begin",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # field names are checked when it runs


def reference(value: SignedMeterValue) -> SignatureReference:
    return SignatureReference(hashlib.sha256(statements.encode(value)).digest(), value.verdict)


def signed_reading(*values: SignedMeterValue, **changes: object) -> Reading:
    """A reading that names these values."""
    plain: dict[str, object] = {
        "device_id": "charger-1",
        "export_register_milliwatt_hours": None,
        "source": ValueSource.SIGNED_BY_METER,
        "signed_values": tuple(map(reference, values)),
    }
    return replace(made.reading(1), **{**plain, **changes})  # type: ignore[arg-type]  # as above


FLIPPED: Final = record(5_000).replace(b'"RV":5', b'"RV":6')
WRONG_VALUE: Final = signed_value(
    record=FLIPPED, verdict=WRONG, reason="the signature does not verify under the registered key"
)
UNVERIFIABLE_VALUE: Final = signed_value(
    verdict=UNVERIFIABLE, key_der=None, reason="no key is registered for this meter (meter_key_file)",
    transaction_id=None, context="Sample.Clock",
)  # fmt: skip


def statement_cases() -> Iterable[Case]:
    """For statements.json: both new layouts, and what no decoder may take of them."""
    good_value, good_reading = signed_value(), signed_reading(signed_value(), WRONG_VALUE)
    for name, statement in (
        ("SignedMeterValue, verified", good_value),
        ("SignedMeterValue, wrong", WRONG_VALUE),
        ("SignedMeterValue, unverifiable", UNVERIFIABLE_VALUE),
        ("Reading that names what its meter signed", good_reading),
    ):
        yield Case(name, None, {"statement": statements.encode(statement)}, {"fields": made.plain(statement)})

    def changed(name: str, statement: SignedMeterValue | Reading, place: int, value: cbor.Value) -> Case:
        fields = cbor.decode(statements.encode(statement), what="statement")
        assert isinstance(fields, list)
        return Case(name, "malformed", {"statement": cbor.encode([*fields[:place], value, *fields[place + 1 :]])})

    first: cbor.Value = [bytes(32), 0]
    yield changed("signed value: verdict is unknown", good_value, 4, 3)
    yield changed("signed value: record is empty", good_value, 7, b"")
    yield changed("signed value: record is too long", good_value, 7, bytes(32_769))
    yield changed("signed value: record is text", good_value, 7, "OCMF|{}|{}")
    yield changed("signed value: a verdict without its key", good_value, 8, None)
    yield changed("signed reading: names nothing", good_reading, 17, [])
    yield changed("signed reading: names too many", good_reading, 17, [first] * 17)
    yield changed("signed reading: a hash of 31 bytes", good_reading, 17, [[bytes(31), 0]])
    yield changed("signed reading: a verdict that is unknown", good_reading, 17, [[bytes(32), 3]])
    yield changed("signed reading: a reference with a field more", good_reading, 17, [[bytes(32), 0, 0]])
    yield changed("signed reading: by the meter, without a verified value", good_reading, 17, [[bytes(32), 2]])


def cases() -> Iterable[Case]:
    """Runs of statements in order, which claim what is so, or something that is not."""
    begin, end = signed_value(), signed_value(7_250, record=record(7_250, transaction="E"), context="Transaction.End")
    after = {"sequence": 2, "import_register_milliwatt_hours": 7_250_000}

    def run(name: str, error: str | None, *of: SignedMeterValue | Reading, **facts: made.Json) -> Case:
        encoded: list[made.Json] = [statements.encode(statement).hex() for statement in of]
        return Case(name, error, {}, {"statements": encoded, **facts})

    yield run("verified", None, begin, signed_reading(begin), signed_readings=1, session_milliwatt_hours=None)
    yield run(
        "begin and end of a transaction", None, begin, signed_reading(begin), end, signed_reading(end, **after),
        signed_readings=2, session_milliwatt_hours=2_250_000,
    )  # fmt: skip
    link = {"source": ValueSource.AUTHENTICATED_LINK}
    for name, value in (("wrong, and said so", WRONG_VALUE), ("unverifiable, and said so", UNVERIFIABLE_VALUE)):
        yield run(name, None, value, signed_reading(value, **link), signed_readings=0, session_milliwatt_hours=None)
    wrapped = signed_value(record=b"T0NNRnx7fXx7fQ==", verdict=WRONG, reason="cannot be read")
    yield run("base64 around it is kept as it came", None, wrapped, signed_readings=0, session_milliwatt_hours=None)
    for name, statement in (
        ("a flipped byte is said to be verified", dataclasses.replace(WRONG_VALUE, verdict=VERIFIED)),
        ("a good signature is said to be wrong", signed_value(verdict=WRONG)),
        ("signed by another meter's key", signed_value(record=record(5_000, key=OTHER_METER_KEY))),
        ("the key is none", signed_value(key_der=b"\x30\x00")),
        ("another format is said to be verified", signed_value(record=b"<sml/>", encoding_method="SML")),
    ):
        yield run(name, "proof", statement)
    yield run(
        "the reading has another register than the meter signed", "proof",
        begin, signed_reading(begin, import_register_milliwatt_hours=9_000_000),
    )  # fmt: skip
    yield run(
        "the reading has a register that the meter did not sign", "proof",
        begin, signed_reading(begin, export_register_milliwatt_hours=1),
    )  # fmt: skip
    promoted = replace(reference(WRONG_VALUE), verdict=VERIFIED)
    yield run(
        "the reading makes a wrong value a verified one", "proof",
        WRONG_VALUE, signed_reading(WRONG_VALUE, signed_values=(promoted,)),
    )  # fmt: skip
    elsewhere = signed_value(device_id="charger-2")
    yield run("the reading names a value of another device", "proof", elsewhere, signed_reading(elsewhere))
