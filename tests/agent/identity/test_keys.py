"""Public keys from PEM files."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.evidence.cose import ES256
from agent.identity.errors import KeyFileError
from agent.identity.keys import verify_key_from_pem

PRIVATE = ec.derive_private_key(11, ec.SECP256R1())


def test_a_public_key_gets_the_algorithm_of_its_kind() -> None:
    public = PRIVATE.public_key()
    key = verify_key_from_pem(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), what="root")
    assert key.algorithm == ES256
    assert key.public_key_der == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_private_key_is_refused_and_not_quoted() -> None:
    pem = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyFileError, match="private key") as refusal:
        verify_key_from_pem(pem, what="root")
    assert pem.split(b"\n")[1].decode() not in str(refusal.value)


@pytest.mark.parametrize("pem", [b"", b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused_with_the_name_of_the_file(pem: bytes) -> None:
    with pytest.raises(KeyFileError, match=r"^trust root:"):
        verify_key_from_pem(pem, what="trust root")


def test_a_kind_of_key_that_nothing_here_verifies_is_refused() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    with pytest.raises(KeyFileError):
        verify_key_from_pem(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), what="root")
