"""The second signature of a root: a COSE countersignature (RFC 9338) by a key that a quantum computer cannot break.

It stands in the unprotected header, under label 11, and covers the batch's protected header, the root and the first
signature. What a batch *is* does not depend on it. proto/EVIDENCE.md section 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.evidence import cbor, cose
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import MalformedError, UnsupportedError

HEADER_COUNTERSIGNATURE: Final = 11
"""Countersignature version 2 (RFC 9338)."""
CONTEXT: Final = "CounterSignatureV2"
TYP: Final = "v2g-gateway/batch-countersignature"
ALGORITHMS: Final = frozenset({cose.ML_DSA_65})
_LABELS: Final = {cose.HEADER_ALG, cose.HEADER_KID, cose.HEADER_TYP}
KEY_ID_BYTES: Final = 32


class Policy(StrEnum):
    """Which of the two signatures a verifier wants, by epoch of a gateway's keys."""

    EITHER = "either"
    """One that holds is enough: for the time in which verifiers and gateways change over."""
    BOTH = "both"
    PQ_ONLY = "pq-only"
    """The first signature proves nothing any more, and is not looked at."""


def policy_of(name: str) -> Policy:
    """Raises UnsupportedError: what is not known here must not be taken for something weaker."""
    try:
        return Policy(name)
    except ValueError:
        known = ", ".join(policy.value for policy in Policy)
        raise UnsupportedError(f"policy {name!r:.40} is not known here; known are {known}") from None


@dataclass(frozen=True, slots=True)
class Countersignature:
    """As made or read. Reading one proves nothing."""

    protected: bytes
    """The encoded protected header, exactly as signed."""
    key_id: bytes
    signature: bytes

    def value(self) -> cbor.Value:
        """As it stands under label 11: a COSE_Countersignature."""
        return [self.protected, {}, self.signature]

    def verify(self, key: VerifyKey, *, body_protected: bytes, root: bytes, first_signature: bytes) -> None:
        """Raises SignatureError unless it is this key's, over exactly this header, root and first signature."""
        key.verify(to_be_countersigned(body_protected, self.protected, root, first_signature), self.signature)


def protected_header(algorithm: int, key_id: bytes) -> bytes:
    """Of a countersignature. Raises ValueError for an algorithm that is not for this."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm} is not for countersignatures")
    return cbor.encode({cose.HEADER_ALG: algorithm, cose.HEADER_KID: key_id, cose.HEADER_TYP: TYP})


def to_be_countersigned(body_protected: bytes, protected: bytes, root: bytes, first_signature: bytes) -> bytes:
    """Countersign_structure of RFC 9338 section 3.3, for a COSE_Sign1 with the root as its detached payload."""
    return cbor.encode([CONTEXT, body_protected, protected, b"", root, [first_signature]])


def read(value: cbor.Value) -> Countersignature:
    """What stands under label 11. Raises MalformedError, or UnsupportedError for another algorithm or type."""
    match value:
        case [bytes(protected), dict(unprotected), bytes(signature)] if not unprotected:
            pass
        case _:
            raise MalformedError("countersignature: not an array of protected header, empty map and signature")
    header = cbor.decode(protected, what="countersignature header", most_bytes=256)
    if not isinstance(header, dict) or set(header) != _LABELS:
        raise MalformedError(f"countersignature header: not a map of the labels {sorted(_LABELS)}")
    algorithm, key_id = header[cose.HEADER_ALG], header[cose.HEADER_KID]
    if type(algorithm) is not int or algorithm not in ALGORITHMS:
        raise UnsupportedError(f"countersignature: algorithm {algorithm!r:.40} is not known here")
    if header[cose.HEADER_TYP] != TYP:
        raise UnsupportedError(f"countersignature: typ is not {TYP}")
    if not isinstance(key_id, bytes) or len(key_id) != KEY_ID_BYTES:
        raise MalformedError("countersignature header: the key id is not 32 bytes")
    return Countersignature(protected, key_id, signature)
