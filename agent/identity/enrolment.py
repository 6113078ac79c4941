"""Enrolment as people do it: fingerprints that can be read out, and certificates looked at before they are used.

The platform's root comes over any wire; what makes it the platform's is its fingerprint, which the installer has from a
QR code or a letter. The gateway's fingerprint goes the other way: its owner compares what the platform shows with it.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.identity.errors import IdentityError

ROOT_QR: Final = "V2G-ROOT:1:"
GATEWAY_QR: Final = "V2G-GATEWAY:1:"
MOST_CHAIN: Final = 5
MOST_PEM_BYTES: Final = 64 * 1024
RENEW_AT_MOST: Final = timedelta(days=30)
RENEW_SHARE: Final = 3
"""A certificate is renewed in the last third of its life, and not earlier than RENEW_AT_MOST before its end."""
STAGES: Final = (1.0, 7 / 30, 1 / 30, 0.0)
"""Shares of the time for renewing after which its failure is told anew: with 30, 7, 1 and 0 days left of 30."""
LAST_STAGES: Final = 2
"""From this one on it is critical."""
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""A certificate that was just made by a clock a little ahead of ours is not refused."""

_GROUP: Final = 4
_CODE_LETTERS: Final = 16
_MISREAD: Final = str.maketrans("018", "OIB", " -\t")
"""Base32 has no 0, 1 and 8: who types one has misread a letter."""


class EnrolmentError(IdentityError):
    """What was to be installed is not what it should be. Nothing was changed."""


class Usage(Enum):
    """What a certificate is for."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def fingerprint_words(text: str) -> str:
    """A name in 16 letters and digits that can be read out over a telephone: 80 bits of its SHA-256.

    Base32 (RFC 4648), in groups of four.
    """
    return _code(hashlib.sha256(text.encode()).digest())


def same_code(typed: str, code: str) -> bool:
    """Whether somebody typed this code; case, blanks and hyphens do not count, and 0, 1, 8 are O, I, B."""
    return _plain(typed) == _plain(code)


def gateway_qr(gateway_id: str) -> str:
    """What a QR code of this gateway holds."""
    return GATEWAY_QR + gateway_id


def is_gateway(typed: str, gateway_id: str) -> bool:
    """Whether a typed or scanned text names this gateway: its fingerprint, its QR code, or its whole name."""
    return typed.strip() in (gateway_id, gateway_qr(gateway_id)) or same_code(typed, fingerprint_words(gateway_id))


def root_code(root: x509.Certificate) -> str:
    """The short code of a root certificate: as `fingerprint_words`, of its DER."""
    return _code(root.fingerprint(hashes.SHA256()))


def root_qr(root: x509.Certificate) -> str:
    """What the QR code of a root certificate holds."""
    return ROOT_QR + root.fingerprint(hashes.SHA256()).hex()


def read_root(pem: bytes, typed: str, now: datetime) -> x509.Certificate:
    """The platform's root, if it is the one that the installer was told of. Raises EnrolmentError.

    typed: the short code, the QR code's text, or SHA-256 in hexadecimal (with or without colons).
    """
    certificates = _read(pem, "the platform's root")
    if len(certificates) != 1:
        raise EnrolmentError(f"the platform's root: the file holds {len(certificates)} certificates, one is right")
    root = certificates[0]
    if not _names_root(typed, root):
        raise EnrolmentError(
            f"the platform's root: its fingerprint is {root_code(root)}, and {typed.strip()[:80]!r} was given: this is "
            "not the platform that you were told of; ask it, and use nothing of this file"
        )
    try:
        root.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise EnrolmentError("the platform's root: is not signed by itself, so it is no root") from error
    _check_authority(root, "the platform's root")
    _check_time(root, "the platform's root", now)
    return root


def roots_of(pem: bytes, what: str) -> list[x509.Certificate]:
    """The certificates that are trusted already. Raises EnrolmentError."""
    return _read(pem, what)


def check_chain(
    chain_pem: bytes,
    roots: list[x509.Certificate],
    *,
    what: str,
    public_key_der: bytes,
    gateway_id: str | None,
    usage: Usage,
    now: datetime,
) -> x509.Certificate:
    """The first certificate of a chain, if it is for this key and use, and leads to a root. Raises EnrolmentError.

    gateway_id: what it must name (SAN, URI) where it is the gateway's as a client. `what` names it in the error.
    """
    chain = _read(chain_pem, what)
    leaf = chain[0]
    if spki_of(leaf) != public_key_der:
        raise EnrolmentError(
            f"{what}: is for another key than this gateway's; send the present request to the CA again"
        )
    _check_usage(leaf, what, usage)
    if gateway_id is not None:
        _check_name(leaf, what, gateway_id)
    _check_time(leaf, what, now)
    require_root(chain, roots, what=what, now=now)
    return leaf


def require_root(
    chain: list[x509.Certificate], roots: list[x509.Certificate], *, what: str, now: datetime
) -> x509.Certificate:
    """The root that the first certificate of a chain leads to, over the others in it. Raises EnrolmentError."""
    *between, root = _way_to_root(chain, roots, what)
    for authority in between:
        _check_authority(authority, what)
        _check_time(authority, f"an intermediate of {what}", now)
    _check_time(root, f"the root of {what}", now)
    return root


def leads_to(chain_pem: bytes, roots: list[x509.Certificate]) -> bool:
    """Whether a certificate in a file was issued below one of these roots, whatever its dates and its use."""
    try:
        _way_to_root(_read(chain_pem, "certificate"), roots, "certificate")
    except EnrolmentError:
        return False
    return True


def _way_to_root(chain: list[x509.Certificate], roots: list[x509.Certificate], what: str) -> list[x509.Certificate]:
    """Whoever issued the first of a chain, up to and including a root."""
    at = chain[0]
    way: list[x509.Certificate] = []
    for depth in range(MOST_CHAIN):
        issuer = next((root for root in roots if issued(at, root)), None)
        if issuer is not None:
            return [*way, issuer]
        following = next((other for other in chain[1:] if other is not at and issued(at, other)), None)
        if following is None:
            missing = at.issuer.rfc4514_string()[:80]
            raise EnrolmentError(
                f"{what}: the chain is broken after {depth + 1} certificates: {missing!r} issued the last one, and is "
                "neither in the file nor a root that is trusted"
            )
        way.append(following)
        at = following
    raise EnrolmentError(f"{what}: no root after {MOST_CHAIN} certificates")


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate is good, and when a new one is to be asked for."""

    begins: datetime
    ends: datetime

    @property
    def renew_from(self) -> datetime:
        """The last third of its life, and at most 30 days before its end."""
        return self.ends - min(RENEW_AT_MOST, (self.ends - self.begins) / RENEW_SHARE)

    def due(self, now: datetime) -> bool:
        """Whether a new one should be asked for."""
        return now >= self.renew_from

    def stage(self, now: datetime) -> int:
        """How near the end is while nothing has come of a renewal: 0 to len(STAGES) - 1, the last one over it."""
        window, left = self.ends - self.renew_from, self.ends - now
        return max((i for i, share in enumerate(STAGES) if left <= window * share), default=0)

    def over(self, now: datetime) -> bool:
        """Whether it is good no more."""
        return now >= self.ends


