"""The SunSpec driver over real sockets: pymodbus and pysunspec2 as peers, and servers that misbehave."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import sunspec2.modbus.client
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from sunspec2.modbus.modbus import ModbusClientTimeout

from drivers.device import DeviceKind, DeviceUnreachableError, LinkState, Sample, Setpoint
from drivers.sunspec import ConnectionPool, SunSpecDevice, discover
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError, NotSunSpecError, SunSpecError
from tests.drivers.sunspec.fakes import REAL_DEVICES, FakeDevice, MemoryJournal, point, pv, real_device

TIMEOUT_S = 0.3
LONG_S = 10.0
"""For what is answered at once, however loaded the machine is."""
Misbehave = Callable[[bytes, bytes], Awaitable[list[bytes]]]
"""(request ADU, right answer) -> what to send, piece by piece."""


class Server:
    """Serves a FakeDevice over Modbus TCP, written from the protocol; `misbehave` may spoil what it sends."""

    def __init__(self, device: FakeDevice, unit: int = 1) -> None:
        self.device = device
        self.unit = unit
        self.misbehave: Misbehave | None = None
        self.connections = 0
        self.most_at_once = 0
        """Connections that were open side by side."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await until(lambda: not self._writers)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self.most_at_once = max(self.most_at_once, len(self._writers))
        try:
            while True:
                header = await reader.readexactly(7)
                request = await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)
                answer = self._answer(header, request)
                pieces = [answer] if self.misbehave is None else await self.misbehave(header + request, answer)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)  # so that pieces arrive as pieces
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, header: bytes, request: bytes) -> bytes:
        function, address, third = struct.unpack(">BHH", request[:5])
        try:
            if function == 3:
                words = self.device.read(address, third)
                body = bytes([3, 2 * len(words)]) + struct.pack(f">{len(words)}H", *words)
            else:
                words = [third] if function == 6 else list(struct.unpack(f">{third}H", request[6:]))
                self.device.write(function, address, tuple(words))
                body = request[:5]
        except ModbusExceptionError as refusal:
            body = bytes([function | 0x80, refusal.code])
        return header[:4] + (len(body) + 1).to_bytes(2, "big") + header[6:7] + body


@asynccontextmanager
async def serving(device: FakeDevice) -> AsyncIterator[Server]:
    server = Server(device)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def pooled() -> AsyncIterator[ConnectionPool]:
    pool = ConnectionPool(time.monotonic)
    try:
        yield pool
    finally:
        pool.close()


