"""The devices of the bench `footprint`: a grid meter and as many PV inverters as asked for, which take orders.

`python -m hil_tests.bench._inverter_site COUNT` serves them in a process of its own, prints the ports (the meter's
first), and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from hil_tests.rig.site.energy import EnergyRegister
from hil_tests.rig.site.inverters import PvDevice, SunSpecDevice
from hil_tests.rig.site.meter import MeterDevice
from hil_tests.rig.site.modbus import ModbusTcpServer
from hil_tests.rig.site.plant import PvInverter
from hil_tests.rig.site.world import GridPoint

RATED_W: Final = 5_000.0
SUN: Final = 0.6
RAMP_S: Final = 2.0
STEP_S: Final = 0.5


async def _serve(count: int) -> None:
    grid = GridPoint()
    inverters = [
        PvInverter(RATED_W, RAMP_S, energy=EnergyRegister.starting_at(export_wh=21_480_000)) for _ in range(count - 1)
    ]
    devices: list[SunSpecDevice] = [
        MeterDevice(grid, largest_w=RATED_W * count, serial="BENCH-METER", monotonic_s=time.monotonic),
        *(
            PvDevice(inverter, grid, serial=f"BENCH-{place:04d}", monotonic_s=time.monotonic)
            for place, inverter in enumerate(inverters)
        ),
    ]
    ports = []
    for device in devices:
        server = ModbusTcpServer(device, unit=1, monotonic_s=time.monotonic)
        await server.start("127.0.0.1", 0)
        ports.append(server.port)
    print(json.dumps(ports), flush=True)
    stepping = asyncio.create_task(_step(grid, inverters, devices))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stepping.cancel()


async def _step(grid: GridPoint, inverters: list[PvInverter], devices: list[SunSpecDevice]) -> None:
    last_us = time.monotonic_ns() // 1000
    while True:
        await asyncio.sleep(STEP_S)
        now_us = time.monotonic_ns() // 1000
        duration_us, last_us = now_us - last_us, now_us
        for device in devices:
            device.before_step(now_us / 1e6)
        for inverter in inverters:
            inverter.decide(duration_us / 1e6, SUN)
            inverter.energy.add(round(inverter.power_w * 1000), duration_us)
        total = sum(round(inverter.power_w * 1000) for inverter in inverters)
        third = total // 3
        grid.power_milliwatts, grid.phase_power_milliwatts = total, (total - 2 * third, third, third)
        grid.energy.add(total, duration_us)
        for device in devices:
            device.after_step()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
