"""The ordinary day of cars: now, by departure, from the sun; and that nothing flaps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.control.day import DayState, SunPace, step_day, with_day
from agent.control.frequency import GridFrequency
from agent.control.order import Now
from agent.control.plan import Plan, make_plan
from agent.control.rules.draft import Rule
from agent.control.site import CarDay, DeviceView, Held, MeterView, SiteView
from drivers.device import VehicleSession
from tests.agent.control.support import BATTERY, CAR, HOUR_US, PLAIN, PV, SOME_COMMAND, START_US, order_of, site

PACE = SunPace(start_after_s=60, stop_after_s=120, least_s=300)
SUNNY = replace(PLAIN, day=CarDay.SURPLUS)
MINIMUM_W = 1_380


@dataclass
class Day:
    """A site whose cars take what they may at once, and whose battery brings the connection to zero by itself."""

    views: tuple[DeviceView, ...]
    house_w: int = 500
    sun_w: int = 0
    battery_most_w: int = 5_000
    state: DayState = field(default_factory=DayState)
    now_s: float = 1_000.0
    power: dict[str, int] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)
    stops: dict[str, list[float]] = field(default_factory=dict)
    meter_lost: bool = False
    frequency: GridFrequency = field(default_factory=GridFrequency)

    def step(self, seconds: float = 10.0) -> Plan:
        self.now_s += seconds
        views = []
        cars_w = sum(self.power.get(view.device_id, 0) for view in self.views if view.device_id != "battery")
        for view in self.views:
            power_w = self.power.get(view.device_id, 0)
            if view.device_id == "pv":
                power_w = -self.sun_w
            elif view.device_id == "battery":
                power_w = min(self.battery_most_w, max(-self.battery_most_w, self.sun_w - self.house_w - cars_w))
            views.append(replace(view, power_w=power_w))
        seen = site(*views, house_w=None if self.meter_lost else self.house_w, frequency=self.frequency)
        seen = replace(seen, now=Now(wall_us=START_US + round(self.now_s * 1e6)))
        self.state = step_day(self.state, seen, PACE, self.now_s)
        plan = make_plan(with_day(seen, self.state))
        for view in self.views:
            name, order = view.device_id, plan.orders[view.device_id]
            if view.vehicle is None:
                continue
            before, after = self.power.get(name, 0), order.highest_w or 0
            after = after if after >= MINIMUM_W else 0
            if (before > 0) != (after > 0):
                (self.starts if after else self.stops).setdefault(name, []).append(self.now_s)
            self.power[name] = after
        return plan

    def run(self, seconds: float) -> Plan:
        for _ in range(round(seconds / 10) - 1):
            self.step()
        return self.step()


def _needs(energy_wh: int | None, hours: float | None, **more: object) -> VehicleSession:
    departure_us = None if hours is None else START_US + round(hours * HOUR_US)
    base = VehicleSession(
        transaction_id="t2", token_id="guest", energy_needed_wh=energy_wh, departure_timestamp_us=departure_us
    )
    return replace(base, **more)  # type: ignore[arg-type]  # fields of VehicleSession


def test_a_car_follows_the_sun_and_leaves_the_meter_at_zero() -> None:
    day = Day((SUNNY, PV), sun_w=4_500)
    day.run(60)
    assert day.power["plain"] == 0  # it waits until the sun has been enough for a while
    plan = day.run(60)
    assert day.power["plain"] == 4_000
    assert "from the sun" in plan.orders["plain"].reason
    day.sun_w = 7_000
    day.run(60)
    assert day.power["plain"] == 6_500


def test_below_six_ampere_a_car_does_not_start_and_the_reason_says_what_is_missing() -> None:
    day = Day((SUNNY, PV), sun_w=1_500)
    plan = day.run(600)
    assert day.power["plain"] == 0
    assert "1000 W over, 1380 W are the least" in plan.orders["plain"].reason


def test_a_cloud_stops_nothing_and_a_grey_hour_does() -> None:
    day = Day((SUNNY, PV), sun_w=4_500)
    day.run(600)
    day.sun_w = 0
    day.run(60)
    assert day.power["plain"] == MINIMUM_W  # at the least, for a while
    day.sun_w = 4_500
    day.run(60)
    assert day.power["plain"] == 4_000
    day.sun_w = 0
    day.run(300)
    assert day.power["plain"] == 0
    assert len(day.starts["plain"]) == len(day.stops["plain"]) == 1


def test_a_battery_gives_way_to_cars_and_fills_none() -> None:
    day = Day((SUNNY, PV, BATTERY), sun_w=4_500)
    day.run(200)
    assert day.power["plain"] == 4_000  # although the meter stood at zero all the time
    day.sun_w = 0
    day.run(600)
    assert day.power["plain"] == 0


def test_what_a_battery_was_ordered_to_take_is_no_sun() -> None:
    ordered = replace(BATTERY, held=Held(lowest_w=4_000, highest_w=4_000))
    day = Day((SUNNY, PV, ordered), sun_w=4_500)
    day.run(600)
    assert day.power["plain"] == 0


def test_two_cars_share_the_sun_and_the_last_one_stops_first() -> None:
    other = replace(SUNNY, device_id="plain-2")
    day = Day((SUNNY, other, PV), sun_w=5_500)
    day.run(600)
    assert day.power == {"plain": 2_500, "plain-2": 2_500}
    day.sun_w = 2_500
    day.run(600)
    assert sorted(day.power.values()) == [0, 2_000]
    assert day.power["plain"] == 2_000


def test_a_car_that_takes_nothing_leaves_the_sun_to_the_other() -> None:
    other = replace(SUNNY, device_id="plain-2")
    full = replace(other, vehicle=_needs(None, None, max_charge_w=0))
    day = Day((SUNNY, full, PV), sun_w=5_500)
    day.run(900)
    assert day.power["plain"] == 3_600  # 5000 W less the 1400 W that would wake the other


def test_a_need_that_presses_goes_before_the_sun() -> None:
    car = replace(SUNNY, vehicle=_needs(9_000, 2))
    day = Day((car, PV))
    assert day.step().orders["plain"].highest_w == 0
    plan = day.run(2_700)
    assert plan.orders["plain"].highest_w == 11_000


def test_with_the_meter_lost_the_sun_is_not_guessed() -> None:
    day = Day((SUNNY, PV), sun_w=4_500)
    day.run(600)
    day.meter_lost = True
    plan = day.run(600)
    assert plan.orders["plain"].highest_w == 0
    assert "meter is lost" in plan.orders["plain"].reason


def test_the_sun_loop_freezes_while_the_grid_is_in_need() -> None:
    day = Day((SUNNY, PV), sun_w=4_500)
    day.run(600)
    before = day.state
    day.frequency, day.sun_w = GridFrequency(side=-1, share_permille=0, base_w={}), 0
    day.run(600)
    assert day.state.cars["plain"].sunny == before.cars["plain"].sunny
    assert day.state.cars["plain"].sun_w == before.cars["plain"].sun_w


def test_a_car_by_departure_waits_while_there_is_time_and_then_goes_on_until_it_has_what_it_needs() -> None:
    car = replace(PLAIN, day=CarDay.DEPARTURE, vehicle=_needs(8_800, 3))
    day = Day((car, PV))
    plan = day.run(1_800)
    assert plan.orders["plain"].highest_w == 0
    assert "there is time enough for 8.8 kWh" in plan.orders["plain"].reason
    need_wh = 8_800.0
    changes = 0
    for _ in range(1_080):
        power_w = day.power["plain"]
        need_wh -= power_w * 10 / 3600
        day.views = (replace(car, vehicle=_needs(max(0, round(need_wh)), 3)), PV)
        plan = day.step()
        changes += power_w != day.power["plain"]
    assert need_wh <= 0
    assert changes == 2  # begun once and ended once
    assert "has what it needs" in plan.orders["plain"].reason


@pytest.mark.parametrize("vehicle", [_needs(None, 3), _needs(9_000, None), _needs(None, None)])
def test_a_car_of_which_nobody_knows_when_it_leaves_charges_now(vehicle: VehicleSession) -> None:
    day = Day((replace(PLAIN, day=CarDay.DEPARTURE, vehicle=vehicle), PV))
    assert day.step().orders["plain"].highest_w == 11_000


def test_a_command_gives_way_to_a_departure_that_presses_and_stays_given_way() -> None:
    car = replace(CAR, vehicle=replace(_needs(9_000, 1), transaction_id="t1", token_id="owner"))
    day = Day((car, PV))
    assert not day.state.cars
    day.step()
    assert day.state.cars["car"].must
    # A little time to spare, as charging with a margin brings it, does not give the car back to the command.
    day.views = (replace(car, vehicle=replace(car.vehicle or _needs(0, 1), energy_needed_wh=6_000)), PV)
    plan = day.step()
    assert Rule.CAR_DEPARTURE in plan.orders["car"].bound_by


def test_now_and_wait_of_a_charger_go_before_the_sites_default() -> None:
    waits, charges = replace(PLAIN, device_id="a", day=CarDay.WAIT), replace(PLAIN, device_id="b", day=CarDay.NOW)
    view = site(waits, charges)
    plan = make_plan(replace(view, defaults=replace(view.defaults, cars_wait=True)))
    assert (plan.orders["a"].highest_w, plan.orders["b"].highest_w) == (0, 11_000)


def test_where_not_all_that_must_can_charge_those_with_the_most_time_pause() -> None:
    cars = [
        replace(PLAIN, device_id=f"car-{n}", vehicle=_needs(40_000, hours), capabilities=PLAIN.capabilities)
        for n, hours in enumerate((2, 1, 3))
    ]
    view = site(*cars, house_w=500)
    view = replace(view, limits=replace(view.limits, import_limit_w=500 + 2 * MINIMUM_W + 100))
    plan = make_plan(with_day(view, step_day(DayState(), view, PACE, 1.0)))
    charging = {name for name, order in plan.orders.items() if (order.highest_w or 0) >= MINIMUM_W}
    assert charging == {"car-0", "car-1"}
    assert plan.orders["car-2"].highest_w == 0


@settings(max_examples=40)
@given(
    suns=st.lists(st.tuples(st.integers(0, 12_000), st.integers(1, 30)), min_size=1, max_size=20),
    battery=st.booleans(),
)
def test_a_car_never_flaps_and_never_gets_less_than_its_minimum(suns: list[tuple[int, int]], battery: bool) -> None:
    other = replace(SUNNY, device_id="plain-2")
    day = Day((SUNNY, other, PV, *((BATTERY,) if battery else ())))
    for sun_w, steps in suns:
        day.sun_w = sun_w
        for _ in range(steps):
            plan = day.step()
            for name in ("plain", "plain-2"):
                high = plan.orders[name].highest_w or 0
                assert high == 0 or high >= MINIMUM_W
    for name in ("plain", "plain-2"):
        moments = sorted(day.starts.get(name, []) + day.stops.get(name, []))
        assert all(later - earlier >= PACE.least_s for earlier, later in pairwise(moments))


def test_the_view_with_the_day_is_the_same_for_the_same_past() -> None:
    def walk() -> SiteView:
        day = Day((SUNNY, PV), sun_w=4_500)
        day.run(300)
        seen = replace(site(SUNNY, PV), meter=MeterView(power_w=-4_000))
        return with_day(seen, step_day(day.state, seen, PACE, day.now_s + 1))

    assert walk() == walk()


def test_a_car_at_its_owners_minimum_does_not_begin_again_with_its_next_word() -> None:
    """What it gave since its last word is counted at its most: then it says that it has a little more than that."""
    command = order_of(replace(SOME_COMMAND, targets=("car",)))
    state, lowest = DayState(), []
    for at_s, charge, age_s in ((10, 305, 10), (290, 305, 290), (291, 303, 0), (292, 310, 0), (293, 321, 0)):
        assert CAR.vehicle is not None
        car = replace(CAR, state_of_charge_age_s=age_s, power_w=-5_000,
                      vehicle=replace(CAR.vehicle, state_of_charge_permille=charge))  # fmt: skip
        view = site(car, orders=(command,))
        state = step_day(state, view, PACE, at_s)
        lowest.append(make_plan(with_day(view, state)).orders["car"].lowest_w)
    assert lowest == [-5_000, 0, 0, 0, -5_000]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11_000), st.integers(1, 60)), min_size=1, max_size=12), st.integers(301, 320))
@example([(11_000, 170), (5_000, 130)], 310)
def test_however_a_car_is_discharged_between_two_words_it_never_gives_more_than_it_has_above_its_minimum(
    asked: list[tuple[int, int]], charge: int
) -> None:
    """SAFETY 9: a power that was lowered since does not make what has flowed before any less."""
    assert CAR.vehicle is not None
    state, power_w, given_ws, at_s = DayState(), 0, 0.0, 0
    for asked_w, seconds in asked:
        command = order_of(replace(SOME_COMMAND, targets=("car",), power_w=asked_w))
        for _ in range(seconds):
            car = replace(CAR, state_of_charge_age_s=float(at_s), power_w=power_w,
                          held=Held(lowest_w=power_w, highest_w=power_w),
                          vehicle=replace(CAR.vehicle, state_of_charge_permille=charge))  # fmt: skip
            view = site(car, orders=(command,))
            state = step_day(state, view, PACE, float(at_s))
            power_w = make_plan(with_day(view, state)).orders["car"].lowest_w or 0
            given_ws -= min(0, power_w)
            at_s += 1
    above_ws = (charge - 300) * 60_000 * 3600 / 1000
    assert given_ws <= above_ws + 11_000  # one look's worth


def test_a_car_at_its_minimum_stays_there_while_it_says_nothing() -> None:
    assert CAR.vehicle is not None
    state = DayState()
    for at_s, charge in enumerate((300, None, 301)):
        vehicle = replace(CAR.vehicle, state_of_charge_permille=charge)
        view = site(replace(CAR, state_of_charge_age_s=0.0, vehicle=vehicle))
        state = step_day(state, view, PACE, float(at_s))
    assert state.cars["car"].at_minimum
