"""The time by the EST server's clock, for a box where nothing vouches for any: enough to ask for a certificate by.

Nothing else believes it: readings, commands and windows wait for NTP or the platform's signed time. TLS checks the
chain and the name as ever and leaves the dates to us, for the system's clock may be months behind: the server's
certificate must be good at the moment that the server itself tells, and that moment must be after all that this box has
known. Whoever stole a key whose certificate has ended since can tell a moment in its life, and is refused by the floor.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509

from agent.identity.enrolment import CLOCK_TOLERANCE
from agent.identity.est import EstError

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which Python has no name."""

Judge = Callable[[x509.Certificate], None]
"""Raises ssl.SSLCertVerificationError."""


def judged_by(context: ssl.SSLContext, judge: Judge) -> ssl.SSLContext:
    """Have a context leave the dates of certificates to `judge`, who sees the server's before anything is sent."""

    class Judged(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            shown = self.getpeercert(binary_form=True)
            if shown is None:
                raise ssl.SSLCertVerificationError("the server showed no certificate")
            judge(x509.load_der_x509_certificate(shown))

    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.sslobject_class = Judged
    return context


def good_at(now: datetime) -> Judge:
    """Who lets a server in whose certificate is good at a moment, give or take what clocks differ by."""

    def judge(certificate: x509.Certificate) -> None:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins - CLOCK_TOLERANCE <= now < ends:
            raise ssl.SSLCertVerificationError(
                f"the server's certificate is good from {_day(begins)} to {_day(ends)}, and by its clock it is "
                f"{_day(now)}"
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
