"""Bench `footprint`: CPU and memory of the whole agent with 50 SunSpec devices at 1 s, a platform and a SoftHSM token.

The agent is `v2g-gateway run` in a process of its own, measured by what the kernel says of it; devices (a grid meter
and 49 inverters that take orders) and platform are processes beside it. `core_share` shall be under 0.08 and `rss_mb`
under 130.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hil_tests.bench._gateway import PERIOD_S, gateway_over, install
from hil_tests.bench.sunspec import serving

DEVICES: Final = 50
SETTLE_S: Final = 15.0
"""Discovery of all devices, connections and caches."""
SECONDS: Final = 60.0


def run(progress: Callable[[str], None], *, devices: int = DEVICES, seconds: float = SECONDS) -> dict[str, float]:
    """The figures of this bench by their JSON keys."""
    with serving(devices, "_inverter_site") as ports, tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        return asyncio.run(_measure(progress, Path(folder), ports, seconds))


async def _measure(
    progress: Callable[[str], None], folder: Path, ports: Sequence[int], seconds: float
) -> dict[str, float]:
    async with gateway_over(await install(folder), ports) as site:
        progress(f"{len(ports)} devices: waiting until all are measured, then {SETTLE_S:g} s")
        await site.all_measured(len(ports))
        await asyncio.sleep(SETTLE_S)
        readings, cpu_s, began_s = await site.readings(), site.cpu_s(), time.monotonic()
        progress(f"measuring for {seconds:g} s")
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - began_s
        share = (site.cpu_s() - cpu_s) / took_s
        per_s = (await site.readings() - readings) / took_s
        progress(f"{per_s:.1f} readings/s, expected {len(ports) / PERIOD_S:.0f}")
        return {"core_share": round(share, 4), "rss_mb": round(site.rss_mb(), 1), "readings_per_s": round(per_s, 1)}
