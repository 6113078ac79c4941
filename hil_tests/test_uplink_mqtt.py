"""The uplink over a real mosquitto with TLS: the same promises as over gRPC, and one carrier in place of the other."""

from __future__ import annotations

import asyncio
import base64
import signal
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cbor2
import pytest

from agent.clock import Clock
from agent.evidence.cose import decode_sign1
from agent.identity.login_token import AUD, EXP, IAT, ISS
from agent.uplink.errors import CredentialsError
from agent.uplink.mqtt_login import log_in, tls_context
from agent.uplink.status import Carrier
from hil_tests.rig.broker import PLATFORM, Broker, client_files, mosquitto, running_broker
from hil_tests.rig.link import Link
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, rig, until
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, ChannelReestablish, PlatformFrame, Welcome
from proto.mqtt_topics import GatewayTopics, parse_up

__all__ = ["rig"]

pytestmark = pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture
async def broker(rig: Rig, tmp_path: Path) -> AsyncIterator[Broker]:
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
    async with running_broker(rig.practice, tmp_path / "broker") as broker:
        yield broker


@asynccontextmanager
async def platform_at(broker: Broker, rig: Rig) -> AsyncIterator[BrokerService]:
    files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
    async with BrokerService(rig.platform, rig.practice, files, broker.port) as service:
        yield service


async def test_batches_live_readings_and_commands_go_over_a_broker(rig: Rig, broker: Broker) -> None:
    for _ in range(5):
        rig.gateway.outbox.rows.append(rig.gateway.evidence.row("meter", "pv"))
    async with platform_at(broker, rig) as service, rig.uplink(broker.endpoint) as uplink:
        await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "a batch that was sealed later is acknowledged")
        await until(lambda: rig.books()["receipts_verified"] == 2, "both live readings verified")
        status = uplink.status()
        assert (status.carrier, status.acknowledged_number, status.batches_in_flight) == (Carrier.GATEWAY_LINK, 6, 0)
        assert status.platform_id == "practice-platform"
        assert broker.endpoint in status.detail
        await rig.platform.issue({"id": "c1", "type": "DISCHARGE", "power_w": 5000, "duration_s": 60})
        await rig.platform.issue({"id": "c2", "type": "IDLE", "duration_s": 60, "targets": ["pv"], "stream": "pv"})
        await until(lambda: len(rig.gateway.commands) == 2, "both commands")
        assert {(c.command_id, device) for c, device in rig.gateway.commands} == {("c1", None), ("c2", "pv")}
        assert service.refusals == []
    assert rig.books()["batches_verified"] == 6
    assert rig.books()["conflicts"] == []
    assert rig.gateway.alarms == []
    assert rig.gateway.connected == 1


async def test_channel_frames_go_both_ways_over_a_broker(rig: Rig, broker: Broker) -> None:
    frame = ChannelFrame(device_id="pv", channel_id=bytes(32), reestablish=ChannelReestablish(nonce=bytes(16)))
    async with platform_at(broker, rig) as service, rig.uplink(broker.endpoint) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        await uplink.send_channel(frame)
        await until(lambda: bool(service.refusals), "the frame is judged by the platform")
        rig.platform._links[rig.gateway.evidence.gateway_id].put_nowait(PlatformFrame(channel=frame))
        await until(lambda: len(rig.gateway.channel_frames) == 1, "a frame of the platform")
    assert "no channel" in service.refusals[0]


async def test_the_broker_holds_what_is_sent_while_the_gateway_is_away(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig) as service:
        async with rig.uplink(broker.endpoint):
            await until(lambda: rig.gateway.connected == 1, "connected")
        await until(lambda: rig.gateway.evidence.gateway_id not in rig.platform._links, "the platform hears of the end")
        issued = await rig.platform.issue({"id": "c1", "type": "CURTAIL", "power_w": 1000, "duration_s": 60})
        topic = GatewayTopics(rig.gateway.evidence.gateway_id).link
        stored = PlatformFrame(command=issued.message).SerializeToString()
        service._client.publish(topic, stored, qos=1).wait_for_publish(5)
    # No platform is there any more: the command comes from the broker alone, before any welcome.
    async with rig.uplink(broker.endpoint):
        await until(lambda: [c.command_id for c, _ in rig.gateway.commands] == ["c1"], "the command that was held")
    assert rig.gateway.connected == 1


