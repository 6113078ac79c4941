"""COSE_Sign1 and keys: algorithms are the key's and never the message's; two other libraries read what we make."""

from __future__ import annotations

import hashlib

import cbor2
import cwt
import pycose.algorithms
import pycose.headers
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

from agent.evidence import acknowledgement, batch, cbor, cose
from agent.evidence.errors import MalformedError, SignatureError, UnsupportedError
from hil_tests import evidence_cases as made

KEYS = [made.GATEWAY_KEY, made.ESP256_KEY, made.ES256K_KEY, made.ED25519_KEY]


def signed(key: made.TestKey, header: dict[int, cbor.Value], payload: bytes = b"payload") -> cose.Sign1:
    protected = cbor.encode(header)
    return cose.Sign1(protected, {}, payload, key.sign(cose.to_be_signed(protected, payload)))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_signature_verifies_under_its_key_and_no_other_content(key: made.TestKey) -> None:
    signature = key.sign(b"message")
    key.verify_key.verify(b"message", signature)
    with pytest.raises(SignatureError):
        key.verify_key.verify(b"another", signature)
    with pytest.raises(SignatureError):
        key.verify_key.verify(b"message", made.flip(signature, 5))
    with pytest.raises(SignatureError):
        key.verify_key.verify(b"message", signature[:-1])
    with pytest.raises(SignatureError):
        key.verify_key.verify(b"message", b"")


def test_ml_dsa_65_verifies() -> None:
    private = mldsa.MLDSA65PrivateKey.generate()
    key = cose.verify_key_of(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert key.algorithm == cose.ML_DSA_65
    signature = private.sign(b"message")
    key.verify(b"message", signature)
    for wrong in (signature[:-1], b"", made.flip(signature, 0)):
        with pytest.raises(SignatureError):
            key.verify(b"message", wrong)


def test_default_algorithms_go_by_kind_of_key() -> None:
    assert cose.verify_key_of(made.GATEWAY_KEY.public_key_der).algorithm == cose.ES256
    assert cose.verify_key_of(made.ES256K_KEY.public_key_der).algorithm == cose.ES256K
    assert cose.verify_key_of(made.ED25519_KEY.public_key_der).algorithm == cose.ED25519


@pytest.mark.parametrize(
    "public",
    [
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    ],
    ids=["P-384", "RSA", "X25519"],
)
def test_keys_without_an_algorithm_are_refused(
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | x25519.X25519PublicKey,
) -> None:
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UnsupportedError):
        cose.verify_key_of(der)
    with pytest.raises(UnsupportedError):
        cose.VerifyKey(cose.ES256, der).verify(b"message", bytes(64))


def test_a_key_is_not_used_with_the_algorithm_of_another_kind() -> None:
    for algorithm, key in [
        (cose.ES256K, made.GATEWAY_KEY),
        (cose.ED25519, made.GATEWAY_KEY),
        (-65000, made.GATEWAY_KEY),
    ]:
        with pytest.raises(UnsupportedError):
            cose.VerifyKey(algorithm, key.public_key_der).verify(b"message", key.sign(b"message"))


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\x00" * 91, made.GATEWAY_KEY.public_key_der + b"\x00"])
def test_a_public_key_that_cannot_be_read_is_malformed(der: bytes) -> None:
    with pytest.raises(MalformedError, match="public key"):
        cose.verify_key_of(der)


