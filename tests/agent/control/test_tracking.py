"""The closed loop over a small simulated site: the connection is held where it shall be while the house changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.control.command import CommandType, Mode, Point
from agent.control.order import Order
from agent.control.plan import make_plan
from agent.control.site import DeviceView, Held, MeterView
from tests.agent.control.support import BATTERY, CAR, LIMITS, PLAIN, PV, SOME_COMMAND, curtail, order_of, site

STEP_S = 0.5
RAMP_W_PER_S = 4_000


class World:
    """Devices ramp to their bands; samples of chargers are two plans old, the meter's are of this moment."""

    def __init__(self, *views: DeviceView) -> None:
        self.views = {view.device_id: view for view in views}
        self.power = {view.device_id: view.present_w for view in views}
        self.seen = [dict(self.power)] * 3
        self.band: dict[str, tuple[int | None, int | None]] = dict.fromkeys(self.views, (None, None))

    def natural_w(self, name: str) -> int:
        return {"pv": -6_000, "plain": 11_000, "car": 0, "battery": 0}[name]

    def step(self, house_w: int, orders: tuple[Order, ...], import_limit_w: int = 40_000) -> int:
        for name, (low, high) in self.band.items():
            wanted = self.natural_w(name)
            wanted = max(wanted, low) if low is not None else wanted
            wanted = min(wanted, high) if high is not None else wanted
            most = int(RAMP_W_PER_S * STEP_S)
            self.power[name] += min(max(wanted - self.power[name], -most), most)
        self.seen = [*self.seen[1:], dict(self.power)]
        meter_w = house_w + sum(self.power.values())
        devices = []
        for name, view in self.views.items():
            shown = self.seen[0 if name in ("car", "plain") else -1][name]
            low, high = self.band[name]
            held = None if (low, high) == (None, None) else Held(lowest_w=low, highest_w=high)
            age_s = 2.0 if name in ("car", "plain") else 0.0
            devices.append(replace(view, power_w=shown, held=held, sample_age_s=age_s))
        seen = site(*devices, orders=orders, limits=replace(LIMITS, import_limit_w=import_limit_w))
        plan = make_plan(replace(seen, meter=MeterView(power_w=meter_w)))
        self.band = {name: (order.lowest_w, order.highest_w) for name, order in plan.orders.items()}
        return meter_w


def _house(step: int) -> int:
    return (600, 1_500, 900, 2_400)[step // 20 % 4]


@pytest.mark.parametrize("power_w", [4_000, 9_000, 15_000])
def test_a_discharge_at_the_connection_is_held_within_five_percent_while_the_house_changes(power_w: int) -> None:
    command = replace(SOME_COMMAND, point=Point.CONNECTION, targets=(), power_w=power_w)
    world = World(BATTERY, PV, CAR, PLAIN)
    metered = [world.step(_house(step), (order_of(command),)) for step in range(120)]
    settled = [w for step, w in enumerate(metered) if step > 20 and step % 20 > 3]
    within = sum(abs(w + power_w) <= max(100, power_w // 20) for w in settled)
    assert within >= 0.95 * len(settled)


def test_a_discharge_at_devices_is_exact_after_the_ramp() -> None:
    command = replace(SOME_COMMAND, targets=("battery", "car"), power_w=7_000)
    world = World(BATTERY, PV, CAR, PLAIN)
    for step in range(20):
        world.step(_house(step), (order_of(command),))
    assert world.power["battery"] + world.power["car"] == -7_000


def test_export_stays_under_a_curtail_at_the_connection_once_devices_have_had_their_time() -> None:
    command = curtail(1_000, point=Point.CONNECTION)
    world = World(BATTERY, PV, CAR)
    metered = [world.step(_house(step), (order_of(command),)) for step in range(120)]
    settled = [w for step, w in enumerate(metered) if step > 20 and step % 20 > 3]
    assert min(settled) >= -1_000
    assert max(settled) <= -800  # and the sun is not wasted: steps of 100 W


def test_import_stays_under_the_limit_while_the_house_rises() -> None:
    world = World(replace(BATTERY, state_of_charge_permille=0), PLAIN, CAR)
    metered = [world.step(_house(step), (), import_limit_w=8_000) for step in range(120)]
    settled = [w for step, w in enumerate(metered) if step > 20 and step % 20 > 5]
    assert max(settled) <= 8_000


def test_a_charge_command_raises_no_fuse_violation() -> None:
    command = replace(
        SOME_COMMAND, type=CommandType.CHARGE, mode=Mode.SETPOINT, targets=("battery", "car"), power_w=20_000
    )
    world = World(BATTERY, PLAIN, CAR)
    metered = [world.step(_house(step), (order_of(command),), import_limit_w=20_000) for step in range(120)]
    settled = [w for step, w in enumerate(metered) if step > 20 and step % 20 > 5]
    assert max(settled) <= 20_000
