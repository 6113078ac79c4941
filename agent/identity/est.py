"""What goes over EST (RFC 7030, with RFC 8951), as bytes: no socket here.

A request is PKCS#10 in base64, an answer a certs-only PKCS#7 in base64, or "later" (202, Retry-After). An answer often
holds the certificate alone, and its intermediates come from /cacerts. No root of an answer is ever trusted: roots come
by their fingerprint, from a person.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from agent.identity.enrolment import MOST_CHAIN, issued, spki_of
from agent.identity.errors import IdentityError

REQUEST_TYPE: Final = "application/pkcs10"
ANSWER_TYPE: Final = "application/pkcs7-mime"
MOST_CERTIFICATES: Final = 16
MOST_RETRY_AFTER_S: Final = 86_400
"""Whoever says later than that is asked again after it all the same: a certificate ends meanwhile."""
MOST_QUOTED: Final = 160
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class EstError(IdentityError):
    """What the EST server answered cannot be used. Nothing was changed."""

    def __init__(self, why: str, *, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s
        """Not to be asked again before so many seconds, by the server's own word."""


def request_body(request_pem: bytes) -> bytes:
    """The body of an enrolment: DER in base64, in lines as MIME has them, which readers of before RFC 8951 need."""
    return base64.encodebytes(x509.load_pem_x509_csr(request_pem).public_bytes(Encoding.DER))


def certificates_in(content_type: str, body: bytes) -> list[x509.Certificate]:
    """The certificates of an answer with status 200. Raises EstError that quotes what came instead."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != ANSWER_TYPE:
        raise EstError(
            f"answered with {quoted(kind.encode()) or 'no content type'} and not {ANSWER_TYPE}: what answers there is "
            f"no EST server, or a captive portal before it ({quoted(body)})"
        )
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise EstError(f"its certificates are not in base64: {quoted(body)}") from error
    try:
        with warnings.catch_warnings():
            # OpenSSL leaves a set in the order in which it came, which DER does not.
            warnings.simplefilter("ignore")
            certificates = pkcs7.load_der_pkcs7_certificates(der)
        for certificate in certificates:
            spki_of(certificate)
    except Exception as error:  # of many kinds, and not all of them ValueErrors
        raise EstError(f"its PKCS#7 cannot be read: {type(error).__name__}: {str(error)[:100]}") from error
    if not 1 <= len(certificates) <= MOST_CERTIFICATES:
        raise EstError(f"{len(certificates)} certificates came, 1 to {MOST_CERTIFICATES} are right")
    return certificates


def issued_one(certificates: Sequence[x509.Certificate], public_key_der: bytes) -> x509.Certificate:
    """The one certificate for our key. Raises EstError."""
    ours = [certificate for certificate in certificates if spki_of(certificate) == public_key_der]
    if not ours:
        raise EstError("what came is for another key than the one in the request")
    if len(ours) > 1:
        raise EstError(f"{len(ours)} certificates came for one request")
    return ours[0]


def chain_pem(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> tuple[bytes, bool]:
    """The leaf and those of `others` that lead from it to a root, PEM; whether they do. Who is missing `check_chain`
    says."""
    chain = [leaf]
    for _ in range(MOST_CHAIN):
        if any(issued(chain[-1], root) for root in roots):
            return _pem(chain), True
        issuers = [other for other in others if other not in chain and issued(chain[-1], other)]
        if not issuers:
            break
        # A CA that renewed its intermediate under the same key may still show the one before.
        chain.append(max(issuers, key=lambda issuer: issuer.not_valid_after_utc))
    return _pem(chain), False


def require_continuation(before: x509.Certificate, leaf: x509.Certificate) -> None:
    """That a renewal renews: same names, a later end. Raises EstError."""
    lost = sorted(str(name) for name in names_of(before) - names_of(leaf))
    if lost:
        raise EstError(f"the new certificate lacks what the present one names: {', '.join(lost)[:MOST_QUOTED]}")
    if leaf.not_valid_after_utc <= before.not_valid_after_utc:
        raise EstError(
            f"the new certificate ends on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and the present one not before"
        )


def asks_for_successor(request_pem: bytes, present: x509.Certificate) -> bool:
    """Whether a request renews this certificate: a server that said "later" waits for the same one (section 4.2.3)."""
    try:
        request = x509.load_pem_x509_csr(request_pem)
        return (
            request.is_signature_valid
            and spki_of(request) == spki_of(present)
            and request.subject == present.subject
            and names_of(request) == names_of(present)
        )
    except Exception:  # whatever lies there, it is not the request
        return False


def names_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> set[object]:
    """Alternative names, and common names."""
    names: set[object] = {str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        names |= set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        return names
    return names


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds until somebody may ask again (RFC 9110 section 10.2.3), bounded; None: nothing usable was said."""
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return float(min(int(text), MOST_RETRY_AFTER_S))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # of a year or a second with many digits
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), float(MOST_RETRY_AFTER_S))


def basic_login(password: str) -> str:
    """The value of Authorization (RFC 7617), without a user: RFC 7030 section 3.2.3. Raises EstError."""
    if not (password and password.isascii() and password.isprintable()):
        raise EstError("a secret for EST is of printable ASCII characters")
    return "Basic " + base64.b64encode(f":{password}".encode()).decode()


def quoted(body: bytes) -> str:
    """The beginning of what a server said, as ASCII that moves no terminal and breaks no line."""
    text = " ".join(body[: 4 * MOST_QUOTED].decode("utf-8", errors="replace").split())
    return text.encode("unicode_escape").decode("ascii")[:MOST_QUOTED]


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
