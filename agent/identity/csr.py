"""A certificate request (PKCS#10, RFC 2986) for a key that stays in its token.

`cryptography` builds requests only around keys that it holds, so the structure is made with asn1crypto and the
signature is asked of a Signer.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from asn1crypto import algos, csr, keys, pem, x509
from cryptography import x509 as cx509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.evidence import cose
from agent.identity.errors import CertificateRequestError
from drivers.device import Signer

MOST_COMMON_NAME: Final = 64
"""ub-common-name of RFC 5280, appendix A.1."""

_SIGNATURE_ALGORITHMS: Final[dict[int, str]] = {
    cose.ES256: "sha256_ecdsa",
    cose.ESP256: "sha256_ecdsa",
    cose.ES256K: "sha256_ecdsa",
    cose.ED25519: "ed25519",
}


async def certificate_request(signer: Signer, *, common_name: str, did: str) -> bytes:
    """A request for a TLS client certificate, PEM. Subject: CN = `common_name`; SAN: URI = `did` of the gateway.

    Raises CertificateRequestError, and SignerUnavailableError while the token is away.
    """
    if not 1 <= len(common_name) <= MOST_COMMON_NAME or not common_name.isprintable():
        raise CertificateRequestError(
            f"certificate request: common name {common_name[:80]!r} is not 1 to {MOST_COMMON_NAME} printable characters"
        )
    if not did.startswith("did:") or not did.isascii():
        raise CertificateRequestError(f"certificate request: {did[:80]!r} is no identifier of a gateway (did:key:...)")
    names = x509.GeneralNames([x509.GeneralName("uniform_resource_identifier", did)])
    return await _request(signer, x509.Name.build({"common_name": common_name}), names, critical=False)


async def renewal_request(signer: Signer, present: cx509.Certificate) -> bytes:
    """A request for the successor of a client certificate, PEM: its subject and alternative names, bit for bit
    (RFC 7030 section 4.2.2).

    Raises CertificateRequestError, and SignerUnavailableError while the token is away.
    """
    try:
        names = present.extensions.get_extension_for_class(cx509.SubjectAlternativeName)
    except (cx509.ExtensionNotFound, ValueError) as error:
        raise CertificateRequestError("certificate request: the present certificate names no gateway") from error
    subject = x509.Name.load(present.subject.public_bytes())
    return await _request(signer, subject, x509.GeneralNames.load(names.value.public_bytes()), critical=names.critical)


async def _request(signer: Signer, subject: x509.Name, names: x509.GeneralNames, *, critical: bool) -> bytes:
    if signer.algorithm not in _SIGNATURE_ALGORITHMS:
        raise CertificateRequestError(f"certificate request: no X.509 algorithm here for COSE {signer.algorithm}")

    asked = [csr.CRIAttribute({"type": "extension_request", "values": [_extensions(names, critical=critical)]})]
    body = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": subject,
            "subject_pk_info": keys.PublicKeyInfo.load(signer.public_key_der),
            "attributes": csr.CRIAttributes(asked),
        }
    )
    signature = await signer.sign(body.dump())
    request = csr.CertificationRequest(
        {
            "certification_request_info": body,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": _SIGNATURE_ALGORITHMS[signer.algorithm]}),
            "signature": signature if signer.algorithm == cose.ED25519 else _ecdsa_der(signature),
        }
    )
    return bytes(pem.armor("CERTIFICATE REQUEST", request.dump()))


def server_request(
    key_pem: bytes, *, like: bytes | None = None, common_name: str = "", names: Sequence[str] = ()
) -> bytes:
    """A request for a TLS server certificate with a key in a file (Python's TLS servers take no key of a token), PEM.

    Names are those of the certificate chain `like` (PEM), or `common_name` and `names` (host names and IP addresses).
    Raises CertificateRequestError.
    """
    try:
        if like is not None:
            before = cx509.load_pem_x509_certificates(like)[0]
            subject = before.subject
            alternatives = list(before.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value)
        else:
            subject = cx509.Name([cx509.NameAttribute(NameOID.COMMON_NAME, common_name)])
            alternatives = [_alternative(name) for name in names]
    except cx509.ExtensionNotFound as error:
        raise CertificateRequestError("certificate request: the present certificate names no host") from error
    except ValueError as error:
        raise CertificateRequestError(f"certificate request for a server: {str(error)[:120]}") from error
    return _file_request(key_pem, subject, alternatives, ExtendedKeyUsageOID.SERVER_AUTH)


def client_request(key_pem: bytes, like: bytes) -> bytes:
    """A request for the successor of a TLS client certificate (PEM, `like`) with a key in a file, PEM.

    Raises CertificateRequestError.
    """
    try:
        before = cx509.load_pem_x509_certificates(like)[0]
        alternatives = list(before.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value)
    except cx509.ExtensionNotFound:
        alternatives = []  # its common name is who it is
    except ValueError as error:
        raise CertificateRequestError(f"certificate request for a client: {str(error)[:120]}") from error
    return _file_request(key_pem, before.subject, alternatives, ExtendedKeyUsageOID.CLIENT_AUTH)


def _file_request(
    key_pem: bytes, subject: cx509.Name, alternatives: Sequence[cx509.GeneralName], usage: cx509.ObjectIdentifier
) -> bytes:
    try:
        key = load_pem_private_key(key_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CertificateRequestError("certificate request: the key in the file is neither EC nor RSA")
        builder = cx509.CertificateSigningRequestBuilder().subject_name(subject)
        builder = builder.add_extension(cx509.ExtendedKeyUsage([usage]), critical=False)
        if alternatives:
            builder = builder.add_extension(cx509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateRequestError(f"certificate request: {str(error)[:120]}") from error


def _alternative(name: str) -> cx509.GeneralName:
    try:
        return cx509.IPAddress(ip_address(name))
    except ValueError:
        return cx509.DNSName(name)


def _extensions(names: x509.GeneralNames, *, critical: bool) -> x509.Extensions:
    return x509.Extensions(
        [
            x509.Extension({"extn_id": "subject_alt_name", "critical": critical, "extn_value": names}),
            x509.Extension(
                {"extn_id": "key_usage", "critical": True, "extn_value": x509.KeyUsage({"digital_signature"})}
            ),
            x509.Extension(
                {
                    "extn_id": "extended_key_usage",
                    "critical": False,
                    "extn_value": x509.ExtKeyUsageSyntax(["client_auth"]),
                }
            ),
        ]
    )


def _ecdsa_der(signature: bytes) -> bytes:
    """X.509 wants ECDSA signatures as a DER sequence, COSE as r || s."""
    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
