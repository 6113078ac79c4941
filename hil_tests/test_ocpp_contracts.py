"""Plug and charge over a WebSocket with TLS: contracts by their hashes, revocations, what nobody here can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from agent.roads.ocsp import LARGEST, post
from drivers.ocpp import ChargerSettings
from drivers.ocpp.ocsp import id_of
from drivers.ocpp.revocation import Revocations
from drivers.ocpp.tokens import SiteToken, SiteTokens
from hil_tests.http_parts import serving
from hil_tests.ocpp_raw import AnsweredError, Authority, Payload, RawCharger, TlsSite, token
from hil_tests.ocpp_station import MemoryJournal

ROOT, STRANGER = Authority("Mobility operator root"), Authority("Somebody")
NAME = "DE-ABC-C12345678-9"
GOOD, REVOKED = (by.issue("DEABCC12345678", ec.generate_private_key(ec.SECP256R1())) for by in (ROOT, ROOT))


class Responder:
    """A real OCSP responder on loopback."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0
        self.says: bytes | None = None
        """In place of an answer."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.says is not None:
            return web.Response(body=self.says)
        if request.path == "/elsewhere":
            raise web.HTTPFound("/")
        asked = ocsp.load_der_ocsp_request(await request.read())
        assert request.content_type == "application/ocsp-request"
        gone = asked.serial_number == REVOKED.serial_number
        now = datetime.now(UTC)
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=REVOKED if gone else GOOD,
            issuer=ROOT.certificate,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if gone else ocsp.OCSPCertStatus.GOOD,
            this_update=now,
            next_update=now + timedelta(days=1),
            revocation_time=now if gone else None,
            revocation_reason=None,
        )
        signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, ROOT.certificate).sign(ROOT.key, hashes.SHA256())
        return web.Response(body=signed.public_bytes(Encoding.DER))

    def data(self, certificate: Any = GOOD, by: Authority = ROOT, path: str = "/") -> Payload:
        cert_id = id_of(certificate, by.certificate)
        return {
            "hashAlgorithm": "SHA256",
            "issuerNameHash": cert_id.issuer_name_hash.hex(),
            "issuerKeyHash": cert_id.issuer_key_hash.hex(),
            "serialNumber": f"{cert_id.serial:x}",
            "responderURL": f"http://127.0.0.1:{self.port}{path}",
        }


@pytest.fixture
async def responder() -> AsyncIterator[Responder]:
    made = Responder()
    async with serving("POST", made.answer) as made.port:
        yield made


@pytest.fixture
async def site(tmp_path: Path, responder: Responder) -> AsyncIterator[TlsSite]:
    tokens = SiteTokens()
    tokens.replace([SiteToken(name=NAME, kind="eMAID"), SiteToken(name="04AABBCC")])
    journal = MemoryJournal()
    made = TlsSite(tmp_path, [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")], tokens)
    revocations = Revocations(
        post,
        [f"127.0.0.1:{responder.port}"],
        journal=journal,
        monotonic_s=lambda: 0.0,
        wall_us=lambda: round(datetime.now(UTC).timestamp() * 1e6),
    )
    made.options = {"contract_roots": [ROOT.certificate], "revocations": revocations}
    made.server = made.make_server()
    async with made.running():
        yield made


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.boot()
        yield charger


async def shown(charger: RawCharger, *data: Payload, name: str = NAME) -> tuple[str, str]:
    asked = {"idToken": token(name, "eMAID"), "iso15118CertificateHashData": list(data)}
    answer = await charger.ask("Authorize", asked)
    return answer["idTokenInfo"]["status"], answer["certificateStatus"]


@pytest.mark.parametrize("name", [NAME, "deabcc12345678", "DEABCC123456789"])
async def test_c07_a_contract_by_its_hashes_is_accepted_however_its_name_is_written(
    charger: RawCharger, responder: Responder, name: str
) -> None:
    assert await shown(charger, responder.data(), name=name) == ("Accepted", "Accepted")


async def test_c07_hashes_of_an_unknown_operator_are_refused(charger: RawCharger, responder: Responder) -> None:
    assert await shown(charger, responder.data(by=STRANGER)) == ("Invalid", "CertChainError")
    nonsense = {**responder.data(), "issuerKeyHash": "nonsense"}
    assert await shown(charger, nonsense) == ("Invalid", "CertChainError")


async def test_c07_a_contract_that_nobody_here_knows_is_refused_whatever_its_hashes(
    charger: RawCharger, responder: Responder
) -> None:
    assert await shown(charger, responder.data(), name="DEABCC99999999") == ("Unknown", "ContractCancelled")


async def test_c07_a_revoked_contract_is_refused_and_one_whose_responder_is_away_is_the_owners_word(
    charger: RawCharger, responder: Responder
) -> None:
    assert await shown(charger, responder.data(REVOKED)) == ("Invalid", "CertificateRevoked")
    responder.says = b"out of order"
    assert await shown(charger, responder.data()) == ("Accepted", "Accepted")


async def test_c08_the_charger_may_judge_contracts_without_us_and_has_them_in_its_list(charger: RawCharger) -> None:
    sent = await charger.hear("SendLocalList")
    listed = {entry["idToken"]["idToken"]: entry["idToken"]["type"] for entry in sent["localAuthorizationList"]}
    assert listed[NAME] == "eMAID"
    variables = [each["setVariableData"][0]["variable"]["name"] for each in charger.calls("SetVariables")]
    assert {"ContractValidationOffline", "CentralContractValidationAllowed"} <= set(variables)


async def test_m06_a_certificates_status_is_asked_for_once_and_passed_on(
    charger: RawCharger, responder: Responder
) -> None:
    asked = {"ocspRequestData": responder.data()}
    first = await charger.ask("GetCertificateStatus", asked)
    assert first["status"] == "Accepted"
    assert await charger.ask("GetCertificateStatus", asked) == first
    assert responder.asked == 1


@pytest.mark.parametrize("says", [b"nonsense", b"x" * (LARGEST + 1)], ids=["nonsense", "too long"])
async def test_m06_what_a_responder_makes_of_it_is_failed(
    charger: RawCharger, responder: Responder, says: bytes
) -> None:
    responder.says = says
    assert await charger.ask("GetCertificateStatus", {"ocspRequestData": responder.data()}) == {"status": "Failed"}


async def test_m06_neither_a_redirection_nor_another_host_is_followed(
    charger: RawCharger, responder: Responder
) -> None:
    away = {**responder.data(REVOKED), "responderURL": "http://127.0.0.1:1/"}
    assert await charger.ask("GetCertificateStatus", {"ocspRequestData": away}) == {"status": "Failed"}
    assert responder.asked == 0
    elsewhere = responder.data(path="/elsewhere")
    assert await charger.ask("GetCertificateStatus", {"ocspRequestData": elsewhere}) == {"status": "Failed"}
    assert responder.asked == 1


async def test_m06_a_question_at_a_wrong_place_takes_the_answer_from_nobody(
    charger: RawCharger, responder: Responder
) -> None:
    lost = responder.data(REVOKED, path="/elsewhere")
    assert await charger.ask("GetCertificateStatus", {"ocspRequestData": lost}) == {"status": "Failed"}
    assert await shown(charger, responder.data(REVOKED)) == ("Invalid", "CertificateRevoked")


@pytest.mark.parametrize("action", ["Install", "Update"])
async def test_m01_m02_a_contract_that_nobody_here_can_make_is_failed_in_time(charger: RawCharger, action: str) -> None:
    asked = {"iso15118SchemaVersion": "urn:iso:15118:2:2013:MsgDef", "action": action, "exiRequest": "gJgAAA=="}
    answer = await charger.ask("Get15118EVCertificate", asked)
    assert (answer["status"], answer["exiResponse"]) == ("Failed", "")
    assert answer["statusInfo"]["reasonCode"] == "NotEnabled"


async def test_m01_a_request_that_is_too_long_is_a_call_error(charger: RawCharger) -> None:
    asked = {"iso15118SchemaVersion": "x", "action": "Install", "exiRequest": "A" * 5601}
    with pytest.raises(AnsweredError):
        await charger.ask("Get15118EVCertificate", asked)


async def test_m07_the_status_of_a_chain_is_told_for_each_certificate(site: TlsSite, responder: Responder) -> None:
    data = {key: value for key, value in responder.data(REVOKED).items() if key != "responderURL"}
    urls = [responder.data()["responderURL"]]
    requests = [{"certificateHashData": data, "source": source, "urls": urls} for source in ("OCSP", "CRL")]
    site.version = "ocpp2.1"
    async with site.open() as socket:
        charger = RawCharger(socket)
        listening = asyncio.create_task(charger.run())
        await charger.boot()
        answer = await charger.ask("GetCertificateChainStatus", {"certificateStatusRequests": requests})
        listening.cancel()
    assert [each["status"] for each in answer["certificateStatus"]] == ["Revoked", "Failed"]
