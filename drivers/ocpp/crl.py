"""Lists of revoked certificates (CRLs, RFC 5280 section 5): what one says of a certificate. Pure.

Lists come over plain HTTP. One that its issuer did not sign says nothing; where the issuer's certificate is not at
hand, only a word of "revoked" counts, because it takes away and gives nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtensionOID

from drivers.ocpp.ocsp import AHEAD, ALGORITHMS, LIFE_UNTOLD, LONGEST_LIFE, Answer, CertId, Word, id_of

_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.CRL_NUMBER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.ISSUING_DISTRIBUTION_POINT,
    }
)
MOST_ISSUERS: Final = 16
"""Whose signature on one list is remembered to be good or not: a car may bring certificates with names of others."""
_KEYS: Final = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)


class RevokedList:
    """A list that is in force. `until`: when it has to be fetched anew."""

    def __init__(self, der: bytes, now: datetime) -> None:
        """Raises ValueError for what is no complete list of one issuer, in force now."""
        try:
            self._list = x509.load_der_x509_crl(der)
            self._whole = _is_whole(self._list)
            start, end = self._list.last_update_utc, self._list.next_update_utc
        except UnsupportedAlgorithm as error:
            raise ValueError(f"cannot be read: {error}") from None
        self._revoked: frozenset[int] | None = None  # serial numbers, once somebody asked
        self._signed: dict[bytes, bool] = {}  # by fingerprint of an issuer
        end = start + LIFE_UNTOLD if end is None else end
        if start > now + AHEAD or end <= now:
            raise ValueError(f"is of {start.isoformat()} to {end.isoformat()}")
        self.until = min(end, now + LONGEST_LIFE)

    def is_of_issuer(self, cert_id: CertId) -> bool:
        """Whether it names the issuer of that certificate as its own."""
        digest = hashes.Hash(ALGORITHMS[cert_id.algorithm]())
        digest.update(self._list.issuer.public_bytes())
        return digest.finalize() == cert_id.issuer_name_hash

    def of(self, cert_id: CertId, issuers: Iterable[x509.Certificate]) -> Answer | None:
        """What it says of a certificate; None: nothing that counts. Raises ValueError for somebody else's list."""
        if not self.is_of_issuer(cert_id):
            raise ValueError("is of another issuer")
        known = [each for each in issuers if cert_id.same_issuer(id_of(each, each, cert_id.algorithm))]
        if known and not any(self._was_signed_by(each) for each in known):
            raise ValueError("was not signed by its issuer")
        if self._revoked is None:
            self._revoked = frozenset(each.serial_number for each in self._list)
        if cert_id.serial in self._revoked:
            return Answer(b"", Word.REVOKED, self.until)
        return Answer(b"", Word.GOOD, self.until) if known and self._whole else None

    def _was_signed_by(self, issuer: x509.Certificate) -> bool:
        """Looked at once: a megabyte takes milliseconds, and whoever asks may ask all the time."""
        name = issuer.fingerprint(hashes.SHA256())
        if name not in self._signed:
            if len(self._signed) >= MOST_ISSUERS:
                self._signed.clear()
            self._signed[name] = self._signed_by(issuer)
        return self._signed[name]

    def _signed_by(self, issuer: x509.Certificate) -> bool:
        key = issuer.public_key()
        try:
            return isinstance(key, _KEYS) and self._list.is_signature_valid(key)
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            return False


def lists_of_chain(pem: str, roots: Sequence[x509.Certificate]) -> list[tuple[CertId, str, x509.Certificate]]:
    """Of a contract certificate and its sub-CAs, leaf first: which, where its issuer's list is, and the issuer. Never
    raises; what names no list, or whose issuer is not at hand, is left out."""
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
        above = [*chain[1:], *roots]
        found = [
            (below, issuer) for below in chain for issuer in above if issuer.subject == below.issuer != below.subject
        ]
        return [(id_of(below, issuer), url, issuer) for below, issuer in found if (url := _distribution_point(below))]
    except (ValueError, TypeError, UnicodeEncodeError):
        return []


def _is_whole(revoked: x509.CertificateRevocationList) -> bool:
    """Whether who is not in it is not revoked. Raises ValueError for one that must not be used alone."""
    whole = True
    for each in revoked.extensions:
        if each.critical and each.oid not in _UNDERSTOOD:
            raise ValueError(f"has a critical extension {each.oid.dotted_string} that is not understood")
        if isinstance(each.value, x509.IssuingDistributionPoint):
            point = each.value
            if point.indirect_crl or point.only_contains_attribute_certs:
                raise ValueError("is of several issuers, or of no certificates")
            whole = not (point.only_contains_ca_certs or point.only_contains_user_certs or point.only_some_reasons)
    return whole


def _distribution_point(certificate: x509.Certificate) -> str:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return ""
    names = (name for point in points for name in point.full_name or () if point.crl_issuer is None)
    return next((str(name.value) for name in names if isinstance(name, x509.UniformResourceIdentifier)), "")
