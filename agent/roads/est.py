"""The way to the platform's EST server (RFC 7030): one HTTPS request at a time, bounded, to the place that was named.

It is verified by the CA file and by nothing else: a captive portal's certificate, or one of a public CA, is refused.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from agent.identity import est
from agent.identity.enrolment import leads_to, roots_of, validity_of
from agent.identity.errors import IdentityError
from agent.identity.est import EstError
from agent.roads.asking import Answer, exchange
from agent.roads.est_clock import good_at, judged_by, time_told
from agent.uplink.channel import advice
from agent.uplink.errors import CredentialsError
from agent.uplink.mqtt_login import tls_context

TIMEOUT_S: Final = 30.0
LARGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Later:
    """The CA has the request and has not decided (202): the same request is to be sent again."""

    after_s: float | None
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EstServer:
    """Where certificates are asked for, and how the gateway shows there who it is."""

    url: str
    """Up to .well-known/est or a label below it."""
    ca_file: Path
    """Who certifies it, PEM."""
    login: Callable[[datetime], Awaitable[str]]
    """The value of Authorization, made anew for each request, at this moment. Raises SignerUnavailableError."""
    client_files: tuple[Path, Path] | None = None
    """Certificate and key for mutual TLS, where the gateway has one with a key that Python's TLS can use."""
    client_roots: Path | None = None
    """Below whose roots a certificate must be to be shown here, PEM: another CA's is for others to see."""
    vouched: bool = True
    """Whether the system's clock may judge the server's certificate; else the moments that are given do."""

    async def time(self, not_before: datetime) -> datetime:
        """The server's own time, which must be in the life of its certificate and not before a moment that has been.

        It is told nothing for it. Raises as `enroll`.
        """
        shown: list[Sequence[x509.Certificate]] = []
        tls = judged_by(await asyncio.to_thread(tls_context, self.ca_file, None, None, None), shown.append)
        answer = await _exchange("GET", f"{self.url}/cacerts", not_before, tls, headers={})
        told = time_told(answer.date, not_before)
        try:
            good_at(told)(shown[-1])
        except ssl.SSLCertVerificationError as error:
            raise EstError(str(error)) from error
        return told

    async def enroll(self, request_pem: bytes, now: datetime, *, again: bool = True) -> list[x509.Certificate] | Later:
        """The certificates that came for a request. Raises EstError, OSError, TimeoutError, CredentialsError and what
        `login` raises. `again`: it renews (/simplereenroll), else it is the first (/simpleenroll)."""
        answer = await self._ask(
            "POST",
            "simplereenroll" if again else "simpleenroll",
            now,
            body=est.request_body(request_pem),
            headers={
                "Content-Type": est.REQUEST_TYPE,
                # RFC 8951 has it ignored; servers of before look for it.
                "Content-Transfer-Encoding": "base64",
                "Authorization": await self.login(now),
            },
        )
        if answer.status == 202:
            return Later(est.retry_after_s(answer.retry_after, now), est.quoted(answer.body))
        return est.certificates_in(answer.content_type, answer.body)

    async def authorities(self, now: datetime) -> list[x509.Certificate]:
        """What /cacerts tells. Raises as `enroll`."""
        answer = await self._ask("GET", "cacerts", now, headers={})
        return est.certificates_in(answer.content_type, answer.body)

    async def _ask(
        self, method: str, operation: str, now: datetime, *, headers: dict[str, str], body: bytes | None = None
    ) -> Answer:
        tls = await asyncio.to_thread(self._tls, now)
        return await _exchange(method, f"{self.url}/{operation}", now, tls, headers=headers, body=body)

    def _tls(self, now: datetime) -> ssl.SSLContext:
        certificate, key = self._shown(now) or (None, None)
        try:
            context = tls_context(self.ca_file, None, certificate, key)
        except CredentialsError:
            if certificate is None:
                raise
            # That another certificate's files are of no use, those tell who need them; the login is enough here.
            context = tls_context(self.ca_file, None, None, None)
        return context if self.vouched else judged_by(context, good_at(now))

    def _shown(self, now: datetime) -> tuple[Path, Path] | None:
        """The files for mutual TLS where that is for this server to see: the login is enough without."""
        if self.client_files is None:
            return None
        certificate, _ = self.client_files
        try:
            content = certificate.read_bytes()
            validity, _ = validity_of(content, str(certificate))
            if validity.over(now):
                return None  # TLS would end at it
            if self.client_roots is not None and not leads_to(
                content, roots_of(self.client_roots.read_bytes(), str(self.client_roots))
            ):
                return None
        except (OSError, IdentityError):
            return None
        return self.client_files


async def announced(url: str, now: datetime) -> list[x509.Certificate]:
    """What /cacerts tells whoever cannot verify the server yet (RFC 7030 section 4.1.1): nothing to be believed before
    its fingerprint has been compared. Raises EstError, OSError and TimeoutError."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    answer = await _exchange("GET", f"{url}/cacerts", now, tls, headers={})
    return est.certificates_in(answer.content_type, answer.body)


async def _exchange(
    method: str,
    url: str,
    now: datetime,
    tls: ssl.SSLContext,
    *,
    headers: dict[str, str],
    body: bytes | None = None,
) -> Answer:
    """An answer that means something in EST. Raises EstError, OSError and TimeoutError."""
    try:
        answer = await exchange(
            method,
            url,
            headers=headers | {"Accept": est.ANSWER_TYPE},
            timeout_s=TIMEOUT_S,
            largest=LARGEST,
            body=body,
            tls=tls,
        )
    except ValueError as error:
        raise EstError(str(error)) from error
    except TimeoutError:
        raise
    except OSError as error:
        raise OSError(f"{advice(str(error))}{str(error)[:300]}") from error
    if answer.status == 200 or (answer.status == 202 and method == "POST"):
        return answer
    after_s = est.retry_after_s(answer.retry_after, now)
    raise EstError(f"{_meaning(answer.status)} (HTTP {answer.status}): {est.quoted(answer.body)}", after_s=after_s)


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return "sends us elsewhere, where nobody goes: a captive portal, or `est` of [platform] is wrong"
    if status in (401, 403):
        return "does not take this gateway's word for who it is"
    if status == 404:
        return "has nothing there: `est` of [platform] is wrong"
    return "does not do it" if status < 500 else "cannot do it now"


async def obtain(
    server: EstServer,
    request_pem: bytes,
    roots: list[x509.Certificate],
    public_key_der: bytes,
    now: datetime,
    *,
    again: bool = True,
) -> bytes | Later:
    """The certificate for a request with its intermediates, PEM: not checked but for its key. Raises as `enroll`."""
    came = await server.enroll(request_pem, now, again=again)
    if isinstance(came, Later):
        return came
    leaf = est.issued_one(came, public_key_der)
    chain, whole = est.chain_pem(leaf, came, roots)
    if not whole:
        chain, _ = est.chain_pem(leaf, [*came, *await server.authorities(now)], roots)
    return chain