def test_a_public_key_in_another_encoding_is_malformed() -> None:
    """One key, one key id: the compressed point would be a second one."""
    public = load_der_public_key(made.GATEWAY_KEY.public_key_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    assert load_der_public_key(compressed) == public
    with pytest.raises(MalformedError, match="canonical"):
        cose.verify_key_of(compressed)


def test_the_header_cannot_choose_the_algorithm() -> None:
    message = signed(made.GATEWAY_KEY, {cose.HEADER_ALG: cose.ESP256})
    with pytest.raises(UnsupportedError, match="algorithm"):
        message.verify(made.GATEWAY_KEY.verify_key)


def test_a_critical_label_is_refused() -> None:
    message = signed(made.GATEWAY_KEY, {cose.HEADER_ALG: cose.ES256, cose.HEADER_CRIT: [4], 4: b"x"})
    with pytest.raises(UnsupportedError, match="critical"):
        message.verify(made.GATEWAY_KEY.verify_key)


def test_a_payload_is_given_once() -> None:
    message = signed(made.GATEWAY_KEY, {cose.HEADER_ALG: cose.ES256})
    message.verify(made.GATEWAY_KEY.verify_key)
    with pytest.raises(MalformedError):
        message.verify(made.GATEWAY_KEY.verify_key, payload=b"payload")
    detached = cose.Sign1(message.protected, {}, None, message.signature)
    detached.verify(made.GATEWAY_KEY.verify_key, payload=b"payload")
    with pytest.raises(MalformedError):
        detached.verify(made.GATEWAY_KEY.verify_key)


def test_external_data_is_signed() -> None:
    protected = cbor.encode({cose.HEADER_ALG: cose.ES256})
    signature = made.GATEWAY_KEY.sign(cose.to_be_signed(protected, b"p", b"context"))
    message = cose.Sign1(protected, {}, b"p", signature)
    message.verify(made.GATEWAY_KEY.verify_key, external_aad=b"context")
    with pytest.raises(SignatureError):
        message.verify(made.GATEWAY_KEY.verify_key)


@pytest.mark.parametrize(
    "value",
    [
        cbor2.CBORTag(98, [b"", {}, b"", b""]),
        cbor2.CBORTag(18, [b"", {}, b""]),
        cbor2.CBORTag(18, [b"", [], b"", b""]),
        cbor2.CBORTag(18, [b"", {}, "text", b""]),
        cbor2.CBORTag(18, [b"", {}, b"", None]),
        [b"", {}, b"", b""],
    ],
)
def test_what_is_not_laid_out_as_sign1_is_malformed(value: cbor.Value) -> None:
    with pytest.raises(MalformedError, match="message"):
        cose.decode_sign1(cbor.encode(value), what="message")


def test_low_s_keeps_the_signature_valid() -> None:
    for i in range(8):
        message = bytes([i])
        signature = made.GATEWAY_KEY.sign(message)
        low = cose.low_s(signature, made.P256_ORDER)
        assert int.from_bytes(low[32:]) <= made.P256_ORDER // 2
        assert low in (signature, made.other_s(signature))
        made.GATEWAY_KEY.verify_key.verify(message, low)


# The independent libraries.


def pycose_key(key: made.TestKey) -> EC2Key:
    public = load_der_public_key(key.public_key_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    numbers = public.public_numbers()
    return EC2Key(crv="P_256", x=numbers.x.to_bytes(32), y=numbers.y.to_bytes(32))


def test_pycose_verifies_a_batch_signature() -> None:
    sealed = made.make_batch(made.leaves())
    envelope = cbor.decode(sealed.encode(), what="batch")
    assert isinstance(envelope, list)
    assert isinstance(envelope[1], bytes)
    message = Sign1Message.decode(envelope[1])
    message.key = pycose_key(made.GATEWAY_KEY)
    assert message.phdr[pycose.headers.Algorithm] is pycose.algorithms.Es256
    assert message.verify_signature(detached_payload=sealed.root)
    assert not message.verify_signature(detached_payload=bytes(32))


def test_pycose_verifies_a_receipt() -> None:
    sealed = made.make_batch(made.leaves())
    message = Sign1Message.decode(batch.receipt(sealed, 3))
    message.key = pycose_key(made.GATEWAY_KEY)
    assert message.verify_signature(detached_payload=sealed.root)
    (proof,) = message.uhdr[batch.HEADER_VDP][batch.PROOF_INCLUSION]
    assert cbor2.loads(proof)[:2] == [5, 3]


def test_pycose_verifies_an_acknowledgement() -> None:
    unsigned = acknowledgement.prepare(
        acknowledgement.Acknowledgement(
            gateway_id=made.GATEWAY, incarnation=1, batch_number=9, root=bytes(32), platform_time_us=made.START_US
        ),
        algorithm=cose.ES256,
        key_id=made.PLATFORM_KEY.key_id,
    )
    message = Sign1Message.decode(unsigned.encode(made.PLATFORM_KEY.sign(unsigned.to_be_signed)))
    message.key = pycose_key(made.PLATFORM_KEY)
    assert message.verify_signature()
    assert message.payload is not None
    assert cbor2.loads(message.payload)[3] == 9


@pytest.mark.parametrize("key", [made.GATEWAY_KEY, made.ES256K_KEY], ids=lambda key: key.name)
def test_cwt_verifies_a_receipt(key: made.TestKey) -> None:
    sealed = made.make_batch(made.leaves(), key=key)
    public = load_der_public_key(key.public_key_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    numbers = public.public_numbers()
    theirs = cwt.COSEKey.new(
        {
            1: 2,
            2: key.key_id,
            3: key.algorithm,
            -1: 1 if key.algorithm == cose.ES256 else 8,
            -2: numbers.x.to_bytes(32),
            -3: numbers.y.to_bytes(32),
        }
    )
    assert cwt.COSE.new().decode(batch.receipt(sealed, 2), theirs, detached_payload=sealed.root) == sealed.root
    with pytest.raises(cwt.VerifyError):
        cwt.COSE.new().decode(batch.receipt(sealed, 2), theirs, detached_payload=bytes(32))


def test_key_id_is_the_hash_of_the_public_key() -> None:
    assert made.GATEWAY_KEY.key_id == hashlib.sha256(made.GATEWAY_KEY.public_key_der).digest()
    assert isinstance(load_der_public_key(made.ED25519_KEY.public_key_der), ed25519.Ed25519PublicKey)