async def test_a_killed_broker_loses_and_doubles_nothing(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig), rig.uplink(broker.endpoint) as uplink:
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged before the fault")
        await broker.stop(kill=True)
        await until(lambda: not uplink.status().connected, "the end is noticed")
        for _ in range(20):
            rig.gateway.seal(uplink, "meter", "pv")
        await broker.start()
        await until(rig.gateway.outbox.all_acknowledged, "backlog acknowledged", within_s=30)
    devices = rig.books()["devices"]
    assert isinstance(devices, dict)
    assert devices["meter"]["sequences"] == [[1, 1, 21]]
    assert rig.books()["conflicts"] == []


async def test_a_frozen_broker_is_noticed_and_left(rig: Rig, broker: Broker) -> None:
    async with platform_at(broker, rig), rig.uplink(broker.endpoint, stall_s=2.0) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        assert broker._process is not None
        broker._process.send_signal(signal.SIGSTOP)
        try:
            rig.gateway.seal(uplink, "meter")
            await until(lambda: not uplink.status().connected, "the stall is noticed")
            assert rig.gateway.outbox.acknowledged == {}
        finally:
            broker._process.send_signal(signal.SIGCONT)
        await until(rig.gateway.outbox.all_acknowledged, "sent again", within_s=30)
    assert rig.books()["conflicts"] == []


async def test_the_brokers_word_is_not_the_platforms(rig: Rig, broker: Broker) -> None:
    async with rig.uplink(broker.endpoint, stall_s=2.0) as uplink:
        rig.gateway.seal(uplink, "meter")
        await until(lambda: "no welcome" in uplink.status().detail, "nobody is behind the broker")
        assert rig.gateway.outbox.acknowledged == {}


async def test_garbage_and_old_welcomes_from_a_broker_change_nothing(rig: Rig, broker: Broker) -> None:
    topics = GatewayTopics(rig.gateway.evidence.gateway_id)
    old = PlatformFrame(welcome=Welcome(platform_id="somebody else")).SerializeToString()
    async with platform_at(broker, rig) as service, rig.uplink(broker.endpoint) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        for topic, payload in (
            (topics.link, b"\xff\xff garbage"),
            (topics.link, b""),
            (topics.link, old),
            (topics.device("pv"), b"\xff\xff garbage"),
            (topics.base + "/down/of/a/later/version", b"?"),
        ):
            service._client.publish(topic, payload, qos=1)
        for _ in range(500):
            service._client.publish(topics.link, b"\xff flood", qos=0)
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "the link goes on")
        assert uplink.status().connections == 1
        assert uplink.status().platform_id == "practice-platform"
        assert [code for code, _, _ in rig.gateway.alarms] == ["uplink.mqtt_garbage"], "a flood is told once"
        assert "are no message" in uplink.status().oddity


async def test_a_broker_stands_in_for_grpc_and_is_left_when_grpc_is_back(rig: Rig, broker: Broker) -> None:
    async with (
        platform_at(broker, rig),
        Server(rig.platform, rig.practice) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address, broker.endpoint) as uplink,
    ):
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged over gRPC")
        assert uplink.status().endpoint == link.address
        link.cut()
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged over the broker")
        assert uplink.status().endpoint == broker.endpoint
        link.restore()
        await until(
            lambda: uplink.status().endpoint == link.address and uplink.status().connected, "back to the first endpoint"
        )
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged over gRPC again")
    assert rig.books()["conflicts"] == []


async def test_a_client_that_the_broker_does_not_know_is_told_so(rig: Rig, broker: Broker) -> None:
    rig.mqtt = None
    async with rig.uplink(broker.endpoint) as uplink:
        await until(lambda: "next try" in uplink.status().detail, "the refusal is shown")
        assert broker.endpoint in uplink.status().detail


