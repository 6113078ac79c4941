"""The platform's signed acknowledgement: all batches up to one are safe there. Our witness for time, too.

COSE_Sign1 by the platform's key over [1, gateway_id, incarnation, batch_number, root, platform_time_us]:
proto/EVIDENCE.md section 8. Whether we ever sent that batch the caller checks, by incarnation, number and root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.evidence import cbor, cose, merkle
from agent.evidence.errors import MalformedError, SignatureError, UnsupportedError
from agent.evidence.fields import Fields

VERSION: Final = 1
TYP: Final = "v2g-gateway/ack+cose"
MAX_BYTES: Final = 16 * 1024

_HEADER_LABELS: Final = {cose.HEADER_ALG, cose.HEADER_KID, cose.HEADER_TYP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Cumulative: batches 1 to `batch_number` of this incarnation are safe; `root` is that of `batch_number`."""

    gateway_id: str
    incarnation: int
    batch_number: int
    root: bytes
    """32 bytes."""
    platform_time_us: int
    """The platform's clock when it signed, Unix microseconds."""


@dataclass(frozen=True, slots=True)
class UnsignedAcknowledgement:
    """An acknowledgement that waits for the platform's signature over `to_be_signed`."""

    protected: bytes
    payload: bytes

    @property
    def to_be_signed(self) -> bytes:
        return cose.to_be_signed(self.protected, self.payload)

    def encode(self, signature: bytes) -> bytes:
        """The wire form, with the signature (COSE form) over `to_be_signed`."""
        return cose.Sign1(self.protected, {}, self.payload, signature).encode()


def prepare(acknowledgement: Acknowledgement, *, algorithm: int, key_id: bytes) -> UnsignedAcknowledgement:
    """What the platform signs with the key that `key_id` names."""
    a = acknowledgement
    return UnsignedAcknowledgement(
        protected=cbor.encode({cose.HEADER_ALG: algorithm, cose.HEADER_KID: key_id, cose.HEADER_TYP: TYP}),
        payload=cbor.encode([VERSION, a.gateway_id, a.incarnation, a.batch_number, a.root, a.platform_time_us]),
    )


def verify_acknowledgement(encoded: bytes, platform_key: cose.VerifyKey) -> Acknowledgement:
    """Read an acknowledgement and check its signature. Raises MalformedError, UnsupportedError or SignatureError."""
    if len(encoded) > MAX_BYTES:
        raise MalformedError(f"acknowledgement: {len(encoded)} bytes, at most {MAX_BYTES} are allowed")
    sign1 = cose.decode_sign1(encoded, what="acknowledgement")
    header = sign1.protected_map()
    if set(header) != _HEADER_LABELS or sign1.unprotected:
        raise MalformedError("acknowledgement: its headers are not alg, kid and typ, all protected")
    if header[cose.HEADER_TYP] != TYP:
        raise UnsupportedError(f"acknowledgement: typ is not {TYP}")
    if header[cose.HEADER_KID] != platform_key.key_id:
        raise SignatureError("acknowledgement: by a key that is not the platform's")
    if sign1.payload is None:
        raise MalformedError("acknowledgement: the payload is missing")
    sign1.verify(platform_key)
    value = cbor.decode(sign1.payload, what="acknowledgement")
    if not isinstance(value, list):
        raise MalformedError("acknowledgement: the payload is not an array")
    try:
        f = Fields(value)
        version = f.count()
        if version != VERSION:
            raise UnsupportedError(f"acknowledgement: version {version} is not known here")
        acknowledgement = Acknowledgement(
            gateway_id=f.text(),
            incarnation=f.ordinal(),
            batch_number=f.ordinal(),
            root=f.octets(merkle.HASH_BYTES),
            platform_time_us=f.count(),
        )
        f.end()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"acknowledgement: {error}") from error
    return acknowledgement