def device_at(
    address: str, pool: ConnectionPool, period_s: float = 0.05, timeout_s: float = TIMEOUT_S
) -> SunSpecDevice:
    return SunSpecDevice(
        "pv-1",
        DeviceKind.PV,
        address,
        1,
        period_s=period_s,
        timeout_s=timeout_s,
        connections=pool,
        monotonic_s=time.monotonic,
        journal=MemoryJournal(),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(device: SunSpecDevice) -> AsyncIterator[list[Sample]]:
    samples: list[Sample] = []
    task = asyncio.create_task(device.run(samples.append))
    try:
        yield samples
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_device_served_by_pymodbus_is_discovered_measured_and_limited() -> None:
    # pymodbus is the other side here: an independent reading of the protocol.
    registers = pv().registers
    words = [registers[at] for at in sorted(registers)]
    simulated = SimDevice(1, [SimData(min(registers), values=words, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(simulated, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # annotated as a base
        address = f"tcp://127.0.0.1:{port}"
        found = await discover(address, 1, timeout_s=2.0)
        assert [model.number for model in found.models] == [1, 701, 702, 704]
        async with pooled() as pool:
            device = device_at(address, pool, timeout_s=LONG_S)
            assert (await device.look()).power_w == -5000
            await device.apply(Setpoint(lowest_w=-2000, highest_w=None, lease_s=60, reason="test"))
            assert device.status().setpoint is not None
            await device.release()
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it unannotated


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_pysunspec2_finds_the_same_models_on_the_same_wire(name: str) -> None:
    fake, _, _ = real_device(name)
    async with serving(fake) as server:
        ours = await discover(server.address, 1, timeout_s=2.0)

        def theirs() -> list[int]:
            client = sunspec2.modbus.client.SunSpecModbusClientDeviceTCP(1, "127.0.0.1", server.port, timeout=2.0)
            client.scan(full_model_read=False)
            client.close()
            return [model.model_id for model in client.model_list]

        assert [model.number for model in ours.models] == await asyncio.to_thread(theirs)


async def test_answers_in_pieces_are_put_together() -> None:
    async def in_pieces(request: bytes, answer: bytes) -> list[bytes]:
        return [answer[:3], answer[3:9], answer[9:]]

    async with serving(pv()) as server, pooled() as pool:
        server.misbehave = in_pieces
        assert (await device_at(server.address, pool, timeout_s=LONG_S).look()).power_w == -5000


async def _one_read(server: Server, pool: ConnectionPool, timeout_s: float = LONG_S) -> list[int]:
    return (await pool.connection(server.address).read(1, 40000, 2, timeout_s)).words


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda r, a: [a[:7] + b"\x03\x02SX"], NoAnswerError, "no answer within"),
        (lambda r, a: [a[:4] + b"\x00\x07" + a[6:7] + b"\x03\x08SunS"], BadAnswerError, "says 8 bytes and has 4"),
        (lambda r, a: [a[:4] + b"\x00\x06" + a[6:7] + b"\x03\x03Sun"], BadAnswerError, "holds 1 registers"),
        (lambda r, a: [a[:4] + b"\x00\x02" + a[6:7] + b"\x03"], BadAnswerError, "holds 0 registers"),
        (lambda r, a: [a[:4] + b"\x00\x05" + a[6:7] + b"\x03\x02Su"], BadAnswerError, "holds 1 registers"),
        (lambda r, a: [a[:4] + b"\x00\x09" + a[6:7] + b"\x03\x06SunS!!"], BadAnswerError, "holds 3 registers"),
        (lambda r, a: [b"\x00\x00" + a[2:]], BadAnswerError, "transaction 0"),
        (lambda r, a: [b"\x7f\x7f" + a[2:]], BadAnswerError, "transaction 32639"),
        (lambda r, a: [a[:6] + b"\x09" + a[7:]], BadAnswerError, "unit 9 answered"),
        (lambda r, a: [a[:7] + b"\x04" + a[8:]], BadAnswerError, "function 4"),
        (lambda r, a: [a[:4] + b"\x00\x03" + a[6:7] + b"\x83\x04"], ModbusExceptionError, "device failure"),
        (lambda r, a: [a[:4] + b"\x00\x03" + a[6:7] + b"\x83\x63"], ModbusExceptionError, "unknown"),
        (lambda r, a: [b"HTTP/1.1 400 Bad Request\r\n\r\n"], BadAnswerError, "not Modbus.*HTTP/1.1 400"),
        (lambda r, a: [], NoAnswerError, "no answer within"),
        (lambda r, a: [a[:-1]], NoAnswerError, "no answer within"),
        (lambda r, a: [b"\x00"], NoAnswerError, "no answer within"),
    ],
    ids=[
        *(
            "cut-body",
            "byte-count-lies",
            "odd-bytes",
            "no-body",
            "too-few",
            "too-many",
            "transaction-0",
            "other-transaction",
            "other-unit",
            "other-function",
        ),
        *("exception-4", "exception-99", "web-server", "silence", "cut-frame", "one-byte"),
    ],
)
async def test_every_wrong_answer_is_refused_with_its_own_error_and_the_next_right_one_is_taken(
    spoil: Callable[[bytes, bytes], list[bytes]], error: type[SunSpecError], message: str
) -> None:
    async def spoiled(request: bytes, answer: bytes) -> list[bytes]:
        return spoil(request, answer)

    async with serving(pv()) as server, pooled() as pool:
        await _one_read(server, pool)  # the line stands: what follows is about answers alone
        server.misbehave = spoiled
        with pytest.raises(error, match=message):
            await _one_read(server, pool, TIMEOUT_S if error is NoAnswerError else LONG_S)
        server.misbehave = None
        words: list[int] = []

        async def right() -> None:
            while not words:
                try:
                    words.extend(await _one_read(server, pool))
                except SunSpecError:
                    await asyncio.sleep(0.05)  # the back-off after a connection that was given up

        async with asyncio.timeout(10):
            await right()
        assert words == [0x5375, 0x6E53]


async def test_a_late_answer_is_never_taken_for_the_next_one() -> None:
    late = True

    async def delayed_once(request: bytes, answer: bytes) -> list[bytes]:
        nonlocal late
        if late:
            late = False
            await asyncio.sleep(TIMEOUT_S * 1.3)
        return [answer]

    async with serving(pv()) as server, pooled() as pool:
        server.misbehave = delayed_once
        connection = pool.connection(server.address)
        with pytest.raises(NoAnswerError):
            await connection.read(1, 40000, 2, TIMEOUT_S)
        # The answer about 40000 arrives while 40002 is waited for; same unit, function and count.
        assert (await connection.read(1, 40002, 2, LONG_S)).words == [1, 66]


async def test_where_pysunspec2_reads_its_earlier_question_we_read_ours() -> None:
    # The peer never looks at transactions: after one time-out each answer is the one before.
    held: list[bytes] = []

    async def first_too_late(request: bytes, answer: bytes) -> list[bytes]:
        held.append(answer)
        return [] if len(held) == 1 else held[-2:]

    async with serving(pv()) as server, pooled() as pool:
        server.misbehave = first_too_late
        peer = sunspec2.modbus.client.SunSpecModbusClientDeviceTCP(1, ipaddr="127.0.0.1", ipport=server.port)
        peer.client.timeout = TIMEOUT_S
        await asyncio.to_thread(peer.connect)
        with pytest.raises(ModbusClientTimeout):
            await asyncio.to_thread(peer.read, 40000, 2)
        assert await asyncio.to_thread(peer.read, 40002, 2) == b"SunS", "what was asked before"
        peer.disconnect()
        held.clear()
        connection = pool.connection(server.address)
        with pytest.raises(NoAnswerError):
            await connection.read(1, 40000, 2, TIMEOUT_S)
        assert (await connection.read(1, 40002, 2, LONG_S)).words == [1, 66]


async def test_a_device_that_takes_one_client_only_never_sees_a_second_connection_of_ours() -> None:
    async def deaf(request: bytes, answer: bytes) -> list[bytes]:
        return []

    async with serving(pv()) as server, pooled() as pool:
        first, second = device_at(server.address, pool), device_at(server.address, pool)
        async with running(first) as samples, running(second) as others:
            await until(lambda: bool(samples and others))
            server.misbehave = deaf
            await until(lambda: server.connections >= 2)
            server.misbehave = None
            seen = len(samples), len(others)
            await until(lambda: len(samples) > seen[0] and len(others) > seen[1])
        assert server.most_at_once == 1


async def test_a_closed_port_is_no_answer() -> None:
    async with serving(pv()) as server:
        pass
    with pytest.raises(NoAnswerError, match="no connection within"):
        await discover(server.address, 1, timeout_s=TIMEOUT_S)


async def test_a_modbus_device_without_sunspec_is_said_to_be_that() -> None:
    async with serving(FakeDevice(dict.fromkeys(range(100), 7))) as server:
        with pytest.raises(NotSunSpecError, match="no SunSpec map"):
            await discover(server.address, 1, timeout_s=LONG_S)


async def test_a_device_that_dies_is_silent_and_comes_back_by_itself() -> None:
    server = Server(pv())
    async with pooled() as pool:
        await server.start()
        device = device_at(server.address, pool)
        async with running(device) as samples:
            await until(lambda: len(samples) >= 2)
            await server.stop()
            await until(lambda: device.status().link is LinkState.SILENT)
            assert device.status().capabilities is not None, "what it can do is still known"
            with pytest.raises(DeviceUnreachableError):
                await device.apply(Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason="test"))
            seen = len(samples)
            await server.start()
            await until(lambda: len(samples) > seen)
            assert device.status().link is LinkState.ONLINE
        await server.stop()


async def test_a_device_that_accepts_and_never_answers_is_silent_and_comes_back_by_itself() -> None:
    async def deaf(request: bytes, answer: bytes) -> list[bytes]:
        return []

    async with serving(pv()) as server, pooled() as pool:
        device = device_at(server.address, pool)
        async with running(device) as samples:
            await until(lambda: bool(samples))
            server.misbehave = deaf
            await until(lambda: device.status().link is LinkState.SILENT)
            server.misbehave = None
            seen = len(samples)
            await until(lambda: len(samples) > seen)


async def test_a_web_server_is_a_fault_that_quotes_it() -> None:
    async def web(request: bytes, answer: bytes) -> list[bytes]:
        return [b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"]

    async with serving(pv()) as server, pooled() as pool:
        server.misbehave = web
        device = device_at(server.address, pool)
        async with running(device):
            await until(lambda: "HTTP/1.1 400" in device.status().detail)
            assert device.status().link is LinkState.FAULT


async def test_a_replaced_device_under_the_same_address_has_another_meter_id() -> None:
    server = Server(pv("OLD"))
    await server.start()
    async with pooled() as pool:
        device = device_at(server.address, pool)
        async with running(device) as samples:
            await until(lambda: bool(samples))
            await server.stop()
            server.device = pv("NEW")
            await server.start()
            await until(lambda: samples[-1].meter_id == "Maker/Model X/NEW")
        kinds = [sample.meter_id for sample in samples]
        assert kinds == sorted(kinds, reverse=True), "first OLD, then NEW, never mixed"
        await server.stop()


async def test_units_behind_one_endpoint_share_one_connection() -> None:
    async with serving(pv()) as server, pooled() as pool:
        devices = [device_at(server.address, pool, timeout_s=LONG_S) for _ in range(5)]
        await asyncio.gather(*(device.look() for device in devices))
        assert server.connections == 1


async def test_an_order_over_the_wire_is_in_the_registers_and_given_back() -> None:
    fake = pv()
    before = dict(fake.registers)
    async with serving(fake) as server, pooled() as pool:
        device = device_at(server.address, pool, timeout_s=LONG_S)
        await device.look()
        await device.apply(Setpoint(lowest_w=-2000, highest_w=None, lease_s=60, reason="test"))
        assert (point(fake, 704, "WMaxLimPctEna"), point(fake, 704, "WMaxLimPct")) == (1, 250)
        await device.release()
    assert fake.registers == before