def validity_of(chain_pem: bytes, what: str) -> tuple[Validity, bytes]:
    """Of the first certificate in a file, with its SubjectPublicKeyInfo. Raises EnrolmentError."""
    leaf = _read(chain_pem, what)[0]
    return Validity(leaf.not_valid_before_utc, leaf.not_valid_after_utc), spki_of(leaf)


def _code(digest: bytes) -> str:
    letters = b32encode(digest[:10]).decode()
    return "-".join(letters[i : i + _GROUP] for i in range(0, _CODE_LETTERS, _GROUP))


def _plain(typed: str) -> str:
    return typed.strip().upper().translate(_MISREAD)


def _names_root(typed: str, root: x509.Certificate) -> bool:
    digest = root.fingerprint(hashes.SHA256()).hex()
    text = typed.strip()
    long = text.removeprefix(ROOT_QR).replace(":", "").lower() if re.search(r"[:0-9a-fA-F]{64}", text) else ""
    return long == digest or same_code(text, root_code(root))


def _read(pem: bytes, what: str) -> list[x509.Certificate]:
    if len(pem) > MOST_PEM_BYTES:
        raise EnrolmentError(f"{what}: {len(pem)} bytes, at most {MOST_PEM_BYTES} are allowed")
    if b"PRIVATE KEY" in pem:
        raise EnrolmentError(f"{what}: holds a private key; a CA sends certificates and never keys")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            spki_of(certificate)
    except Exception as error:  # of many kinds, and not all of them ValueErrors
        raise EnrolmentError(f"{what}: no certificate in PEM: {type(error).__name__}: {str(error)[:100]}") from error
    return certificates


def issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    """Whether `by` signed it, and is named as its issuer."""
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_authority(certificate: x509.Certificate, what: str) -> None:
    try:
        may = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        may = False
    if not may:
        name = certificate.subject.rfc4514_string()[:80]
        raise EnrolmentError(f"{what}: {name!r} may not issue certificates (no CA by its basic constraints)")


def _check_usage(leaf: x509.Certificate, what: str, usage: Usage) -> None:
    try:
        named = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # good for everything
    except ValueError as error:
        raise EnrolmentError(f"{what}: its extensions cannot be read") from error
    if usage.value not in named and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in named:
        raise EnrolmentError(f"{what}: is not for TLS {usage.name.lower()}s by its extended key usage")


def _check_name(leaf: x509.Certificate, what: str, gateway_id: str) -> None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if gateway_id not in uris:
        raise EnrolmentError(f"{what}: names {[uri[:80] for uri in uris[:3]]} and not this gateway, {gateway_id}")


def _check_time(certificate: x509.Certificate, what: str, now: datetime) -> None:
    if now >= certificate.not_valid_after_utc:
        raise EnrolmentError(f"{what}: has expired on {certificate.not_valid_after_utc:%Y-%m-%d}; ask for a new one")
    if now + CLOCK_TOLERANCE < certificate.not_valid_before_utc:
        raise EnrolmentError(
            f"{what}: is good from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, and it is "
            f"{now:%Y-%m-%d %H:%M}; look at the clock of this gateway"
        )


def spki_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
