"""Hybrid key exchange: what is offered to a platform, read from the first bytes of real connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import grpc
import pytest
from grpc import aio

from agent.uplink.key_exchange import GROUPS, prefer_hybrid
from agent.uplink.mqtt_login import tls_context
from hil_tests.rig.platform.enrol import Practice

X25519MLKEM768 = 0x11EC
SUPPORTED_GROUPS = 10


def groups_of(hello: bytes) -> list[int]:
    """The supported_groups of a ClientHello in one record (RFC 8446 section 4.1.2), in its order."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2])
    at += 1 + hello[at]
    end = at + 2 + int.from_bytes(hello[at : at + 2])
    at += 2
    while at < end:
        kind, length = int.from_bytes(hello[at : at + 2]), int.from_bytes(hello[at + 2 : at + 4])
        if kind == SUPPORTED_GROUPS:
            body = hello[at + 6 : at + 4 + length]
            return [int.from_bytes(body[i : i + 2]) for i in range(0, len(body), 2)]
        at += 4 + length
    return []


class Listener:
    """Takes the first record of each connection and answers nothing."""

    def __init__(self) -> None:
        self.hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[3:]))
            if not self.hello.done():
                self.hello.set_result(head + body)
        writer.close()


async def test_the_link_over_grpc_offers_the_hybrid_group_first() -> None:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials()) as channel:
        channel.get_state(try_to_connect=True)
        async with asyncio.timeout(30):
            hello = await listener.hello
    assert groups_of(hello)[0] == X25519MLKEM768


async def test_mqtt_offers_it_exactly_where_the_library_has_it(tmp_path: Path) -> None:
    practice = Practice.make(tmp_path / "platform")
    context = tls_context(practice.public_file("ca"), None, None, None)
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(OSError):  # noqa: PT011  # nobody answers the hello
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        hello = await listener.hello
    assert (X25519MLKEM768 in groups_of(hello)) is prefer_hybrid(context)


def test_a_library_without_the_group_keeps_its_own_list() -> None:
    class Refusing(ssl.SSLContext):
        asked = ""

        def set_groups(self, groups: str) -> None:
            self.asked = groups
            raise ssl.SSLError("unknown group")

    context = Refusing(ssl.PROTOCOL_TLS_CLIENT)
    assert not prefer_hybrid(context)
    assert context.asked == GROUPS
