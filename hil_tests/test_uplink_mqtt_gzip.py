"""Compression over a real mosquitto: only to a platform that says it takes it, bounded, and counted as it is sent."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from structlog.testing import capture_logs

from agent.uplink import uplink as uplinks
from agent.uplink.pace import Pace
from hil_tests.rig.broker import PLATFORM, Broker, client_files, mosquitto, running_broker
from hil_tests.rig.link import Link
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, rig, until
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.mqtt_topics import GatewayTopics

__all__ = ["rig"]

pytestmark = pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")

READINGS = ["meter", "pv"] * 25
BATCHES = 20


@pytest.fixture
async def broker(rig: Rig, tmp_path: Path) -> AsyncIterator[Broker]:
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
    async with running_broker(rig.practice, tmp_path / "broker") as broker:
        yield broker


@asynccontextmanager
async def platform_at(broker: Broker, rig: Rig, *, takes_gzip: bool = True) -> AsyncIterator[BrokerService]:
    files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
    async with BrokerService(rig.platform, rig.practice, files, broker.port, takes_gzip=takes_gzip) as service:
        yield service


def backlog(rig: Rig, batches: int = BATCHES) -> None:
    rig.gateway.outbox.rows += [rig.gateway.evidence.row(*READINGS) for _ in range(batches)]


async def drained(rig: Rig, broker: Broker, *, compression: bool, most_kbit_s: int | None = None) -> int:
    """Bytes on the wire of the backlog."""
    async with (
        Link("127.0.0.1", broker.port) as link,
        rig.uplink(f"mqtts://{link.address}", compression=compression, most_kbit_s=most_kbit_s),
    ):
        await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
        return link.bytes_sent


async def test_compressed_batches_are_the_same_and_fewer_bytes_on_the_wire(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig) as service:
        backlog(rig)
        plain = await drained(rig, broker, compression=False)
        assert service.packed == 0
        backlog(rig)
        small = await drained(rig, broker, compression=True)
        assert service.packed == BATCHES
        assert service.refusals == []
    assert rig.books()["batches_verified"] == 2 * BATCHES
    assert rig.books()["conflicts"] == []
    assert small < 0.7 * plain


async def test_a_platform_that_does_not_say_that_it_takes_gzip_is_not_sent_it(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig, takes_gzip=False) as service:
        backlog(rig)
        await drained(rig, broker, compression=True)
        assert (service.packed, service.refusals) == (0, [])
    assert rig.books()["batches_verified"] == BATCHES


async def test_what_the_platform_packs_is_read(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig), rig.uplink(broker.endpoint):
        await until(lambda: rig.gateway.connected == 1, "connected")
        await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60})
        await until(lambda: [c.command_id for c, _ in rig.gateway.commands] == ["c1"], "the command, in gzip")
    assert rig.gateway.alarms == []


def bomb() -> bytes:
    """64 MiB of zeros in a packet of 64 KiB."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packing.compress(bytes(1 << 20)) for _ in range(64)) + packing.flush()


def marked(coding: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as paho ships it
    properties.UserProperty = ("content-encoding", coding)
    return properties


async def test_bombs_and_what_is_no_gzip_are_passed_over_and_the_link_goes_on(rig: Rig, broker: Broker) -> None:
    topics = GatewayTopics(rig.gateway.evidence.gateway_id)
    order = GridCommand(command_id="c1").SerializeToString()
    async with platform_at(broker, rig) as service, rig.uplink(broker.endpoint) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        with capture_logs() as logged:
            for topic, payload, coding in (
                (topics.link, bomb(), "gzip"),
                (topics.device("pv"), bomb(), "gzip"),
                (topics.device("pv"), order, "gzip"),
                (topics.device("pv"), order, "br"),
                (topics.link, b"", "gzip"),
            ):
                service._client.publish(topic, payload, qos=1, properties=marked(coding))
            service._client.publish(topics.device("pv"), order, qos=1)
            await until(lambda: len(rig.gateway.commands) == 1, "the one command that can be read")
        refused = [str(entry["why"]) for entry in logged if entry["event"] == "uplink.mqtt_garbage"]
        assert [("largest frame" in why, "'br'" in why) for why in refused] == [
            (True, False), (True, False), (False, False), (False, True), (False, False),
        ]  # fmt: skip
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "the link goes on")
        assert uplink.status().connections == 1


class Counted(Pace):
    """Keeps what it was told."""

    total = 0

    def sent(self, size: int, now_s: float) -> None:
        Counted.total += size
        super().sent(size, now_s)


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("carrier", ["grpc", "mqtt"])
async def test_the_cap_counts_what_is_really_sent(
    rig: Rig, broker: Broker, carrier: str, compression: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplinks, "Pace", Counted)
    Counted.total = 0
    backlog(rig, 100)
    if carrier == "mqtt":
        async with platform_at(broker, rig):
            on_wire = await drained(rig, broker, compression=compression, most_kbit_s=10_000)
    else:
        async with (
            Server(rig.platform, rig.practice) as server,
            Link("127.0.0.1", server.port) as link,
            rig.uplink(link.address, compression=compression, most_kbit_s=10_000),
        ):
            await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
            on_wire = link.bytes_sent
    # The rest is TLS, its handshake, the login and acknowledgements.
    assert 0.85 * on_wire < Counted.total <= on_wire
