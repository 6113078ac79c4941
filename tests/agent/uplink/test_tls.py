"""What is wrong with the TLS files is said before a handshake."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent.uplink.errors import CredentialsError
from agent.uplink.tls import client_credentials, credentials_from_files


def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "g")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


GOOD = certificate(ec.generate_private_key(ec.SECP256R1()))


def sign(digest: bytes) -> bytes:
    raise AssertionError("nothing is signed here")


def test_certificate_of_the_right_kind_makes_credentials() -> None:
    assert client_credentials(ca_pem=GOOD, certificate_chain_pem=GOOD, public_key_der=None, sign_digest=sign)


@pytest.mark.parametrize(
    ("ca", "chain", "said"),
    [
        (GOOD, b"nonsense", "client certificate file holds no readable"),
        (GOOD, b"", "client certificate file holds no readable"),
        (b"nonsense", GOOD, "CA file holds no readable"),
        (GOOD, certificate(ec.generate_private_key(ec.SECP384R1())), "not for a P-256 key"),
    ],
)
def test_file_that_cannot_serve_is_refused_with_what_to_do(ca: bytes, chain: bytes, said: str) -> None:
    with pytest.raises(CredentialsError, match=said):
        client_credentials(ca_pem=ca, certificate_chain_pem=chain, public_key_der=None, sign_digest=sign)


def test_certificate_for_another_key_than_the_tokens_is_refused() -> None:
    with pytest.raises(CredentialsError, match="another key"):
        client_credentials(ca_pem=GOOD, certificate_chain_pem=GOOD, public_key_der=b"other", sign_digest=sign)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"absent\.pem"):
        credentials_from_files(
            ca_file=tmp_path / "absent.pem",
            certificate_file=tmp_path / "absent.pem",
            public_key_der=None,
            sign_digest=sign,
        )
