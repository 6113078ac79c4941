"""What an installer gets wrong and what a network does: each has its own words and state, and ends by itself.

Raw sockets that misbehave, through the whole driver; `hil_tests/test_sunspec_tcp.py` has single requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from drivers.device import DeviceKind, LinkState, Sample
from drivers.modbus import MapDevice, load_map
from drivers.sunspec import ConnectionPool, SunSpecDevice
from drivers.sunspec.errors import BadAnswerError
from hil_tests.test_sunspec_tcp import Server, serving, until
from tests.drivers.sunspec.fakes import FakeDevice, MemoryJournal, meter, pv

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Device = SunSpecDevice | MapDevice
TIMEOUT_S = 0.15


@asynccontextmanager
async def listening(converse: Converse) -> AsyncIterator[str]:
    """A server on loopback that does as `converse` says with every connection."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await converse(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def running(device: Device, pool: ConnectionPool) -> AsyncIterator[list[Sample]]:
    samples: list[Sample] = []
    task = asyncio.create_task(device.run(samples.append))
    try:
        yield samples
        assert not task.done(), "whatever the device does, its task runs on"
    finally:
        task.cancel()
        await asyncio.wait([task])
        pool.close()


def sunspec_at(
    address: str, pool: ConnectionPool, unit: int = 1, kind: DeviceKind = DeviceKind.PV, period_s: float = 0.05
) -> SunSpecDevice:
    return SunSpecDevice(
        "d-1",
        kind,
        address,
        unit,
        period_s=period_s,
        timeout_s=TIMEOUT_S,
        connections=pool,
        monotonic_s=time.monotonic,
        journal=MemoryJournal(),
    )


def mapped_at(address: str, pool: ConnectionPool) -> MapDevice:
    return MapDevice(
        "d-1",
        DeviceKind.METER,
        address,
        1,
        load_map("abb-b23-b24"),
        period_s=0.05,
        timeout_s=TIMEOUT_S,
        connections=pool,
        monotonic_s=time.monotonic,
    )


async def told(device: Device, link: LinkState, *words: str) -> None:
    """Waits until the status of a device has this state and these words."""
    try:
        await until(lambda: device.status().link is link and all(word in device.status().detail for word in words))
    except TimeoutError:
        pytest.fail(f"said {device.status().link} and {device.status().detail!r}, not {link} and {words}")


