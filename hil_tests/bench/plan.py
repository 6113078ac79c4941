"""Bench `plan`: one plan for 200 devices with commands in force, in milliseconds; target under 5 ms.

Batteries, cars, chargers and PV on a site whose limits bind, with commands for some, for all and at the connection: no
step of the plan is idle. The median of many plans, in this process alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.control.command import CommandType, Mode, Point
from agent.control.order import Order
from agent.control.plan import make_plan
from agent.control.site import DeviceView, Held, SiteView
from tests.agent.control.support import BATTERY, CAR, LIMITS, PLAIN, PV, SOME_COMMAND, curtail, order_of, site

DEVICES: Final = 200
PLANS: Final = 200


def run(progress: Callable[[str], None]) -> dict[str, float]:
    """{"ms_200_devices"}: the median."""
    view = busy_site(DEVICES)
    make_plan(view)
    times_ms = []
    for _ in range(PLANS):
        fresh = replace(view)  # as in the gateway, where each plan has a view of its own
        begun_s = time.perf_counter()
        make_plan(fresh)
        times_ms.append(1000 * (time.perf_counter() - begun_s))
    progress(f"{PLANS} plans of {DEVICES} devices: {min(times_ms):.2f} to {max(times_ms):.2f} ms")
    return {"ms_200_devices": round(statistics.median(times_ms), 3)}


def busy_site(count: int) -> SiteView:
    """A site on which every step of the plan has something to do."""
    kinds = (BATTERY, PV, CAR, PLAIN)
    devices = [_device(kinds[number % len(kinds)], number) for number in range(count)]
    limits = replace(
        LIMITS,
        import_limit_w=500 * count,
        export_limit_w=200 * count,
        phase_limit_w=250 * count,
        difference_limit_w=100 * count,
    )
    return site(*devices, house_w=2_000, orders=_orders(devices), limits=limits)


def _device(kind: DeviceView, number: int) -> DeviceView:
    return replace(
        kind,
        device_id=f"{kind.device_id}-{number:03}",
        online=number % 17 != 0,
        power_w=-3_000 if kind is PV else 1_000 + 10 * number,
        held=Held(lowest_w=-5_000, highest_w=5_000),
        phases=((1, 2, 3), (1,), (2,), (3,))[number // 4 % 4],
    )


def _orders(devices: list[DeviceView]) -> tuple[Order, ...]:
    some = tuple(device.device_id for device in devices[::3])
    return (
        order_of(replace(SOME_COMMAND, targets=some, power_w=50_000), "some"),
        order_of(curtail(40_000), "curtail"),
        order_of(
            replace(
                SOME_COMMAND, targets=(), mode=Mode.IMPORT_LIMIT, type=CommandType.CURTAIL, point=Point.CONNECTION,
                power_w=60_000,
            ),
            "import limit",
        ),
    )  # fmt: skip
