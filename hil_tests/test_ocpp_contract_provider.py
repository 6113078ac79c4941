"""OCPP block M over TLS: contracts for cars (M01 install, M02 update) are passed on to whoever makes them, and back.

Whoever makes them is a real HTTPS server on loopback; what it gives is opaque here, as it is on the way to a car.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.config import Settings
from agent.roads.contracts import LARGEST, contract_requests, provider
from drivers.ocpp import ChargerSettings
from drivers.ocpp import contract_requests as requests
from drivers.ocpp.contract_requests import LONGEST, ContractRequests
from drivers.ocpp.schemas import Version
from hil_tests.http_parts import serving
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, TlsSite
from hil_tests.ocpp_station import until

SETTINGS = [
    ChargerSettings(device_id=f"car-{number}", charger_id=f"CP-{number}", password="secret-1") for number in (1, 2)
]
SECRET = "what-the-provider-knows-us-by"
EXI = base64.b64encode(b"signed and encrypted for a car").decode()
ASKED = {"iso15118SchemaVersion": "urn:iso:15118:2:2013:MsgDef", "action": "Install", "exiRequest": "gJgAAA=="}


class Maker:
    """Whoever makes contracts. `says`: the body of its answer, or what gives it."""

    def __init__(self) -> None:
        self.port = 0
        self.heard: list[tuple[Payload, str | None]] = []
        self.says: bytes = orjson.dumps({"status": "Accepted", "exiResponse": EXI})
        self.status = 200
        self.waits: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.heard.append((orjson.loads(await request.read()), request.headers.get("Authorization")))
        if self.waits is not None:
            await self.waits.wait()
        if self.status == 302:
            raise web.HTTPFound("/elsewhere")
        return web.Response(body=self.says, status=self.status)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/contracts"


@pytest.fixture
async def maker(loopback_tls: tuple[ssl.SSLContext, Path]) -> AsyncIterator[Maker]:
    made = Maker()
    async with serving("POST", made.answer, loopback_tls[0]) as made.port:
        yield made
        if made.waits is not None:
            made.waits.set()


@pytest.fixture
async def site(
    tmp_path: Path, maker: Maker, loopback_tls: tuple[ssl.SSLContext, Path], version: str
) -> AsyncIterator[TlsSite]:
    tls = ssl.create_default_context(cafile=loopback_tls[1])
    options = {"contracts": ContractRequests(provider(maker.url, tls, SECRET))}
    async with TlsSite(tmp_path, SETTINGS, options=options, version=version).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.ready()
        yield charger


async def refused(charger: RawCharger, **more: Any) -> str:
    answer = await charger.ask("Get15118EVCertificate", {**ASKED, **more})
    assert (answer["status"], answer["exiResponse"]) == ("Failed", "")
    return f"{answer['statusInfo']['reasonCode']}: {answer['statusInfo']['additionalInfo']}"


@pytest.mark.parametrize("action", ["Install", "Update"])
async def test_m01_m02_a_request_goes_to_whoever_makes_contracts_and_the_answer_to_the_car(
    charger: RawCharger, maker: Maker, action: str
) -> None:
    asked = {**ASKED, "action": action}
    answer = await charger.ask("Get15118EVCertificate", {**asked, "customData": {"vendorId": "ours alone"}})
    assert answer == {"status": "Accepted", "exiResponse": EXI}
    assert maker.heard == [(asked, f"Bearer {SECRET}")]


async def test_m01_of_iso_15118_20_says_how_many_contracts_it_wants_and_hears_how_many_are_left(
    charger: RawCharger, maker: Maker, version: str
) -> None:
    maker.says = orjson.dumps({"status": "Accepted", "exiResponse": EXI, "remainingContracts": 2, "more": "unknown"})
    if version == "ocpp2.0.1":
        assert await charger.ask("Get15118EVCertificate", ASKED) == {"status": "Accepted", "exiResponse": EXI}
        return
    wanted = {**ASKED, "maximumContractCertificateChains": 1, "prioritizedEMAIDs": ["DEABCC12345678"]}
    answer = await charger.ask("Get15118EVCertificate", wanted)
    assert answer == {"status": "Accepted", "exiResponse": EXI, "remainingContracts": 2}
    assert maker.heard[0][0] == wanted


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"<html>out of order</html>", "not JSON"),
        (b"", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"status": "Accepted"}', "no exiResponse"),
        (b'{"status": "Accepted", "exiResponse": 7}', "no exiResponse"),
        (b'{"status": "Accepted", "exiResponse": "not base64!"}', "not base64"),
        (b'{"status": "Failed", "exiResponse": "", "statusInfo": {"reasonCode": "NoContract"}}', "'NoContract'"),
        (b'{"status": "Failed", "statusInfo": "of no form"}', "'Failed'"),
        (b"[" * LARGEST, "not JSON"),
        (b" " * (LARGEST + 1), "longer than"),
    ],
)
async def test_m01_what_is_no_answer_is_failed_with_its_reason(
    charger: RawCharger, maker: Maker, says: bytes, why: str
) -> None:
    maker.says = says
    assert why in await refused(charger)


async def test_m01_an_answer_that_fits_in_no_message_is_failed(charger: RawCharger, maker: Maker, version: str) -> None:
    longest = LONGEST[Version(version)]
    maker.says = orjson.dumps({"status": "Accepted", "exiResponse": "A" * longest})
    assert (await charger.ask("Get15118EVCertificate", ASKED))["status"] == "Accepted"
    maker.says = orjson.dumps({"status": "Accepted", "exiResponse": "A" * (longest + 4)})
    assert f"{longest} fit" in await refused(charger)


@pytest.mark.parametrize("status", [302, 401, 404, 500])
async def test_m01_neither_a_redirection_nor_an_error_is_followed(
    charger: RawCharger, maker: Maker, status: int
) -> None:
    maker.status = status
    assert f"HTTP status {status}" in await refused(charger)
    assert len(maker.heard) == 1


async def test_m01_a_request_that_is_no_exi_goes_nowhere(charger: RawCharger, maker: Maker) -> None:
    assert "InvalidValue" in await refused(charger, exiRequest="not base64!")
    with pytest.raises(AnsweredError):
        await charger.ask("Get15118EVCertificate", {**ASKED, "exiRequest": "A" * 11_004})
    assert not maker.heard


async def test_m02_while_one_is_waited_for_all_else_goes_on_and_a_second_is_told_to_wait(
    charger: RawCharger, maker: Maker, site: TlsSite
) -> None:
    maker.waits = asyncio.Event()
    waiting = asyncio.create_task(charger.ask("Get15118EVCertificate", {**ASKED, "action": "Update"}))
    await until(lambda: maker.heard, "it was passed on")
    assert "under way" in await refused(charger)
    charger.answers["ClearCache"] = {"status": "Accepted"}
    assert (await site.order("clear-cache"))["ok"], "our own calls are answered meanwhile"
    async with site.charger("CP-2") as other:
        await other.boot()
        other_waits = asyncio.create_task(other.ask("Get15118EVCertificate", ASKED))
        await until(lambda: len(maker.heard) == 2, "of another charger it is passed on")
        maker.waits.set()
        assert (await other_waits)["status"] == "Accepted"
    assert (await waiting)["status"] == "Accepted"


async def test_m01_one_that_is_slow_is_failed_before_the_car_gives_up(
    charger: RawCharger, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "DEADLINE_S", 0.2)
    maker.waits = asyncio.Event()
    assert "no answer within 0.2 s" in await refused(charger)
    maker.waits.set()
    assert (await charger.ask("Get15118EVCertificate", ASKED))["status"] == "Accepted"


async def test_m01_a_charger_that_leaves_while_it_waits_does_no_harm(site: TlsSite, maker: Maker) -> None:
    maker.waits = asyncio.Event()
    async with site.charger() as leaving:
        await leaving.boot()
        waiting = asyncio.create_task(leaving.ask("Get15118EVCertificate", ASKED))
        await until(lambda: maker.heard, "it was passed on")
    waiting.cancel()
    maker.waits.set()
    async with site.charger() as back:
        await back.boot()
        assert (await back.ask("Get15118EVCertificate", ASKED))["status"] == "Accepted"


async def test_m01_nobody_else_is_believed_to_be_the_provider_and_nothing_of_it_is_in_a_log(
    tmp_path: Path, maker: Maker, version: str
) -> None:
    untrusted = ContractRequests(provider(maker.url, ssl.create_default_context(), SECRET))
    site = TlsSite(tmp_path, SETTINGS, options={"contracts": untrusted}, version=version)
    with capture_logs() as logs:
        async with site.running(), site.charger() as charger:
            await charger.ready()
            assert "certificate" in await refused(charger)
    assert not maker.heard
    assert any(each["event"] == "ocpp_no_contract" for each in logs)
    assert SECRET not in str(logs)
    assert ASKED["exiRequest"] not in str(logs)


async def test_m01_one_that_is_down_is_failed_at_once(tmp_path: Path, version: str) -> None:
    away = ContractRequests(provider("https://127.0.0.1:1/", ssl.create_default_context()))
    async with (
        TlsSite(tmp_path, SETTINGS, options={"contracts": away}, version=version).running() as site,
        site.charger() as charger,
    ):
        await charger.ready()
        assert "cannot be asked" in await refused(charger)


def test_m01_a_provider_that_cannot_be_used_is_said_and_leaves_the_chargers_working(tmp_path: Path) -> None:
    told: list[tuple[str, str, str]] = []
    ocpp = {"contract_provider": "https://127.0.0.1:1/", "contract_provider_ca_file": str(tmp_path / "none.pem")}
    settings = Settings.model_validate({"token": {"label": "t"}, "ocpp": ocpp})
    assert contract_requests(settings, lambda *event: told.append(event)) is None
    assert told[0][0] == "charger.contract_provider"
    assert contract_requests(Settings.model_validate({"token": {"label": "t"}}), lambda *event: None) is None
