"""The Modbus side of the bench `command`: the rig's meter, PV and battery, and when orders were written to the battery.

`python -m hil_tests.bench._command_site` prints its ports (meter, battery), serves until its standard input ends, then
prints the moments of all writes to the battery: nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from hil_tests.rig.site.inverters import BatteryDevice
from hil_tests.rig.site.site import BATTERY, METER, Site, SiteSettings
from hil_tests.rig.site.world import PlantSettings

CAPACITY_WH = 1_000_000
"""So much that no order of the bench changes what the next one may ask for."""


async def _serve() -> None:
    site = Site(SiteSettings(plant=PlantSettings(battery_capacity_wh=CAPACITY_WH, ramp_s=1.0)))
    written_ns = _note_writes(site.battery)
    async with site:
        print(json.dumps([site.servers[METER].port, site.servers[BATTERY].port]), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps(written_ns), flush=True)


def _note_writes(battery: BatteryDevice) -> list[int]:
    """When anything was written to it, from now on."""
    written_ns: list[int] = []
    write = battery.write

    def noted(address: int, words: list[int]) -> None:
        written_ns.append(time.monotonic_ns())
        write(address, words)

    battery.write = noted  # type: ignore[method-assign]  # the server asks this one device
    return written_ns


if __name__ == "__main__":
    asyncio.run(_serve())
