"""Cars that charge from the sun, where a limit at the connection holds PV back: the sun is found, and not imagined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from agent.control.command import Mode, Point
from agent.control.day import DayState, SunPace, step_day, with_day
from agent.control.held_back import hidden_w
from agent.control.order import Now, Order
from agent.control.override import Override
from agent.control.plan import Plan, make_plan
from agent.control.site import CarDay, DeviceView, Held, MeterView, SiteView
from tests.agent.control.support import BATTERY, LIMITS, PLAIN, PV, START_US, curtail, order_of, site

PACE = SunPace(start_after_s=60, stop_after_s=120, least_s=300)
HOUSE_W = 500
SUNNY = replace(PLAIN, day=CarDay.SURPLUS)
HOUR_S = 3_600


@dataclass
class Roof:
    """PV that follows its band within a second or two, a house, a car, and a contract without export."""

    sun_w: int
    export_limit_w: int = 0
    orders: tuple[Order, ...] = ()
    state: DayState = field(default_factory=DayState)
    now_s: float = 0.0
    pv_w: int = 0
    car_w: int = 0
    bound_w: int | None = None
    bound_since_s: float = 0.0
    starts: list[float] = field(default_factory=list)
    taken_wh: float = 0.0
    imported_wh: float = 0.0
    worst_export_w: int = 0

    @property
    def meter_w(self) -> int:
        return HOUSE_W + self.car_w - self.pv_w

    def view(self) -> SiteView:
        age_s = self.now_s - self.bound_since_s
        band = None if self.bound_w is None else Held(lowest_w=-self.bound_w, highest_w=None, age_s=age_s)
        car = Held(lowest_w=0, highest_w=self.car_w)
        views = (replace(PV, power_w=-self.pv_w, held=band), replace(SUNNY, power_w=self.car_w, held=car))
        seen = site(*views, orders=self.orders, limits=replace(LIMITS, export_limit_w=self.export_limit_w))
        seen = replace(seen, meter=MeterView(power_w=self.meter_w))
        return replace(seen, now=Now(wall_us=START_US + round(self.now_s * 1e6)))

    def step(self) -> Plan:
        self.now_s += 1.0
        seen = self.view()
        self.state = step_day(self.state, seen, PACE, self.now_s)
        plan = make_plan(with_day(seen, self.state))
        bound, high = plan.orders["pv"].lowest_w, plan.orders["plain"].highest_w or 0
        if high and not self.car_w:
            self.starts.append(self.now_s)
        self.car_w = high
        before, self.bound_w = self.bound_w, None if bound is None else -bound
        if self.bound_w != before:
            self.bound_since_s = self.now_s
        wanted_w = self.sun_w if self.bound_w is None else min(self.sun_w, self.bound_w)
        self.pv_w = min(wanted_w, self.pv_w + 400)  # up at 400 W a second, down at once
        self.taken_wh += self.car_w / HOUR_S
        self.imported_wh += max(0, self.meter_w) / HOUR_S
        if self.now_s > 30:
            self.worst_export_w = max(self.worst_export_w, -self.meter_w)
        return plan

    def run(self, seconds: int) -> Plan:
        for _ in range(seconds - 1):
            self.step()
        return self.step()


def test_a_car_takes_the_sun_that_a_contract_without_export_holds_back() -> None:
    roof = Roof(sun_w=7_500)
    roof.run(HOUR_S)
    assert len(roof.starts) == 1
    assert roof.car_w >= 0.9 * (7_500 - HOUSE_W)
    assert roof.imported_wh < 0.1 * roof.taken_wh
    assert roof.worst_export_w <= 100


def test_the_sun_is_followed_down_again_when_a_cloud_comes() -> None:
    roof = Roof(sun_w=7_500)
    roof.run(HOUR_S)
    roof.sun_w = 4_000
    roof.run(120)
    before_wh = roof.imported_wh
    roof.run(HOUR_S)
    assert abs(roof.car_w - 3_500) <= 500
    assert roof.imported_wh - before_wh <= 100, "looking for more sun takes little from the grid"


def test_where_no_sun_is_held_back_a_car_tries_once_and_not_again_for_half_an_hour() -> None:
    roof = Roof(sun_w=700)
    roof.run(2 * HOUR_S)
    assert 1 <= len(roof.starts) <= 4
    assert min(b - a for a, b in zip(roof.starts, roof.starts[1:], strict=False)) >= 1_800
    assert roof.imported_wh < 4 * 80, "each try takes less than 80 Wh from the grid"
    assert roof.worst_export_w <= 100


def test_a_command_that_limits_export_at_the_connection_holds_back_sun_for_cars_too() -> None:
    limit = curtail(1_000, point=Point.CONNECTION, end_us=START_US + 10 * HOUR_S * 1_000_000)
    roof = Roof(sun_w=7_500, export_limit_w=30_000, orders=(order_of(limit),))
    roof.run(HOUR_S)
    assert roof.car_w >= 0.9 * (7_500 - HOUSE_W - 1_000)
    assert roof.worst_export_w <= 1_100


@pytest.mark.parametrize("targets", [(), ("pv",)])
def test_a_limit_on_pv_itself_lets_no_car_start(targets: tuple[str, ...]) -> None:
    limit = curtail(1_000, targets=targets, end_us=START_US + 10 * HOUR_S * 1_000_000)
    roof = Roof(sun_w=7_500, orders=(order_of(limit),))
    roof.run(HOUR_S)
    assert roof.starts == []


def _held(power_w: int, bound_w: int) -> DeviceView:
    return replace(PV, power_w=-power_w, held=Held(lowest_w=-bound_w, highest_w=None))


def test_what_may_be_held_back_is_what_pv_could_make_beside_what_it_makes() -> None:
    assert hidden_w(site(_held(2_000, 2_000))) == 6_000
    assert hidden_w(site(_held(1_500, 2_000))) == 0, "it makes what the sun gives"
    assert hidden_w(site(_held(8_000, 8_000))) == 0, "its bound is its rating"
    assert hidden_w(site(_held(100, 100))) == 0, "it may be night"
    assert hidden_w(site(PV)) == 0
    under_way = Held(lowest_w=-2_000, highest_w=None, age_s=0.5)
    assert hidden_w(site(replace(PV, power_w=-1_000, held=under_way))) is None
    assert hidden_w(site(replace(_held(2_000, 2_000), online=False))) == 0
    assert hidden_w(site(_held(2_000, 2_000), stop="me")) == 0
    assert hidden_w(site(_held(2_000, 2_000), islanded=True)) == 0
    imports = order_of(curtail(9_000, mode=Mode.IMPORT_LIMIT))
    assert hidden_w(site(_held(2_000, 2_000), orders=(imports,))) == 6_000, "it says nothing to PV"
    assert hidden_w(replace(site(_held(2_000, 2_000)), meter=None)) == 0
    by_hand = {"pv": Override(device_id="pv", power_w=-2_000, since_us=START_US, until_us=START_US + 1, by="owner")}
    assert hidden_w(site(_held(2_000, 2_000), overrides=by_hand)) == 0


def test_what_a_battery_takes_in_is_still_sun_and_nothing_is_hidden_behind_it() -> None:
    view = site(_held(2_000, 3_000), replace(BATTERY, power_w=1_500))
    assert hidden_w(view) == 0


def test_while_one_car_shows_whether_the_sun_is_there_no_other_one_starts_for_it() -> None:
    second = replace(SUNNY, device_id="second")
    seen = site(_held(700, 700), SUNNY, second, house_w=HOUSE_W)
    state, most = DayState(), 0
    for now_s in range(200):
        state = step_day(state, seen, PACE, float(now_s))
        most = max(most, sum(car.sunny for car in state.cars.values()))
    assert state.tried_s > 0 or state.trying is not None
    assert most == 1
