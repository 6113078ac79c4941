"""did:key: a public key as its own name, both ways.

"did:key:" and multibase base58btc ("z") over the multicodec number (unsigned varint) and the key's bytes. Source: W3C
CCG "The did:key Method v0.9"; numbers from the multicodec table: p256-pub 0x1200, secp256k1-pub 0xe7 (compressed
points), ed25519-pub 0xed.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.evidence.cose import VerifyKey, verify_key_of
from agent.evidence.errors import EvidenceError
from agent.identity.errors import DidError

PREFIX: Final = "did:key:z"
MOST_CHARACTERS: Final = 128

# The multicodec numbers as unsigned varints (seven bits a byte, lowest first).
_P256: Final = b"\x80\x24"
_SECP256K1: Final = b"\xe7\x01"
_ED25519: Final = b"\xed\x01"

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def did_of(public_key_der: bytes) -> str:
    """The name of a key. `public_key_der`: SubjectPublicKeyInfo of P-256, secp256k1 or Ed25519. Raises DidError."""
    try:
        verify_key_of(public_key_der)  # refuses what is not the key's one encoding
        public = load_der_public_key(public_key_der)
    except (EvidenceError, ValueError) as error:
        raise DidError(f"did:key: {error}") from error
    if isinstance(public, ed25519.Ed25519PublicKey):
        return PREFIX + base58(_ED25519 + public.public_bytes_raw())
    if isinstance(public, ec.EllipticCurvePublicKey):
        codec = _P256 if isinstance(public.curve, ec.SECP256R1) else _SECP256K1
        return PREFIX + base58(codec + public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
    raise DidError("did:key: there is no name for this kind of key here; use P-256, secp256k1 or Ed25519")


def key_of_did(did: str) -> VerifyKey:
    """The key that a did:key names, with the default algorithm of its kind. Raises DidError."""
    quoted = repr(did[:80])
    if not did.startswith(PREFIX) or len(did) > MOST_CHARACTERS:
        raise DidError(f"did:key: {quoted} does not begin with {PREFIX!r}, or is too long")
    octets = _from_base58(did.removeprefix(PREFIX), quoted)
    codec, key = octets[:2], octets[2:]
    try:
        public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
        if codec == _P256:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        elif codec == _SECP256K1:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key)
        elif codec == _ED25519:
            public = ed25519.Ed25519PublicKey.from_public_bytes(key)
        else:
            raise DidError(f"did:key: {quoted} names a kind of key that is not used here (codec {codec.hex()})")
    except ValueError as error:
        raise DidError(f"did:key: {quoted} holds no valid key: {str(error)[:80]}") from error
    public_key_der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if did_of(public_key_der) != did:
        # An uncompressed point is the same key under another name: one key, one name.
        raise DidError(f"did:key: {quoted} is not the one way to write this key")
    return verify_key_of(public_key_der)


def base58(octets: bytes) -> str:
    """base58btc of octets that do not begin with a zero byte."""
    number = int.from_bytes(octets)
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    # No codec and no multihash begins with a zero byte, so base58's rule for leading zeros is never needed.
    return digits


def _from_base58(digits: str, quoted: str) -> bytes:
    number = 0
    for digit in digits:
        value = _BASE58.find(digit)
        if value < 0:
            raise DidError(f"did:key: {quoted} has a character that base58 does not have")
        number = number * 58 + value
    return number.to_bytes((number.bit_length() + 7) // 8)
