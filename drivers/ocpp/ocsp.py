"""OCSP (RFC 6960) as OCPP passes it on: from hash data to a request, and what a response says of it. Pure.

Requests carry no nonce. What comes back is kept and given to cars, which cannot know a nonce of ours; responders sign
their answers ahead and leave a nonce out anyway (RFC 5019). How old an answer may be is in its own dates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.timestamps import format_timestamp

ALGORITHMS: Final[Mapping[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]]] = {
    "SHA256": hashes.SHA256,
    "SHA384": hashes.SHA384,
    "SHA512": hashes.SHA512,
}
AHEAD: Final = timedelta(minutes=5)
"""A responder's clock may be before ours by so much."""
LONGEST_LIFE: Final = timedelta(days=7)
"""OCPP has chargers ask again each week at least (M06)."""
LIFE_UNTOLD: Final = timedelta(days=1)
"""Of an answer that does not say when there will be a newer one."""

NO_NEWS_US: Final = 3600 * 1_000_000
"""When it is worth asking again about a certificate of which nothing is known."""


class Word(StrEnum):
    """What a responder says of a certificate; the words of GetCertificateChainStatus."""

    GOOD = "Good"
    REVOKED = "Revoked"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate is meant."""

    algorithm: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int

    def same_issuer(self, other: CertId) -> bool:
        """Whether both were issued under one name by one key."""
        mine = (self.algorithm, self.issuer_name_hash, self.issuer_key_hash)
        return mine == (other.algorithm, other.issuer_name_hash, other.issuer_key_hash)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that speaks of the certificate, and is not out of date."""

    der: bytes
    word: Word
    until: datetime


def read_hash_data(data: Mapping[str, Json]) -> CertId:
    """OCSPRequestData or CertificateHashData of a message. Raises ValueError for what cannot be."""
    algorithm = str(data["hashAlgorithm"])
    size = ALGORITHMS[algorithm].digest_size
    try:
        name, key = bytes.fromhex(str(data["issuerNameHash"])), bytes.fromhex(str(data["issuerKeyHash"]))
        serial = int(str(data["serialNumber"]), 16)
    except ValueError:
        raise ValueError("hashes and serial number are hexadecimal") from None
    if len(name) != size or len(key) != size or serial < 0:
        raise ValueError(f"hashes of {algorithm} are {size} bytes")
    return CertId(algorithm, name, key, serial)


def id_of(certificate: x509.Certificate, issuer: x509.Certificate, algorithm: str = "SHA256") -> CertId:
    """Of a certificate at hand."""
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, ALGORITHMS[algorithm]()).build()
    return CertId(algorithm, request.issuer_name_hash, request.issuer_key_hash, request.serial_number)


def issued_by_one_of(ids: Sequence[CertId], issuers: Sequence[x509.Certificate]) -> bool:
    """Whether any of these certificates comes from a known issuer."""
    return any(each.same_issuer(id_of(issuer, issuer, each.algorithm)) for each in ids for issuer in issuers)


def ids_of_chain(pem: str, roots: Sequence[x509.Certificate]) -> list[tuple[CertId, str]]:
    """Of a contract certificate and its sub-CAs, leaf first: which, and where their responder is. Never raises; what
    names no responder, or whose issuer is not at hand, is left out."""
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
        found = list(pairwise(chain))
        found += [(chain[-1], root) for root in roots if root.subject == chain[-1].issuer and root != chain[-1]]
        return [(id_of(below, above), url) for below, above in found if (url := _responder(below))]
    except (ValueError, TypeError, UnicodeEncodeError):
        return []


def nothing_known(asked: JsonObject, wall_us: int) -> JsonObject:
    """The answer to a GetCertificateChainStatus where nobody can be asked."""
    return {"certificateStatus": [status_of(each, None, wall_us) for each in asked_of_chain(asked)]}


def asked_of_chain(asked: JsonObject) -> list[JsonObject]:
    """The certificates of a GetCertificateChainStatus."""
    return cast(list[JsonObject], asked["certificateStatusRequests"])


def status_of(asked: JsonObject, answer: Answer | None, wall_us: int) -> JsonObject:
    """CertificateStatus of one of them."""
    until_us = wall_us + NO_NEWS_US if answer is None else round(answer.until.timestamp() * 1e6)
    return {
        "certificateHashData": asked["certificateHashData"],
        "source": asked["source"],
        "status": "Failed" if answer is None else answer.word.value,
        "nextUpdate": format_timestamp(until_us),
    }


def request_for(cert_id: CertId) -> bytes:
    """DER of a request."""
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        cert_id.issuer_name_hash, cert_id.issuer_key_hash, cert_id.serial, ALGORITHMS[cert_id.algorithm]()
    )
    return builder.build().public_bytes(Encoding.DER)


def read_answer(der: bytes, cert_id: CertId, now: datetime) -> Answer:
    """What a response says of a certificate. Raises ValueError for what is no answer to that question now.

    Its signature is the car's to judge, which has the roots: here a word of "revoked" only takes away.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise ValueError(f"the responder answered {response.response_status.name}")
        singles = list(response.responses)
        for single in singles:
            if _same(single, cert_id):
                start, end = single.this_update_utc, single.next_update_utc or single.this_update_utc + LIFE_UNTOLD
                if start > now + AHEAD or end <= now:
                    raise ValueError(f"the answer is of {start.isoformat()} to {end.isoformat()}")
                return Answer(der, _WORDS[single.certificate_status], min(end, now + LONGEST_LIFE))
    except ValueError as error:
        raise ValueError(f"no usable OCSP answer: {quoted(str(error), 100)}") from error
    except Exception as error:  # UnsupportedAlgorithm: not a ValueError
        raise ValueError(f"the OCSP answer cannot be read: {type(error).__name__}") from error
    raise ValueError("the OCSP answer is about another certificate")


_WORDS: Final = {
    ocsp.OCSPCertStatus.GOOD: Word.GOOD,
    ocsp.OCSPCertStatus.REVOKED: Word.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN: Word.UNKNOWN,
}


def _same(single: ocsp.OCSPSingleResponse, cert_id: CertId) -> bool:
    return (single.issuer_name_hash, single.issuer_key_hash, single.serial_number) == (
        cert_id.issuer_name_hash,
        cert_id.issuer_key_hash,
        cert_id.serial,
    )


def _responder(certificate: x509.Certificate) -> str:
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return ""
    return next(
        (
            str(each.access_location.value)
            for each in access
            if each.access_method == x509.oid.AuthorityInformationAccessOID.OCSP
            and isinstance(each.access_location, x509.UniformResourceIdentifier)
        ),
        "",
    )
