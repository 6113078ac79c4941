"""OCPP blocks C and M over TLS: lists of revoked certificates (CRLs), fetched from where the owner allows it.

Use cases: M07 GetCertificateChainStatus (2.1), C07 contracts that a car shows with their chain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.roads.ocsp import LARGEST_LIST, fetch_list, post
from drivers.ocpp import ChargerSettings
from drivers.ocpp.revocation import Revocations
from drivers.ocpp.tokens import SiteToken, SiteTokens
from hil_tests.crl_parts import crl, hash_data
from hil_tests.http_parts import serving
from hil_tests.ocpp_raw import Authority, Payload, RawCharger, TlsSite, pem, token
from hil_tests.ocpp_station import MemoryJournal, until

ROOT, STRANGER = Authority("Mobility operator root"), Authority("Somebody")
NAME = "DEABCC12345678"


class ListServer:
    """Where issuers leave their lists; plain HTTP, as usual."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0
        self.lists: dict[str, bytes] = {}
        self.waits: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.waits is not None:
            await self.waits.wait()
        if request.path == "/elsewhere":
            raise web.HTTPFound("/root.crl")
        if request.path not in self.lists:
            raise web.HTTPNotFound
        return web.Response(body=self.lists[request.path])

    def url(self, path: str = "/root.crl") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
async def lists() -> AsyncIterator[ListServer]:
    made = ListServer()
    async with serving("GET", made.answer) as made.port:
        yield made


