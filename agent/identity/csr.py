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
    if signer.algorithm not in _SIGNATURE_ALGORITHMS:
        raise CertificateRequestError(f"certificate request: no X.509 algorithm here for COSE {signer.algorithm}")

    body = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.build({"common_name": common_name}),
            "subject_pk_info": keys.PublicKeyInfo.load(signer.public_key_der),
            "attributes": csr.CRIAttributes(
                [csr.CRIAttribute({"type": "extension_request", "values": [_extensions(did)]})]
            ),
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
        key = load_pem_private_key(key_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CertificateRequestError("certificate request: the server's key is neither EC nor RSA")
        if like is not None:
            before = cx509.load_pem_x509_certificates(like)[0]
            subject = before.subject
            alternatives = list(before.extensions.get_extension_for_class(cx509.SubjectAlternativeName).value)
        else:
            subject = cx509.Name([cx509.NameAttribute(NameOID.COMMON_NAME, common_name)])
            alternatives = [_alternative(name) for name in names]
        usage = cx509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = cx509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(usage, critical=False)
        if alternatives:
            builder = builder.add_extension(cx509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    except cx509.ExtensionNotFound as error:
        raise CertificateRequestError("certificate request: the present certificate names no host") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateRequestError(f"certificate request for a server: {str(error)[:120]}") from error


def _alternative(name: str) -> cx509.GeneralName:
    try:
        return cx509.IPAddress(ip_address(name))
    except ValueError:
        return cx509.DNSName(name)


def _extensions(did: str) -> x509.Extensions:
    name = x509.GeneralName("uniform_resource_identifier", did)
    return x509.Extensions(
        [
            x509.Extension({"extn_id": "subject_alt_name", "critical": False, "extn_value": x509.GeneralNames([name])}),
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
