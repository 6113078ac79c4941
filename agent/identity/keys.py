"""Public keys as an operator hands them over: one PEM file, one key, one algorithm."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from agent.evidence.cose import VerifyKey, verify_key_of
from agent.evidence.errors import EvidenceError
from agent.identity.errors import KeyFileError


def verify_key_from_pem(pem: bytes, *, what: str) -> VerifyKey:
    """The key of a PEM text ("BEGIN PUBLIC KEY") with the default algorithm of its kind.

    `what` names the key in the error. Raises KeyFileError.
    """
    if b"PRIVATE KEY" in pem:
        raise KeyFileError(f"{what}: holds a private key; give the public one, and keep that one away from this box")
    try:
        public = load_pem_public_key(pem)
        return verify_key_of(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, UnsupportedAlgorithm, EvidenceError) as error:
        raise KeyFileError(f"{what}: is no public key (PEM) of a kind that is used here") from error
