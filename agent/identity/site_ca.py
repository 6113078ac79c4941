"""The site's own certificate authority: certifies chargers (OCPP security profile 3) with a key of the token.

`cryptography` builds certificates only around keys that it holds, so the structure is made with asn1crypto and the
signature is asked of a Signer. The root is made once and kept as a file; who holds the token holds the CA.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from asn1crypto import algos, keys, x509
from asn1crypto import pem as pem_armor
from cryptography import x509 as cx509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence import cose
from agent.identity.errors import IdentityError
from drivers.device import Signer
from drivers.ocpp.certificates import CertificateRefusedError, Issued

ROOT_DAYS: Final = 20 * 365
CHARGER_DAYS: Final = 365
SERVER_DAYS: Final = 365
RENEW_BEFORE: Final = timedelta(days=30)
"""A server certificate is made anew so long before it ends."""
BACKDATE: Final = timedelta(hours=1)
"""Chargers whose clock is behind would refuse a certificate that begins now."""
LEAST_RSA_BITS: Final = 2048
LONGEST_REQUEST: Final = 5500
"""Of a CSR in SignCertificate, characters."""


class SiteCaError(IdentityError):
    """The site's CA cannot work with the key or file that it was given."""


class SiteCa:
    """Fulfils `drivers.ocpp.certificates.CertificateAuthority`."""

    def __init__(self, signer: Signer, root: cx509.Certificate, *, now: Callable[[], datetime | None]) -> None:
        """`now` gives None while the clock cannot be trusted. Raises SiteCaError when the root is not of this key."""
        if _spki(root.public_key()) != signer.public_key_der:
            raise SiteCaError("the site CA's certificate is of another key than the token's; was the token replaced?")
        self._signer = signer
        self._root = root
        self._now = now

    @property
    def root_pem(self) -> str:
        """What chargers and the TLS listener trust."""
        return self._root.public_bytes(Encoding.PEM).decode()

    def holds_for(self, certificate: cx509.Certificate, names: Collection[str]) -> bool:
        """Whether a server certificate is of this CA, for exactly these names, and not about to end."""
        now = self._now()
        try:
            certificate.verify_directly_issued_by(self._root)
            told = certificate.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, cx509.ExtensionNotFound):
            return False
        named = {str(each.value) for each in told}
        # While nobody knows the time, what is there is used on.
        return named == {_plain(name) for name in names} and (
            now is None or certificate.not_valid_after_utc - now > RENEW_BEFORE
        )

    async def issue_server(self, public_key: ec.EllipticCurvePublicKey, names: Collection[str]) -> str:
        """A certificate for the gateway's own listener under these names and addresses, PEM, then the root's.

        Raises SiteCaError while the clock cannot be trusted, SignerUnavailableError while the token is away.
        """
        now = self._now()
        if now is None:
            raise SiteCaError("the clock cannot be trusted yet, and a certificate needs the time")
        plain = sorted({_plain(name) for name in names})
        certificate = await _sign(
            self._signer,
            subject=x509.Name.build({"common_name": plain[0][:64]}),
            issuer=x509.Name.load(self._root.subject.public_bytes()),
            spki=_spki(public_key),
            serial=secrets.randbits(120) | 1 << 119,
            start=now - BACKDATE,
            end=min(now + timedelta(days=SERVER_DAYS), self._root.not_valid_after_utc),
            extensions=[
                ("basic_constraints", True, x509.BasicConstraints({"ca": False})),
                ("key_usage", True, x509.KeyUsage({"digital_signature"})),
                ("extended_key_usage", False, x509.ExtKeyUsageSyntax(["server_auth"])),
                ("subject_alt_name", False, x509.GeneralNames([_general_name(name) for name in plain])),
                ("authority_key_identifier", False, x509.AuthorityKeyIdentifier(
                    {"key_identifier": _key_identifier(self._signer.public_key_der)})),
            ],
        )  # fmt: skip
        leaf: str = pem_armor.armor("CERTIFICATE", certificate).decode()
        return leaf + self.root_pem

    async def issue(self, csr_pem: str, *, charger_urn: str, names: Collection[str]) -> Issued:
        """A certificate for the key in a request whose common name is one of `names`.

        Raises CertificateRefusedError for what must not be certified, SignerUnavailableError while the token is away.
        """
        request = _read_request(csr_pem)
        now = self._now()
        if now is None:
            raise CertificateRefusedError("the gateway's clock cannot be trusted yet; ask again later")
        named = [str(n.value) for n in request.subject.get_attributes_for_oid(cx509.NameOID.COMMON_NAME)]
        if len(named) != 1 or named[0] not in names:
            raise CertificateRefusedError(
                f"the request names {ascii(named)[:80]}; "
                f"it may name {ascii(sorted(names))[:80]} (identity or serial number)"
            )
        subject = {"common_name": named[0]}
        organisations = request.subject.get_attributes_for_oid(cx509.NameOID.ORGANIZATION_NAME)
        if organisations:
            subject["organization_name"] = str(organisations[0].value)[:64]
        until = min(now + timedelta(days=CHARGER_DAYS), self._root.not_valid_after_utc)
        serial = secrets.randbits(120) | 1 << 119
        certificate = await _sign(
            self._signer,
            subject=x509.Name.build(subject),
            issuer=x509.Name.load(self._root.subject.public_bytes()),
            spki=_spki(request.public_key()),
            serial=serial,
            start=now - BACKDATE,
            end=until,
            extensions=[
                ("basic_constraints", True, x509.BasicConstraints({"ca": False})),
                ("key_usage", True, x509.KeyUsage({"digital_signature"})),
                ("extended_key_usage", False, x509.ExtKeyUsageSyntax(["client_auth"])),
                (
                    "subject_alt_name",
                    False,
                    x509.GeneralNames([x509.GeneralName("uniform_resource_identifier", charger_urn)]),
                ),
                ("authority_key_identifier", False, x509.AuthorityKeyIdentifier(
                    {"key_identifier": _key_identifier(self._signer.public_key_der)})),
            ],
        )  # fmt: skip
        chain = pem_armor.armor("CERTIFICATE", certificate).decode() + self.root_pem
        return Issued(chain, f"{serial:x}", int(until.timestamp()) * 1_000_000)


