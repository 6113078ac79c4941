"""What the tests of lists of revoked certificates share: lists as issuers make them, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from drivers.ocpp.ocsp import id_of
from hil_tests.ocpp_raw import Authority


def crl(
    by: Authority,
    revoked: Iterable[int] = (),
    *,
    now: datetime | None = None,
    hours: float = 24,
    name: x509.Name | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """DER of a list, from an hour ago. `name`: in place of the signer's."""
    moment = datetime.now(UTC) if now is None else now
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject if name is None else name)
        .last_update(moment - timedelta(hours=1))
        .next_update(moment + timedelta(hours=hours))
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment - timedelta(hours=2))
        builder = builder.add_revoked_certificate(entry.build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.DER)


def hash_data(certificate: x509.Certificate, by: Authority) -> dict[str, Any]:
    """CertificateHashData."""
    cert_id = id_of(certificate, by.certificate)
    return {
        "hashAlgorithm": "SHA256",
        "issuerNameHash": cert_id.issuer_name_hash.hex(),
        "issuerKeyHash": cert_id.issuer_key_hash.hex(),
        "serialNumber": f"{cert_id.serial:x}",
    }
