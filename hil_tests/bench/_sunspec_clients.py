"""The clients that the bench `sunspec` compares, in one process in turns: ours, pysunspec2, raw asyncio.

`python -m hil_tests.bench._sunspec_clients compare POLLS PORT` makes a round for each line on its standard input,
`... site SECONDS PORT...` runs devices as the agent does; both print JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
import sunspec2.modbus.client

from drivers.device import DeviceKind, Sample
from drivers.sunspec import ConnectionPool, SunSpecDevice
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.models import model_definition
from drivers.sunspec.registers import MapPoll, layout_of
from hil_tests.bench._sunspec_site import BASE, MODELS, REGISTERS

WARM_UP: Final = 20
"""Polls before the measured ones: caches, connections and the allocator settle."""
SETTLE_S: Final = 3.0
"""Between the first sample of the last device and the measurement."""
MOST_READ: Final = 125


async def ours(port: int, polls: int) -> dict[str, float]:
    """Every model of the map, all points decoded, every answer checked."""
    pool = ConnectionPool(time.monotonic)
    try:
        unit = Unit(pool.connection(f"tcp://127.0.0.1:{port}"), 1, 5.0)
        models = []
        for found in (await describe(unit)).models:
            definition = model_definition(found.number)
            assert definition is not None
            place = await layout_of(unit.read, definition, found.address, found.length)
            models.append((place, found.address, place.fields))
        assert len(models) == MODELS
        poll, points = MapPoll(models), 0
        for index in range(WARM_UP + polls):
            if index == WARM_UP:
                started = time.process_time()
            look = await poll.read(unit.read, 0.0)
            points = sum(len(values) for values in look.values)
        return {"cpu_s": (time.process_time() - started) / polls, "points": points}
    finally:
        pool.close()


def pysunspec2(port: int, polls: int) -> dict[str, float]:
    """Every model of the map as the official client reads and decodes it, on one connection."""
    device = sunspec2.modbus.client.SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=5)
    device.connect()
    device.scan(connect=False)
    models = [model for group in device.models.values() for model in group if model.model_id]
    models = list({id(model): model for model in models}.values())
    assert len(models) == MODELS
    for index in range(WARM_UP + polls):
        if index == WARM_UP:
            started = time.process_time()
        for model in models:
            model.read()
    cpu_s = (time.process_time() - started) / polls
    device.disconnect()
    return {"cpu_s": cpu_s, "points": sum(_implemented(model) for model in models)}


def _implemented(group: Any) -> int:
    inside = [one for child in group.groups.values() for one in (child if isinstance(child, list) else [child])]
    return sum(point.value is not None for point in group.points.values()) + sum(_implemented(one) for one in inside)


async def raw(port: int, polls: int) -> dict[str, float]:
    """The bare cost of asking: streams, 125 registers a time, nothing checked and nothing decoded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    starts = range(0, REGISTERS, MOST_READ)
    requests = [
        struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, BASE + 2 + start, min(MOST_READ, REGISTERS - start)) for start in starts
    ]
    for index in range(WARM_UP + polls):
        if index == WARM_UP:
            started = time.process_time()
        for request in requests:
            writer.write(request)
            header = await reader.readexactly(6)
            await reader.readexactly(int.from_bytes(header[4:6], "big"))
    cpu_s = (time.process_time() - started) / polls
    writer.close()
    return {"cpu_s": cpu_s}


class _NoJournal:
    """The bench orders nothing: nothing need survive it."""

    async def remember(self, key: str, value: bytes) -> None:
        pass

    async def recall(self, key: str) -> bytes | None:
        return None


async def site(ports: Sequence[int], seconds: float) -> dict[str, float]:
    """Devices as the agent runs them, once a second: share of a core, and how far moments stray from the grid."""
    pool = ConnectionPool(time.monotonic)
    moments: dict[str, list[float]] = {}

    all_seen = asyncio.Event()

    def emit(sample: Sample) -> None:
        moments.setdefault(sample.device_id, []).append(sample.monotonic_s)
        if len(moments) == len(ports):
            all_seen.set()

    devices = [
        SunSpecDevice(
            f"pv-{index}",
            DeviceKind.PV,
            f"tcp://127.0.0.1:{port}",
            1,
            period_s=1.0,
            timeout_s=2.0,
            connections=pool,
            monotonic_s=time.monotonic,
            journal=_NoJournal(),
        )
        for index, port in enumerate(ports)
    ]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(device.run(emit)) for device in devices]
        async with asyncio.timeout(60):
            await all_seen.wait()
        await asyncio.sleep(SETTLE_S)
        moments.clear()
        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        for task in running:
            task.cancel()
    pool.close()
    assert len(moments) == len(devices)
    return {
        "core_share": cpu / wall,
        "jitter_ms_p99": 1000 * _p99([stray for times in moments.values() for stray in _strays(times)]),
        "polls": sum(len(times) for times in moments.values()),
    }


def _strays(times: Sequence[float]) -> list[float]:
    """How far each moment is from the grid of seconds that lies best under them all."""
    phases = [(moment - times[0] + 0.5) % 1.0 - 0.5 for moment in times]
    middle = sorted(phases)[len(phases) // 2]
    return [abs(phase - middle) for phase in phases]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def lived_in() -> list[bytes]:
    """Memory as in an agent that has run for a while: arenas with room in them. Hold on to what it returns.

    In a process that has just begun, what a poll frees may be all that its newest arena holds: it is then given back to
    the system and taken again at each poll, 37 page faults and a third of the cost, or not, by the luck of what was
    imported before. Done for every client alike.
    """
    made = [bytes(400) for _ in range(20_000)]
    return made[::1_000]


def compared(port: int, polls: int, turn: int) -> dict[str, float]:
    """CPU seconds of each client's full poll, one after the other within a second, in an order that turns."""
    clients: dict[str, Callable[[], dict[str, float]]] = {
        "ours": lambda: asyncio.run(ours(port, polls)),
        "pysunspec2": lambda: pysunspec2(port, polls),
        "raw": lambda: asyncio.run(raw(port, polls)),
    }
    names = list(clients)
    first = turn % len(names)
    return {name: clients[name]()["cpu_s"] for name in names[first:] + names[:first]}


def main(what: str, amount: float, ports: Sequence[int]) -> None:
    """Prints JSON lines: "compare" one for each round of `amount` polls, without end; "site" one."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    held = lived_in()
    if what == "site":
        print(json.dumps(asyncio.run(site(ports, amount))))
    else:
        for turn, _ in enumerate(sys.stdin):  # a round for each line that is sent
            print(json.dumps(compared(ports[0], int(amount), turn)), flush=True)
    held.clear()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), [int(port) for port in sys.argv[3:]])
