"""The real agent and a charger that nobody configured: approved by the command line it works, and goes on doing so."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from hil_tests.gateway_parts import GatewaySite, gateway_site, line_of, needs_softhsm, part_of, until
from hil_tests.ocpp_raw import RawCharger
from hil_tests.ocpp_station import stamp
from hil_tests.test_gateway_chargers import asked

pytestmark = needs_softhsm
NAME = "Garage_2"
DEVICE = "garage-2"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[GatewaySite]:
    async with gateway_site(tmp_path) as site:
        yield site


async def start(site: GatewaySite) -> None:
    """Until chargers can connect."""
    await site.stage.start_gateway()
    await site.shows(lambda s: bool(s["gateway_id"]), "the gateway's name")

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", site.stage.ocpp_port)
        except OSError:
            return False
        writer.close()
        return True

    await until(listens, "chargers can connect")


@asynccontextmanager
async def charger(site: GatewaySite, password: str | None) -> AsyncIterator[RawCharger]:
    """It listens until its socket is closed, by whomever."""
    login = base64.b64encode(f"{NAME}:{password}".encode()).decode()
    headers = {} if password is None else {"Authorization": f"Basic {login}"}
    url = f"ws://127.0.0.1:{site.stage.ocpp_port}/ocpp/{NAME}"
    async with connect(url, subprotocols=[Subprotocol("ocpp2.0.1")], additional_headers=headers, proxy=None) as socket:
        charger = RawCharger(socket)
        listening = asyncio.create_task(charger.run())
        try:
            yield charger
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def works(site: GatewaySite, device_id: str, password: str) -> None:
    """It is let in, is given its static share, and what it measures becomes readings."""
    async with charger(site, password) as here:
        assert (await here.boot())["status"] == "Accepted"
        share = (await here.hear("SetChargingProfile"))["chargingProfile"]
        assert share["chargingProfilePurpose"] == "TxDefaultProfile"
        assert share["chargingSchedule"][0]["chargingSchedulePeriod"][0]["limit"] == 0
        await site.shows(lambda s: line_of(s, device_id)["link"] == "online", "the charger to be online")
        register = {"value": 12_345, "measurand": "Energy.Active.Import.Register", "unitOfMeasure": {"unit": "Wh"}}
        power = {"value": 1_500, "measurand": "Power.Active.Import"}
        values = [{"timestamp": stamp(), "sampledValue": [register, power]}]
        await here.ask("MeterValues", {"evseId": 1, "meterValue": values})
        line = line_of(
            await site.shows(lambda s: line_of(s, device_id)["power_w"] == 1_500, "its power as a reading"), device_id
        )
        assert not line["settled"]


async def origin(site: GatewaySite) -> str:
    told = await asked(site, "chargers", "show", NAME)
    assert isinstance(told, dict)
    return str(told["known_from"])


async def test_an_approved_charger_works_at_once_over_a_restart_and_until_a_section_takes_over(
    site: GatewaySite,
) -> None:
    stage = site.stage
    await start(site)
    async with charger(site, None) as stranger:
        assert (await stranger.boot())["status"] == "Pending"
        assert "waits" in await origin(site)
        told: Any = await asked(site, "chargers", "approve", NAME)
        [setting] = (await stranger.hear("SetVariables"))["setVariableData"]
        assert setting["variable"]["name"] == "BasicAuthPassword"
        await stranger.socket.wait_closed()  # it comes back with the password
    password = setting["attributeValue"]
    secret = str(told["password_secret"])
    assert await asyncio.to_thread(Path(secret.removeprefix("file:")).read_text) == password
    await works(site, DEVICE, password)
    assert (await origin(site)).startswith("approved ")

    await stage.gateway.kill()
    await start(site)
    await works(site, DEVICE, password)

    assert await stage.gateway.end() == 0
    section = (
        f'\n[[device]]\nid = "carport"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "{NAME}"\n'
        f'password_secret = "{secret}"\nfallback_import_w = 0\n'
    )
    text = await asyncio.to_thread(stage.config.read_text)
    await asyncio.to_thread(stage.config.write_text, text + section)
    await start(site)
    await works(site, "carport", password)
    assert await origin(site) == "the configuration"
    status = await site.status()
    assert status is not None
    assert DEVICE not in {line["device_id"] for line in status["devices"]}
    assert await stage.gateway.end() == 0

    exported = await asyncio.to_thread((await stage.export()).read_bytes)
    assert all(word in exported for word in (b"charger.approved", DEVICE.encode(), b"carport"))


async def test_a_charger_that_was_approved_while_it_was_away_is_taken_in_when_it_comes(site: GatewaySite) -> None:
    await start(site)
    async with charger(site, None) as stranger:
        await stranger.boot()
    told: Any = await asked(site, "chargers", "approve", NAME, "--evses", "2")
    assert told["status"] == "door open"
    async with charger(site, None) as stranger:
        assert (await stranger.boot())["status"] == "Pending"
        [setting] = (await stranger.hear("SetVariables"))["setVariableData"]
        await stranger.socket.wait_closed()
    await works(site, f"{DEVICE}-1", setting["attributeValue"])
    status = await site.status()
    assert status is not None
    assert f"{DEVICE}-2" in {line["device_id"] for line in status["devices"]}


async def test_one_that_was_approved_while_the_link_was_up_is_in_the_platforms_streams_without_a_restart(
    site: GatewaySite,
) -> None:
    await site.stage.start_platform()
    await start(site)
    await site.shows(lambda s: part_of(s, "link")["state"] == "gateway link", "the link")
    async with charger(site, None) as stranger:
        await stranger.boot()
        await asked(site, "chargers", "approve", NAME)
        [setting] = (await stranger.hear("SetVariables"))["setVariableData"]
        await stranger.socket.wait_closed()
    await works(site, DEVICE, setting["attributeValue"])

    async def shown() -> bool:
        devices = (await site.page())["devices"]
        return DEVICE in devices and devices[DEVICE]["live_readings"] > 0

    await until(shown, "a live reading on its own stream")
    assert await site.stage.gateway.end() == 0
