"""The real agent, asked about its chargers by the real command line: limits, tap, strangers, the site's CA."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from agent.identity.purposes import SITE_CA_KEY
from hil_tests.gateway_parts import GatewaySite, gateway_site, needs_softhsm, until
from hil_tests.ocpp_raw import RawCharger
from hil_tests.ocpp_station import stamp
from hil_tests.test_cli_commands import command_beside

pytestmark = needs_softhsm
PLAIN_W = 7_360
CERTIFIED = 'site_ca = true\ncertificate_names = ["127.0.0.1", "gateway.example"]'
LIMIT_W = 5_000
"""Above 6 A on three phases: less would make the car pause."""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[GatewaySite]:
    async with gateway_site(tmp_path) as site:
        yield site


async def asked(site: GatewaySite, *arguments: str, code: int = 0) -> object:
    config = str(site.stage.config)
    done = await command_beside(*arguments, "--config", config, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_chargers_are_listed_limited_tapped_and_strangers_wait(site: GatewaySite) -> None:
    stage = site.stage
    await stage.start_site()
    await stage.start_gateway()
    await site.delivers(PLAIN_W, "charger-2")
    told = await asked(site, "chargers", "list")
    assert isinstance(told, dict)
    assert {each["charger"]: each["standing"] for each in told["chargers"]} == {
        "charger-1": "Accepted",
        "charger-2": "Accepted",
    }

    # The limit is the plan's: the car takes less, and all of it again when the limit is lifted.
    assert isinstance(await asked(site, "chargers", "limit", "charger-2", str(LIMIT_W)), dict)

    async def limited() -> bool:
        return LIMIT_W / 2 < await site.power_w("charger-2") <= LIMIT_W + 50

    await until(limited, "the car to take no more than the limit")
    await stage.gateway.kill()
    await stage.start_gateway()
    await site.shows(
        lambda s: {line["link"] for line in s["devices"] if "charger" in line["device_id"]} == {"online"}, "chargers"
    )
    await until(limited, "the limit to hold over a restart")
    await asked(site, "chargers", "limit", "charger-2", "none")
    await site.delivers(PLAIN_W, "charger-2")

    heard = await command_beside("ocpp", "tap", "charger-2", "--seconds", "3", "--config", str(stage.config))
    assert heard.returncode == 0, heard.stderr
    assert "charger -> TransactionEvent" in heard.stdout

    # A stranger waits, and the agent goes on.
    url = f"ws://127.0.0.1:{stage.ocpp_port}/ocpp/NEW-1"
    async with connect(url, subprotocols=[Subprotocol("ocpp2.0.1")], proxy=None) as socket:
        stranger = RawCharger(socket)
        listening = asyncio.create_task(stranger.run())
        assert (await stranger.boot())["status"] == "Pending"
        told = await asked(site, "chargers", "approve", "NEW-1")
        assert isinstance(told, dict)
        secret = Path(str(told["password_secret"]).removeprefix("file:"))
        assert await asyncio.to_thread(secret.is_file)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert await stage.gateway.end() == 0


async def test_what_a_charger_reports_about_its_security_and_faults_is_in_the_evidence(site: GatewaySite) -> None:
    stage = site.stage
    await stage.start_gateway()
    await site.shows(lambda s: bool(s["gateway_id"]), "the gateway's name")
    headers = await authorization(site, "charger-1")
    url = f"ws://127.0.0.1:{stage.ocpp_port}/ocpp/charger-1"
    async with connect(url, subprotocols=[Subprotocol("ocpp2.0.1")], additional_headers=headers, proxy=None) as socket:
        charger = RawCharger(socket)
        listening = asyncio.create_task(charger.run())
        await charger.boot()
        await charger.ask("SecurityEventNotification", {"type": "TamperDetectionActivated", "timestamp": stamp()})
        broken = {"timestamp": stamp(), "connectorStatus": "Faulted", "evseId": 1, "connectorId": 1}
        await charger.ask("StatusNotification", broken)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    await site.shows(lambda s: s["evidence"]["queued"] == 0 and s["evidence"]["sealed"] > 0, "everything sealed")
    assert await stage.gateway.end() == 0
    exported = await stage.export()
    evidence = await asyncio.to_thread(exported.read_bytes)
    assert b"TamperDetectionActivated" in evidence
    assert b"charger.faulted" in evidence


async def authorization(site: GatewaySite, charger_id: str) -> dict[str, str]:
    """What the charger would send, by the configuration."""
    text = await asyncio.to_thread(site.stage.config.read_text)
    device = next(d for d in tomllib.loads(text)["device"] if d.get("charger_id") == charger_id)
    if "password_secret" not in device:
        return {}
    password = await asyncio.to_thread(Path(device["password_secret"].removeprefix("file:")).read_text)
    return {"Authorization": "Basic " + base64.b64encode(f"{charger_id}:{password.strip()}".encode()).decode()}


async def test_the_sites_ca_comes_up_once_its_key_is_made(site: GatewaySite) -> None:
    stage = site.stage
    text = await asyncio.to_thread(stage.config.read_text)
    await asyncio.to_thread(stage.config.write_text, text.replace("[ocpp]\n", f"[ocpp]\n{CERTIFIED}\n"))
    await stage.start_gateway()
    await site.shows(
        lambda s: any("cannot be certified" in p["sentence"] for p in s["problems"]), "the key to be missed"
    )
    assert await stage.gateway.end() == 0
    state_dir = stage.state_dir
    done = await command_beside("init", "--state-dir", str(state_dir), "--config-out", str(stage.config), "--json")
    assert done.returncode == 0, done.stderr
    assert f"key {SITE_CA_KEY.decode()}" in json.loads(done.stdout)["made"]
    await stage.start_platform()  # whose time is the witness where this machine has none
    await stage.start_gateway()
    root = state_dir / "site-ca.pem"

    async def made() -> bool:
        return await asyncio.to_thread(root.exists)

    await until(made, "the root certificate")
    certificate = x509.load_pem_x509_certificate(await asyncio.to_thread(root.read_bytes))
    certificate.verify_directly_issued_by(certificate)

    # With it the listener has a certificate of its own, which chargers that trust the site's root take.
    pair = state_dir / "ocpp-server.pem"

    async def certified() -> bool:
        return await asyncio.to_thread(pair.exists)

    await until(certified, "the listener's certificate")
    assert (await asyncio.to_thread(pair.stat)).st_mode & 0o777 == 0o600
    trust = ssl.create_default_context(cafile=str(root))
    address = f"wss://127.0.0.1:{stage.ocpp_port}/ocpp/charger-1"
    headers = await authorization(site, "charger-1")

    async def gets_in() -> bool:
        try:
            async with connect(
                address,
                ssl=trust,
                subprotocols=[Subprotocol("ocpp2.0.1")],
                additional_headers=headers,
                proxy=None,
            ):
                return True
        except OSError:  # the file is there a moment before the listener has it
            return False

    await until(gets_in, "a charger to connect by TLS")
    assert await stage.gateway.end() == 0
