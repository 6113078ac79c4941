"""did:key: names of keys and back."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import cose
from agent.identity.did import base58, did_of, key_of_did
from agent.identity.errors import DidError

# Published examples of the did:key method.
P256 = "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"
SECP256K1 = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
ED25519 = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"


@pytest.mark.parametrize(("did", "algorithm"), [(P256, cose.ES256), (SECP256K1, cose.ES256K), (ED25519, cose.ED25519)])
def test_published_examples_are_read_and_written_back(did: str, algorithm: int) -> None:
    key = key_of_did(did)
    assert key.algorithm == algorithm
    assert did_of(key.public_key_der) == did


def test_the_published_ed25519_example_is_its_published_key() -> None:
    raw = bytes.fromhex("2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6")
    assert key_of_did(ED25519).public_key_der.endswith(raw)


@given(st.integers(min_value=1, max_value=2**255), st.sampled_from([ec.SECP256R1(), ec.SECP256K1()]))
def test_every_curve_key_survives_its_name(secret: int, curve: ec.EllipticCurve) -> None:
    public = ec.derive_private_key(secret, curve).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_of_did(did_of(der)).public_key_der == der


@given(st.binary(min_size=32, max_size=32))
def test_every_ed25519_key_survives_its_name(secret: bytes) -> None:
    public = ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_of_did(did_of(der)).public_key_der == der


@given(st.text(max_size=200))
def test_no_text_does_worse_than_a_did_error(text: str) -> None:
    for candidate in (text, "did:key:z" + text):
        try:
            key_of_did(candidate)
        except DidError:
            continue


@pytest.mark.parametrize(
    "did",
    [
        "",
        "did:web:example.com",
        "did:key:mAAAA",  # base64, not base58btc
        "did:key:z",
        P256 + "0",  # not a base58 character
        P256[:-1],
        "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",  # X25519: agrees on keys, signs nothing
        P256 + "#" + P256,
        "did:key:z" + "2" * 500,
    ],
)
def test_what_names_no_signing_key_is_refused(did: str) -> None:
    with pytest.raises(DidError):
        key_of_did(did)


def test_an_uncompressed_point_is_refused_as_a_second_name_of_the_same_key() -> None:
    public = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    with pytest.raises(DidError, match="not the one way"):
        key_of_did("did:key:z" + base58(b"\x80\x24" + point))


def test_a_key_of_another_kind_has_no_name() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    with pytest.raises(DidError):
        did_of(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
