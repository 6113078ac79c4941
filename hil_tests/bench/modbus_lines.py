"""CPU of a poll over Modbus TCP: our line, pymodbus's client and pysunspec2's, in turn against one server process.

`python -m hil_tests.bench.modbus_lines`; prints CPU time of this process per poll of 1579 registers, and the ratios.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from sunspec2.modbus.modbus import ModbusClientTCP

from drivers.device import DeviceKind, Sample
from drivers.sunspec import ConnectionPool, SunSpecDevice
from hil_tests.rig.site.modbus import ModbusTcpServer
from hil_tests.rig.site.registers import RegisterRefusedError
from hil_tests.rig.site.site import Site, SiteSettings
from tests.drivers.sunspec.fakes import MemoryJournal

REGISTERS: Final = 1579
"""Of a whole map of a DER with models 701 to 714."""
MOST: Final = 125
POLLS: Final = 200
DEVICES: Final = 50
SECONDS: Final = 10


class _Registers:
    """The rig's inverter where its map is, and something everywhere behind it."""

    def __init__(self) -> None:
        self._pv = Site(SiteSettings()).pv

    def read(self, address: int, count: int) -> list[int]:
        try:
            return self._pv.read(address, count)
        except RegisterRefusedError:
            return [7] * count

    def write(self, address: int, words: list[int]) -> None: ...


def _serve(pipe: Pipe) -> None:
    async def run() -> None:
        ports = []
        registers = _Registers()
        for _ in range(DEVICES):
            server = ModbusTcpServer(registers, unit=1, monotonic_s=time.monotonic)
            await server.start("127.0.0.1", 0)
            ports.append(server.port)
        pipe.send(ports)
        await asyncio.Event().wait()

    asyncio.run(run())


def _stretches() -> list[tuple[int, int]]:
    return [(40000 + at, min(MOST, REGISTERS - at)) for at in range(0, REGISTERS, MOST)]


async def _cpu_ms_per_poll(poll: Callable[[], Awaitable[None]]) -> float:
    await poll()
    begun_s = time.process_time()
    for _ in range(POLLS):
        await poll()
    return (time.process_time() - begun_s) / POLLS * 1000


async def _ours(port: int) -> float:
    pool = ConnectionPool(time.monotonic)
    connection = pool.connection(f"tcp://127.0.0.1:{port}")

    async def poll() -> None:
        for address, count in _stretches():
            await connection.read(1, address, count, 2.0)

    try:
        return await _cpu_ms_per_poll(poll)
    finally:
        pool.close()


async def _pymodbus(port: int) -> float:
    client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
    await client.connect()

    async def poll() -> None:
        for address, count in _stretches():
            await client.read_holding_registers(address, count=count, device_id=1)

    try:
        return await _cpu_ms_per_poll(poll)
    finally:
        client.close()


async def _pysunspec2(port: int) -> float:
    client = ModbusClientTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=2.0)
    client.connect()

    async def poll() -> None:
        # Blocking, as it is; splits the range by itself.
        client.read(40000, REGISTERS)

    try:
        return await _cpu_ms_per_poll(poll)
    finally:
        client.disconnect()


async def _many(ports: list[int]) -> float:
    """Percent of one core for the whole driver: every device discovered, then polled and decoded each second."""
    pool = ConnectionPool(time.monotonic)
    samples = 0

    def emit(sample: Sample) -> None:
        nonlocal samples
        samples += 1

    devices = [
        SunSpecDevice(
            f"pv-{port}",
            DeviceKind.PV,
            f"tcp://127.0.0.1:{port}",
            1,
            period_s=1.0,
            timeout_s=2.0,
            connections=pool,
            monotonic_s=time.monotonic,
            journal=MemoryJournal(),
        )
        for port in ports
    ]
    tasks = [asyncio.create_task(device.run(emit)) for device in devices]
    try:
        while any(device.status().last_sample is None for device in devices):  # noqa: ASYNC110 - others' state
            await asyncio.sleep(0.1)
        begun, begun_s, cpu_s = samples, time.monotonic(), time.process_time()
        await asyncio.sleep(SECONDS)
        percent = (time.process_time() - cpu_s) / (time.monotonic() - begun_s) * 100
        # Fewer samples than seconds would be a cheap poll for the wrong reason.
        assert samples - begun >= 0.9 * SECONDS * len(ports)
        return percent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        pool.close()


def main() -> int:
    """Prints one JSON line."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    server.start()
    try:
        ports: list[int] = here.recv()
        cpu_ms = {
            name: round(asyncio.run(measure(ports[0])), 2)
            for name, measure in (("ours", _ours), ("pymodbus", _pymodbus), ("pysunspec2", _pysunspec2))
        }
        ratios = {name: round(cpu_ms["ours"] / of_it, 2) for name, of_it in cpu_ms.items() if name != "ours"}
        percent = round(asyncio.run(_many(ports)), 1)
        print(json.dumps({"cpu_ms_per_poll": cpu_ms, "ours_to": ratios, "percent_of_core_50_devices_1_s": percent}))
    finally:
        server.terminate()
        server.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
