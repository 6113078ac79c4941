"""One connection per endpoint: shared, one request at a time, opened anew with a short back-off."""

from __future__ import annotations

import asyncio

import pytest

from drivers.sunspec.connection import BACKOFF_LEAST_S, BACKOFF_MOST_S, SILENCES_BEFORE_RECONNECT, ConnectionPool
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError
from drivers.sunspec.transport import Endpoint, Line
from tests.drivers.sunspec.fakes import ADDRESS, FakeDevice, FakeLine, Time, pool_of


async def test_devices_with_the_same_endpoint_share_one_connection() -> None:
    line = FakeLine({1: FakeDevice({0: 7}), 2: FakeDevice({0: 8})})
    pool = pool_of(line, Time())
    first, second = pool.connection("tcp://192.0.2.10"), pool.connection(ADDRESS)
    assert first is second
    assert (await first.read(1, 0, 1, 1.0)).words == [7]
    assert (await second.read(2, 0, 1, 1.0)).words == [8]
    assert line.connects == 1


async def test_requests_never_overlap_on_one_endpoint() -> None:
    busy = 0
    overlapped = False

    class Slow(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
            nonlocal busy, overlapped
            busy += 1
            overlapped |= busy > 1
            await asyncio.sleep(0)
            busy -= 1
            return [0] * count

    connection = pool_of(Slow({}), Time()).connection(ADDRESS)
    await asyncio.gather(*(connection.read(1, n, 1, 1.0) for n in range(20)))
    assert not overlapped


async def test_a_refused_connection_backs_off_and_the_back_off_is_short() -> None:
    time = Time()
    line = FakeLine({1: FakeDevice({0: 7})}, refuses_connections=True)
    connection = pool_of(line, time).connection(ADDRESS)
    backoffs = []
    for _ in range(8):
        with pytest.raises(NoAnswerError):
            await connection.read(1, 0, 1, 1.0)
        with pytest.raises(NoAnswerError, match="next try in") as fault:
            await connection.read(1, 0, 1, 1.0)
        backoffs.append(float(str(fault.value).split("next try in ")[1].split(" s")[0]))
        time.now_s += BACKOFF_MOST_S
    assert backoffs[0] == BACKOFF_LEAST_S
    assert max(backoffs) == BACKOFF_MOST_S
    line.refuses_connections = False
    assert (await connection.read(1, 0, 1, 1.0)).words == [7]


async def test_silence_in_a_row_is_taken_for_a_half_open_connection() -> None:
    time = Time()
    device = FakeDevice({0: 7}, deaf=True)
    line = FakeLine({1: device})
    connection = pool_of(line, time).connection(ADDRESS)
    for _ in range(SILENCES_BEFORE_RECONNECT):
        assert line.connects <= 1
        with pytest.raises(NoAnswerError):
            await connection.read(1, 0, 1, 1.0)
    assert not line.connected
    device.deaf = False
    time.now_s += BACKOFF_MOST_S
    assert (await connection.read(1, 0, 1, 1.0)).words == [7]
    assert (line.connects, connection.generation) == (2, 2)


async def test_a_neighbours_answer_shows_that_the_connection_lives() -> None:
    line = FakeLine({1: FakeDevice({0: 7}), 2: FakeDevice({}, deaf=True)})
    connection = pool_of(line, Time()).connection(ADDRESS)
    for _ in range(3 * SILENCES_BEFORE_RECONNECT):
        with pytest.raises(NoAnswerError):
            await connection.read(2, 0, 1, 1.0)
        await connection.read(1, 0, 1, 1.0)
    assert line.connects == 1


async def test_an_exception_from_the_device_is_an_answer() -> None:
    line = FakeLine({1: FakeDevice({})})
    connection = pool_of(line, Time()).connection(ADDRESS)
    for _ in range(2 * SILENCES_BEFORE_RECONNECT):
        with pytest.raises(ModbusExceptionError):
            await connection.read(1, 0, 1, 1.0)
    assert line.connects == 1


async def test_an_answer_that_does_not_fit_costs_the_connection() -> None:
    class Confused(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
            raise BadAnswerError("another's answer")

    line = Confused({})
    connection = pool_of(line, Time()).connection(ADDRESS)
    with pytest.raises(BadAnswerError):
        await connection.read(1, 0, 1, 1.0)
    assert not line.connected


async def test_the_time_of_a_read_leaves_the_waiting_for_our_turn_out() -> None:
    time = Time()

    class Taking(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
            time.now_s += 2.0
            return [0] * count

    connection = pool_of(Taking({}), time).connection(ADDRESS)
    first, second = await asyncio.gather(connection.read(1, 0, 1, 9.0), connection.read(1, 0, 1, 9.0))
    assert (first.monotonic_s, second.monotonic_s) == (1001.0, 1003.0)


async def test_a_cancelled_request_leaves_the_connection_usable() -> None:
    entered = asyncio.Event()

    class Hangs(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
            if address == 1:
                entered.set()
                await asyncio.Event().wait()
            return [address] * count

    connection = pool_of(Hangs({}), Time()).connection(ADDRESS)
    task = asyncio.create_task(connection.read(1, 1, 1, 1.0))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await connection.read(1, 5, 1, 1.0)).words == [5]


async def test_a_host_name_that_does_not_resolve_is_no_answer() -> None:
    class Unknown(FakeLine):
        async def connect(self, timeout_s: float) -> None:
            raise OSError("Name or service not known")

    with pytest.raises(NoAnswerError, match="Name or service not known"):
        await pool_of(Unknown({}), Time()).connection(ADDRESS).read(1, 0, 1, 1.0)


async def test_closing_the_pool_closes_every_connection() -> None:
    lines: list[FakeLine] = []

    def opened(endpoint: Endpoint) -> Line:
        lines.append(FakeLine({1: FakeDevice({0: 7})}))
        return lines[-1]

    pool = ConnectionPool(Time(), line=opened)
    for host in ("a", "b"):
        await pool.connection(f"tcp://{host}").read(1, 0, 1, 1.0)
    pool.close()
    assert [line.connected for line in lines] == [False, False]
