"""Keys as tokens describe them."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import cose
from agent.evidence.errors import EvidenceError
from agent.token.errors import KeyRefusedError
from agent.token.keys import Curve, PublicHalf, check_digest, name_of, public_key_der_of

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PRIVATE = ec.derive_private_key(77, ec.SECP256R1())
DER = PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def raw(signature: bytes, *, flip_s: bool = False) -> bytes:
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32) + (P256_ORDER - s if flip_s else s).to_bytes(32)


@pytest.mark.parametrize(("curve", "of"), [(Curve.P256, ec.SECP256R1()), (Curve.SECP256K1, ec.SECP256K1())])
@pytest.mark.parametrize("wrapped", [True, False], ids=["DER octet string", "bare point of older modules"])
def test_an_ec_point_becomes_the_keys_one_spki(curve: Curve, of: ec.EllipticCurve, wrapped: bool) -> None:
    public = ec.derive_private_key(5, of).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    ec_point = b"\x04\x41" + point if wrapped else point
    assert public_key_der_of(curve.value, ec_point) == public.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("params", [Curve.ED25519.value, b"\x13\x0cedwards25519"], ids=["object identifier", "name"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_ed25519_point_becomes_the_keys_one_spki(params: bytes, wrapped: bool) -> None:
    public = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x05" * 32).public_key()
    point = public.public_bytes_raw()
    assert public_key_der_of(params, b"\x04\x20" + point if wrapped else point) == public.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_what_no_key_looks_like_is_a_value_error(params: bytes, point: bytes) -> None:
    for curve in (params, Curve.P256.value):
        with pytest.raises(ValueError, match=r"."):
            public_key_der_of(curve, point)


def test_a_high_s_signature_is_released_as_the_low_s_one() -> None:
    digest = hashlib.sha256(b"reading").digest()
    signature = PRIVATE.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    released = {PublicHalf(DER).released(digest, raw(signature, flip_s=flip)) for flip in (False, True)}
    assert len(released) == 1
    assert int.from_bytes(released.pop()[32:]) <= P256_ORDER // 2


@given(st.binary(max_size=100))
def test_no_signature_is_released_that_does_not_verify(signature: bytes) -> None:
    with pytest.raises(InvalidSignature):
        PublicHalf(DER).released(b"\0" * 32, signature)


def test_ecdsa_signs_the_hash_and_ed25519_the_message() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    spki = edwards.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert PublicHalf(DER).payload_of(b"m") == hashlib.sha256(b"m").digest()
    assert PublicHalf(spki).payload_of(b"m") == b"m"
    assert PublicHalf(spki).algorithm == cose.ED25519
    assert PublicHalf(spki).released(b"m", edwards.sign(b"m")) == edwards.sign(b"m")


def test_a_kind_of_key_without_algorithm_here_is_refused() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    with pytest.raises(EvidenceError):
        PublicHalf(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_only_digests_of_32_bytes_are_signed(length: int) -> None:
    with pytest.raises(KeyRefusedError):
        check_digest(b"\0" * length)


def test_a_key_id_is_shown_as_text_where_it_is_text() -> None:
    assert name_of(b"device:pv-1") == "'device:pv-1'"
    assert name_of(b"\x00\x01") == "0001"
