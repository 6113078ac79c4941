"""What COSE_Sign (RFC 9052 section 4.1) adds to COSE_Sign1: a body header, and one header for each signature.

For whoever reads or makes one: commands under dual control, orders that change an identity, trust lists. Nothing is
verified here.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from agent.evidence import cbor
from agent.evidence.cose import HEADER_ALG, HEADER_KID, HEADER_TYP
from agent.evidence.errors import MalformedError

TAG_SIGN: Final = 98
MOST_HEADER_BYTES: Final = 1024


def body_header(typ: str) -> bytes:
    """The protected header of what several sign."""
    return cbor.encode({HEADER_TYP: typ})


def signer_header(algorithm: int, key_id: bytes) -> bytes:
    """The protected header of one signature. `key_id`: SHA-256 of the SubjectPublicKeyInfo."""
    return cbor.encode({HEADER_ALG: algorithm, HEADER_KID: key_id})


def to_be_signed(body_protected: bytes, signer_protected: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052 section 4.4, context "Signature", without external data."""
    return cbor.encode(["Signature", body_protected, signer_protected, b"", payload])


def exact_header(protected: bytes, labels: Set[int]) -> dict[int, cbor.Value]:
    """A protected header that holds these labels and no other. Raises MalformedError."""
    header = cbor.decode(protected, what="protected header", most_bytes=MOST_HEADER_BYTES)
    if not isinstance(header, dict) or set(header) != labels:
        # An unknown label could be critical (RFC 9052 `crit`): what is not understood is refused.
        raise MalformedError(f"a protected header does not hold exactly labels {sorted(labels)}")
    return header


def claimed_key(header: dict[int, cbor.Value]) -> tuple[int, bytes]:
    """Algorithm and key id of a signature, as claimed. Raises MalformedError."""
    algorithm, key_id = header[HEADER_ALG], header[HEADER_KID]
    if type(algorithm) is not int or not isinstance(key_id, bytes) or len(key_id) != 32:
        raise MalformedError("alg is no COSE number, or kid is no SHA-256 of a public key")
    return algorithm, key_id
