"""SAFETY 7: after grid return, boot and safe mode power waits and then rises slowly."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.coming_back import ComingBack, ReturnPace, begin, step
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import Held, SiteView
from tests.agent.control.strategies import sites
from tests.agent.control.support import BATTERY, PLAIN, PV, SOME_COMMAND, order_of, site

PACE = ReturnPace()


def returning(allowance_permille: int = 0, **base_w: int) -> ComingBack:
    return ComingBack(why="a test", since_s=0, wait_s=0, allowance_permille=allowance_permille, base_w=base_w)


def test_the_wait_is_the_devices_own_and_a_random_part() -> None:
    assert begin("the public grid is back", PACE, 300, 0.5, 10.0).wait_s == 600
    assert begin("the public grid is back", PACE, 0, 0.0, 10.0).wait_s == 0


def test_nothing_more_is_allowed_during_the_wait_then_a_tenth_of_the_rating_a_minute() -> None:
    state: ComingBack | None = begin("the public grid is back", PACE, 0, 0.5, 1_000.0)
    seen = {}
    for second in range(0, 1000, 10):
        assert state is not None or second > 890
        if state is not None:
            state = step(state, PACE, {}, 1_000.0 + second)
        seen[second] = None if state is None else state.allowance_permille
    assert seen[0] == seen[300] == 0
    assert seen[360] == 100
    assert seen[890] == 983
    assert seen[900] is None


def test_each_device_is_remembered_as_it_was_first_heard() -> None:
    state = step(begin("boot", PACE, 0, 1.0, 0.0), PACE, {"battery": -400}, 1.0)
    assert state is not None
    state = step(state, PACE, {"battery": 5_000, "car": 7_000}, 2.0)
    assert state is not None
    assert state.base_w == {"battery": -400, "car": 7_000}


def test_a_car_goes_on_with_what_it_had_and_gets_more_by_the_ramp() -> None:
    car = replace(PLAIN, power_w=4_000)
    for allowance, highest_w in ((0, 4_000), (100, 4_000), (200, 6_200), (999, 11_000)):
        order = make_plan(site(car, coming_back=returning(allowance, plain=4_000))).orders["plain"]
        assert order.highest_w == highest_w
    assert Rule.COMING_BACK in make_plan(site(car, coming_back=returning(0, plain=4_000))).orders["plain"].bound_by


def test_a_command_is_obeyed_as_far_as_the_ramp_is_and_says_so() -> None:
    order = order_of(replace(SOME_COMMAND, power_w=5_000))
    plan = make_plan(site(BATTERY, orders=(order,), coming_back=returning(100, battery=0)))
    assert plan.orders["battery"].lowest_w == -1_000
    command = plan.commands[order.hash]
    assert command.short
    assert "comes back slowly" in command.reason


def test_restrictions_do_not_wait() -> None:
    idle = order_of(replace(SOME_COMMAND, type=SOME_COMMAND.type.IDLE, power_w=0))
    plan = make_plan(site(replace(BATTERY, power_w=5_000), orders=(idle,), coming_back=returning(0, battery=5_000)))
    assert (plan.orders["battery"].lowest_w, plan.orders["battery"].highest_w) == (0, 0)


def test_a_bound_of_pv_is_lifted_slowly_and_free_pv_is_left_to_its_own_grid_code() -> None:
    held = replace(PV, power_w=-1_000, held=Held(lowest_w=-1_000, highest_w=None))
    assert make_plan(site(held, coming_back=returning(0, pv=-1_000))).orders["pv"].lowest_w == -1_000
    assert make_plan(site(held, coming_back=returning(500, pv=-1_000))).orders["pv"].lowest_w == -5_000
    assert make_plan(site(PV, coming_back=returning(0, pv=0))).orders["pv"].lowest_w is None


@pytest.mark.parametrize("allowance", [0, 300])
@given(view=sites(), base_w=st.integers(-5_000, 5_000))
def test_on_any_site_nobody_is_allowed_more_than_it_had_and_the_ramp(
    allowance: int, view: SiteView, base_w: int
) -> None:
    base = dict.fromkeys(view.devices, base_w)
    plan = make_plan(replace(view, stop=None, coming_back=returning(allowance, **base)))
    for name, order in plan.orders.items():
        device = view.devices[name]
        if not device.online or device.kind is PV.kind:
            continue
        assert order.highest_w is not None
        assert order.lowest_w is not None
        assert order.highest_w <= max(0, base_w) + device.most_import_w * allowance // 1000
        assert order.lowest_w >= min(0, base_w) - device.most_export_w * allowance // 1000
