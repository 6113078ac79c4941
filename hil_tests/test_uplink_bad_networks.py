"""Networks and certificates that are not what they should be: said in words, never trusted, and left for the next."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.csr import certificate_request
from hil_tests.rig.platform import enrol
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import NAME, Rig, address, rig, until

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
