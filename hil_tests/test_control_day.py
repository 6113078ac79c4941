"""The ordinary day on a real charger's protocol: a car charges from the sun, and in time for its driver's departure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.control.needing import Wish
from hil_tests.ocpp_station import Tls, until
from hil_tests.rig.charger.solo import CarSettings
from hil_tests.rig.site.charger import OCPP_21
from hil_tests.test_ocpp_v2g_owner import DEVICES, Owned, owned

DAYS = [DEVICES[0], DEVICES[1].model_copy(update={"day": "surplus"})]
CAR = CarSettings(capacity_wh=60_000, state_of_charge_percent=40.0, discharge_w=0)


@asynccontextmanager
async def sunny(folder: Path, tls: Tls) -> AsyncIterator[tuple[Owned, list[int]]]:
    """A car that follows the sun; the one number is what PV leaves over, and the meter shows the rest of the truth."""
    quick = {"surplus_start_after_s": 0.5, "surplus_stop_after_s": 0.5, "surplus_least_s": 1.0}
    async with owned(folder, tls, OCPP_21, CAR, speed=1.0, devices=DAYS, **quick) as site:
        left_w = [0]

        async def measure() -> None:
            while True:
                site.meter.power_w = round(site.rig.evse.power_w) - left_w[0]
                await asyncio.sleep(0.02)

        measuring = asyncio.create_task(measure())
        try:
            yield site, left_w
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)


async def test_a_car_takes_what_the_sun_leaves_over_and_nothing_else(tmp_path: Path, loopback_tls: Tls) -> None:
    async with sunny(tmp_path, loopback_tls) as (site, left_w):
        await until(lambda: "waits for the sun" in site.reasons(), "it waits", 20)
        await until(lambda: site.rig.evse.power_w < 100, "it takes nothing meanwhile", 20)
        left_w[0] = 6_000
        await until(lambda: 5_000 < site.rig.evse.power_w <= 6_100, "it takes the sun", 20)
        left_w[0] = 0
        await until(lambda: site.rig.evse.power_w < 100, "it stops when the sun has gone", 30)


async def test_a_drivers_departure_that_comes_near_has_the_car_charge_without_sun(
    tmp_path: Path, loopback_tls: Tls
) -> None:
    async with sunny(tmp_path, loopback_tls) as (site, _):
        await until(lambda: "waits for the sun" in site.reasons(), "it waits", 20)
        leaves_us = round((time.time() + 1_800) * 1e6)
        site.controller.wish("car-1", Wish(energy_wh=9_000, departure_us=leaves_us))
        await until(lambda: site.rig.evse.power_w > 8_000, "it charges for its departure", 30)
        assert "its departure needs it" in site.reasons()
        site.controller.wish("car-1", Wish())
        await until(lambda: site.rig.evse.power_w < 100, "the driver has taken it back", 30)
