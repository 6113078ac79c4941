"""COSE_Sign (RFC 9052 section 4.1, tag 98): several signatures by different keys over one and the same body.

For what takes more than one party: orders that change an identity, trust lists by a threshold. Reading and verifying
are apart: `decode` says what is claimed, `Cosigned.verified_by` holds each signature against keys that one trusts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import cbor2

from agent.evidence import cbor
from agent.evidence.cose import HEADER_ALG, HEADER_KID, HEADER_TYP, VerifyKey
from agent.evidence.cose_sign import TAG_SIGN, body_header, claimed_key, exact_header, signer_header, to_be_signed
from agent.evidence.errors import MalformedError, SignatureError, UnsupportedError

MOST_SIGNATURES: Final = 16


@dataclass(frozen=True, slots=True)
class OneSignature:
    """One COSE_Signature as claimed."""

    protected: bytes
    """The encoded header of this signature: alg and kid."""
    key_id: bytes
    algorithm: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A COSE_Sign as read or made; nothing is verified. Without signatures it is a draft that waits for them."""

    typ: str
    payload: bytes
    signatures: tuple[OneSignature, ...] = ()

    def encode(self) -> bytes:
        """Tagged (98), deterministic, payload attached. Signatures in ascending order of their keys' ids."""
        ordered = sorted(self.signatures, key=lambda one: one.key_id)
        signatures: list[cbor.Value] = [[one.protected, {}, one.signature] for one in ordered]
        return cbor.encode(cbor2.CBORTag(TAG_SIGN, [body_header(self.typ), {}, self.payload, signatures]))

    def to_be_signed(self, key: VerifyKey) -> bytes:
        """The message that `key` is to sign."""
        return self._message(_signer_header(key))

    def with_signature(self, key: VerifyKey, signature: bytes) -> Cosigned:
        """With one signature more, in COSE form; it takes the place of an earlier one by the same key.

        Raises SignatureError when it does not verify.
        """
        header = _signer_header(key)
        key.verify(self._message(header), signature)
        others = tuple(one for one in self.signatures if one.key_id != key.key_id)
        if len(others) >= MOST_SIGNATURES:
            raise SignatureError(f"{MOST_SIGNATURES} signatures are the most that one body may have")
        made = OneSignature(header, key.key_id, key.algorithm, signature)
        return replace(self, signatures=tuple(sorted((*others, made), key=lambda one: one.key_id)))

    def verified_by(self, trusted: Iterable[VerifyKey]) -> frozenset[bytes]:
        """Key ids of all signatures, each of which is good and by a trusted key.

        Raises SignatureError or UnsupportedError when one of them is a stranger's or does not verify: a body with a
        signature that nobody can judge is not accepted for the sake of the others.
        """
        keys = {key.key_id: key for key in trusted}
        for one in self.signatures:
            key = keys.get(one.key_id)
            if key is None:
                raise SignatureError(f"signed by key {one.key_id.hex()[:16]}, which has no say in this")
            key.require_algorithm(one.algorithm)
            key.verify(self._message(one.protected), one.signature)
        return frozenset(one.key_id for one in self.signatures)

    def _message(self, signer_protected: bytes) -> bytes:
        return to_be_signed(body_header(self.typ), signer_protected, self.payload)


def decode(encoded: bytes, *, typ: str, what: str, most_bytes: int) -> Cosigned:
    """Reads a COSE_Sign of this type. Raises MalformedError or UnsupportedError; nothing is verified."""
    value = cbor.decode(encoded, what=what, most_bytes=most_bytes)
    if not isinstance(value, cbor2.CBORTag) or value.tag != TAG_SIGN:
        raise MalformedError(f"{what}: not a COSE_Sign (CBOR tag {TAG_SIGN})")
    match value.value:
        case [bytes(protected), {**unprotected}, bytes(payload), list(signatures)] if not unprotected:
            pass
        case _:
            raise MalformedError(
                f"{what}: not laid out as a COSE_Sign with an empty unprotected header and its payload"
            )
    header = _header(protected, {HEADER_TYP}, what)
    if header[HEADER_TYP] != typ:
        raise UnsupportedError(f"{what}: is a {str(header[HEADER_TYP])[:60]!r}, not a {typ!r}")
    if len(signatures) > MOST_SIGNATURES:
        raise MalformedError(f"{what}: {len(signatures)} signatures, at most {MOST_SIGNATURES} are allowed")
    read = tuple(_one(item, what) for item in signatures)
    ids = [one.key_id for one in read]
    if ids != sorted(set(ids)):
        # Two signatures by one key must never count as two parties; the order makes an envelope's encoding one.
        raise MalformedError(f"{what}: signatures are not in ascending order of their keys' ids, each key once")
    return Cosigned(typ, payload, read)


def _one(item: cbor.Value, what: str) -> OneSignature:
    match item:
        case [bytes(protected), {**unprotected}, bytes(signature)] if not unprotected:
            header = _header(protected, {HEADER_ALG, HEADER_KID}, what)
        case _:
            raise MalformedError(f"{what}: a signature is not laid out as a COSE_Signature")
    try:
        algorithm, key_id = claimed_key(header)
    except MalformedError as error:
        raise MalformedError(f"{what}: {error}") from error
    return OneSignature(protected, key_id, algorithm, signature)


def _header(protected: bytes, labels: set[int], what: str) -> dict[int, cbor.Value]:
    try:
        return exact_header(protected, labels)
    except MalformedError as error:
        raise MalformedError(f"{what}: {error}") from error


def _signer_header(key: VerifyKey) -> bytes:
    return signer_header(key.algorithm, key.key_id)
