"""The platform's CA behind EST (RFC 7030), as proto/IDENTITY.md section 8 asks it of a platform: real TLS on loopback.

It knows each certificate that it gave out, and renews one only for whoever holds its key: by mutual TLS, or by the CBOR
Web Token that the key of the gateway's uplink signed, read here by another library than the gateway's.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hil_tests.rig.login import NotLetInError, check_login

BASE = "/.well-known/est/gateways"
PUBLIC = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Authority:
    """A CA: its key, its certificate, and who certified it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    above: list[x509.Certificate] = field(default_factory=list)
    """Itself and the intermediates above it; none where it is the root."""

    @classmethod
    def make(cls, name: str, by: Authority | None = None, *, life: timedelta = timedelta(days=3650)) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, key.public_key(), life, timedelta(days=300) if by else timedelta(hours=1))
            .issuer_name(subject if by is None else by.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key if by is None else by.key, hashes.SHA256())
        )
        return cls(key, certificate, [] if by is None else [certificate, *by.above])

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def certify(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName | None,
        usage: x509.ObjectIdentifier,
        *,
        before: timedelta = timedelta(0),
        life: timedelta = timedelta(days=90),
    ) -> x509.Certificate:
        """`before`: so long ago it began; `life`: from now on."""
        builder = _builder(subject, key, life, before).issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server_context(self, folder: Path, *, life: timedelta = timedelta(days=90)) -> ssl.SSLContext:
        """For a server on 127.0.0.1; clients may show a certificate of this CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EST server")])
        before = timedelta(days=90)
        certificate = self.certify(
            subject, key.public_key(), names, ExtendedKeyUsageOID.SERVER_AUTH, before=before, life=life
        )
        file = folder / "est-server.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = [certificate, *self.above]
        file.write_bytes(private + b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.pem.decode())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta, before: timedelta = timedelta(hours=1)
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - before)
        .not_valid_after(now + life)
    )


@dataclass
class RefusalError(Exception):
    """What a request lacks."""

    status: int
    text: str


@dataclass
class EstService:
    """`running` serves it. `before`: what answers instead, one request each, first come first."""

    authority: Authority
    root: x509.Certificate
    life: timedelta = timedelta(days=90)
    whole_chain: bool = False
    """Send the intermediates with the certificate; else they are at /cacerts only, as RFC 7030 has it."""
    before: list[Answer] = field(default_factory=list)
    given: list[x509.Certificate] = field(default_factory=list)
    """Certificates that are good, the newest last."""
    gateways: dict[str, bytes] = field(default_factory=dict)
    """Identifier -> SubjectPublicKeyInfo of its uplink."""
    secrets: set[str] = field(default_factory=set)
    """For the first enrolment, each for once."""
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    """Operation and DER of the request, of all that were let in."""
    logins: list[str] = field(default_factory=list)
    """"TLS", "token" or "secret", of each request that was let in."""
    url: str = ""
    now_s: Callable[[], float] = time.time
    _seen: set[bytes] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext, port: int = 0) -> AsyncIterator[None]:
        """On 127.0.0.1."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
            self.url = f"https://127.0.0.1:{runner.addresses[0][1]}{BASE}"
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.before:
            return await self.before.pop(0)(request)
        return await self.answered(request)

    async def answered(self, request: web.Request) -> web.StreamResponse:
        """As EST has it."""
        operation = request.path.removeprefix(f"{BASE}/")
        try:
            if (request.method, operation) == ("GET", "cacerts"):
                return self.certificates(*self.authority.above, self.root)
            if request.method == "POST" and operation in ("simpleenroll", "simplereenroll"):
                return await self._enroll(request, operation)
        except RefusalError as refusal:
            return web.Response(status=refusal.status, text=refusal.text)
        return web.Response(status=404, text="no such operation")

    async def _enroll(self, request: web.Request, operation: str) -> web.Response:
        der = base64.b64decode(await request.read())
        csr = x509.load_der_x509_csr(der)
        if request.content_type != "application/pkcs10" or not csr.is_signature_valid:
            raise RefusalError(400, "no certificate request that its key has signed")
        present = self._let_in(request, csr, again=operation == "simplereenroll")
        self.asked.append((operation, der))
        usage = csr.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = self.authority.certify(csr.subject, key, _names(csr), next(iter(usage)), life=self.life)
        if present is None:
            names = _names(csr)
            assert names is not None
            [gateway_id] = names.get_values_for_type(x509.UniformResourceIdentifier)
            self.gateways[gateway_id] = key.public_bytes(*PUBLIC)
        self.given.append(certificate)
        return self.certificates(certificate, *(self.authority.above if self.whole_chain else []))

    @staticmethod
    def certificates(*certificates: x509.Certificate) -> web.Response:
        """An answer that holds these."""
        body = base64.encodebytes(pkcs7.serialize_certificates(list(certificates), Encoding.DER))
        return web.Response(body=body, headers={"Content-Type": "application/pkcs7-mime; smime-type=certs-only"})

    def _let_in(
        self, request: web.Request, csr: x509.CertificateSigningRequest, *, again: bool
    ) -> x509.Certificate | None:
        """The certificate that is renewed; None: it is the first."""
        present = next((one for one in self.given if _same(one, csr)), None)
        if again and present is None:
            raise RefusalError(403, "no certificate with this key and these names is here to be renewed")
        transport = request.transport
        shown = None if transport is None else transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if again and shown is not None and _same(x509.load_der_x509_certificate(shown), csr):
            self.logins.append("TLS")
            return present
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        user, _, password = base64.b64decode(credentials).decode().partition(":")
        if scheme != "Basic" or user:
            raise RefusalError(401, "who are you?")
        if not again:
            if password not in self.secrets:
                raise RefusalError(401, "this secret is none, or was used")
            self.secrets.remove(password)
            self.logins.append("secret")
            return None
        assert present is not None
        self._check_token(base64.urlsafe_b64decode(password + "=" * (-len(password) % 4)), present)
        self.logins.append("token")
        return present

    def _check_token(self, token: bytes, present: x509.Certificate) -> None:
        why = "no gateway is known here"
        for gateway_id, spki in self.gateways.items():
            try:
                cti = check_login(token, spki, gateway_id=gateway_id, audience=self.url, now_s=self.now_s())
            except NotLetInError as error:
                why = str(error)
                continue
            if cti in self._seen:
                raise RefusalError(401, "this token was used already")
            self._seen.add(cti)
            uris = _names(present)
            mine = uris is not None and gateway_id in uris.get_values_for_type(x509.UniformResourceIdentifier)
            if mine and present.public_key().public_bytes(*PUBLIC) != spki:
                raise RefusalError(403, "the present certificate is for another key than the one of the token")
            return
        raise RefusalError(401, why)


def _names(of: x509.Certificate | x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    try:
        return of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _same(certificate: x509.Certificate, csr: x509.CertificateSigningRequest) -> bool:
    """RFC 7030 section 4.2.2: the names of a renewal are those of before, and here the key is too."""
    return (
        certificate.subject == csr.subject
        and _names(certificate) == _names(csr)
        and certificate.public_key().public_bytes(*PUBLIC) == csr.public_key().public_bytes(*PUBLIC)
    )
