"""Keys as tokens describe them: curves, CKA_EC_PARAMS and CKA_EC_POINT, and the way to SubjectPublicKeyInfo and back.

Pure: the same for every module. Sources: PKCS#11 v3.1 sections 6.3 (EC) and 6.3.5 (Edwards), RFC 5480, RFC 8410.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.evidence import cose
from agent.token.errors import KeyRefusedError

DIGEST_BYTES: Final = 32


class Curve(Enum):
    """Curves that a key can be made on. The value is CKA_EC_PARAMS: the DER of the curve's object identifier."""

    P256 = bytes.fromhex("06082a8648ce3d030107")
    SECP256K1 = bytes.fromhex("06052b8104000a")
    ED25519 = bytes.fromhex("06032b6570")


_NAME_OF_ED25519: Final = b"\x13\x0cedwards25519"
"""The other way in which CKA_EC_PARAMS says Ed25519: as a PrintableString."""

_ECDSA_CURVES: Final[dict[Curve, ec.EllipticCurve]] = {Curve.P256: ec.SECP256R1(), Curve.SECP256K1: ec.SECP256K1()}

# Group orders (SEC 2, sections 2.4.1 and 2.4.2), for the low-s form.
_ORDERS: Final[dict[int, int]] = {
    cose.ES256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    cose.ES256K: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


def public_key_der_of(ec_params: bytes, ec_point: bytes) -> bytes:
    """SubjectPublicKeyInfo from CKA_EC_PARAMS and CKA_EC_POINT. Raises ValueError for what no key here looks like.

    The point should be wrapped in a DER OCTET STRING; older modules give it bare.
    """
    params = Curve.ED25519.value if ec_params == _NAME_OF_ED25519 else ec_params
    try:
        curve = Curve(params)
    except ValueError:
        raise ValueError(f"curve with parameters {ec_params[:40].hex()} is not used here") from None
    length = 32 if curve is Curve.ED25519 else 65
    point = ec_point[2:] if len(ec_point) == length + 2 and ec_point[:2] == bytes((0x04, length)) else ec_point
    public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    if curve is Curve.ED25519:
        public = ed25519.Ed25519PublicKey.from_public_bytes(point)
    else:
        public = ec.EllipticCurvePublicKey.from_encoded_point(_ECDSA_CURVES[curve], point)
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """A key as found on a token."""

    key_id: bytes
    """CKA_ID."""
    label: str
    algorithm: int
    """COSE number; 0 when the key cannot be used at all."""
    public_key_der: bytes
    """SubjectPublicKeyInfo; empty when the key cannot be used at all."""
    fault: str | None
    """Why it must not be used; None: it may."""


class PublicHalf:
    """Checks signatures of one key before they are released. Made once per key: loading it costs more than checking."""

    def __init__(self, public_key_der: bytes) -> None:
        """Raises EvidenceError for a key of a kind that has no algorithm here."""
        self.public_key_der = public_key_der
        self.algorithm = cose.verify_key_of(public_key_der).algorithm
        self._public = load_der_public_key(public_key_der)

    @property
    def signs_digests(self) -> bool:
        """ECDSA signs a digest; Ed25519 signs the message itself."""
        return self.algorithm in _ORDERS

    def payload_of(self, message: bytes) -> bytes:
        """What the token is to sign for a message: hashed here, because SoftHSM has no CKM_ECDSA_SHA256."""
        return hashlib.sha256(message).digest() if self.signs_digests else message

    def released(self, payload: bytes, signature: bytes) -> bytes:
        """The signature in COSE form, ECDSA with low s, once it has verified over the payload.

        Raises InvalidSignature.
        """
        if isinstance(self._public, ec.EllipticCurvePublicKey):
            if len(signature) != 2 * DIGEST_BYTES:
                raise InvalidSignature
            r, s = int.from_bytes(signature[:DIGEST_BYTES]), int.from_bytes(signature[DIGEST_BYTES:])
            self._public.verify(encode_dss_signature(r, s), payload, ec.ECDSA(Prehashed(hashes.SHA256())))
            return cose.low_s(signature, _ORDERS[self.algorithm])
        assert isinstance(self._public, ed25519.Ed25519PublicKey)
        self._public.verify(signature, payload)
        return signature


def name_of(key_id: bytes) -> str:
    """A key id for people: ours are text."""
    text = key_id[:80].decode("utf-8", errors="backslashreplace")
    return repr(text) if text.isprintable() else key_id[:40].hex()


def check_digest(digest: bytes) -> None:
    """Raises KeyRefusedError for what is no SHA-256 or Keccak-256 digest."""
    if len(digest) != DIGEST_BYTES:
        raise KeyRefusedError(f"a digest of {len(digest)} bytes was given to sign, {DIGEST_BYTES} are right")
