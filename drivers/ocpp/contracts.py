"""Plug and charge: whether a contract certificate that a car showed hangs together and comes from a known root. Pure.

OCPP 2.0.1 part 2, C07; ISO 15118-2. The car has proved to the charger that it holds the key. What is judged here is the
chain that the charger passes on because it does not know the root itself. Revocations are asked for elsewhere
(`revocation`), where the owner allows it; the owner's own list (which must name the contract) decides in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from drivers.ocpp.messages import AuthorizeRequest
from drivers.ocpp.ocsp import issued_by_one_of, read_hash_data
from drivers.ocpp.schemas import Json

LONGEST_CHAIN: Final = 5
LONGEST_PEM: Final = 10_000


class ContractStatus(StrEnum):
    """AuthorizeCertificateStatusEnumType, as far as a site can tell."""

    ACCEPTED = "Accepted"
    SIGNATURE_ERROR = "SignatureError"
    EXPIRED = "CertificateExpired"
    REVOKED = "CertificateRevoked"
    CHAIN_ERROR = "CertChainError"
    NO_CERTIFICATE = "NoCertificateAvailable"
    CANCELLED = "ContractCancelled"


def judge_contract(
    asked: AuthorizeRequest, roots: Sequence[x509.Certificate], now: datetime, *, on_the_list: bool
) -> ContractStatus:
    """Plug and charge (C07): the owner's list names the contract, the chain or its hashes say whose it is."""
    if "certificate" in asked:
        status = judge_chain(asked["certificate"], roots, now)
        named = contract_of(asked["certificate"])
        if status is ContractStatus.ACCEPTED and named != plain_contract(asked["idToken"]["idToken"]):
            return ContractStatus.CHAIN_ERROR  # a good certificate, of another contract
        if status is not ContractStatus.ACCEPTED:
            return status
    elif roots and not _from_known_root(asked, roots):
        # The charger has judged the chain by roots of its own; whose contracts are good here is the owner's word.
        return ContractStatus.CHAIN_ERROR
    return ContractStatus.ACCEPTED if on_the_list else ContractStatus.CANCELLED


def _from_known_root(asked: AuthorizeRequest, roots: Sequence[x509.Certificate]) -> bool:
    try:
        data = cast(list[Mapping[str, Json]], asked.get("iso15118CertificateHashData", []))
        return issued_by_one_of([read_hash_data(each) for each in data], roots)
    except ValueError:
        return False


def judge_chain(pem: str, roots: Sequence[x509.Certificate], now: datetime) -> ContractStatus:
    """Of a contract certificate with its sub-CAs, leaf first. Never raises."""
    if len(pem) > LONGEST_PEM:
        return ContractStatus.CHAIN_ERROR
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, UnicodeEncodeError):
        return ContractStatus.NO_CERTIFICATE
    if len(chain) > LONGEST_CHAIN:
        return ContractStatus.CHAIN_ERROR
    for place, certificate in enumerate(chain):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return ContractStatus.EXPIRED
        if place and not is_ca(certificate):
            return ContractStatus.CHAIN_ERROR
    for below, above in pairwise(chain):
        if below.issuer != above.subject:
            return ContractStatus.CHAIN_ERROR
        if not issued_by(below, above):
            return ContractStatus.SIGNATURE_ERROR
    if chain[-1] in roots and len(chain) > 1:
        return ContractStatus.ACCEPTED
    named = [root for root in roots if root.subject == chain[-1].issuer]
    if not named:
        return ContractStatus.CHAIN_ERROR
    trusted = [root for root in named if issued_by(chain[-1], root)]
    if not trusted:
        return ContractStatus.SIGNATURE_ERROR
    if not any(root.not_valid_before_utc <= now <= root.not_valid_after_utc for root in trusted):
        return ContractStatus.EXPIRED
    return ContractStatus.ACCEPTED


def contract_of(pem: str) -> str:
    """The eMAID in the leaf's common name, without its separators; empty where there is none."""
    try:
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
        names = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except (ValueError, UnicodeEncodeError):
        return ""
    return plain_contract(str(names[0].value)) if names else ""


def plain_contract(emaid: str) -> str:
    """An eMAID as it compares: upper case, without hyphens, without the check digit (15th character)."""
    return emaid.replace("-", "").upper()[:14]


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def issued_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    """Whether the name and the signature fit."""
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
