"""CURTAIL at the connection beside a battery in its own control: the limit holds, and the sun is not thrown away."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agent.control.command import Point
from agent.control.dispatcher import Carriage, Deed, believed, next_step
from agent.control.order import Order
from agent.control.plan import make_plan
from agent.control.site import DeviceView, MeterView
from drivers.device import DeviceKind, Setpoint
from tests.agent.control.support import BATTERY, LIMITS, PV, capabilities, curtail, order_of, site

STEP_S = 0.1
LEASE_S = 60.0
SUN_W = 14_000
HOUSE_W = 1_000
BIG_PV = replace(PV, power_w=0, capabilities=capabilities(0, 20_000, limits_import=False, follows_setpoint=False))


class Plant:
    """PV, house and a battery that brings the connection to zero by itself; each is sampled once a second, in its own
    moment, and what the plan sees is up to 1.5 s old. The band of PV is carried out as the dispatcher would."""

    def __init__(self, seed: int, *, most_charge_w: int = 10_000, ramp_w_per_s: int = 8_000) -> None:
        chance = random.Random(seed)
        self.now_s = 0.0
        self.house_w = HOUSE_W
        self.sun_w = SUN_W
        self.most_charge_w = most_charge_w
        self.ramp_w_per_s = ramp_w_per_s
        self.power = {"pv": 0, "battery": 0}
        self.offset_s = {name: chance.uniform(0.0, 1.0) for name in ("pv", "battery", "meter")}
        self.delay_s = chance.uniform(0.0, 0.5)
        self.seen = {"pv": (0.0, 0), "battery": (0.0, 0), "meter": (0.0, HOUSE_W)}
        self.arriving: list[tuple[float, str, float, int]] = []
        self.carriage = Carriage(kind=DeviceKind.PV)
        self.band: Setpoint | None = None
        self.ordered: tuple[float, Setpoint | None] | None = None

    @property
    def meter_w(self) -> int:
        return self.house_w + self.power["pv"] + self.power["battery"]

    def step(self, orders: tuple[Order, ...], export_limit_w: int = 30_000) -> int:
        self.now_s += STEP_S
        self._physics()
        self._sample()
        if round(self.now_s / STEP_S) % 10 == 0:
            self._plan(orders, export_limit_w)
        self._carry_out()
        return self.meter_w

    def _physics(self) -> None:
        limit_w = self.sun_w if self.band is None or self.band.lowest_w is None else -self.band.lowest_w
        wanted_w = -min(self.sun_w, limit_w)
        most_w = round(self.ramp_w_per_s * STEP_S)
        self.power["pv"] += min(max(wanted_w - self.power["pv"], -most_w), most_w)
        # A first-order own control: half a second to follow what the connection shows.
        surplus_w = -(self.meter_w - self.power["battery"])
        wanted_w = min(self.most_charge_w, max(-10_000, surplus_w))
        self.power["battery"] += round((wanted_w - self.power["battery"]) * STEP_S / 0.5)
        self.power["battery"] = min(self.power["battery"], self.most_charge_w)

    def _sample(self) -> None:
        for name, offset_s in self.offset_s.items():
            if round((self.now_s - offset_s) / STEP_S) % 10 == 0:
                power_w = self.meter_w if name == "meter" else self.power[name]
                self.arriving.append((self.now_s + self.delay_s, name, self.now_s, power_w))
        for item in [item for item in self.arriving if item[0] <= self.now_s]:
            self.arriving.remove(item)
            self.seen[item[1]] = item[2:]

    def _plan(self, orders: tuple[Order, ...], export_limit_w: int) -> None:
        held = believed(self.carriage, self.band, self.now_s)
        views: list[DeviceView] = []
        for base, name in ((BIG_PV, "pv"), (BATTERY, "battery")):
            at_s, power_w = self.seen[name]
            views.append(
                replace(base, power_w=power_w, sample_age_s=self.now_s - at_s, held=held if name == "pv" else None)
            )
        view = site(*views, orders=orders, limits=replace(LIMITS, export_limit_w=export_limit_w))
        plan = make_plan(replace(view, meter=MeterView(power_w=self.seen["meter"][1])))
        assert plan.orders["battery"].released
        self.carriage = replace(self.carriage, wanted=plan.orders["pv"])

    def _carry_out(self) -> None:
        if self.ordered is not None:
            at_s, band = self.ordered
            if at_s <= self.now_s:
                self.band, self.ordered = band, None
                wanted = self.carriage.attempted
                self.carriage = replace(
                    self.carriage,
                    changed_s=self.now_s if wanted != self.carriage.confirmed else self.carriage.changed_s,
                    confirmed=None if band is None else wanted,
                    attempted=None,
                    touched=band is not None,
                    confirmed_s=self.now_s,
                )
            return
        deed, wait_s = next_step(self.carriage, self.band is not None, LEASE_S, self.now_s)
        wanted = self.carriage.wanted
        if deed is Deed.NOTHING or wait_s > 0 or wanted is None:
            return
        band = None
        if deed is Deed.APPLY:
            band = Setpoint(lowest_w=wanted.lowest_w, highest_w=wanted.highest_w, lease_s=LEASE_S, reason="")
        self.carriage = replace(self.carriage, attempted=wanted, touched=True)
        self.ordered = (self.now_s + 0.2, band)


def _steps(seconds: float) -> int:
    return round(seconds / STEP_S)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit_w", [0, 150, 500, 1_500, 4_000])
def test_the_sun_fills_a_battery_that_can_take_it_while_the_export_stays_under_the_curtail(
    limit_w: int, seed: int
) -> None:
    order = (order_of(curtail(limit_w, point=Point.CONNECTION)),)
    plant = Plant(seed)
    for _ in range(_steps(10)):
        plant.step(())
    metered = [plant.step(order) for _ in range(_steps(150))]
    # 14 kW of sun, 1 kW of house, 10 kW of battery: 3 kW are too much, less what may be exported.
    assert -plant.power["pv"] >= min(SUN_W, 11_000 + limit_w) - 400
    settled = metered[_steps(4) :]
    assert min(settled) >= -limit_w - 100
    assert max(settled) <= 600


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("limit_w", "charge_w"), [(0, 4_500), (1_500, 9_500)])
def test_an_idle_start_under_a_curtail_still_ends_with_a_battery_that_charges(
    limit_w: int, charge_w: int, seed: int
) -> None:
    order = (order_of(curtail(limit_w, point=Point.CONNECTION)),)
    plant = Plant(seed)
    plant.sun_w = 0
    for _ in range(_steps(10)):
        plant.step(order)
    plant.sun_w = SUN_W
    metered = [plant.step(order) for _ in range(_steps(240))]
    assert plant.power["battery"] >= charge_w
    assert min(metered[_steps(5) :]) >= -limit_w - 100


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit_w", [0, 1_500])
def test_when_the_battery_stops_all_at_once_the_export_is_back_under_the_limit_within_seconds(
    limit_w: int, seed: int
) -> None:
    order = (order_of(curtail(limit_w, point=Point.CONNECTION)),)
    plant = Plant(seed)
    for _ in range(_steps(120)):
        plant.step(order)
    plant.most_charge_w = 0
    metered = [plant.step(order) for _ in range(_steps(40))]
    over = [index for index, power_w in enumerate(metered) if power_w < -limit_w - 110]
    assert max(over, default=0) * STEP_S <= 6.0
    assert min(metered) >= -limit_w - 11_000  # what the battery took, and not more by overshoot


@pytest.mark.parametrize("seed", range(8))
def test_the_contracts_export_limit_does_not_throw_away_what_the_battery_takes(seed: int) -> None:
    plant = Plant(seed)
    metered = [plant.step((), export_limit_w=2_000) for _ in range(_steps(120))]
    assert -plant.power["pv"] >= 12_500
    assert min(metered[_steps(8) :]) >= -2_100


@pytest.mark.parametrize("seed", range(8))
def test_a_slow_inverter_brings_no_growing_swing(seed: int) -> None:
    order = (order_of(curtail(1_500, point=Point.CONNECTION)),)
    plant = Plant(seed, ramp_w_per_s=1_500)
    for _ in range(_steps(60)):
        plant.step(order)
    plant.most_charge_w = 4_000
    metered = [plant.step(order) for _ in range(_steps(60))]
    late = metered[_steps(25) :]
    assert min(late) >= -1_600
    assert max(late) - min(late) <= 1_500


@pytest.mark.parametrize("seed", range(8))
def test_after_a_cloud_the_battery_gets_at_once_what_it_took_before(seed: int) -> None:
    order = (order_of(curtail(1_500, point=Point.CONNECTION)),)
    plant = Plant(seed)
    for _ in range(_steps(10)):
        plant.step(())
    for _ in range(_steps(120)):
        plant.step(order)
    plant.sun_w = 3_000
    for _ in range(_steps(30)):
        plant.step(order)
    for _ in range(_steps(11)):  # the edge of a cloud takes seconds
        plant.sun_w += round(1_000 * STEP_S)
        plant.step(order)
    for _ in range(_steps(2)):
        plant.step(order)
    assert plant.power["battery"] >= 9_500


@pytest.mark.parametrize("seed", range(6))
def test_in_any_weather_the_export_is_above_the_limit_for_seconds_only(seed: int) -> None:
    chance = random.Random(seed)
    limit_w = chance.choice([0, 500, 1_500, 4_000])
    order = (order_of(curtail(limit_w, point=Point.CONNECTION)),)
    plant = Plant(seed, ramp_w_per_s=4_000)
    over_steps = longest_steps = next_step_at = 0
    for step in range(_steps(150)):
        if step >= next_step_at:
            plant.house_w, plant.sun_w = chance.randint(200, 6_000), chance.randint(0, 20_000)
            plant.most_charge_w = chance.choice([0, 3_000, 10_000, 10_000])
            next_step_at = step + _steps(chance.uniform(5, 25))
        over_steps = over_steps + 1 if plant.step(order) < -limit_w - 200 else 0
        longest_steps = max(longest_steps, over_steps)
    assert longest_steps * STEP_S <= 6.0
