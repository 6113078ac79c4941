"""Who signs trust lists: one root, or any k of n, so that one stolen or lost key neither rules the site nor stops it.

A list by one root is a COSE_Sign1; by a threshold it is a COSE_Sign (tag 98), each signature with its own alg and kid.
A signature of somebody who is no root here counts for nothing and harms nothing: while roots change, a list is signed
by old and new ones. One that names a root and does not hold voids the list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import cbor2

from agent.evidence import cbor, cose
from agent.evidence.cose import VerifyKey
from agent.evidence.cose_sign import TAG_SIGN
from agent.evidence.errors import EvidenceError
from agent.identity import cosign
from agent.identity.errors import KeyFileError, TrustListError
from agent.identity.keys import verify_key_from_pem

MOST_ROOTS: Final = 16
_PEM_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """The keys that may sign a list, and how many of them must. Raises ValueError."""

    keys: tuple[VerifyKey, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MOST_ROOTS:
            raise ValueError(f"{len(self.keys)} trust roots, 1 to {MOST_ROOTS} are right")
        if len({key.key_id for key in self.keys}) != len(self.keys):
            raise ValueError("one trust root stands twice: two signatures by it would count as two")
        if not 1 <= self.threshold <= len(self.keys):
            raise ValueError(f"{self.threshold} of {len(self.keys)} trust roots must sign: that cannot be")

    def opened(self, encoded: bytes, *, typ: str, most_bytes: int) -> bytes:
        """The payload of a list that enough roots have signed. Raises TrustListError."""
        if len(encoded) > most_bytes:
            raise TrustListError(f"trust list: {len(encoded)} bytes, at most {most_bytes} are allowed")
        try:
            value = cbor.decode(encoded, what="envelope", most_bytes=most_bytes)
            if isinstance(value, cbor2.CBORTag) and value.tag == TAG_SIGN:
                return self._of_several(encoded, typ, most_bytes)
            return self._of_one(encoded, typ)
        except EvidenceError as error:
            raise TrustListError(f"trust list: {error}") from error

    def _of_one(self, encoded: bytes, typ: str) -> bytes:
        signed = cose.decode_sign1(encoded, what="envelope")
        header = signed.protected_map()
        if header.keys() != {cose.HEADER_ALG, cose.HEADER_KID, cose.HEADER_TYP} or signed.unprotected:
            raise TrustListError("trust list: has header parameters other than alg, kid and typ")
        if header[cose.HEADER_TYP] != typ:
            raise TrustListError(f"trust list: is a {str(header[cose.HEADER_TYP])[:60]!r}, not a {typ!r}")
        root = next((key for key in self.keys if key.key_id == header[cose.HEADER_KID]), None)
        if root is None:
            raise TrustListError("trust list: names another root than the one that this gateway was given")
        if signed.payload is None:
            raise TrustListError("trust list: its payload is missing (detached)")
        signed.verify(root)
        self._require(1)
        return signed.payload

    def _of_several(self, encoded: bytes, typ: str, most_bytes: int) -> bytes:
        signed = cosign.decode(encoded, typ=typ, what="trust list", most_bytes=most_bytes)
        known = {key.key_id for key in self.keys}
        ours = cosign.Cosigned(typ, signed.payload, tuple(one for one in signed.signatures if one.key_id in known))
        self._require(len(ours.verified_by(self.keys)))
        return signed.payload

    def _require(self, signatures: int) -> None:
        if signatures < self.threshold:
            raise TrustListError(
                f"trust list: signed by {signatures} of the {len(self.keys)} roots that this gateway was given, and "
                f"{self.threshold} must"
            )


def trust_roots_from_pem(pem: bytes, threshold: int, *, what: str) -> TrustRoots:
    """The roots in a file: one PEM public key after the other. Raises KeyFileError."""
    blocks = _PEM_KEY.findall(pem) or [pem]
    try:
        return TrustRoots(tuple(verify_key_from_pem(block, what=what) for block in blocks), threshold)
    except ValueError as error:
        raise KeyFileError(f"{what}: {error}") from error
