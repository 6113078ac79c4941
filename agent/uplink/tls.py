"""Mutual TLS whose client key stays in the token: grpc asks for one ECDSA signature per handshake."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.uplink.errors import CredentialsError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from grpc import experimental

ECDSA_SECP256R1_SHA256: Final = 3
"""grpc.experimental.PrivateKeySignatureAlgorithm.ECDSA_SECP256R1_SHA256; the callback gets the plain number."""

SignDigest = Callable[[bytes], bytes]
"""SHA-256 digest (32 bytes) -> r || s (64 bytes). Called on a thread of grpc and may block it, up to its own deadline;
what it raises ends the handshake, and its text shows in the link's status."""

Credentials = Callable[[], grpc.ChannelCredentials]
"""Makes the TLS credentials for the next connection; may block on files, and raises CredentialsError or
SignerUnavailableError: see `credentials_from_files`."""


def credentials_from_files(
    *, ca_file: Path, certificate_file: Path, public_key_der: bytes | None, sign_digest: SignDigest
) -> grpc.ChannelCredentials:
    """As `client_credentials`, reading the files anew: a renewed certificate counts from the next connection on.

    Blocks on the disk. Raises CredentialsError.
    """
    texts = []
    for path in (ca_file, certificate_file):
        try:
            texts.append(path.read_bytes())
        except OSError as error:
            raise CredentialsError(f"{path}: cannot be read: {error.strerror}; enrol this gateway first") from error
    return client_credentials(
        ca_pem=texts[0], certificate_chain_pem=texts[1], public_key_der=public_key_der, sign_digest=sign_digest
    )


def client_credentials(
    *, ca_pem: bytes, certificate_chain_pem: bytes, public_key_der: bytes | None, sign_digest: SignDigest
) -> grpc.ChannelCredentials:
    """Credentials for one channel.

    The certificate is checked here, because grpc refuses a bad one only deep inside a handshake: it must be for a
    P-256 key, and for `public_key_der` (the token's own) where that is known. Raises CredentialsError.
    """
    _check_certificate(certificate_chain_pem, public_key_der)
    try:
        x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise CredentialsError(f"the platform's CA file holds no readable PEM certificate: {error}") from error

    def sign(message: bytes, algorithm: int, on_complete: object) -> bytes:
        if algorithm != ECDSA_SECP256R1_SHA256:
            raise CredentialsError(f"the platform asks for TLS signature algorithm {algorithm}; the key is P-256")
        raw = sign_digest(hashlib.sha256(message).digest())
        return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))

    with warnings.catch_warnings():
        # The function is new in grpcio and marked experimental; requirements.lock pins the release that we tested.
        warnings.simplefilter("ignore", experimental.ExperimentalApiWarning)
        credentials: grpc.ChannelCredentials = experimental.ssl_channel_credentials_with_custom_signer(
            private_key_sign_fn=sign,
            root_certificates=ca_pem,
            certificate_chain=certificate_chain_pem,
        )
    return credentials


def _check_certificate(chain_pem: bytes, public_key_der: bytes | None) -> None:
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        key = leaf.public_key()
    except (ValueError, IndexError) as error:
        raise CredentialsError(f"the client certificate file holds no readable PEM certificate: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialsError("the client certificate is not for a P-256 key; enrol again with the token's CSR")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public_key_der is not None and spki != public_key_der:
        raise CredentialsError(
            "the client certificate is for another key than the token's `uplink-tls`; enrol again with the token's CSR"
        )