async def test_a_broker_of_another_ca_or_name_is_not_talked_to(rig: Rig, broker: Broker, tmp_path: Path) -> None:
    files = rig.mqtt
    assert files is not None
    other = Practice.make(tmp_path / "other").public_file("ca")
    for context, why in (
        (tls_context(other, None, files.certificate, files.key), "certificate"),
        (tls_context(rig.practice.public_file("ca"), "elsewhere.example", files.certificate, files.key), "elsewhere"),
    ):
        with socket.create_connection(("127.0.0.1", broker.port)) as plain, pytest.raises(ssl.SSLError, match=why):
            await asyncio.to_thread(context.wrap_socket, plain, server_hostname="127.0.0.1")


async def test_a_key_that_others_may_read_and_files_that_are_none_are_named(rig: Rig, tmp_path: Path) -> None:
    files = client_files(rig.practice, tmp_path, "somebody")
    ca = rig.practice.public_file("ca")
    files.key.chmod(0o644)
    with pytest.raises(CredentialsError, match="chmod 600"):
        tls_context(ca, None, files.certificate, files.key)
    files.key.chmod(0o600)
    with pytest.raises(CredentialsError, match=r"nowhere\.pem"):
        tls_context(tmp_path / "nowhere.pem", None, None, None)
    files.certificate.write_text("no certificate", encoding="utf-8")
    with pytest.raises(CredentialsError, match="somebody"):
        tls_context(ca, None, files.certificate, files.key)


async def test_without_a_client_certificate_the_password_is_a_token_that_the_hsm_signs(rig: Rig) -> None:
    """The broker here only listens to the CONNECT packet; the token is read by an independent CBOR library."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(rig.practice.public_file("server"), rig.practice.key_file("server"))
    packets: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packets.put_nowait(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with rig.uplink(f"mqtts://127.0.0.1:{port}"):
            first, second = await packets.get(), await packets.get()
    user, password = _login_in(first)
    assert user == rig.gateway.evidence.gateway_id
    assert password != _login_in(second)[1]
    token = decode_sign1(base64.urlsafe_b64decode(password + "=" * (-len(password) % 4)), what="token")
    token.verify(rig.gateway.tls.verify_key)
    assert token.payload is not None
    claims = cbor2.loads(token.payload)
    assert claims[ISS] == rig.gateway.evidence.gateway_id
    assert claims[AUD] == f"127.0.0.1:{port}"
    assert abs(claims[IAT] - time.time()) < 60
    assert 0 < claims[EXP] - claims[IAT] <= 300


async def test_a_login_with_a_certificate_carries_no_token(rig: Rig, tmp_path: Path) -> None:
    rig.mqtt = client_files(rig.practice, tmp_path, "somebody")
    login = await log_in(rig.settings("mqtts://127.0.0.1:1"), rig.gateway.tls, "did:key:x", Clock(), "127.0.0.1:1")
    assert login.password is None


def _login_in(connect: bytes) -> tuple[str, str]:
    """(user name, password) of an MQTT 5 CONNECT packet: OASIS MQTT 5.0, section 3.1."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (connect[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not connect[at - 1] & 0x80:
                return value, at

    def text(at: int) -> tuple[bytes, int]:
        (size,) = struct.unpack_from(">H", connect, at)
        return connect[at + 2 : at + 2 + size], at + 2 + size

    assert connect[0] == 0x10
    _, at = number(1)
    protocol, at = text(at)
    assert (protocol, connect[at]) == (b"MQTT", 5)
    flags, at = connect[at + 1], at + 4
    size, at = number(at)
    _, at = text(at + size)  # client id, behind the properties
    if flags & 0x04:
        size, at = number(at)
        _, at = text(at + size)
        _, at = text(at)
    user, at = text(at)
    password, at = text(at)
    return user.decode(), password.decode()


def test_topics_are_read_as_they_are_written() -> None:
    topics = GatewayTopics("did:key:zAbc")
    assert parse_up(topics.up("batch")) == ("did:key:zAbc", "batch", "")
    assert parse_up(topics.live("pv-1")) == ("did:key:zAbc", "live", "pv-1")
    assert parse_up(topics.state) == ("did:key:zAbc", "state", "")
    for strange in (topics.link, "esp1/00/did:key:zAbc/up/batch", "esp2/" + topics.up("batch")[5:], "", "esp1/up/x"):
        assert parse_up(strange) is None
