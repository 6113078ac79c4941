"""A platform's name that gives two addresses, the first of which swallows everything: the second one is reached."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.uplink.channel import open_channel
from agent.uplink.tls import credentials_from_files
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, rig, until

__all__ = ["rig"]

HOLE = "127.0.0.2"


@contextlib.contextmanager
def black_hole(port: int = 0) -> Iterator[int]:
    """A port of HOLE at which nobody is refused and nobody is answered: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOLE, port))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        yield listener.getsockname()[1]


async def test_over_grpc(rig: Rig) -> None:
    settings = rig.settings("127.0.0.1:1")
    credentials = credentials_from_files(
        ca_file=settings.ca_file,
        certificate_file=settings.certificate_file,
        public_key_der=rig.gateway.tls.public_key_der,
        sign_digest=rig.gateway.tls.sign_digest_now,
    )
    async with Server(rig.platform, rig.practice) as server:
        with black_hole(server.port) as port:
            # As a resolver would give them.
            both = f"ipv4:{HOLE}:{port},127.0.0.1:{port}"
            channel = open_channel(both, credentials, server_name="localhost", keepalive_s=5.0, compressed=False)
            async with channel, asyncio.timeout(15):
                await channel.channel_ready()


@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
async def test_over_a_broker(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
    asked = 0
    async with running_broker(rig.practice, tmp_path / "broker") as broker:
        files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
        async with BrokerService(rig.platform, rig.practice, files, broker.port):
            resolve = socket.getaddrinfo
            with black_hole() as port:

                def both(host: str | None, service: int, *more: int) -> list[tuple[object, ...]]:
                    nonlocal asked
                    asked += service == broker.port
                    here: list[tuple[object, ...]] = [*resolve(host, service, *more)]
                    return [(*here[0][:4], (HOLE, port)), *here] if service == broker.port else here

                monkeypatch.setattr(socket, "getaddrinfo", both)
                async with rig.uplink(broker.endpoint, stall_s=2.0) as uplink:
                    await until(lambda: uplink.status().connected, "connected")
                    assert asked == 1, "by the first try"
