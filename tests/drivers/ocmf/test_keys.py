"""Public keys in every form that people and chargers have them in, and what is no key."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.keys import MeterKey, key_from_der, key_from_text
from tests.drivers.ocmf.meters import CURVES, Meter


@pytest.mark.parametrize("curve", CURVES)
def test_every_form_of_a_key_is_the_same_key(curve: str) -> None:
    meter = Meter(curve)
    key = key_from_der(meter.der)
    assert (key.curve.name, key.der) == (curve, meter.der)
    hexadecimal = meter.der.hex()
    spaced = " ".join(hexadecimal[i : i + 4] for i in range(0, len(hexadecimal), 4))
    forms = {
        "PEM": meter.pem,
        "hex": hexadecimal,
        "hex with spaces": spaced.upper(),
        "hex with colons": ":".join(hexadecimal[i : i + 2] for i in range(0, len(hexadecimal), 2)),
        "base64": base64.b64encode(meter.der).decode(),
        "raw": meter.raw.hex(),
        "raw with its octet 04": "04" + meter.raw.hex(),
        "raw in base64": base64.b64encode(meter.raw).decode(),
        "OCA": f"oca:base16:asn1:{hexadecimal}",
        "OCPP: base64 of what the meter shows": base64.b64encode(f"oca:base16:asn1:{hexadecimal}".encode()).decode(),
        "OCPP: base64 of PEM": base64.b64encode(meter.pem.encode()).decode(),
    }
    assert {form: key_from_text(text) for form, text in forms.items()} == dict.fromkeys(forms, key)


def test_a_compressed_point_is_the_same_key() -> None:
    meter = Meter("secp256r1")
    x, y = meter.raw[:32], meter.raw[32:]
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    assert key_from_der(head + bytes([2 + y[-1] % 2]) + x) == key_from_der(meter.der)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "not a key at all!",
        "00" * 64,
        "00" * 63,
        Meter().der.hex()[:-2],
        Meter().der.hex() + "00",
        Meter().raw.hex()[:-1] + "0",
        "302a300506032b6570032100" + "11" * 32,  # Ed25519: no meter signs with it
        "A" * 10_000,
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(MeterKeyError):
        key_from_text(text)


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda octets: base64.b64encode(octets).decode()))
def test_any_text_is_a_key_or_a_refusal(text: str) -> None:
    with contextlib.suppress(MeterKeyError):
        assert isinstance(key_from_text(text), MeterKey)
