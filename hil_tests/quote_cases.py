"""The cases behind attestations.json: quotes built by hand as a TPM builds them, and each way of being wrong.

The keys are published with the vectors. What a TPM itself quotes is in hil_tests/test_tpm_attestation.py.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.evidence import cbor, cose, statements
from agent.evidence.statements import Attestation, TpmQuote
from hil_tests.evidence_cases import Case, TestKey, one_of_each, plain

AK: Final = TestKey("attestation key of a TPM", cose.ES256)
OTHER: Final = TestKey("a key outside of the TPM", cose.ES256)
PCRS: Final = tuple(hashlib.sha256(b"pcr %d" % index).digest() for index in range(10))
ATTRIBUTES: Final = 0x0005_0072
"""fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign."""


def sized(octets: bytes) -> bytes:
    return struct.pack(">H", len(octets)) + octets


def public_area(key: TestKey = AK, attributes: int = ATTRIBUTES) -> bytes:
    """TPMT_PUBLIC of a P-256 key that signs ECDSA with SHA-256."""
    public = load_der_public_key(key.public_key_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    point = public.public_numbers()
    return (
        struct.pack(">HHI", 0x0023, 0x000B, attributes)
        + sized(b"")
        + struct.pack(">HHHHH", 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
        + sized(point.x.to_bytes(32))
        + sized(point.y.to_bytes(32))
    )


def message(
    nonce: bytes,
    pcrs: Sequence[bytes] = PCRS,
    *,
    magic: int = 0xFF544347,
    kind: int = 0x8018,
    bank: int = 0x000B,
    selected: bytes = b"\xff\x03\x00",
) -> bytes:
    """TPMS_ATTEST of a quote."""
    name = b"\x00\x0b" + hashlib.sha256(public_area()).digest()
    return (
        struct.pack(">IH", magic, kind)
        + sized(name)
        + sized(nonce)
        + struct.pack(">QIIBQ", 86_400_000, 7, 2, 1, 0x2020_0101_0000_0000)
        + struct.pack(">IHB", 1, bank, len(selected))
        + selected
        + sized(hashlib.sha256(b"".join(pcrs)).digest())
    )


def signature(over: bytes, key: TestKey = AK) -> bytes:
    """TPMT_SIGNATURE, ECDSA with SHA-256."""
    raw = key.sign(over)
    return struct.pack(">HH", 0x0018, 0x000B) + sized(raw[:32]) + sized(raw[32:])


_PLAIN: Final = next(each for each in one_of_each() if isinstance(each, Attestation))
NONCE: Final = hashlib.sha256(statements.encode(_PLAIN)).digest()


def quoted(
    said: bytes | None = None, *, key: TestKey = AK, public: bytes | None = None, pcrs: Sequence[bytes] = PCRS
) -> Attestation:
    said = message(NONCE) if said is None else said
    public = public_area() if public is None else public
    quote = TpmQuote(public=public, message=said, signature=signature(said, key), pcrs=tuple(pcrs))
    return replace(_PLAIN, quote=quote)


EXAMPLE: Final = quoted()


def cases() -> Iterator[Case]:
    """Of attestations.json."""

    def wrong(name: str, attestation: Attestation) -> Case:
        return Case(name, "proof", {"statement": statements.encode(attestation)})

    name = (b"\x00\x0b" + hashlib.sha256(public_area()).digest()).hex()
    pcrs = {str(index): value.hex() for index, value in enumerate(PCRS)}
    yield Case(
        "a quote over PCRs 0 to 9", None, {"statement": statements.encode(EXAMPLE)},
        {"key_name": name, "pcrs": dict(pcrs), "reset_count": 7},
    )  # fmt: skip
    few = message(NONCE, PCRS[7:8], selected=b"\x80\x00\x00")
    yield Case(
        "a quote over PCR 7 alone", None, {"statement": statements.encode(quoted(few, pcrs=PCRS[7:8]))},
        {"key_name": name, "pcrs": {"7": PCRS[7].hex()}, "reset_count": 7},
    )  # fmt: skip
    yield Case(
        "no TPM, no quote", None, {"statement": statements.encode(_PLAIN)},
        {"key_name": None, "pcrs": {}, "reset_count": None},
    )  # fmt: skip
    yield wrong("a nonce of its own", quoted(message(hashlib.sha256(b"another").digest())))
    yield wrong("the quote of another attestation", replace(EXAMPLE, software_digest=bytes(32)))
    yield wrong("of another time", replace(EXAMPLE, timestamp_us=EXAMPLE.timestamp_us + 1))
    yield wrong("other PCRs beside it", quoted(pcrs=(bytes(32), *PCRS[1:])))
    yield wrong("a PCR too few", quoted(pcrs=PCRS[:-1]))
    yield wrong("PCRs in another order", quoted(pcrs=PCRS[::-1]))
    yield wrong("signed by another key", quoted(key=OTHER))
    yield wrong("a key that signs anything", quoted(public=public_area(attributes=ATTRIBUTES & ~0x0001_0000)))
    yield wrong("a key that was loaded from outside", quoted(public=public_area(attributes=ATTRIBUTES & ~0x20)))
    yield wrong("a key that may leave the TPM", quoted(public=public_area(attributes=ATTRIBUTES & ~0x02)))
    yield wrong("a key that decrypts", quoted(public=public_area(attributes=ATTRIBUTES | 0x0002_0000)))
    yield wrong("not made by a TPM", quoted(message(NONCE, magic=0xFF544348)))
    yield wrong("a certificate of a key and no quote", quoted(message(NONCE, kind=0x8017)))
    yield wrong("the SHA-1 bank", quoted(message(NONCE, bank=0x0004)))
    yield wrong("a byte after the message's end", quoted(message(NONCE) + b"\x00"))
    yield wrong("a message cut short", quoted(message(NONCE)[:-1]))
    yield wrong("a public area cut short", quoted(public=public_area()[:-1]))
    yield wrong("a point beside the curve", quoted(public=public_area()[:-1] + bytes([public_area()[-1] ^ 1])))


def statement_cases() -> Iterator[Case]:
    """Of statements.json: the layout alone."""
    yield Case("Attestation with a quote", None, {"statement": statements.encode(EXAMPLE)}, {"fields": plain(EXAMPLE)})
    good = cbor.decode(statements.encode(EXAMPLE), what="attestation")
    assert isinstance(good, list)
    quote = good[7]
    assert isinstance(quote, list)
    wrong: list[tuple[str, list[cbor.Value]]] = [
        ("attestation of version 2 without a quote", good[:7]),
        ("attestation of version 1 with a quote", [good[0], 1, *good[2:]]),
        ("attestation whose quote is null", [*good[:7], None]),
        ("quote with a part too many", [*good[:7], [*quote, b""]]),
        ("quote with an empty message", [*good[:7], [quote[0], b"", *quote[2:]]]),
        ("quote with a message too long", [*good[:7], [quote[0], bytes(1025), *quote[2:]]]),
        ("quote over no PCR", [*good[:7], [*quote[:3], []]]),
        ("quote with a short PCR", [*good[:7], [*quote[:3], [bytes(20)]]]),
        ("quote with 25 PCRs", [*good[:7], [*quote[:3], [bytes(32) for _ in range(25)]]]),
    ]
    for name, fields in wrong:
        yield Case(name, "malformed", {"statement": cbor.encode(fields)})
