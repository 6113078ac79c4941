"""Host names: a resolver that hangs holds up its own device and nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from drivers.sunspec import ConnectionPool
from drivers.sunspec.errors import NoAnswerError, SunSpecError
from drivers.sunspec.names import Lookup
from hil_tests.test_sunspec_tcp import serving
from tests.drivers.sunspec.fakes import pv


class Hanging:
    """A resolver that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def __call__(self, host: str, port: int, **more: Any) -> list[Any]:
        self.asked += 1
        assert self.answers.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    resolver = Hanging()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


async def test_a_resolver_that_hangs_holds_one_thread_for_all_tries_of_a_device(hanging: Hanging) -> None:
    pools = [ConnectionPool(time.monotonic) for _ in range(40)]
    async with serving(pv()) as server:
        connections = [pool.connection(f"tcp://inverter.example:{server.port}") for pool in pools]
        for connection in connections:
            with pytest.raises(NoAnswerError, match="no connection within"):
                await connection.read(1, 40000, 2, 0.01)
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: "the loop's own threads are free") != ""
        # Tried again while it still hangs: nothing is started anew.
        line = connections[0]._line
        for _ in range(5):
            with pytest.raises(SunSpecError):
                await line.connect(0.01)
        assert hanging.asked == len(pools)
        hanging.answers.set()
        await line.connect(5.0)
        assert await line.read(1, 40000, 2, 5.0) == b"SunS"
    for pool in pools:
        pool.close()


async def test_addresses_are_not_looked_up(hanging: Hanging) -> None:
    for host in ("127.0.0.1", "::1"):
        assert await Lookup(host, 502).addresses() == [host]
    assert hanging.asked == 0


async def test_a_name_with_two_addresses_is_tried_at_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, **more: Any) -> list[Any]:
        places = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        return [(family, socket.SOCK_STREAM, 6, "", place) for family, place in places]

    async with serving(pv()) as server:  # on the second one only
        monkeypatch.setattr(socket, "getaddrinfo", both)
        pool = ConnectionPool(time.monotonic)
        read = await pool.connection(f"tcp://inverter.example:{server.port}").read(1, 40000, 2, 5.0)
        assert read.words == [0x5375, 0x6E53]
        pool.close()


async def test_a_name_that_does_not_exist_is_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(host: str, port: int, **more: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    lookup = Lookup("inverter.example", 502)
    for _ in range(2):
        with pytest.raises(OSError, match="not known"):
            await lookup.addresses()
