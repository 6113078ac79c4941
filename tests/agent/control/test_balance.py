"""SAFETY 8: the largest difference between phases, in the plan."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import DeviceView, SiteView
from tests.agent.control.support import BATTERY, CAR, LIMITS, PLAIN, PV, SOME_COMMAND, order_of, site

LIMIT_W = 20 * 230
TWENTY_AMPERES = replace(LIMITS, difference_limit_w=LIMIT_W)


def on_phase(device: DeviceView, *phases: int, power_w: int = 0, **changes: object) -> DeviceView:
    return replace(device, phases=phases, power_w=power_w, **changes)  # type: ignore[arg-type]  # fields of DeviceView


def high(view: SiteView, name: str) -> int:
    highest_w = make_plan(view).orders[name].highest_w
    assert highest_w is not None
    return highest_w


def test_a_car_on_one_phase_is_held_at_the_difference() -> None:
    view = site(on_phase(PLAIN, 1), limits=TWENTY_AMPERES)
    assert high(view, "plain") == LIMIT_W
    assert Rule.DIFFERENCE in make_plan(view).orders["plain"].bound_by


def test_a_car_on_all_phases_and_a_site_without_such_a_limit_are_left_alone() -> None:
    assert high(site(PLAIN, limits=TWENTY_AMPERES), "plain") == 11_000
    assert high(site(on_phase(PLAIN, 1), limits=LIMITS), "plain") == 11_000


def test_cars_on_every_phase_rise_together() -> None:
    cars = [on_phase(replace(PLAIN, device_id=f"c{p}"), p, power_w=4_600) for p in (1, 2, 3)]
    view = site(*cars, limits=TWENTY_AMPERES)
    assert [high(view, f"c{p}") for p in (1, 2, 3)] == [9_200] * 3


def test_one_that_stops_brings_the_others_down() -> None:
    cars = [on_phase(replace(PLAIN, device_id=f"c{p}"), p, power_w=7_000 if p > 1 else 0) for p in (1, 2, 3)]
    view = site(*cars, limits=TWENTY_AMPERES)
    assert [high(view, f"c{p}") for p in (2, 3)] == [4_600] * 2


def test_pv_on_one_phase_counts_and_is_held_back() -> None:
    sun = on_phase(PV, 2, power_w=-7_000)
    order = make_plan(site(sun, limits=TWENTY_AMPERES)).orders["pv"]
    assert order.lowest_w == -LIMIT_W
    assert Rule.DIFFERENCE in order.bound_by


def test_pv_on_one_phase_leaves_less_for_a_car_on_another() -> None:
    sun, car = on_phase(PV, 2, power_w=-3_000), on_phase(PLAIN, 1)
    assert high(site(sun, car, limits=TWENTY_AMPERES), "plain") == LIMIT_W - 3_000


def test_a_discharge_on_one_phase_is_held_too() -> None:
    order = order_of(replace(SOME_COMMAND, power_w=8_000))
    view = site(on_phase(BATTERY, 3), orders=(order,), limits=TWENTY_AMPERES)
    assert make_plan(view).orders["battery"].lowest_w == -LIMIT_W


def test_a_silent_device_is_counted_at_its_worst() -> None:
    silent = on_phase(replace(CAR, online=False), 2, power_w=-2_000)
    assert silent.worst_export_w >= 2_000
    view = site(silent, on_phase(PLAIN, 1), limits=TWENTY_AMPERES)
    assert high(view, "plain") <= LIMIT_W - 2_000


@given(st.lists(st.tuples(st.sampled_from([(1,), (2,), (3,), (1, 2, 3)]), st.integers(0, 11_000)), min_size=1))
def test_no_phase_is_allowed_more_than_the_others_draw_and_the_limit(cars: list[tuple[tuple[int, ...], int]]) -> None:
    devices = [on_phase(replace(PLAIN, device_id=f"c{n}"), *phases, power_w=w) for n, (phases, w) in enumerate(cars)]
    wide = replace(TWENTY_AMPERES, phase_limit_w=100_000, import_limit_w=300_000)
    plan = make_plan(site(*devices, limits=wide))
    allowed, now = {1: 0, 2: 0, 3: 0}, {1: 0, 2: 0, 3: 0}
    for device in devices:
        if len(device.phases) == 1:
            most_w = plan.orders[device.device_id].highest_w or 0
            allowed[device.phases[0]] += most_w
            now[device.phases[0]] += min(device.present_w, most_w)
    for phase, power_w in allowed.items():
        assert power_w <= min(w for other, w in now.items() if other != phase) + LIMIT_W
