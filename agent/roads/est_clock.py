"""The time by the EST server's clock, for a box where nothing vouches for any: enough to ask for a certificate by.

Nothing else believes it: readings, commands and windows wait for NTP or the platform's signed time. TLS checks the
chain and the name as ever and leaves the dates to us, for the system's clock may be months behind: the server's
certificate and all those above it must be good at the moment that the server itself tells, and that moment must be
after all that this box has known. Whoever stole a key whose certificate has ended since can tell a moment in its life:
what he is shown by that is a login that ended with that moment. He cannot tell one to come: an authority that has ended
makes no certificates for it any more.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509

from agent.identity import est
from agent.identity.enrolment import CLOCK_TOLERANCE
from agent.identity.est import EstError

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which Python has no name."""

_DER: Final = 2
"""ENCODING_DER of _ssl."""

Judge = Callable[[Sequence[x509.Certificate]], None]
"""Is shown a verified chain, the server's own certificate first. Raises ssl.SSLCertVerificationError."""


def judged_by(context: ssl.SSLContext, judge: Judge) -> ssl.SSLContext:
    """Have a context leave the dates of certificates to `judge`, who sees the chain before anything is sent."""

    class Judged(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            chain = _verified_chain(self)
            if not chain:
                raise ssl.SSLCertVerificationError("the server showed no certificate")
            judge(chain)

    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.sslobject_class = Judged
    return context


def _verified_chain(connection: ssl.SSLObject) -> list[x509.Certificate]:
    # Public with Python 3.13, where it gives DER; before, OpenSSL's answer under the same name in the object within.
    chain = getattr(connection, "_sslobj").get_verified_chain() or []  # noqa: B009  # it has no type
    return [x509.load_der_x509_certificate(one.public_bytes(_DER)) for one in chain]


def good_at(now: datetime) -> Judge:
    """Who lets a server in whose chain is good at a moment, give or take what clocks differ by."""

    def judge(chain: Sequence[x509.Certificate]) -> None:
        for above, certificate in enumerate(chain):
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begins - CLOCK_TOLERANCE <= now < ends:
                whose = (
                    f"that of {est.quoted(certificate.subject.rfc4514_string().encode())} above the" if above else "the"
                )
                raise ssl.SSLCertVerificationError(
                    f"{whose} server's certificate is good from {_day(begins)} to {_day(ends)}, and by its clock it "
                    f"is {_day(now)}"
                )

    return judge


def time_told(date: str | None, not_before: datetime) -> datetime:
    """The moment in a Date header (RFC 9110 section 6.6.1). Raises EstError for one that cannot be."""
    text = (date or "").strip()
    try:
        told = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        raise EstError("does not tell the time (no Date in its answer), and nothing vouches for the one here") from None
    if told.tzinfo is None:
        told = told.replace(tzinfo=UTC)
    if told + CLOCK_TOLERANCE < not_before:
        raise EstError(f"says that it is {_day(told)}, and this gateway has known {_day(not_before)}")
    return max(told, not_before)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
