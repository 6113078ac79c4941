"""Networks and certificates that are not what they should be: said in words, never trusted, and left for the next."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from agent.identity.csr import certificate_request
from agent.uplink import devices
from hil_tests.rig.platform import enrol
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import NAME, Rig, address, rig, until
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import PlatformFrame, Welcome

__all__ = ["rig"]

PORTAL = b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOWHERE = "no-such-host.invalid:443"
FOURTEEN_MINUTES_AGO = -0.01
"""In days from now: after the hour that a practice certificate begins before it is made."""


@asynccontextmanager
async def portal(tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    """What a hotel's network puts in the place of every server; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(PORTAL)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield address(server.sockets[0].getsockname()[1])


def of_another_authority(folder: Path) -> ssl.SSLContext:
    stranger = Practice.make(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stranger.public_file("server"), stranger.key_file("server"))
    context.set_alpn_protocols(["h2"])
    return context


async def left_for_the_next(rig: Rig, bad: str, *words: str) -> None:
    """The bad endpoint is said to be so, in one of these words, and the good one gets everything."""
    said: set[str] = set()
    async with Server(rig.platform, rig.practice) as server, rig.uplink(bad, address(server.port)) as uplink:

        def explained() -> bool:
            said.add(uplink.status().detail)
            return any(bad in detail and any(word in detail.lower() for word in words) for detail in said)

        await until(explained, f"{bad} is said to be wrong: {said}")
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "the next endpoint has it")
        assert uplink.status().endpoint == address(server.port)
    assert rig.gateway.alarms == []


async def test_a_name_that_cannot_be_resolved_is_said_and_left_for_the_next_endpoint(rig: Rig) -> None:
    await left_for_the_next(rig, NOWHERE, "cannot be resolved: dns")


async def test_a_captive_portal_without_tls_is_left_for_the_next_endpoint(rig: Rig) -> None:
    async with portal(None) as bad:
        await left_for_the_next(rig, bad, "speaks no tls: a captive portal")


async def test_a_captive_portal_with_a_certificate_of_its_own_is_never_believed(rig: Rig, tmp_path: Path) -> None:
    async with portal(of_another_authority(tmp_path / "stranger")) as bad:
        await left_for_the_next(rig, bad, "not of the platform's ca")


async def test_the_same_of_a_broker_behind_them(rig: Rig, tmp_path: Path) -> None:
    await left_for_the_next(rig, f"mqtts://{NOWHERE}", "cannot be resolved: dns")
    async with portal(None) as where:
        await left_for_the_next(rig, f"mqtts://{where}", "captive portal")
    async with portal(of_another_authority(tmp_path / "stranger")) as where:
        await left_for_the_next(rig, f"mqtts://{where}", "captive portal")


Answer = Callable[[AsyncIterator[bytes], object], AsyncIterator[bytes]]


@asynccontextmanager
async def garbler(practice: Practice, method: str, answer: Answer) -> AsyncIterator[str]:
    """A server with the platform's own certificate that answers one method in raw bytes; its address."""
    service, _, name = method.partition("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(answer)  # no serializers
    server = aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: handler})])
    credentials = grpc.ssl_server_credentials(
        [(practice.key("server").private_pem, practice.public_file("server").read_bytes())],
        practice.public_file("ca").read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield address(port)
    finally:
        await server.stop(grace=None)


WELCOME = PlatformFrame(welcome=Welcome(platform_id="it")).SerializeToString()
HUGE = PlatformFrame(command=GridCommand(command_id="x" * (512 << 10))).SerializeToString()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        pytest.param([b"\xff\xff garbage"], "sent is no message", id="no frame at all"),
        pytest.param([WELCOME, b"\xff\xff garbage"], "sent is no message", id="after a welcome"),
        pytest.param([WELCOME, HUGE], "larger than", id="a frame that is too large"),
        pytest.param([WELCOME, WELCOME], "sent `welcome`", id="a frame out of its place"),
    ],
)
async def test_a_platform_that_sends_garbage_is_said_to_and_nothing_of_it_counts(
    rig: Rig, answers: list[bytes], words: str
) -> None:
    async def answer(frames: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        await anext(frames)
        for each in answers:
            yield each
        await asyncio.Event().wait()

    said: set[str] = set()
    async with (
        garbler(rig.practice, "energysettlement.v1.GatewayLink/Connect", answer) as bad,
        rig.uplink(bad) as uplink,
    ):

        def explained() -> bool:
            said.add(uplink.status().detail)
            return any(words in detail for detail in said)

        await until(explained, f"said to be wrong: {said}")
        rig.gateway.seal(uplink, "meter")
        assert words in uplink.status().oddity, "and shown when the next connection is up, too"
        assert not rig.gateway.outbox.all_acknowledged()
    [(code, _, text)] = rig.gateway.alarms
    assert code == "uplink.platform_fault"
    assert words in text


async def test_garbage_at_the_end_of_a_finished_devices_stream_is_no_good_end_of_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it brought would count as delivered, and leave the outbox."""
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.3)
    ended = 0

    async def answer(points: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        nonlocal ended
        async for _point in points:
            pass
        ended += 1
        yield b"\xff\xff garbage"

    method = "energysettlement.v1.EnergyDeviceStream/ConnectDevice"
    async with garbler(rig.practice, method, answer) as bad, rig.uplink(bad) as uplink:
        rig.gateway.seal(uplink, "meter")
        await until(lambda: ended >= 2, "sent again")
        await until(lambda: "sent is no message" in uplink.status().oddity, "said")
        assert uplink.status().unconfirmed_number is None
        assert rig.gateway.outbox.acknowledged == {}
    assert {code for code, _, _ in rig.gateway.alarms} - {"uplink.device_refused"} == {"uplink.platform_fault"}


async def test_a_platform_whose_certificate_has_expired_is_not_talked_to_until_it_has_another(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rig.practice.public_file("server")
    good = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(enrol, "VALID_DAYS", FOURTEEN_MINUTES_AGO)
        file.write_bytes(rig.practice._server_certificate().public_bytes(Encoding.PEM))
    async with Server(rig.platform, rig.practice) as server:
        port = server.port
        async with rig.uplink(address(port)) as uplink:
            await until(lambda: "certificate has expired, or this clock" in uplink.status().detail, "it has expired")
            assert not uplink.status().connected
            assert rig.gateway.connected == 0
    file.write_bytes(good)
    async with Server(rig.platform, rig.practice, port=port), rig.uplink(address(port)):
        await until(lambda: rig.gateway.connected == 1, "connected, with the new one")


async def test_a_gateway_whose_own_certificate_has_expired_is_told_so_and_comes_back_with_the_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rig.practice.certificate_file(NAME)
    good, gateway = file.read_bytes(), rig.gateway
    request = await certificate_request(gateway.tls, common_name=NAME, did=gateway.evidence.gateway_id)
    with monkeypatch.context() as patched:
        patched.setattr(enrol, "VALID_DAYS", FOURTEEN_MINUTES_AGO)
        rig.practice.enrol(
            request, {"evidence": gateway.evidence.key.public_key_der, "device:pv": gateway.device_key.public_key_der}
        )
    assert file.read_bytes() != good
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: "next try" in uplink.status().detail, "not let in")
        assert gateway.connected == 0
        file.write_bytes(good)
        await until(lambda: gateway.connected == 1, "let in with the certificate that was put there meanwhile")