async def make_root(signer: Signer, *, name: str, now: datetime) -> bytes:
    """The root certificate of a new CA, PEM. Raises SiteCaError, and SignerUnavailableError while the token is away."""
    if signer.algorithm not in _ALGORITHMS:
        raise SiteCaError(f"site CA: chargers verify P-256 signatures; the token's key has COSE {signer.algorithm}")
    subject = x509.Name.build({"common_name": f"{name} site CA"[:64]})
    key_id = _key_identifier(signer.public_key_der)
    certificate = await _sign(
        signer,
        subject=subject,
        issuer=subject,
        spki=signer.public_key_der,
        serial=secrets.randbits(120) | 1 << 119,
        start=now - BACKDATE,
        end=now + timedelta(days=ROOT_DAYS),
        extensions=[
            ("basic_constraints", True, x509.BasicConstraints({"ca": True, "path_len_constraint": 0})),
            ("key_usage", True, x509.KeyUsage({"key_cert_sign", "crl_sign"})),
            ("key_identifier", False, x509.OctetString(key_id)),
        ],
    )
    return bytes(pem_armor.armor("CERTIFICATE", certificate))


_ALGORITHMS: Final = frozenset({cose.ES256, cose.ESP256})


def _read_request(csr_pem: str) -> cx509.CertificateSigningRequest:
    """Raises CertificateRefusedError for what is no request, does not hold, or has too weak a key."""
    if len(csr_pem) > LONGEST_REQUEST:
        raise CertificateRefusedError(f"the request is longer than {LONGEST_REQUEST} characters")
    try:
        request = cx509.load_pem_x509_csr(csr_pem.encode())
        holds, key = request.is_signature_valid, request.public_key()
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise CertificateRefusedError("the request is no PKCS#10 in PEM") from error
    except Exception as error:  # UnsupportedAlgorithm: not a ValueError
        raise CertificateRefusedError(f"the request cannot be read: {type(error).__name__}") from error
    if not holds:
        raise CertificateRefusedError("the request is not signed by the key in it")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
        return request
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA_BITS:
        return request
    raise CertificateRefusedError(f"the key is too weak or of an unknown kind; P-256 or RSA of {LEAST_RSA_BITS} bits")


async def _sign(
    signer: Signer,
    *,
    subject: x509.Name,
    issuer: x509.Name,
    spki: bytes,
    serial: int,
    start: datetime,
    end: datetime,
    extensions: list[tuple[str, bool, object]],
) -> bytes:
    algorithm = algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"})
    body = x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": serial,
            "signature": algorithm,
            "issuer": issuer,
            "validity": x509.Validity({"not_before": _time(start), "not_after": _time(end)}),
            "subject": subject,
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": [
                x509.Extension({"extn_id": kind, "critical": critical, "extn_value": value})
                for kind, critical, value in extensions
            ],
        }
    )
    signature = await signer.sign(body.dump())
    half = len(signature) // 2
    der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    return bytes(
        x509.Certificate({"tbs_certificate": body, "signature_algorithm": algorithm, "signature_value": der}).dump()
    )


def _plain(name: str) -> str:
    """A name, or an address as it is written shortest."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _general_name(name: str) -> x509.GeneralName:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return x509.GeneralName("dns_name", name)
    return x509.GeneralName("ip_address", name)


def _time(moment: datetime) -> x509.Time:
    """RFC 5280, 4.1.2.5: UTCTime until 2049, GeneralizedTime from then on."""
    whole = moment.astimezone(UTC).replace(microsecond=0)
    return x509.Time({"utc_time" if whole.year < 2050 else "general_time": whole})


def _key_identifier(spki: bytes) -> bytes:
    return hashlib.sha256(spki).digest()[:20]


def _spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
