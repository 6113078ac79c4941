"""COSE_Sign1 (RFC 9052) over our own needs: what is signed, how it is laid out, and verification by algorithm number.

Algorithms are chosen by the trusted key and never by the message: a header that names another one is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import cbor2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.evidence import cbor
from agent.evidence.errors import MalformedError, SignatureError, UnsupportedError

# COSE algorithm numbers (IANA COSE Algorithms).
ES256: Final = -7
ESP256: Final = -9
ED25519: Final = -19
ES256K: Final = -47
ML_DSA_65: Final = -49

# COSE header labels (IANA COSE Header Parameters).
HEADER_ALG: Final = 1
HEADER_CRIT: Final = 2
HEADER_KID: Final = 4
HEADER_TYP: Final = 16

TAG_SIGN1: Final = 18

_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {
    ES256: ec.SECP256R1,
    ESP256: ec.SECP256R1,
    ES256K: ec.SECP256K1,
}


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key with the one algorithm that it may be used with."""

    algorithm: int
    public_key_der: bytes
    """SubjectPublicKeyInfo, DER."""

    @property
    def key_id(self) -> bytes:
        """The kid of this key everywhere: SHA-256 of the SubjectPublicKeyInfo."""
        return key_id_of(self.public_key_der)

    def require_algorithm(self, named: object) -> None:
        """Raises UnsupportedError unless the header's `named` algorithm is the one that this key is for."""
        if type(named) is not int or named != self.algorithm:
            raise UnsupportedError(f"header names algorithm {named!r:.40}, the trusted key is for {self.algorithm}")

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises SignatureError when the signature (COSE form: ECDSA as r || s) is not this key's over the message."""
        public = _load(self.public_key_der)
        try:
            if self.algorithm in _CURVES and isinstance(public, ec.EllipticCurvePublicKey):
                if not isinstance(public.curve, _CURVES[self.algorithm]):
                    raise UnsupportedError(f"algorithm {self.algorithm} does not go with curve {public.curve.name}")
                public.verify(_to_der(signature), message, ec.ECDSA(hashes.SHA256()))
            elif (self.algorithm == ED25519 and isinstance(public, ed25519.Ed25519PublicKey)) or (
                self.algorithm == ML_DSA_65 and isinstance(public, mldsa.MLDSA65PublicKey)
            ):
                public.verify(signature, message)
            else:
                raise UnsupportedError(f"algorithm {self.algorithm} does not go with this kind of key")
        except InvalidSignature as error:
            raise SignatureError(f"signature does not verify under key {self.key_id.hex()[:16]}") from error


def key_id_of(public_key_der: bytes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo (DER), 32 bytes."""
    return hashlib.sha256(public_key_der).digest()


def verify_key_of(public_key_der: bytes) -> VerifyKey:
    """A key with the default algorithm of its kind. Raises UnsupportedError for kinds that have none here."""
    public = _load(public_key_der)
    if isinstance(public, ec.EllipticCurvePublicKey):
        if isinstance(public.curve, ec.SECP256R1):
            return VerifyKey(ES256, public_key_der)
        if isinstance(public.curve, ec.SECP256K1):
            return VerifyKey(ES256K, public_key_der)
        raise UnsupportedError(f"no algorithm here for curve {public.curve.name}")
    if isinstance(public, ed25519.Ed25519PublicKey):
        return VerifyKey(ED25519, public_key_der)
    if isinstance(public, mldsa.MLDSA65PublicKey):
        return VerifyKey(ML_DSA_65, public_key_der)
    raise UnsupportedError("no algorithm here for this kind of key")


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1 as read or made. `payload` is None when detached."""

    protected: bytes
    """The encoded protected header, exactly as signed."""
    unprotected: dict[int, cbor.Value]
    payload: bytes | None
    signature: bytes

    def encode(self) -> bytes:
        """Tagged (18), deterministic."""
        return cbor.encode(cbor2.CBORTag(TAG_SIGN1, [self.protected, self.unprotected, self.payload, self.signature]))

    def protected_map(self) -> dict[int, cbor.Value]:
        """Raises MalformedError when the protected header is no map of integers."""
        header = cbor.decode(self.protected, what="protected header") if self.protected else {}
        if not isinstance(header, dict):
            raise MalformedError("protected header: not a map")
        return header

    def verify(self, key: VerifyKey, *, payload: bytes | None = None, external_aad: bytes = b"") -> None:
        """Check the signature; `payload` is required when it is detached and refused when it is not.

        Raises SignatureError, UnsupportedError or MalformedError.
        """
        if (self.payload is None) == (payload is None):
            raise MalformedError("a detached payload must be given, and one that is attached must not")
        header = self.protected_map()
        if HEADER_CRIT in header or HEADER_CRIT in self.unprotected:
            # RFC 9052 section 3.1: what is marked critical and not understood must not be passed over.
            raise UnsupportedError("header marks labels as critical: none are known here")
        key.require_algorithm(header.get(HEADER_ALG))
        body = self.payload if payload is None else payload
        assert body is not None
        key.verify(to_be_signed(self.protected, body, external_aad), self.signature)


def to_be_signed(protected: bytes, payload: bytes, external_aad: bytes = b"") -> bytes:
    """Sig_structure of RFC 9052 section 4.4, context "Signature1"."""
    return cbor.encode(["Signature1", protected, external_aad, payload])


def decode_sign1(encoded: bytes, *, what: str) -> Sign1:
    """Reads a tagged COSE_Sign1. Raises MalformedError; nothing is verified."""
    value = cbor.decode(encoded, what=what)
    if not isinstance(value, cbor2.CBORTag) or value.tag != TAG_SIGN1:
        raise MalformedError(f"{what}: not a COSE_Sign1 (CBOR tag 18)")
    match value.value:
        case [bytes(protected), dict(unprotected), (None | bytes()) as payload, bytes(signature)]:
            return Sign1(protected, unprotected, payload, signature)
    raise MalformedError(f"{what}: not laid out as a COSE_Sign1")


def low_s(signature: bytes, order: int) -> bytes:
    """An ECDSA signature r || s with s in the lower half: tokens give the upper one about half the time."""
    half = len(signature) // 2
    s = int.from_bytes(signature[half:])
    return signature[:half] + min(s, order - s).to_bytes(half)


def _to_der(signature: bytes) -> bytes:
    if len(signature) != 64:
        raise SignatureError(f"signature has {len(signature)} bytes, 64 are right for this algorithm")
    return encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))


def _load(public_key_der: bytes) -> object:
    try:
        public = load_der_public_key(public_key_der)
        exact = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public_key_der
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"public key: {str(error)[:120]}") from error
    if not exact:
        # One key, one encoding: the kid is a hash of it.
        raise MalformedError("public key: not in the canonical DER encoding")
    return public
