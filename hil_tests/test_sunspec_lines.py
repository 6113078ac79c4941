"""RTU lines on a pseudo-terminal and behind TCP: noise, late answers, dead units, ports that are absent or busy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pymodbus import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.sunspec import ConnectionPool, discover
from drivers.sunspec.errors import NoAnswerError
from drivers.sunspec.patience import BURST
from hil_tests.rig.site.serial_line import PtyLine, RtuBus, RtuTcpServer, RtuUnit
from tests.drivers.sunspec.fakes import pv

TIMEOUT_S = 0.15


class Numbered:
    """Each register holds its own address: whose answer it is shows in it."""

    def __init__(self) -> None:
        self.written: list[tuple[int, list[int]]] = []

    def read(self, address: int, count: int) -> list[int]:
        return list(range(address, address + count))

    def write(self, address: int, words: list[int]) -> None:
        self.written.append((address, words))


def numbered_bus(*units: int) -> RtuBus:
    return RtuBus({unit: RtuUnit(Numbered(), unit=unit, monotonic_s=time.monotonic) for unit in units})


@asynccontextmanager
async def pty_line(bus: RtuBus, folder: Path) -> AsyncIterator[tuple[PtyLine, str, ConnectionPool]]:
    line = PtyLine(bus, folder / "ttyRIG0")
    pool = ConnectionPool(time.monotonic)
    await line.start()
    try:
        yield line, f"rtu://{line.path}?baudrate=115200", pool
    finally:
        pool.close()
        await line.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
            await asyncio.sleep(0.01)


async def test_noise_around_every_answer_and_between_them_costs_no_measurement(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    noise = itertools.cycle([b"\x00", b"\xff\xff\x01", b"\x01\x03", b"\x80\x01\x83", b"\x01\x03\x04\x00"])

    async def noisy(unit: int, request: bytes, answer: bytes) -> list[bytes]:
        return [next(noise), answer[:1], answer[1:4], answer[4:], next(noise)]

    bus.spoil = noisy
    async with pty_line(bus, tmp_path) as (line, address, pool):
        connection = pool.connection(address)
        for at in range(100, 140):
            line.say(next(noise))
            assert (await connection.read(1, at, 2, 1.0)).words == [at, at + 1]
        assert connection.generation == 1


async def test_an_answer_with_a_wrong_checksum_is_no_answer_and_shows_what_came(tmp_path: Path) -> None:
    bus = numbered_bus(1)

    async def spoiled(unit: int, request: bytes, answer: bytes) -> list[bytes]:
        return [answer[:-1] + bytes([answer[-1] ^ 1])]

    bus.spoil = spoiled
    async with pty_line(bus, tmp_path) as (_, address, pool):
        with pytest.raises(NoAnswerError, match="9 bytes came that are no answer"):
            await pool.connection(address).read(1, 100, 2, 4 * TIMEOUT_S)


@pytest.mark.parametrize("late_s", [TIMEOUT_S * 0.9, TIMEOUT_S * 1.2, TIMEOUT_S * 1.7, TIMEOUT_S * 2.6])
async def test_a_late_answer_on_a_serial_line_is_never_taken_for_the_next_one(tmp_path: Path, late_s: float) -> None:
    # Every request has the same shape, and every third answer is late: nothing in an answer says what it answers.
    bus = numbered_bus(1)
    turns = itertools.count()

    async def sometimes_late(unit: int, request: bytes, answer: bytes) -> list[bytes]:
        if next(turns) % 3 == 0:
            await asyncio.sleep(late_s)
        return [answer]

    bus.spoil = sometimes_late
    answered = missed = 0
    async with pty_line(bus, tmp_path) as (_, address, pool):
        connection = pool.connection(address)
        for at in range(100, 140, 2):
            try:
                assert (await connection.read(1, at, 2, TIMEOUT_S)).words == [at, at + 1]
                answered += 1
            except NoAnswerError:
                missed += 1
                await asyncio.sleep(TIMEOUT_S)
    assert answered >= 3
    assert missed >= (1 if late_s > TIMEOUT_S * 1.1 else 0)


async def test_the_late_echo_of_a_write_does_not_confirm_the_next_one(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    swallowed = False

    async def late_then_deaf_to_writes(unit: int, request: bytes, answer: bytes) -> list[bytes]:
        nonlocal swallowed
        if request[0] != 16:
            return [answer]
        if swallowed:
            return []  # the second write is lost
        swallowed = True
        await asyncio.sleep(TIMEOUT_S * 1.5)
        return [answer]

    bus.spoil = late_then_deaf_to_writes
    async with pty_line(bus, tmp_path) as (_, address, pool):
        connection = pool.connection(address)
        for words in ([1, 2], [3, 4]):
            with pytest.raises(NoAnswerError):
                await connection.write(1, 50, words, TIMEOUT_S)


async def test_a_cancelled_request_leaves_no_answer_for_the_next_one(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    held = asyncio.Event()
    asked = asyncio.Event()

    async def hold_the_first(unit: int, request: bytes, answer: bytes) -> list[bytes]:
        if not asked.is_set():
            asked.set()
            await held.wait()
        return [answer]

    bus.spoil = hold_the_first
    async with pty_line(bus, tmp_path) as (_, address, pool):
        connection = pool.connection(address)
        task = asyncio.create_task(connection.read(1, 100, 2, 5.0))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        following = asyncio.create_task(connection.read(1, 200, 2, 5.0))
        held.set()
        assert (await following).words == [200, 201]


async def test_a_port_that_is_absent_is_said_to_be_and_is_found_once_it_is_there(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    async with pty_line(bus, tmp_path) as (line, address, pool):
        line.unplug()
        connection = pool.connection(address)
        with pytest.raises(NoAnswerError, match="no such port"):
            await connection.read(1, 100, 2, TIMEOUT_S)
        line.plug()
        assert await read_when_back(connection.read) == [100, 101]


async def test_a_port_that_another_program_holds_is_said_to_be_busy(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    async with pty_line(bus, tmp_path) as (_, address, pool):
        await pool.connection(address).read(1, 100, 2, 1.0)
        second = ConnectionPool(time.monotonic)
        with pytest.raises(NoAnswerError, match="another program has the port open"):
            await second.connection(address).read(1, 100, 2, 1.0)
        pool.close()
        assert await read_when_back(second.connection(address).read) == [100, 101]
        second.close()


async def test_a_file_that_is_no_port_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    pool = ConnectionPool(time.monotonic)
    with pytest.raises(NoAnswerError, match="is no serial port"):
        await pool.connection(f"rtu://{tmp_path}/file").read(1, 0, 1, TIMEOUT_S)


async def read_when_back(read: Callable[..., object]) -> list[int]:
    """The words, as soon as the line is used again."""
    async with asyncio.timeout(10):
        while True:
            try:
                words = await read(1, 100, 2, TIMEOUT_S)  # type: ignore[misc]  # any bound Connection.read
                return list(words.words)
            except NoAnswerError:
                await asyncio.sleep(0.05)  # the back-off


async def test_a_dead_unit_is_asked_rarely_and_never_twice_before_its_neighbour(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    async with pty_line(bus, tmp_path) as (_, address, pool):
        connection = pool.connection(address)

        async def poll(unit: int) -> None:
            while True:
                try:
                    await connection.read(unit, 100, 2, TIMEOUT_S)
                except NoAnswerError:
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(poll(unit)) for unit in (1, 9)]
        try:
            await until(lambda: bus.heard.count(9) >= BURST + 1)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        first_answer = bus.heard.index(1)
        assert (9, 9) not in list(itertools.pairwise(bus.heard[first_answer:]))
        assert bus.heard.count(1) > 10 * bus.heard.count(9), "between its attempts the neighbour has the line"
        assert connection.is_open


async def test_pymodbus_behind_a_converter_understands_us() -> None:
    # pymodbus is the other side here: an independent reading of RTU framing.
    registers = pv().registers
    words = [registers[at] for at in sorted(registers)]
    simulated = SimDevice(1, [SimData(min(registers), values=words, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(simulated, framer=FramerType.RTU, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # annotated as a base
        pool = ConnectionPool(time.monotonic)
        found = await discover(f"rtutcp://127.0.0.1:{port}", 1, timeout_s=2.0, connections=pool)
        assert [model.number for model in found.models] == [1, 701, 702, 704]
        connection = pool.connection(f"rtutcp://127.0.0.1:{port}")
        await connection.write(1, 40010, [1, 2, 3], 2.0)
        await connection.write_one(1, 40011, 9, 2.0)
        assert (await connection.read(1, 40010, 3, 2.0)).words == [1, 9, 3]
        pool.close()
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it unannotated


async def test_a_converter_that_goes_away_comes_back_by_itself() -> None:
    bus = numbered_bus(1)
    server = RtuTcpServer(bus)
    await server.start("127.0.0.1", 0)
    pool = ConnectionPool(time.monotonic)
    connection = pool.connection(f"rtutcp://127.0.0.1:{server.port}")
    assert (await connection.read(1, 100, 2, 1.0)).words == [100, 101]
    await server.stop()
    with pytest.raises(NoAnswerError):
        await connection.read(1, 100, 2, TIMEOUT_S)
    await server.start("127.0.0.1", server.port)
    assert await read_when_back(connection.read) == [100, 101]
    pool.close()
    await server.stop()


async def test_a_line_that_is_never_silent_is_not_spoken_on(tmp_path: Path) -> None:
    bus = numbered_bus(1)
    async with pty_line(bus, tmp_path) as (line, address, pool):
        # At 1200 baud silence is 32 ms long: the system hands noise over in bursts, which are nearer than that.
        connection = pool.connection(address.replace("115200", "1200"))
        assert (await connection.read(1, 100, 2, 1.0)).words == [100, 101]

        async def babble() -> None:
            while True:
                with suppress(BlockingIOError):
                    line.say(b"U")
                await asyncio.sleep(0)

        async def read_on() -> None:
            while True:
                try:
                    assert (await connection.read(1, 100, 2, 1.0)).words == [100, 101]
                except NoAnswerError as error:
                    # One that went out before anything of the noise had arrived may be lost in it.
                    if "no answer to it" not in str(error):
                        raise

        task = asyncio.create_task(babble())
        try:
            with pytest.raises(NoAnswerError, match="never silent"):
                await read_on()
        finally:
            task.cancel()
        assert await read_when_back(connection.read) == [100, 101]
