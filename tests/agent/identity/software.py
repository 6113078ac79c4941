"""A key in memory that signs as a token would: for tests of what is signed."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence.cose import VerifyKey, verify_key_of


class SoftwareSigner:
    """Fulfils drivers.device.Signer."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None = None) -> None:
        self._private = private or ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key_der(self) -> bytes:
        return self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def verify_key(self) -> VerifyKey:
        return verify_key_of(self.public_key_der)

    @property
    def algorithm(self) -> int:
        return self.verify_key.algorithm

    def sign_now(self, message: bytes) -> bytes:
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(message)
        return _raw(self._private.sign(message, ec.ECDSA(hashes.SHA256())))

    async def sign(self, message: bytes) -> bytes:
        return self.sign_now(message)

    async def sign_digest(self, digest: bytes) -> bytes:
        assert isinstance(self._private, ec.EllipticCurvePrivateKey)
        return _raw(self._private.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))


def _raw(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32) + s.to_bytes(32)
