"""A TPM's quote, read and checked: that one TPM key says what was booted, over a nonce. proto/EVIDENCE.md section 16.

TPM 2.0 structures are big-endian and have no framing (TCG TPM 2.0 Library, Part 2: TPMS_ATTEST, TPMT_PUBLIC,
TPMT_SIGNATURE). Nothing here asks a TPM. Whose key it is is not proven here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence import cose, statements
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError, ProofError
from agent.evidence.statements import Attestation, TpmQuote

_GENERATED: Final = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key signs nothing that begins so, unless the TPM itself has made it."""
_ATTEST_QUOTE: Final = 0x8018
_ALG_SHA256: Final = 0x000B
_ALG_NULL: Final = 0x0010
_ALG_ECDSA: Final = 0x0018
_ALG_ECC: Final = 0x0023
_CURVE_P256: Final = 0x0003

_FIXED_TPM: Final = 1 << 1
_FIXED_PARENT: Final = 1 << 4
_MADE_INSIDE: Final = 1 << 5
_RESTRICTED: Final = 1 << 16
_DECRYPT: Final = 1 << 17
_SIGN: Final = 1 << 18
_WANTED: Final = _FIXED_TPM | _FIXED_PARENT | _MADE_INSIDE | _RESTRICTED | _SIGN

_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """What a quote says that holds."""

    key: VerifyKey
    key_name: bytes
    """What TPMs call the key: 0x000B and SHA-256 of its public area, 34 bytes."""
    pcrs: dict[int, bytes]
    """By index, SHA-256 bank."""
    clock_ms: int
    """Of the TPM, since it was last cleared."""
    reset_count: int
    """Boots of the TPM since then."""
    restart_count: int


def nonce_of(attestation: Attestation) -> bytes:
    """What the TPM signs for an attestation: SHA-256 of its encoding without the quote, which is that of version 1."""
    return hashlib.sha256(statements.encode(replace(attestation, quote=None))).digest()


def check_attestation(attestation: Attestation) -> Quoted | None:
    """What its quote says; None when it has none. Raises ProofError when it does not hold."""
    return None if attestation.quote is None else check_quote(attestation.quote, nonce_of(attestation))


def check_quote(quote: TpmQuote, nonce: bytes) -> Quoted:
    """Raises ProofError: what is not as it must be."""
    try:
        key, name = key_of(quote.public)
        key.verify(quote.message, _signature(quote.signature))
        return _read_message(quote.message, nonce, quote.pcrs, key, name)
    except EvidenceError as error:
        raise ProofError(f"TPM quote: {error}") from error


def key_of(public: bytes) -> tuple[VerifyKey, bytes]:
    """The key of a public area (TPMT_PUBLIC), and its name. Raises ProofError unless it signs only what a TPM says."""
    r = _Octets(public, "public area")
    r.number(2, _ALG_ECC, "type")
    r.number(2, _ALG_SHA256, "name's hash")
    attributes = r.number(4)
    if attributes & _WANTED != _WANTED or attributes & _DECRYPT:
        raise ProofError(
            f"its key (attributes {attributes:#x}) is not one that was made in the TPM, stays there and signs nothing "
            "but the TPM's own words"
        )
    r.sized()  # who may use the key is for its owner to say
    r.number(2, _ALG_NULL, "symmetric algorithm")
    r.number(2, _ALG_ECDSA, "scheme")
    r.number(2, _ALG_SHA256, "scheme's hash")
    r.number(2, _CURVE_P256, "curve")
    r.number(2, _ALG_NULL, "key derivation")
    x, y = (int.from_bytes(r.sized(_COORDINATE_BYTES)) for _ in range(2))
    r.end()
    try:
        point = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise ProofError("public area: its point is not on the curve") from error
    der = point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifyKey(cose.ES256, der), _ALG_SHA256.to_bytes(2) + hashlib.sha256(public).digest()


def _read_message(message: bytes, nonce: bytes, pcrs: tuple[bytes, ...], key: VerifyKey, name: bytes) -> Quoted:
    r = _Octets(message, "message")
    r.number(4, _GENERATED, "magic")
    r.number(2, _ATTEST_QUOTE, "type")
    r.sized()  # the signer's qualified name: tells its hierarchy, which its public area need not be of
    if r.sized() != nonce:
        raise ProofError("it is over another nonce: it was made for something else")
    clock_ms, reset_count, restart_count = r.number(8), r.number(4), r.number(4)
    r.number(1)  # whether the clock may have been set back by a power cut
    r.number(8)  # firmware version
    r.number(4, 1, "number of banks")
    r.number(2, _ALG_SHA256, "bank")
    selected = r.octets(r.number(1))
    indexes = [8 * place + bit for place, octet in enumerate(selected) for bit in range(8) if octet >> bit & 1]
    digest = r.sized()
    r.end()
    if len(indexes) != len(pcrs):
        raise ProofError(f"it is over {len(indexes)} PCRs, and {len(pcrs)} are given")
    if hashlib.sha256(b"".join(pcrs)).digest() != digest:
        raise ProofError("the PCRs beside it are not those that were signed")
    return Quoted(
        key=key,
        key_name=name,
        pcrs=dict(zip(indexes, pcrs, strict=True)),
        clock_ms=clock_ms,
        reset_count=reset_count,
        restart_count=restart_count,
    )


def _signature(encoded: bytes) -> bytes:
    """r || s of a TPMT_SIGNATURE."""
    r = _Octets(encoded, "signature")
    r.number(2, _ALG_ECDSA, "algorithm")
    r.number(2, _ALG_SHA256, "hash")
    parts = [r.sized(_COORDINATE_BYTES).rjust(_COORDINATE_BYTES, b"\0") for _ in range(2)]
    r.end()
    return b"".join(parts)


class _Octets:
    """One pass over one structure. Raises ProofError that names it."""

    def __init__(self, encoded: bytes, what: str) -> None:
        self._left = encoded
        self._what = what

    def octets(self, count: int) -> bytes:
        if count > len(self._left):
            raise ProofError(f"{self._what}: is cut short")
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def number(self, size: int, expected: int | None = None, what: str = "") -> int:
        """Unsigned, of `size` bytes."""
        value = int.from_bytes(self.octets(size))
        if expected is not None and value != expected:
            raise ProofError(f"{self._what}: its {what} is {value:#x}, {expected:#x} is right")
        return value

    def sized(self, most: int = 1 << 16) -> bytes:
        """A TPM2B: two bytes of length, then as many."""
        size = self.number(2)
        if size > most:
            raise ProofError(f"{self._what}: {size} bytes where at most {most} are right")
        return self.octets(size)

    def end(self) -> None:
        if self._left:
            raise ProofError(f"{self._what}: {len(self._left)} bytes after its end")
