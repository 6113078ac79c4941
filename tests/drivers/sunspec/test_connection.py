"""One connection per endpoint: shared, one request at a time, opened anew with a short back-off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import pairwise

import pytest

from drivers.sunspec.connection import BACKOFF_LEAST_S, BACKOFF_MOST_S, SILENCES_BEFORE_RECONNECT, ConnectionPool, Unit
from drivers.sunspec.errors import (
    AddressError,
    BadAnswerError,
    ModbusExceptionError,
    NoAnswerError,
    ReconnectedError,
)
from drivers.sunspec.pace import STEPS_S
from drivers.sunspec.patience import FULL_EVERY, SHORT_S
from drivers.sunspec.pdu import READ_INPUT, octets_of
from drivers.sunspec.transport import Endpoint, Line
from drivers.sunspec.turns import urgently
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
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            nonlocal busy, overlapped
            busy += 1
            overlapped |= busy > 1
            await asyncio.sleep(0)
            busy -= 1
            return octets_of([0] * count)

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
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            raise BadAnswerError("another's answer")

    line = Confused({})
    connection = pool_of(line, Time()).connection(ADDRESS)
    with pytest.raises(BadAnswerError):
        await connection.read(1, 0, 1, 1.0)
    assert not line.connected


async def test_the_time_of_a_read_leaves_the_waiting_for_our_turn_out() -> None:
    time = Time()

    class Taking(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            time.now_s += 2.0
            return octets_of([0] * count)

    connection = pool_of(Taking({}), time).connection(ADDRESS)
    first, second = await asyncio.gather(connection.read(1, 0, 1, 9.0), connection.read(1, 0, 1, 9.0))
    assert (first.monotonic_s, second.monotonic_s) == (1001.0, 1003.0)


async def test_a_cancelled_request_leaves_the_connection_usable() -> None:
    entered = asyncio.Event()

    class Hangs(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            if address == 1:
                entered.set()
                await asyncio.Event().wait()
            return octets_of([address] * count)

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


async def test_an_order_overtakes_polls_that_wait_on_its_line() -> None:
    gate = asyncio.Event()
    done: list[str] = []

    class Gated(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            await gate.wait()
            done.append(f"read {address}")
            return octets_of([0] * count)

        async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
            done.append("write")

    connection = pool_of(Gated({}), Time()).connection(ADDRESS)

    async def control() -> None:
        await connection.write(1, 9, [1], 1.0)
        async with urgently():
            await connection.read(1, 9, 1, 1.0)

    async with asyncio.TaskGroup() as tasks:
        for address in range(5):
            tasks.create_task(connection.read(2, address, 1, 1.0))
        await asyncio.sleep(0)
        tasks.create_task(control())
        await asyncio.sleep(0)
        gate.set()
    assert done[:2] == ["read 0", "write"]
    assert done.index("read 9") <= 3


async def test_a_dead_unit_costs_its_neighbour_one_short_wait_at_most() -> None:
    time = Time()
    waited: list[tuple[int, float]] = []

    class OneDead(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            took_s = timeout_s if unit == 9 else 0.01
            waited.append((unit, took_s))
            time.now_s += took_s
            await asyncio.sleep(0)
            if unit == 9:
                raise NoAnswerError("silent")
            return octets_of([0] * count)

    line = OneDead({})
    connection = pool_of(line, time).connection(ADDRESS)

    async def dead() -> None:
        for _ in range(200):
            with contextlib.suppress(NoAnswerError):
                await connection.read(9, 0, 1, 2.0)
            await asyncio.sleep(0)

    async def alive() -> None:
        for _ in range(200):
            await connection.read(1, 0, 1, 2.0)
            await asyncio.sleep(0)

    await connection.read(1, 0, 1, 2.0)
    await asyncio.gather(dead(), alive())
    units = [unit for unit, _ in waited]
    assert (9, 9) not in list(pairwise(units)), "the neighbour waits for one dead request at most"
    silences = [took_s for unit, took_s in waited if unit == 9]
    assert len(silences) < 200, "it is asked rarely"
    full = [index for index, took_s in enumerate(silences) if took_s == 2.0]
    assert full == [index for index in range(len(silences)) if index % FULL_EVERY == 0]
    assert {took_s for took_s in silences if took_s != 2.0} == {SHORT_S}
    assert line.connects == 1, "the line is not given up for one dead unit"


async def test_a_dead_unit_that_is_asked_often_does_not_cost_its_neighbour_the_connection() -> None:
    line = FakeLine({1: FakeDevice({0: 7}), 2: FakeDevice({}, deaf=True)})
    connection = pool_of(line, Time()).connection(ADDRESS)
    await connection.read(1, 0, 1, 1.0)
    for _ in range(4 * SILENCES_BEFORE_RECONNECT):
        with pytest.raises(NoAnswerError):
            await connection.read(2, 0, 1, 1.0)
    assert line.connected
    assert (await connection.read(1, 0, 1, 1.0)).words == [7]


async def test_a_write_to_a_silent_unit_is_tried_at_once() -> None:
    device = FakeDevice({0: 7}, deaf=True)
    line = FakeLine({1: FakeDevice({0: 7}), 2: device})
    connection = pool_of(line, Time()).connection(ADDRESS)
    await connection.read(1, 0, 1, 1.0)
    for _ in range(SILENCES_BEFORE_RECONNECT):
        with pytest.raises(NoAnswerError):
            await connection.read(2, 0, 1, 1.0)
    with pytest.raises(NoAnswerError, match="next try in"):
        await connection.read(2, 0, 1, 1.0)
    device.deaf = False
    await connection.write(2, 0, [5], 1.0)
    assert (await connection.read(2, 0, 1, 1.0)).words == [5]


@pytest.mark.parametrize("code", [5, 6])
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_busy_device_is_asked_again_a_bounded_number_of_times(code: int, times: int) -> None:
    asked = 0

    class Busy(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            nonlocal asked
            asked += 1
            if asked <= times:
                raise ModbusExceptionError("busy", code)
            return octets_of([7])

    connection = pool_of(Busy({}), Time()).connection(ADDRESS)
    if times <= 2:
        assert (await connection.read(1, 0, 1, 1.0)).words == [7]
    else:
        with pytest.raises(ModbusExceptionError):
            await connection.read(1, 0, 1, 1.0)
        assert asked == 3


async def test_a_busy_device_is_never_sent_a_write_twice() -> None:
    device = FakeDevice({0: 7})
    asked = 0

    def busy(device: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        nonlocal asked
        asked += 1
        raise ModbusExceptionError("busy", 6)

    device.on_write = busy
    with pytest.raises(ModbusExceptionError):
        await pool_of(FakeLine({1: device}), Time()).connection(ADDRESS).write(1, 0, [1], 1.0)
    assert asked == 1


def test_one_port_with_two_settings_is_refused() -> None:
    pool = ConnectionPool(Time())
    pool.connection("rtu:///dev/ttyUSB0?baudrate=9600")
    with pytest.raises(AddressError, match="write the same address for both"):
        pool.connection("rtu:///dev/ttyUSB0?baudrate=19200")
    assert pool.connection("rtu:///dev/ttyUSB0") is pool.connection("rtu:///dev/ttyUSB0?parity=N")


async def test_a_unit_that_was_silent_beside_others_says_first_who_it_is() -> None:
    device = FakeDevice({0: 7}, deaf=True)
    connection = pool_of(FakeLine({1: FakeDevice({0: 7}), 2: device}), Time()).connection(ADDRESS)
    await connection.read(1, 0, 1, 1.0)
    known = connection.generation
    for _ in range(SILENCES_BEFORE_RECONNECT):
        with pytest.raises(NoAnswerError):
            await connection.read(2, 0, 1, 1.0, known)
    device.deaf = False
    with pytest.raises(ReconnectedError):
        await connection.write(2, 0, [1], 1.0, known)
    assert device.writes == []


async def test_input_registers_are_asked_for_by_function_4_only_where_that_is_wanted() -> None:
    device = FakeDevice({0: 3}, inputs={0: 4})
    unit = Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)
    assert (await unit.read(0, 1)).words == [3]
    assert (await unit.read(0, 1, function=READ_INPUT)).words == [4]
    assert (device.reads, device.input_reads) == ([(0, 1)], [(0, 1)])


async def test_an_order_keeps_the_proven_pause_while_a_shorter_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    time, pauses = Time(), list[float]()
    connection = pool_of(FakeLine({1: FakeDevice({0: 7})}), time).connection(ADDRESS)
    await connection.read(1, 0, 1, 1.0)
    connection.pace.known(STEPS_S[1])
    connection.pace.gap_s = STEPS_S[0]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.now_s += seconds

    monkeypatch.setattr("drivers.sunspec.connection.asyncio.sleep", sleep)
    await connection.read(1, 0, 1, 1.0)
    await connection.write_one(1, 0, 8, 1.0)
    async with urgently():
        await connection.read(1, 0, 1, 1.0)
    assert pauses == pytest.approx([STEPS_S[0], STEPS_S[1], STEPS_S[1]])
