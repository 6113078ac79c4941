"""A device that the site gets while the link is up: its stream is there, and a hello names it, without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.uplink.status import Carrier
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.gateway_pb2 import GatewayHello, Welcome

__all__ = ["rig"]


@pytest.fixture
def hellos(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Devices that each hello named."""
    named: list[list[str]] = []
    welcome = Platform.welcome

    def seen(platform: Platform, hello: GatewayHello) -> Welcome:
        named.append(list(hello.device_ids))
        return welcome(platform, hello)

    monkeypatch.setattr(Platform, "welcome", seen)
    return named


def streams(rig: Rig) -> set[str]:
    return {device_id for _, device_id in rig.platform.streams}


async def test_beside_the_link_it_has_a_stream_and_a_hello_names_it(rig: Rig, hellos: list[list[str]]) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: streams(rig) == {"meter", "pv"}, "the streams of the start")
        uplink.device_added("car")
        await until(lambda: streams(rig) == {"meter", "pv", "car"}, "its stream")
        await until(lambda: hellos == [["meter", "pv"], ["meter", "pv", "car"]], "the hellos")
        rig.gateway.seal(uplink, "car")
        await until(lambda: rig.books()["receipts_verified"] == 1, "its live reading")
        await until(rig.gateway.outbox.all_acknowledged, "its batch")
    assert rig.gateway.alarms == []


async def test_one_that_the_link_was_made_with_is_not_named_twice(rig: Rig, hellos: list[list[str]]) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: streams(rig) == {"meter", "pv"}, "the streams of the start")
        uplink.device_added("pv")
        uplink.device_added("car")
        uplink.device_added("car")
        await until(lambda: streams(rig) == {"meter", "pv", "car"}, "its stream")
        await until(lambda: hellos == [["meter", "pv"], ["meter", "pv", "car"]], "the hellos")


async def test_without_the_link_it_has_a_stream_at_once_and_commands_come_on_it(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: streams(rig) == {"meter", "pv"}, "the streams of the start")
        uplink.device_added("car")
        await until(lambda: streams(rig) == {"meter", "pv", "car"}, "its stream")
        await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60, "targets": ["car"], "stream": "car"})
        await until(lambda: [device for _, device in rig.gateway.commands] == ["car"], "a command on it")
        assert (uplink.status().carrier, uplink.status().connections) == (Carrier.DEVICE_STREAMS, 1)


@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
async def test_over_a_broker_its_live_readings_come_and_a_hello_names_it(
    rig: Rig, tmp_path: Path, hellos: list[list[str]]
) -> None:
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
    async with running_broker(rig.practice, tmp_path / "broker") as broker:
        files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
        async with (
            BrokerService(rig.platform, rig.practice, files, broker.port),
            rig.uplink(broker.endpoint) as uplink,
        ):
            await until(lambda: len(hellos) == 1, "connected")
            uplink.device_added("car")
            await until(lambda: hellos == [["meter", "pv"], ["meter", "pv", "car"]], "the hellos")
            await until(lambda: uplink.status().connected, "connected again")
            rig.gateway.seal(uplink, "car")
            await until(lambda: rig.books()["receipts_verified"] == 1, "its live reading")
