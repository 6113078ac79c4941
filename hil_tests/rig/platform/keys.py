"""Keys of the practice platform, in files: it is a simulator, and no token is asked of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.evidence.cose import ES256, VerifyKey, low_s

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SoftwareKey:
    """A P-256 key in memory. Fulfils `drivers.device.Signer`, so that it also stands in for a token in tests."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self.private = private

    @classmethod
    def generate(cls) -> Self:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ValueError when the file holds no P-256 key."""
        private = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
            raise ValueError(f"{path}: not a P-256 key")
        return cls(private)

    def save(self, path: Path) -> None:
        """Mode 0600."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(self.private_pem)

    @property
    def private_pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def public_key_der(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def algorithm(self) -> int:
        return ES256

    @property
    def verify_key(self) -> VerifyKey:
        return VerifyKey(ES256, self.public_key_der)

    async def sign(self, message: bytes) -> bytes:
        return self.sign_now(message)

    async def sign_digest(self, digest: bytes) -> bytes:
        return self.sign_digest_now(digest)

    def sign_now(self, message: bytes) -> bytes:
        """r || s, 64 bytes."""
        return self.sign_digest_now(hashlib.sha256(message).digest())

    def sign_digest_now(self, digest: bytes) -> bytes:
        """r || s over a 32-byte digest, with low s, as contracts want it."""
        der = self.private.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        r, s = decode_dss_signature(der)
        return low_s(r.to_bytes(32) + s.to_bytes(32), P256_ORDER)
