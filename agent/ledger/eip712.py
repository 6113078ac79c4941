"""Typed structured data (EIP-712): the digest that a contract recomputes, and signatures over it.

Keccak-256 is the original Keccak and not SHA3-256. Only atomic types are needed here: a nested struct goes in as its
hash, of type bytes32, under the full type string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from Crypto.Hash import keccak as _keccak
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.evidence import cose
from agent.ledger.errors import ChannelError

WORD: Final = 32
Atom: TypeAlias = "int | bool | bytes | str"

_ORDERS: Final = {
    # Group orders n: SEC 2, sections 2.4.1 (secp256k1) and 2.4.2 (secp256r1).
    cose.ES256K: 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141,
    cose.ES256: 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
}
_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {cose.ES256K: ec.SECP256K1, cose.ES256: ec.SECP256R1}


def keccak256(message: bytes) -> bytes:
    """32 bytes."""
    digest: bytes = _keccak.new(digest_bits=256, data=message).digest()
    return digest


def encode_atom(type_name: str, value: Atom) -> bytes:
    """The 32-byte word of a value (EIP-712, encodeData). Raises ValueError when it does not fit its type."""
    match type_name, value:
        case "string", str():
            return keccak256(value.encode())
        case "bytes", bytes():
            return keccak256(value)
        case "bytes32", bytes() if len(value) == WORD:
            return value
        case "address", bytes() if len(value) == 20:
            return bytes(12) + value
        case "bool", bool():
            return int(value).to_bytes(WORD)
        case _, int() if not isinstance(value, bool):
            bits = type_name.removeprefix("u").removeprefix("int")
            signed = not type_name.startswith("u")
            if type_name in (f"int{bits}", f"uint{bits}") and bits.isdecimal():
                lowest, highest = (-(1 << int(bits) - 1), 1 << int(bits) - 1) if signed else (0, 1 << int(bits))
                if lowest <= value < highest:
                    # Two's complement over the whole word, as Solidity extends the sign.
                    return value.to_bytes(WORD, signed=signed)
    raise ValueError(f"{value!r:.80} is no {type_name}")


def hash_struct(type_string: str, fields: Sequence[tuple[str, Atom]]) -> bytes:
    """keccak256(typeHash || encodeData) of (type, value) pairs in the order of the type string."""
    return keccak256(keccak256(type_string.encode()) + b"".join(encode_atom(kind, value) for kind, value in fields))


def digest_of(domain_separator: bytes, struct_hash: bytes) -> bytes:
    """What is signed: keccak256(0x19 0x01 || domain separator || hashStruct(message))."""
    return keccak256(b"\x19\x01" + domain_separator + struct_hash)


def verify_digest(key: cose.VerifyKey, digest: bytes, signature: bytes) -> None:
    """Check r || s (64 bytes, s in the lower half: contracts refuse the other) over a 32-byte digest.

    Raises ChannelError.
    """
    name = key.key_id.hex()[:16]
    order = _ORDERS.get(key.algorithm)
    if order is None:
        raise ChannelError(f"key {name}: algorithm {key.algorithm} cannot sign channel states; ES256 and ES256K can")
    if len(signature) != 64 or len(digest) != WORD:
        raise ChannelError(f"key {name}: signature of {len(signature)} bytes over {len(digest)}; 64 over 32 are right")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if s > order // 2:
        raise ChannelError(f"key {name}: signature has a high s, which contracts refuse")
    public = load_der_public_key(key.public_key_der)
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, _CURVES[key.algorithm]):
        raise ChannelError(f"key {name}: is not on the curve of algorithm {key.algorithm}")
    try:
        public.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except InvalidSignature:
        raise ChannelError(f"signature does not verify under key {name}") from None
