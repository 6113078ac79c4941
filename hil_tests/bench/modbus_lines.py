"""Bench `modbus_lines`: CPU of 1579 registers read over Modbus TCP, our line against pymodbus's and pysunspec2's.

Nothing is decoded: it says what the line itself costs, every answer checked, and is why `drivers/sunspec/transport.py`
has lines of its own. All clients read the same registers in the same requests from one server process on loopback.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from sunspec2.modbus.modbus import ModbusClientTCP

from drivers.sunspec import ConnectionPool
from hil_tests.bench._sunspec_site import BASE, REGISTERS
from hil_tests.bench.sunspec import serving

MOST: Final = 125
ROUNDS: Final = 9
POLLS: Final = 40
WARM_UP: Final = 3
STRETCHES: Final = [(BASE + at, min(MOST, REGISTERS - at)) for at in range(0, REGISTERS, MOST)]


def run(progress: Callable[[str], None], *, rounds: int = ROUNDS, polls: int = POLLS) -> dict[str, float]:
    """Ratios of CPU time, ours to each; at most 1: ours is no dearer."""
    clients = {"ours": _ours, "pymodbus": _pymodbus, "pysunspec2": _pysunspec2}
    turns: list[dict[str, float]] = []
    with serving(1) as ports:
        for turn in range(rounds):
            order = sorted(clients, reverse=turn % 2 == 1)
            turns.append({name: asyncio.run(clients[name](ports[0], polls)) for name in order})
            shown = ", ".join(f"{name} {1000 * cpu_s:.2f}" for name, cpu_s in turns[-1].items())
            progress(f"round {turn + 1} of {rounds}, CPU ms per poll: {shown}")
    return {
        f"cpu_ratio_vs_{peer}": round(statistics.median(cpu_s["ours"] / cpu_s[peer] for cpu_s in turns), 3)
        for peer in ("pymodbus", "pysunspec2")
    }


async def _cpu_s(poll: Callable[[], Awaitable[int]], polls: int) -> float:
    """CPU seconds of one poll. Fails when a poll gave fewer registers than there are: that would be cheap."""
    for _ in range(WARM_UP):
        await poll()
    started = time.process_time()
    for _ in range(polls):
        assert await poll() == REGISTERS
    return (time.process_time() - started) / polls


async def _ours(port: int, polls: int) -> float:
    pool = ConnectionPool(time.monotonic)
    connection = pool.connection(f"tcp://127.0.0.1:{port}")

    async def poll() -> int:
        return sum([len((await connection.read(1, address, count, 5.0)).words) for address, count in STRETCHES])

    try:
        return await _cpu_s(poll, polls)
    finally:
        pool.close()


async def _pymodbus(port: int, polls: int) -> float:
    client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0, timeout=5)
    await client.connect()

    async def poll() -> int:
        answers = [await client.read_holding_registers(at, count=count, device_id=1) for at, count in STRETCHES]
        return sum(len(answer.registers) for answer in answers)

    try:
        return await _cpu_s(poll, polls)
    finally:
        client.close()


async def _pysunspec2(port: int, polls: int) -> float:
    client = ModbusClientTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=5)
    client.connect()

    async def poll() -> int:
        # Blocking, as it is.
        return sum(len(client.read(at, count)) // 2 for at, count in STRETCHES)

    try:
        return await _cpu_s(poll, polls)
    finally:
        client.disconnect()
