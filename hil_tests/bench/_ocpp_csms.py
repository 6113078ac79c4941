"""The CSMS of the bench `ocpp`, in a process of its own, so that its CPU and memory are its own.

`python -m hil_tests.bench._ocpp_csms COUNT SECONDS ORDERS` prints its port, waits for all chargers, counts for SECONDS,
then orders limits under the same load, prints its figures, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Final

import structlog

from drivers.device import Sample, SampleFlag, Setpoint
from drivers.ocpp import ChargerSettings, OcppServer
from drivers.ocpp.schemas import Version, schemas

ORDERS_PER_S: Final = 50.0
SETUP_S: Final = 120.0
SETTLE_S: Final = 3.0


class _NoJournal:
    async def remember(self, key: str, value: bytes) -> None:
        """The store has its own bench."""

    async def recall(self, key: str) -> bytes | None:
        return None


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def _run(count: int, seconds: float, order_count: int) -> None:
    for version in Version:
        schemas(version)  # once per process, however many chargers there are
    gc.collect()
    before_bytes = resident_bytes()
    server = OcppServer(
        "127.0.0.1",
        0,
        [
            ChargerSettings(device_id=f"car-{number}", charger_id=f"CP-{number}", rated_import_w=11_000)
            for number in range(count)
        ],
        heartbeat_s=300,
        meter_interval_s=1,
        call_timeout_s=10.0,
        monotonic_s=time.monotonic,
        wall_us=lambda: time.time_ns() // 1000,
        journal=_NoJournal(),
        on_event=lambda code, subject, text: print(f"{code} {subject}: {text}", file=sys.stderr),
    )
    measured = 0

    def take(sample: Sample) -> None:
        nonlocal measured
        measured += SampleFlag.ESTIMATED not in sample.flags

    async with server, asyncio.TaskGroup() as group:
        running = [group.create_task(device.run(take)) for device in server.devices.values()]
        print(server.port, flush=True)
        give_up_s = time.monotonic() + SETUP_S
        while any(device.status().capabilities is None for device in server.devices.values()):
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"not all chargers were set up within {SETUP_S:g} s")
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE_S)
        measured, cpu_s, began_s = 0, time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu_s, took_s, messages = time.process_time() - cpu_s, time.perf_counter() - began_s, measured
        gc.collect()
        used_bytes = resident_bytes() - before_bytes
        ordered_ns: dict[str, int] = {}
        orders = [group.create_task(_order(server, number, count, ordered_ns)) for number in range(order_count)]
        await asyncio.gather(*orders)
        figures = {
            "core_share": cpu_s / took_s,
            "messages_per_s": messages / took_s,
            "bytes_per_charger": used_bytes / count,
            "ordered_ns": ordered_ns,
        }
        print(json.dumps(figures), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in running:
            task.cancel()


async def _order(server: OcppServer, number: int, count: int, ordered_ns: dict[str, int]) -> None:
    """One limit, when its turn has come: its own number, so that it is known when it arrives."""
    await asyncio.sleep(number / ORDERS_PER_S)
    charger, limit_w = number % count, 1_000 + number
    setpoint = Setpoint(lowest_w=0, highest_w=limit_w, lease_s=60.0, reason="bench")
    ordered_ns[f"CP-{charger} {limit_w}"] = time.monotonic_ns()
    await server.devices[f"car-{charger}"].apply(setpoint)


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_run(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
