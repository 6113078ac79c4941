"""Lists of revoked certificates: what counts of one, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.crl import RevokedList, lists_of_chain
from drivers.ocpp.ocsp import LONGEST_LIFE, Word, id_of
from hil_tests.crl_parts import crl
from hil_tests.ocpp_raw import Authority, pem

NOW = datetime.now(UTC).replace(microsecond=0)
ROOT, NAMESAKE = Authority("Root"), Authority("Root")
CARD = ROOT.issue("DEABCC12345678", ec.generate_private_key(ec.SECP256R1()))
ID = id_of(CARD, ROOT.certificate)
GONE = [CARD.serial_number]


def point(**more: bool) -> x509.IssuingDistributionPoint:
    flags = dict.fromkeys(
        ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False
    )
    name = [x509.UniformResourceIdentifier("http://lists.example/")]
    return x509.IssuingDistributionPoint(name, None, only_some_reasons=None, **(flags | more))


@pytest.mark.parametrize(("issuers", "word"), [([ROOT.certificate], Word.GOOD), ([], None)])
def test_good_counts_only_where_the_issuer_is_at_hand(issuers: list[x509.Certificate], word: Word | None) -> None:
    answer = RevokedList(crl(ROOT), NOW).of(ID, issuers)
    assert (None if answer is None else answer.word) is word


@pytest.mark.parametrize("issuers", [[ROOT.certificate], []])
def test_revoked_counts_always(issuers: list[x509.Certificate]) -> None:
    answer = RevokedList(crl(ROOT, GONE), NOW).of(ID, issuers)
    assert answer is not None
    assert answer.word is Word.REVOKED


def test_a_list_for_a_part_of_the_certificates_cannot_say_that_one_is_good() -> None:
    part = RevokedList(crl(ROOT, extensions=[(point(only_contains_ca_certs=True), True)]), NOW)
    assert part.of(ID, [ROOT.certificate]) is None
    whole = RevokedList(crl(ROOT, extensions=[(point(), True), (x509.CRLNumber(7), False)]), NOW)
    assert whole.of(ID, [ROOT.certificate]) is not None


@pytest.mark.parametrize(
    "extension",
    [
        (point(indirect_crl=True), True),
        (point(only_contains_attribute_certs=True), True),
        (x509.DeltaCRLIndicator(1), True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    ],
)
def test_a_list_that_must_not_be_used_alone_is_refused(extension: tuple[x509.ExtensionType, bool]) -> None:
    with pytest.raises(ValueError, match=r"several issuers|not understood"):
        RevokedList(crl(ROOT, extensions=[extension]), NOW)


def test_a_list_of_somebody_of_the_same_name_is_not_the_issuers() -> None:
    with pytest.raises(ValueError, match="not signed by its issuer"):
        RevokedList(crl(NAMESAKE, GONE), NOW).of(ID, [ROOT.certificate])
    with pytest.raises(ValueError, match="another issuer"):
        RevokedList(crl(Authority("Somebody"), GONE), NOW).of(ID, [ROOT.certificate])


def test_a_list_counts_in_its_time_and_is_looked_for_again_within_a_week() -> None:
    assert RevokedList(crl(ROOT, now=NOW, hours=2), NOW).until == NOW + timedelta(hours=2)
    assert RevokedList(crl(ROOT, now=NOW, hours=24 * 90), NOW).until == NOW + LONGEST_LIFE
    for moment in (NOW - timedelta(hours=3), NOW + timedelta(hours=3)):
        with pytest.raises(ValueError, match="is of"):
            RevokedList(crl(ROOT, now=moment, hours=1), NOW)


@given(st.one_of(st.binary(max_size=200), st.builds(lambda n, b: crl(ROOT)[:n] + b, st.integers(0, 300), st.binary())))
def test_any_bytes_are_a_list_or_a_value_error(der: bytes) -> None:
    try:
        RevokedList(der, NOW)
    except ValueError:
        return


def test_a_chain_without_lists_or_that_is_none_asks_nobody() -> None:
    assert lists_of_chain(pem(CARD), [ROOT.certificate]) == []
    assert lists_of_chain("no chain \N{SNOWMAN}", [ROOT.certificate]) == []
