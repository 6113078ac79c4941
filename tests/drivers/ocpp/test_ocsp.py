"""OCSP for plug and charge: what a responder says counts for its certificate and its time; nothing else does."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from drivers.ocpp import revocation
from drivers.ocpp.messages import AuthorizeRequest
from drivers.ocpp.ocsp import (
    CertId,
    Word,
    id_of,
    ids_of_chain,
    issued_by_one_of,
    nothing_known,
    read_answer,
    read_hash_data,
    request_for,
)
from drivers.ocpp.revocation import AGAIN_S, Revocations
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from hil_tests.ocpp_raw import Authority, pem
from hil_tests.ocpp_station import MemoryJournal

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
URL = "http://ocsp.example/status"
ROOT, STRANGER = Authority("Root"), Authority("Stranger")
LEAF = ROOT.issue("DEABCC12345678", ec.generate_private_key(ec.SECP256R1()))
LEAF_ID = id_of(LEAF, ROOT.certificate)


def hash_data(cert_id: CertId = LEAF_ID, url: str = URL) -> JsonObject:
    return {
        "hashAlgorithm": cert_id.algorithm,
        "issuerNameHash": cert_id.issuer_name_hash.hex(),
        "issuerKeyHash": cert_id.issuer_key_hash.hex(),
        "serialNumber": f"{cert_id.serial:X}",
        "responderURL": url,
    }


def response(
    *, revoked: bool = False, start: datetime = NOW, hours: float | None = 24.0, of: x509.Certificate = LEAF
) -> bytes:
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=of,
        issuer=ROOT.certificate,
        algorithm=hashes.SHA256(),
        cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
        this_update=start,
        next_update=None if hours is None else start + timedelta(hours=hours),
        revocation_time=start if revoked else None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, ROOT.certificate)
    return builder.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_request_names_the_certificate_of_the_hash_data_and_carries_no_nonce() -> None:
    asked = ocsp.load_der_ocsp_request(request_for(read_hash_data(hash_data())))
    assert (asked.serial_number, asked.issuer_key_hash) == (LEAF.serial_number, LEAF_ID.issuer_key_hash)
    assert not list(asked.extensions)


def test_an_answer_is_good_until_its_own_end_and_a_week_at_most() -> None:
    good = read_answer(response(), LEAF_ID, NOW)
    assert (good.word, good.until) == (Word.GOOD, NOW + timedelta(hours=24))
    assert read_answer(response(revoked=True), LEAF_ID, NOW).word is Word.REVOKED
    assert read_answer(response(hours=10_000), LEAF_ID, NOW).until == NOW + timedelta(days=7)
    assert read_answer(response(hours=None), LEAF_ID, NOW).until == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"<html>",
        response()[:-20],
        response(start=NOW - timedelta(days=2)),
        response(start=NOW + timedelta(hours=1)),
        response(of=ROOT.issue("another", ec.generate_private_key(ec.SECP256R1()))),
        ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER),
    ],
    ids=["nothing", "a page", "cut", "out of date", "of tomorrow", "about another", "try later"],
)
def test_what_is_no_answer_to_the_question_now_is_refused(der: bytes) -> None:
    with pytest.raises(ValueError, match="OCSP"):
        read_answer(der, LEAF_ID, NOW)


@pytest.mark.parametrize(
    "wrong",
    [{"issuerNameHash": "xyz"}, {"issuerKeyHash": "aa"}, {"serialNumber": ""}, {"serialNumber": "-1"}],
)
def test_hash_data_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|bytes"):
        read_hash_data({**hash_data(), **wrong})


def test_hash_data_shows_whether_the_issuer_is_known() -> None:
    assert issued_by_one_of([LEAF_ID], [STRANGER.certificate, ROOT.certificate])
    assert issued_by_one_of([id_of(LEAF, ROOT.certificate, "SHA512")], [ROOT.certificate])
    assert not issued_by_one_of([LEAF_ID], [STRANGER.certificate])
    assert not issued_by_one_of([], [ROOT.certificate])


def test_certificates_that_name_no_responder_are_not_asked_about() -> None:
    assert ids_of_chain(pem(LEAF), [ROOT.certificate]) == []
    assert ids_of_chain("no certificate", [ROOT.certificate]) == []


def test_where_nobody_can_be_asked_each_certificate_is_told_as_failed() -> None:
    data = {k: v for k, v in hash_data().items() if k != "responderURL"}
    asked: JsonObject = {"certificateStatusRequests": [{"source": "OCSP", "urls": [URL], "certificateHashData": data}]}
    answer = nothing_known(asked, round(NOW.timestamp() * 1e6))
    assert schemas(Version.V21).violation("GetCertificateChainStatus", Direction.RESPONSE, answer) is None
    assert "Failed" in str(answer)


# --- asking


class Responder:
    """What is asked of it, and what it says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says: bytes | Exception = response()
        self.hangs = False

    async def post(self, url: str, request: bytes) -> bytes:
        self.asked.append(url)
        assert ocsp.load_der_ocsp_request(request)
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Box:
    """Revocations with a clock of their own."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.responder = Responder()
        self.now_s = 0.0
        self.journal = journal or MemoryJournal()
        self.revocations = Revocations(
            self.responder.post,
            ["ocsp.example", "other.example:8080"],
            journal=self.journal,
            monotonic_s=lambda: self.now_s,
            wall_us=lambda: round((NOW.timestamp() + self.now_s) * 1e6),
        )

    async def status(self, url: str = URL) -> JsonObject:
        return await self.revocations.certificate_status({"ocspRequestData": hash_data(url=url)}, Version.V201)


async def test_m06_the_answer_is_passed_on_and_kept_until_its_end_also_over_a_restart() -> None:
    box = Box()
    assert await box.status() == {"status": "Accepted", "ocspResult": base64.b64encode(response_of(box)).decode()}
    box.responder.says = OSError("the network is away")
    assert (await box.status())["status"] == "Accepted"
    again = Box(box.journal)
    again.responder.says = OSError("the network is away")
    await again.revocations.recall()
    assert (await again.status())["status"] == "Accepted"
    assert (len(box.responder.asked), again.responder.asked) == (1, [])
    again.now_s = 25 * 3600.0
    assert await again.status() == {"status": "Failed"}


def response_of(box: Box) -> bytes:
    assert isinstance(box.responder.says, bytes)
    return box.responder.says


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/",
        "http://ocsp.example:81/",
        "http://ocsp.example@evil.example/",
        "http://user@ocsp.example/",
        "file:///etc/passwd",
        "ftp://ocsp.example/",
        "http://[::1",
        "",
    ],
)
async def test_only_responders_that_the_owner_allowed_are_asked(url: str) -> None:
    box = Box()
    assert await box.status(url) == {"status": "Failed"}
    assert box.responder.asked == []
    assert (await box.status("http://OTHER.example:8080/x"))["status"] == "Accepted"


async def test_a_responder_without_an_answer_is_left_alone_for_a_while() -> None:
    box = Box()
    for said in (OSError("refused"), TimeoutError("late"), ValueError("HTTP status 500"), b"nonsense"):
        box.responder.says = said
        assert await box.status() == {"status": "Failed"}
        assert await box.status() == {"status": "Failed"}
        box.now_s += AGAIN_S
    assert len(box.responder.asked) == 4


async def test_a_responder_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "ANSWER_S", 0.01)
    box = Box()
    box.responder.hangs = True
    assert await box.status() == {"status": "Failed"}
    assert await box.status() == {"status": "Failed"}
    assert len(box.responder.asked) == 1  # one question under way is enough


async def test_an_answer_that_does_not_fit_into_the_message_is_said_to_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revocation, "LONGEST", {Version.V201: 100})
    told = await Box().status()
    assert told["status"] == "Failed"
    assert schemas(Version.V201).violation("GetCertificateStatus", Direction.RESPONSE, told) is None


async def test_a_damaged_cache_costs_a_question() -> None:
    box = Box()
    box.journal.kept["ocsp"] = b'[["SHA256", "aa"]]'
    await box.revocations.recall()
    assert (await box.status())["status"] == "Accepted"


@pytest.mark.parametrize(("says", "revoked"), [(response(), False), (response(revoked=True), True), (b"", False)])
async def test_c07_a_contract_is_revoked_when_a_responder_says_so(says: bytes, revoked: bool) -> None:
    box = Box()
    box.responder.says = says
    asked: AuthorizeRequest = {
        "idToken": {"idToken": "DEABCC12345678", "type": "eMAID"},
        "iso15118CertificateHashData": [hash_data()],
    }
    assert await box.revocations.revoked(asked, [ROOT.certificate]) is revoked


async def test_c07_of_a_chain_the_responder_of_each_certificate_is_asked() -> None:
    box = Box()
    chain = pem(with_responder(URL))
    asked: AuthorizeRequest = {"idToken": {"idToken": "X", "type": "eMAID"}, "certificate": chain}
    await box.revocations.revoked(asked, [ROOT.certificate])
    assert box.responder.asked == [URL]


def with_responder(url: str) -> x509.Certificate:
    place = x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "DEABCC12345678")]))
        .issuer_name(ROOT.certificate.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(77)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.AuthorityInformationAccess([place]), critical=False)
        .sign(ROOT.key, hashes.SHA256())
    )
