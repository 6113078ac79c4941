"""A certificate request (PKCS#10, RFC 2986) for a key that stays in its token.

`cryptography` builds requests only around keys that it holds, so the structure is made with asn1crypto and the
signature is asked of a Signer.
"""

from __future__ import annotations

from typing import Final

from asn1crypto import algos, csr, keys, pem, x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

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
