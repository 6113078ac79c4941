"""A second reader of TPM quotes in attestations, from proto/EVIDENCE.md section 16: it shares no code with agent/."""

from __future__ import annotations

import hashlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.agent.evidence.independent import dump, refuse_unless, statement

PUBLIC = struct.Struct(">HHI H HHHHH H32s H32s")
BEGINNING = struct.Struct(">IHH34sH32s QIIBQ IHB")
SIGNATURE = struct.Struct(">HHH")


def quote(encoded: bytes) -> tuple[str | None, dict[str, str], int | None]:
    """Name of the key, PCRs by index, count of resets; of an attestation without a quote nothing."""
    value = statement(encoded)
    refuse_unless(value[0] == 4, "kind")
    if value[1] == 1:
        return None, {}, None
    public, message, signature, pcrs = value[7]
    nonce = hashlib.sha256(dump([4, 1, *value[2:7]], 0)).digest()

    kind, name_hash, attributes, policy, *algorithms, x_size, x, y_size, y = PUBLIC.unpack(public)
    refuse_unless((kind, name_hash, policy, x_size, y_size) == (0x23, 0x0B, 0, 32, 32), "public area")
    refuse_unless(algorithms == [0x10, 0x18, 0x0B, 0x03, 0x10], "algorithms")
    refuse_unless(attributes & 0x0007_0032 == 0x0005_0032, "attributes")

    magic, made, _, _, size, said, _, resets, _, _, _, banks, bank, width = BEGINNING.unpack_from(message)
    refuse_unless((magic, made, size, said) == (0xFF54_4347, 0x8018, 32, nonce), "message")
    refuse_unless((banks, bank) == (1, 0x0B), "bank")
    rest = message[BEGINNING.size :]
    bits = int.from_bytes(rest[:width], "little")
    indexes = [index for index in range(8 * width) if bits >> index & 1]
    refuse_unless(len(indexes) == len(pcrs), "number of PCRs")
    refuse_unless(rest[width:] == struct.pack(">H", 32) + hashlib.sha256(b"".join(pcrs)).digest(), "PCRs")

    scheme, digest, r_size = SIGNATURE.unpack_from(signature)
    refuse_unless((scheme, digest) == (0x18, 0x0B), "scheme")
    at = SIGNATURE.size + r_size
    (s_size,) = struct.unpack_from(">H", signature, at)
    refuse_unless(len(signature) == at + 2 + s_size, "signature")
    r, s = (int.from_bytes(part) for part in (signature[SIGNATURE.size : at], signature[at + 2 :]))
    key = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    return (
        (b"\x00\x0b" + hashlib.sha256(public).digest()).hex(),
        {str(index): pcr.hex() for index, pcr in zip(indexes, pcrs, strict=True)},
        resets,
    )