def contract(lists: ListServer) -> x509.Certificate:
    """A contract certificate that says where its issuer's list is."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(lists.url())], None, None, None)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)]))
        .issuer_name(ROOT.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .sign(ROOT.key, hashes.SHA256())
    )


def make_site(folder: Path, lists: ListServer, version: str) -> TlsSite:
    tokens = SiteTokens()
    tokens.replace([SiteToken(name=NAME, kind="eMAID")])
    revocations = Revocations(
        post,
        [],
        journal=MemoryJournal(),
        monotonic_s=lambda: 0.0,
        wall_us=lambda: round(datetime.now(UTC).timestamp() * 1e6),
        fetch_list=fetch_list,
        list_hosts=[f"127.0.0.1:{lists.port}"],
    )
    settings = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")]
    options = {"contract_roots": [ROOT.certificate], "revocations": revocations}
    return TlsSite(folder, settings, tokens, options=options, version=version)


@pytest.fixture
async def charger(tmp_path: Path, lists: ListServer) -> AsyncIterator[RawCharger]:
    async with make_site(tmp_path, lists, "ocpp2.1").running() as site, site.charger() as charger:
        await charger.boot()
        yield charger


async def status(charger: RawCharger, data: Payload, *urls: str) -> str:
    asked = {"certificateHashData": data, "source": "CRL", "urls": list(urls)}
    answer = await charger.ask("GetCertificateChainStatus", {"certificateStatusRequests": [asked]})
    (told,) = answer["certificateStatus"]
    assert (told["certificateHashData"], told["source"]) == (data, "CRL")
    return str(told["status"])


async def test_m07_a_list_says_who_is_revoked_and_is_fetched_once(charger: RawCharger, lists: ListServer) -> None:
    good, gone = contract(lists), contract(lists)
    lists.lists["/root.crl"] = crl(ROOT, [gone.serial_number])
    assert await status(charger, hash_data(good, ROOT), lists.url()) == "Good"
    assert await status(charger, hash_data(gone, ROOT), lists.url()) == "Revoked"
    assert lists.asked == 1


async def test_m07_the_next_place_is_asked_where_the_first_has_none(charger: RawCharger, lists: ListServer) -> None:
    lists.lists["/root.crl"] = crl(ROOT)
    urls = ("http://elsewhere.example/root.crl", lists.url("/none.crl"), lists.url())
    assert await status(charger, hash_data(contract(lists), ROOT), *urls) == "Good"
    assert lists.asked == 2, "a place that nobody allowed is not asked"


async def test_m07_a_question_about_another_issuer_takes_a_list_from_nobody(
    charger: RawCharger, lists: ListServer
) -> None:
    gone = contract(lists)
    lists.lists["/root.crl"] = crl(ROOT, [gone.serial_number])
    for _ in range(3):
        assert await status(charger, hash_data(STRANGER.certificate, STRANGER), lists.url()) == "Failed"
        assert await status(charger, hash_data(gone, ROOT), lists.url()) == "Revoked"
    assert lists.asked == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>out of order</html>",
        crl(ROOT)[:-1],
        crl(STRANGER),
        crl(STRANGER, name=ROOT.certificate.subject),
        crl(ROOT, hours=-0.5),
        crl(ROOT, extensions=[(x509.DeltaCRLIndicator(1), True)]),
        b"\x30" * (LARGEST_LIST + 1),
    ],
    ids=["empty", "page", "cut", "of another", "forged", "ended", "delta", "endless"],
)
async def test_m07_what_is_no_list_of_the_issuer_in_force_says_nothing(
    charger: RawCharger, lists: ListServer, body: bytes
) -> None:
    lists.lists["/root.crl"] = body
    assert await status(charger, hash_data(contract(lists), ROOT), lists.url()) == "Failed"
    assert lists.asked == 1


async def test_m07_neither_a_redirection_nor_nonsense_leads_anywhere(charger: RawCharger, lists: ListServer) -> None:
    lists.lists["/root.crl"] = crl(ROOT)
    data = hash_data(contract(lists), ROOT)
    assert await status(charger, data, lists.url("/elsewhere")) == "Failed"
    assert await status(charger, {**data, "issuerNameHash": "nonsense"}, lists.url()) == "Failed"
    assert await status(charger, data, "gopher://127.0.0.1/", "http://user@127.0.0.1/", "http://[") == "Failed"
    assert lists.asked == 1


async def test_c07_a_contract_in_its_issuers_list_is_refused_and_without_a_list_the_owners_word_counts(
    tmp_path: Path, lists: ListServer, version: str
) -> None:
    shown = contract(lists)

    async def ask() -> tuple[str, str]:
        (tmp_path / str(lists.asked)).mkdir()
        async with (
            make_site(tmp_path / str(lists.asked), lists, version).running() as site,
            site.charger() as charger,
        ):
            await charger.boot()
            asked = {"idToken": token(NAME, "eMAID"), "certificate": pem(shown)}
            answer = await charger.ask("Authorize", asked)
            return answer["idTokenInfo"]["status"], answer["certificateStatus"]

    assert await ask() == ("Accepted", "Accepted")
    lists.lists["/root.crl"] = crl(ROOT)
    assert await ask() == ("Accepted", "Accepted")
    lists.lists["/root.crl"] = crl(ROOT, [shown.serial_number])
    assert await ask() == ("Invalid", "CertificateRevoked")
    assert lists.asked == 3


async def test_c07_while_a_list_is_fetched_for_a_contract_our_own_calls_are_answered(
    tmp_path: Path, lists: ListServer, version: str
) -> None:
    shown = contract(lists)
    lists.lists["/root.crl"] = crl(ROOT, [shown.serial_number])
    lists.waits = asyncio.Event()
    async with make_site(tmp_path, lists, version).running() as site, site.charger() as charger:
        charger.answers["ClearCache"] = {"status": "Accepted"}
        await charger.ready()
        asked = {"idToken": token(NAME, "eMAID"), "certificate": pem(shown)}
        waiting = asyncio.create_task(charger.ask("Authorize", asked))
        await until(lambda: lists.asked, "the list is asked for")
        assert (await site.order("clear-cache"))["ok"], "a stop would be answered, too"
        assert not waiting.done()
        lists.waits.set()
        assert (await waiting)["certificateStatus"] == "CertificateRevoked"
