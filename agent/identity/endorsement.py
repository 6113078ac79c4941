"""Whether a TPM is a genuine one: its endorsement certificate, and a challenge that only that TPM can answer.

The maker of a TPM certifies a key in it that only decrypts (EK). Who wants to know encrypts a secret to it, together
with the name of the attestation key (MakeCredential, TCG TPM 2.0 Library Part 1 section 24): the TPM gives the secret
back only if it holds both keys. Here the secret is then the nonce of a quote, so one answer shows all of it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.enrolment import EnrolmentError, require_root, roots_of

SECRET_BYTES: Final = 32
SEED_BYTES: Final = 32
"""As long as the EK's name hash (SHA-256)."""
_WHAT: Final = "the endorsement certificate"
_FILE: Final = b"\xba\xdc\xc0\xde\x00\x00\x00\x01"
"""What tpm2_activatecredential expects before the two structures."""
_AES_BYTES: Final = 16
_EK_BITS: Final = 2048
_EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate, TCG EK Credential Profile."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A TPM's endorsement certificate that leads to a maker's root."""

    certificate: x509.Certificate
    key: rsa.RSAPublicKey
    root: x509.Certificate

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate."""
        return self.certificate.fingerprint(hashes.SHA256())


def read_certificate(encoded: bytes) -> bytes:
    """The certificate in PEM. TPMs keep it in DER, some with padding after its end. Raises EnrolmentError."""
    if encoded.startswith(b"-----BEGIN"):
        return encoded
    length = _der_length(encoded)
    try:
        return x509.load_der_x509_certificate(encoded[:length]).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise EnrolmentError(f"{_WHAT}: cannot be read: {str(error)[:100]}") from error


def endorsed(chain_pem: bytes, roots_pem: bytes, now: datetime) -> Endorsement:
    """The TPM's certificate, if it leads to one of the roots. Raises EnrolmentError.

    chain_pem: it, and what its maker put between it and the root.
    """
    chain = roots_of(chain_pem, _WHAT)
    root = require_root(chain, roots_of(roots_pem, "the roots of TPM makers"), what=_WHAT, now=now)
    leaf = chain[0]
    if now >= leaf.not_valid_after_utc or now < leaf.not_valid_before_utc:
        raise EnrolmentError(f"{_WHAT}: is good from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc} alone")
    _require_endorsement(leaf)
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _EK_BITS:
        raise EnrolmentError(f"{_WHAT}: is not for an RSA-2048 key, the only kind that can be challenged here")
    return Endorsement(leaf, key, root)


def _require_endorsement(leaf: x509.Certificate) -> None:
    """That it is for an endorsement key, where it says what it is for: a maker certifies other keys too."""
    try:
        named = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        named = []
    except ValueError as error:
        raise EnrolmentError(f"{_WHAT}: its extensions cannot be read") from error
    try:
        authority = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    if authority or (named and _EK_CERTIFICATE not in named):
        raise EnrolmentError(f"{_WHAT}: is a certificate for something else than a TPM's endorsement key")


def make_credential(key: rsa.RSAPublicKey, name: bytes, secret: bytes, seed: bytes) -> bytes:
    """What only the TPM with this EK opens, and only if it holds the key of this name: a file for tpm2-tools.

    `secret` and `seed` are random, SECRET_BYTES and SEED_BYTES long. EK template L-1: AES-128 in CFB mode, SHA-256.
    """
    oaep = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=b"IDENTITY\0")
    aes = algorithms.AES(_kdfa(seed, b"STORAGE", name, _AES_BYTES))
    encryptor = Cipher(aes, CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", hashlib.sha256().digest_size), identity + name, "sha256")
    return _FILE + _sized(_sized(integrity) + identity) + _sized(key.encrypt(seed, oaep))


def _kdfa(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa of TCG TPM 2.0 Library Part 1 section 11.4.10.2, SHA-256, at most 32 bytes."""
    counter, bits = (1).to_bytes(4), (8 * size).to_bytes(4)
    return hmac.digest(key, counter + label + b"\0" + context + bits, "sha256")[:size]


def _sized(octets: bytes) -> bytes:
    return len(octets).to_bytes(2) + octets


def _der_length(encoded: bytes) -> int:
    """Of the first DER value, with its head; all of it where that cannot be told."""
    if len(encoded) < 4 or encoded[:2] != b"\x30\x82":
        return len(encoded)
    return 4 + int.from_bytes(encoded[2:4])
