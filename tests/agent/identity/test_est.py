"""What comes over EST is read with suspicion: one certificate for our key, with its chain."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.identity import est
from agent.identity.csr import certificate_request, renewal_request
from agent.identity.enrolment import leads_to
from agent.identity.est import EstError
from tests.agent.identity.software import SoftwareSigner
from tests.agent.identity.test_enrolment import BETWEEN, DAY, GATEWAY, LEAF, NOW, ROOT, certify

TYPE = "application/pkcs7-mime; smime-type=certs-only"
CERTIFICATES = [LEAF.certificate, BETWEEN.certificate]
SEVENTEEN = [certify(f"CA {i}").certificate for i in range(17)]
DER = pkcs7.serialize_certificates(CERTIFICATES, Encoding.DER)


@pytest.mark.parametrize("content_type", [TYPE, "Application/PKCS7-mime", "application/pkcs7-mime ;charset=x"])
@pytest.mark.parametrize(
    "body", [base64.b64encode(DER), base64.encodebytes(DER), base64.encodebytes(DER).replace(b"\n", b" \r\n\t")]
)
def test_certificates_are_read_however_their_base64_is_broken_into_lines(content_type: str, body: bytes) -> None:
    assert set(est.certificates_in(content_type, body)) == set(CERTIFICATES)


@pytest.mark.filterwarnings("error")
def test_a_set_in_openssls_order_is_read_too() -> None:
    """`openssl crl2pkcs7`, and EST servers made of it, do not sort it as DER has it."""
    first, second = sorted((c.public_bytes(Encoding.DER) for c in CERTIFICATES), key=DER.index)
    assert first + second in DER
    unsorted = DER.replace(first + second, second + first)
    assert set(est.certificates_in(TYPE, base64.b64encode(unsorted))) == set(CERTIFICATES)


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("text/html", b"<html>", "captive portal"),
        ("", base64.b64encode(DER), "no content type"),
        ("application/pkcs7", base64.b64encode(DER), "answered with application/pkcs7 and not"),
        (TYPE, DER, "not in base64"),
        (TYPE, b"-----BEGIN PKCS7-----", "not in base64"),
        (TYPE, b"", "cannot be read"),
        (TYPE, base64.b64encode(DER[:-5]), "cannot be read"),
        (TYPE, base64.b64encode(LEAF.certificate.public_bytes(Encoding.DER)), "cannot be read"),
        (
            TYPE,
            base64.b64encode(pkcs7.serialize_certificates(SEVENTEEN, Encoding.DER)),
            "17 certificates",
        ),
    ],
)  # fmt: skip
def test_what_holds_no_certificates_in_pkcs7_is_refused(content_type: str, body: bytes, said: str) -> None:
    with pytest.raises(EstError, match=said):
        est.certificates_in(content_type, body)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_damaged_answer_is_refused_or_still_holds_readable_certificates(at: int, change: int) -> None:
    damaged = bytearray(DER)
    damaged[at] ^= change
    try:
        found = est.certificates_in(TYPE, base64.b64encode(bytes(damaged)))
    except EstError:
        return
    assert all(isinstance(certificate, x509.Certificate) for certificate in found)


def test_the_certificate_is_the_one_for_our_key() -> None:
    assert est.issued_one(CERTIFICATES[::-1], LEAF.public_key_der) == LEAF.certificate
    with pytest.raises(EstError, match="another key"):
        est.issued_one([BETWEEN.certificate], LEAF.public_key_der)
    with pytest.raises(EstError, match="2 certificates"):
        est.issued_one([LEAF.certificate, LEAF.certificate], LEAF.public_key_der)


def test_a_chain_is_made_of_what_leads_to_a_root_and_of_nothing_else() -> None:
    other = certify("somebody else's root", ca=True)
    around = [ROOT.certificate, other.certificate, BETWEEN.certificate]
    chain, whole = est.chain_pem(LEAF.certificate, around, [ROOT.certificate])
    assert (x509.load_pem_x509_certificates(chain), whole) == ([LEAF.certificate, BETWEEN.certificate], True)
    assert leads_to(chain, [ROOT.certificate])
    alone, whole = est.chain_pem(LEAF.certificate, [other.certificate], [ROOT.certificate])
    assert (x509.load_pem_x509_certificates(alone), whole) == ([LEAF.certificate], False)
    assert not leads_to(alone, [ROOT.certificate])


def test_of_two_intermediates_with_one_key_the_one_that_lasts_longer_is_taken() -> None:
    """A CA renews its own under the same key, and shows the expired one, too."""
    expired = (
        x509.CertificateBuilder()
        .subject_name(BETWEEN.certificate.subject)
        .issuer_name(ROOT.certificate.subject)
        .public_key(BETWEEN.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 9 * DAY)
        .not_valid_after(NOW - 1 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ROOT.key, hashes.SHA256())
    )
    for around in ([expired, BETWEEN.certificate], [BETWEEN.certificate, expired]):
        chain, whole = est.chain_pem(LEAF.certificate, around, [ROOT.certificate])
        assert (x509.load_pem_x509_certificates(chain), whole) == ([LEAF.certificate, BETWEEN.certificate], True)


def test_a_chain_without_an_end_is_no_chain() -> None:
    loop = certify("loop", None, ca=True)
    leaf = certify("gateway", loop)
    chain, whole = est.chain_pem(leaf.certificate, [loop.certificate] * 3, [ROOT.certificate])
    assert (len(x509.load_pem_x509_certificates(chain)), whole) == (2, False)


def renewed(days: int, name: str = "gateway", uri: str = GATEWAY) -> x509.Certificate:
    return certify(name, BETWEEN, usage=ExtendedKeyUsageOID.CLIENT_AUTH, uri=uri, days=(0, days)).certificate


def test_a_renewal_keeps_the_names_and_ends_later() -> None:
    before = LEAF.certificate
    est.require_continuation(before, renewed(366))
    for wrong, said in (
        (renewed(365), "and the present one not before"),
        (renewed(366, name="another"), "lacks what the present one names: gateway"),
        (renewed(366, uri="did:v2g:zOther"), "lacks what the present one names.*Gateway"),
    ):
        with pytest.raises(EstError, match=said):
            est.require_continuation(before, wrong)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("999999999", 86_400.0),
        ("Sat, 28 Nov 2026 00:01:00 GMT", 60.0),
        ("Fri, 27 Nov 2026 23:00:00 GMT", 0.0),
        ("Sat, 28 Nov 2099 00:01:00 GMT", 86_400.0),
        ("Sat, 28 Nov 2026 00:01:00 -0000", 60.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("9" * 5000, None),
        ("Sat, 28 Nov 2026 00:01:99999999999 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(header: str | None, seconds: float | None) -> None:
    assert est.retry_after_s(header, NOW) == seconds


@given(st.text(max_size=60))
def test_whatever_retry_after_says_the_wait_is_bounded(header: str) -> None:
    seconds = est.retry_after_s(header, NOW)
    assert seconds is None or 0 <= seconds <= est.MOST_RETRY_AFTER_S


def test_a_login_is_a_password_without_a_user() -> None:
    assert base64.b64decode(est.basic_login("secret").removeprefix("Basic ")) == b":secret"
    for wrong in ("", "zwei\nZeilen", "schlüssel"):
        with pytest.raises(EstError, match="printable ASCII"):
            est.basic_login(wrong)


@given(st.binary(max_size=2000))
def test_what_a_server_said_is_one_short_line_of_ascii(body: bytes) -> None:
    said = est.quoted(body)
    assert said.isascii()
    assert said.isprintable()
    assert len(said) <= est.MOST_QUOTED


def own(signer: SoftwareSigner, days: int = 365) -> x509.Certificate:
    """A certificate of BETWEEN for a key of ours."""
    key = signer._private.public_key()
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(GATEWAY), x509.DNSName("gateway.local")])
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Grid Ltd"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Hof Süd"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .issuer_name(BETWEEN.certificate.subject)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + days * DAY)
        .add_extension(names, critical=True)
        .sign(BETWEEN.key, hashes.SHA256())
    )  # fmt: skip


async def test_a_request_for_renewal_has_the_names_of_the_present_certificate_bit_for_bit() -> None:
    signer = SoftwareSigner()
    present = own(signer)
    request = x509.load_pem_x509_csr(await renewal_request(signer, present))
    assert request.is_signature_valid
    assert request.subject.public_bytes() == present.subject.public_bytes()
    asked, held = (
        of.extensions.get_extension_for_class(x509.SubjectAlternativeName) for of in (request, present)
    )  # fmt: skip
    assert (asked.critical, asked.value.public_bytes()) == (held.critical, held.value.public_bytes())
    assert list(request.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


async def test_only_the_request_for_this_certificates_successor_is_sent_again() -> None:
    signer = SoftwareSigner()
    present = own(signer)
    request = await renewal_request(signer, present)
    assert est.asks_for_successor(request, present)
    assert est.asks_for_successor(request, own(signer, days=700))
    assert not est.asks_for_successor(request, own(SoftwareSigner()))
    assert not est.asks_for_successor(await renewal_request(SoftwareSigner(), present), present)
    other_names = await certificate_request(signer, common_name="Hof Süd", did=GATEWAY)
    assert not est.asks_for_successor(other_names, present)
    for noise in (b"", b"noise", request[:200], request.replace(b"A", b"B")):
        assert not est.asks_for_successor(noise, present)


async def test_the_body_of_a_request_is_its_der_in_lines_of_base64() -> None:
    signer = SoftwareSigner()
    request = await renewal_request(signer, own(signer))
    body = est.request_body(request)
    assert base64.b64decode(body) == x509.load_pem_x509_csr(request).public_bytes(Encoding.DER)
    assert max(map(len, body.split(b"\n"))) <= 76


def test_names_are_common_and_alternative_names() -> None:
    assert est.names_of(LEAF.certificate) == {"gateway", x509.UniformResourceIdentifier(GATEWAY)}
    assert est.names_of(ROOT.certificate) == {"platform root"}