async def request_of(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(7)
    return header + await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(12)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n")
    await writer.drain()


async def slow_web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Waits for the end of a line, and then for patience."""
    await asyncio.sleep(TIMEOUT_S * 1.5)
    writer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await writer.drain()


async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await reader.read()


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(12)


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(300):
        writer.write(data)


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(1000))
        await writer.drain()


async def answers_another_transaction(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await request_of(reader)
        writer.write(b"\x7e\x7e\0\0\0\x07" + request[6:8] + b"\x04SunS")


async def answers_another_unit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await request_of(reader)
        writer.write(request[:4] + b"\0\x07\x09\x03\x04SunS")


WRONG: dict[str, tuple[Converse, LinkState, tuple[str, ...]]] = {
    "a web server": (web, LinkState.FAULT, ("not Modbus", "HTTP/1.1 400")),
    "a web server that waits": (slow_web, LinkState.FAULT, ("not Modbus", "HTTP/1.1 408")),
    "a server that speaks first": (speaks_first, LinkState.FAULT, ("not Modbus", "SSH-2.0")),
    "never answers": (never_answers, LinkState.SILENT, ("no answer within",)),
    "hangs up": (hangs_up, LinkState.SILENT, ("the device closed the connection",)),
    "echoes": (echoes, LinkState.FAULT, ("the answer",)),
    "babbles": (babbles, LinkState.FAULT, ("not Modbus",)),
    "another transaction": (answers_another_transaction, LinkState.FAULT, ("the answer is to transaction 32382",)),
    "another unit": (answers_another_unit, LinkState.FAULT, ("unit 9 answered",)),
}


@pytest.mark.parametrize("make", [sunspec_at, mapped_at])
@pytest.mark.parametrize("name", WRONG)
async def test_what_is_no_modbus_device_has_its_own_words(
    name: str, make: Callable[[str, ConnectionPool], Device]
) -> None:
    converse, link, words = WRONG[name]
    pool = ConnectionPool(time.monotonic)
    async with listening(converse) as address:
        device = make(address, pool)
        async with running(device, pool) as samples:
            await told(device, link, *words)
            assert samples == []


@pytest.mark.parametrize("converse", [never_answers, hangs_up])
async def test_a_host_that_takes_connections_and_no_requests_is_told_with_what_to_look_at(converse: Converse) -> None:
    pool = ConnectionPool(time.monotonic)
    async with listening(converse) as address:
        device = sunspec_at(address, pool)
        async with running(device, pool):
            await told(device, LinkState.SILENT, "is the unit id right", "does another program hold the device")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://no-such-host.invalid:502", "Name or service not known"),
        ("tcp://127.0.0.1:1", "connection refused"),
    ],
)
async def test_a_wrong_host_is_told_from_a_wrong_port(address: str, words: str) -> None:
    pool = ConnectionPool(time.monotonic)
    device = sunspec_at(address, pool)
    async with running(device, pool):
        # A machine without any resolver says so in other words; it says so at once, and not "no answer".
        await told(device, LinkState.SILENT, "no connection within", "is the address right?")
        assert words in device.status().detail or "resolution" in device.status().detail


EXCEPTIONS = {
    1: (LinkState.FAULT, "illegal function"),
    2: (LinkState.FAULT, "illegal data address"),
    3: (LinkState.FAULT, "illegal data value"),
    4: (LinkState.FAULT, "device failure"),
    5: (LinkState.SILENT, "still working on it"),
    6: (LinkState.SILENT, "device busy"),
    7: (LinkState.FAULT, "negative acknowledge"),
    8: (LinkState.FAULT, "memory parity error"),
    9: (LinkState.FAULT, "exception 9 (unknown)"),
    10: (LinkState.SILENT, "gateway path unavailable; is the unit id right?"),
    11: (LinkState.SILENT, "the unit behind it does not answer; is it on, is the unit id right?"),
    255: (LinkState.FAULT, "exception 255 (unknown)"),
}


@pytest.mark.parametrize("code", EXCEPTIONS)
async def test_every_exception_is_told_in_words_and_a_device_that_gets_well_is_read(code: int) -> None:
    link, words = EXCEPTIONS[code]
    ill = True

    async def refuse(request: bytes, answer: bytes) -> list[bytes]:
        return [request[:4] + b"\0\x03" + request[6:7] + bytes([request[7] | 0x80, code])] if ill else [answer]

    pool = ConnectionPool(time.monotonic)
    async with serving(pv()) as server:
        server.misbehave = refuse
        device = sunspec_at(server.address, pool)
        async with running(device, pool) as samples:
            await told(device, link, words)
            ill = False
            await until(lambda: bool(samples))
            assert samples[0].power_w == -5000
            assert device.status().link is LinkState.ONLINE


async def test_a_device_that_answers_with_exceptions_for_a_moment_is_the_same_one_afterwards() -> None:
    async with asyncio.TaskGroup() as tasks:  # at once: each takes some seconds
        for code in EXCEPTIONS:
            tasks.create_task(_ill_for_a_moment(code))


async def _ill_for_a_moment(code: int) -> None:
    ill = False

    async def refuse(request: bytes, answer: bytes) -> list[bytes]:
        return [request[:4] + b"\0\x03" + request[6:7] + bytes([request[7] | 0x80, code])] if ill else [answer]

    pool = ConnectionPool(time.monotonic)
    async with serving(pv()) as server:
        server.misbehave = refuse
        device = sunspec_at(server.address, pool)
        async with running(device, pool) as samples:
            await until(lambda: bool(samples))
            ill = True
            await until(lambda: device.status().link is not LinkState.ONLINE)
            seen, ill = len(samples), False
            await until(lambda: len(samples) > seen)
            assert {sample.meter_id for sample in samples} == {"Maker/Model X/S-1"}, code
            assert {sample.power_w for sample in samples} == {-5000}, code


async def test_what_is_no_modbus_stays_a_fault_between_two_tries() -> None:
    pool = ConnectionPool(time.monotonic)
    async with listening(web) as address:
        for _ in range(3):  # the first one connects, the others come while it is not tried again
            with pytest.raises(BadAnswerError, match="not Modbus"):
                await pool.connection(address).read(1, 40000, 2, 5.0)
    pool.close()


async def test_a_unit_id_that_nobody_has_is_told_and_costs_its_neighbour_nothing_wrong() -> None:
    async def only_unit_1(request: bytes, answer: bytes) -> list[bytes]:
        return [answer] if request[6] == 1 else []

    pool = ConnectionPool(time.monotonic)
    async with serving(pv()) as server:
        server.misbehave = only_unit_1
        right, wrong = sunspec_at(server.address, pool), sunspec_at(server.address, pool, unit=7)
        task = asyncio.create_task(wrong.run(lambda sample: None))
        async with running(right, pool) as samples:
            await told(wrong, LinkState.SILENT, "unit 7", "is the unit id right")
            seen = len(samples)
            await until(lambda: len(samples) >= seen + 20)
            assert right.status().link is LinkState.ONLINE
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.parametrize("word", [0xFFFF, 0x0000, 0x8000])
async def test_registers_of_one_value_everywhere_are_no_sunspec_map(word: int) -> None:
    pool = ConnectionPool(time.monotonic)
    async with serving(FakeDevice(dict.fromkeys(range(65536), word))) as server:
        device = sunspec_at(server.address, pool)
        async with running(device, pool) as samples:
            await told(device, LinkState.FAULT, "no SunSpec map", f"{word:04x} {word:04x} at 40000")
            assert samples == []


async def test_another_model_under_the_same_address_is_told_by_name_and_a_right_one_starts_a_new_epoch() -> None:
    pool = ConnectionPool(time.monotonic)
    server = Server(pv("OLD"))
    await server.start()
    device = sunspec_at(server.address, pool)
    async with running(device, pool) as samples:
        await until(lambda: bool(samples))
        await server.stop()
        server.device = meter("M-7")
        await server.start()
        await told(device, LinkState.FAULT, "no model to measure a pv with", "it has 1, 203")
        seen = len(samples)
        await server.stop()
        server.device = pv("NEW")
        await server.start()
        await until(lambda: len(samples) > seen)
        assert {sample.meter_id for sample in samples[:seen]} == {"Maker/Model X/OLD"}
        assert {sample.meter_id for sample in samples[seen:]} == {"Maker/Model X/NEW"}
    await server.stop()


async def test_answers_byte_by_byte_are_put_together() -> None:
    async def byte_by_byte(request: bytes, answer: bytes) -> list[bytes]:
        return [answer[at : at + 1] for at in range(10)] + [answer[10:]]

    pool = ConnectionPool(time.monotonic)
    async with serving(pv()) as server:
        server.misbehave = byte_by_byte
        device = sunspec_at(server.address, pool)
        async with running(device, pool) as samples:
            await until(lambda: len(samples) >= 3)
            assert {sample.power_w for sample in samples} == {-5000}


async def test_bytes_of_any_kind_crash_nothing_and_the_device_is_read_once_they_end() -> None:
    draw = random.Random(7)
    noisy = True

    async def noise(request: bytes, answer: bytes) -> list[bytes]:
        return [draw.randbytes(draw.randrange(1, 300))] if noisy else [answer]

    pool = ConnectionPool(time.monotonic)
    async with serving(pv()) as server:
        server.misbehave = noise
        device = sunspec_at(server.address, pool)
        async with running(device, pool) as samples:
            await told(device, LinkState.FAULT, "not Modbus")
            assert samples == []
            noisy = False
            await until(lambda: bool(samples))
