"""Certificates are looked at before they are used, and people's codes decide whose root it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.enrolment import (
    EnrolmentError,
    Usage,
    Validity,
    check_chain,
    fingerprint_words,
    gateway_qr,
    is_gateway,
    read_root,
    root_code,
    root_qr,
    same_code,
    validity_of,
)

NOW = datetime(2026, 11, 28, tzinfo=UTC)
DAY = timedelta(days=1)
GATEWAY = "did:v2g:zQmGateway"


@dataclass
class Party:
    """A key, and the certificate that somebody made for it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def public_key_der(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certify(
    name: str,
    by: Party | None = None,
    *,
    ca: bool = False,
    days: tuple[int, int] = (-1, 365),
    usage: x509.ObjectIdentifier | None = None,
    uri: str | None = None,
    issuer_name: str | None = None,
) -> Party:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = subject if by is None else by.certificate.subject
    if issuer_name is not None:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return Party(key, builder.sign(key if by is None else by.key, hashes.SHA256()))


ROOT = certify("platform root", ca=True)
BETWEEN = certify("platform issuing", ROOT, ca=True)
LEAF = certify("gateway", BETWEEN, usage=ExtendedKeyUsageOID.CLIENT_AUTH, uri=GATEWAY)


def checked(pem: bytes, party: Party = LEAF, **changes: object) -> x509.Certificate:
    asked = {"roots": [ROOT.certificate], "gateway_id": GATEWAY, "usage": Usage.CLIENT, "now": NOW} | changes
    return check_chain(pem, what="the certificate", public_key_der=party.public_key_der, **asked)  # type: ignore[arg-type]


def test_a_chain_over_an_intermediate_to_the_root_is_good_in_any_order_after_the_first() -> None:
    assert checked(LEAF.pem + BETWEEN.pem) == LEAF.certificate
    assert checked(LEAF.pem + ROOT.pem + BETWEEN.pem) == LEAF.certificate
    direct = certify("gateway", ROOT, uri=GATEWAY)
    assert checked(direct.pem, direct) == direct.certificate


@pytest.mark.parametrize(
    ("pem", "party", "changes", "said"),
    [
        (LEAF.pem, LEAF, {}, "chain is broken after 1 certificates: 'CN=platform issuing'"),
        (LEAF.pem + BETWEEN.pem, BETWEEN, {}, "another key"),
        (LEAF.pem + BETWEEN.pem, LEAF, {"now": NOW + 400 * DAY}, "has expired on 2027"),
        (LEAF.pem + BETWEEN.pem, LEAF, {"now": NOW - 2 * DAY}, "look at the clock"),
        (LEAF.pem + BETWEEN.pem, LEAF, {"usage": Usage.SERVER}, "not for TLS servers"),
        (LEAF.pem + BETWEEN.pem, LEAF, {"gateway_id": "did:v2g:zOther"}, "not this gateway, did:v2g:zOther"),
        (LEAF.pem + BETWEEN.pem, LEAF, {"roots": [certify("platform root", ca=True).certificate]}, "chain is broken"),
        (b"", LEAF, {}, "no certificate in PEM"),
        (b"noise", LEAF, {}, "no certificate in PEM"),
        (b"x" * 70_000, LEAF, {}, "at most 65536"),
    ],
)
def test_a_chain_that_is_not_right_is_refused_with_its_reason(
    pem: bytes, party: Party, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(EnrolmentError, match=said):
        checked(pem, party, **changes)


def test_an_intermediate_that_may_not_issue_is_refused() -> None:
    no_authority = certify("not a CA", ROOT)
    leaf = certify("gateway", no_authority, uri=GATEWAY)
    with pytest.raises(EnrolmentError, match="'CN=not a CA' may not issue"):
        checked(leaf.pem + no_authority.pem, leaf)


def test_an_expired_intermediate_is_refused() -> None:
    old = certify("old", ROOT, ca=True, days=(-10, -1))
    leaf = certify("gateway", old, uri=GATEWAY)
    with pytest.raises(EnrolmentError, match="an intermediate of the certificate: has expired"):
        checked(leaf.pem + old.pem, leaf)


def test_certificates_that_issue_each_other_end_somewhere() -> None:
    loop = certify("loop", None, ca=True)
    leaf = certify("gateway", loop, uri=GATEWAY)
    with pytest.raises(EnrolmentError, match=r"no root after 5|chain is broken"):
        checked(leaf.pem + loop.pem, leaf)


def test_a_private_key_in_the_file_is_refused() -> None:
    secret = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(EnrolmentError, match="never keys"):
        checked(LEAF.pem + secret)


def test_the_root_is_known_by_its_code_its_qr_text_or_its_whole_fingerprint() -> None:
    digest = ROOT.certificate.fingerprint(hashes.SHA256()).hex()
    colons = ":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper()
    code = root_code(ROOT.certificate)
    for typed in (code, code.lower().replace("-", " "), root_qr(ROOT.certificate), digest, colons):
        assert read_root(ROOT.pem, typed, NOW) == ROOT.certificate


@pytest.mark.parametrize("typed", ["", "AAAA-AAAA-AAAA-AAAA", "V2G-ROOT:1:" + "00" * 32, "00" * 32, "é" * 16])
def test_another_fingerprint_is_refused_and_the_right_one_is_named(typed: str) -> None:
    with pytest.raises(EnrolmentError, match=f"its fingerprint is {root_code(ROOT.certificate)}"):
        read_root(ROOT.pem, typed, NOW)


def test_a_root_that_is_none_is_refused_even_with_the_right_code() -> None:
    for party, said in (
        (BETWEEN, "not signed by itself"),
        (certify("self-signed, no CA"), "may not issue"),
        (certify("old root", ca=True, days=(-10, -1)), "has expired"),
    ):
        with pytest.raises(EnrolmentError, match=said):
            read_root(party.pem, root_code(party.certificate), NOW)
    with pytest.raises(EnrolmentError, match="holds 2 certificates"):
        read_root(ROOT.pem + BETWEEN.pem, root_code(ROOT.certificate), NOW)


def test_a_gateway_is_known_by_its_fingerprint_its_qr_text_or_its_name() -> None:
    for typed in (GATEWAY, gateway_qr(GATEWAY), fingerprint_words(GATEWAY), f" {fingerprint_words(GATEWAY).lower()} "):
        assert is_gateway(typed, GATEWAY)
    assert not is_gateway(fingerprint_words("did:v2g:zOther"), GATEWAY)
    assert not is_gateway("", GATEWAY)


@given(st.text(max_size=30))
def test_what_people_misread_is_understood_and_nothing_else_is(text: str) -> None:
    code = fingerprint_words(text)
    assert len(code) == 19
    assert same_code(code.replace("O", "0").replace("I", "1").replace("B", "8"), code)
    assert not same_code(code[:-1], code)


def test_a_certificate_is_due_in_its_last_third_and_at_most_thirty_days_before_its_end() -> None:
    for days, due in ((3650, 30), (90, 30), (30, 10), (3, 1)):
        validity = Validity(NOW, NOW + days * DAY)
        assert validity.renew_from == NOW + (days - due) * DAY
        assert not validity.due(validity.renew_from - timedelta(seconds=1))
        assert validity.due(validity.renew_from)
        assert not validity.over(validity.ends - timedelta(seconds=1))
        assert validity.over(validity.ends)
    assert validity_of(LEAF.pem, "it")[1] == LEAF.public_key_der


def test_stages_on_the_way_to_the_end_are_30_7_1_and_0_days_or_their_shares_of_a_short_life() -> None:
    for days, unit in ((3650, DAY), (90, DAY), (3, DAY / 30)):
        validity = Validity(NOW, NOW + days * DAY)
        for left, stage in ((30, 0), (7.01, 0), (7, 1), (1.01, 1), (1, 2), (0.01, 2), (0, 3), (-100, 3)):
            assert validity.stage(validity.ends - left * unit) == stage, (days, left)
