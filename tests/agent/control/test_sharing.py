"""A target in the plan: who carries it, on which phases, with a ramp, while coming back; and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.bounds import Allowance, BoundsView
from agent.control.coming_back import ComingBack
from agent.control.command import CommandType
from agent.control.losses import losses_of
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import DeviceView, Held, MeterView, SiteView
from drivers.device import DeviceKind
from tests.agent.control.support import BATTERY, CAR, LIMITS, SOME_COMMAND, order_of, site

A = replace(BATTERY, device_id="a", held=Held(lowest_w=0, highest_w=0))
B = replace(A, device_id="b")
C = replace(A, device_id="c")


def _asked(power_w: int, *devices: DeviceView, **more: object) -> SiteView:
    command = replace(
        SOME_COMMAND,
        type=CommandType.DISCHARGE if power_w < 0 else CommandType.CHARGE,
        power_w=abs(power_w),
        targets=tuple(each.device_id for each in devices),
    )
    return replace(site(*devices, orders=(order_of(command),)), **more)  # type: ignore[arg-type] # fields of SiteView


def _powers(view: SiteView) -> dict[str, int | None]:
    return {name: order.lowest_w for name, order in make_plan(view).orders.items()}


def _on(phase: int, view: DeviceView) -> DeviceView:
    return replace(view, phases=(phase,))


def test_one_that_rests_says_who_carries_it_and_why() -> None:
    orders = make_plan(_asked(-1_000, A, B)).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w, orders["b"].highest_w) == (-1_000, 0, 0)
    assert orders["b"].reason.startswith("rests, since others carry DISCHARGE 1000 W by grid")
    assert orders["b"].reason.endswith(": less is lost so")
    assert make_plan(_asked(-1_000, A, CAR)).orders["car"].reason.endswith(": it would be worn more")


def test_what_the_installer_wrote_decides() -> None:
    worn = replace(A, losses=losses_of(DeviceKind.BATTERY, wear_wh_per_kwh=200))
    assert _powers(_asked(-1_000, worn, B)) == {"a": 0, "b": -1_000}
    wasteful = replace(A, losses=losses_of(DeviceKind.BATTERY, 88.0))
    assert _powers(_asked(-1_000, wasteful, B)) == {"a": 0, "b": -1_000}


def test_a_battery_near_the_days_bound_on_cycles_goes_last() -> None:
    bounds = BoundsView(devices={"a": Allowance(spent=True)})
    orders = make_plan(_asked(-1_000, A, B, bounds=bounds)).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w) == (0, -1_000)
    assert orders["a"].reason.endswith(": hardly any of its full cycles of the day is left")
    assert _powers(_asked(-15_000, A, B, bounds=bounds)) == {"a": -5_000, "b": -10_000}


# -- on one phase


def test_devices_on_one_phase_carry_a_small_target_alone() -> None:
    assert _powers(_asked(-2_000, _on(1, A), _on(2, B), _on(3, C))) == {"a": -2_000, "b": 0, "c": 0}


def test_no_phase_is_given_more_than_its_fuse_bears_while_another_has_room() -> None:
    limits = replace(LIMITS, phase_limit_w=4_000)
    assert _powers(_asked(-5_000, _on(1, A), _on(2, B), _on(3, C), limits=limits)) == {"a": -2_500, "b": -2_500, "c": 0}


def test_what_others_take_of_a_phase_is_counted() -> None:
    view = _asked(3_000, _on(1, A), _on(2, B), limits=replace(LIMITS, phase_limit_w=4_000))
    assert view.meter is not None
    busy = replace(view, meter=MeterView(power_w=view.meter.power_w, phase_power_w=(2_500, 0, 0)))
    assert _powers(busy) == {"a": 0, "b": 3_000}


def test_no_phase_is_taken_further_from_another_than_the_limit_while_another_has_room() -> None:
    limits = replace(LIMITS, difference_limit_w=4_600)
    devices = (_on(1, A), _on(2, B), _on(3, C))
    assert _powers(_asked(-4_000, *devices, limits=limits)) == {"a": -4_000, "b": 0, "c": 0}
    assert _powers(_asked(-5_900, *devices, limits=limits)) == {"a": -2_950, "b": -2_950, "c": 0}
    assert _powers(_asked(-12_000, *devices, limits=limits)) == {"a": -4_000, "b": -4_000, "c": -4_000}


# -- on the way there


def test_while_a_ramp_holds_the_chosen_one_back_the_other_carries_the_rest() -> None:
    bounds = BoundsView(devices={name: Allowance(ramp_permille=100, from_w=0) for name in ("a", "b")})
    orders = make_plan(_asked(-1_500, A, B, bounds=bounds)).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w) == (-1_000, -500)
    assert Rule.RAMP in orders["a"].bound_by
    assert "until others can carry it" in orders["b"].reason


def test_coming_back_few_carry_what_they_may_and_others_the_rest() -> None:
    back = ComingBack(why="the public grid is back", since_s=0, wait_s=0, allowance_permille=100)
    orders = make_plan(_asked(-1_500, A, B, coming_back=back)).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w) == (-1_000, -500)
    assert Rule.COMING_BACK in orders["a"].bound_by
    later = make_plan(_asked(-1_500, A, B, coming_back=replace(back, allowance_permille=200))).orders
    assert (later["a"].lowest_w, later["b"].lowest_w) == (-1_500, 0)
    assert later["a"].bound_by == ()


# -- second after second


@settings(max_examples=30)
@given(
    st.lists(st.integers(-150, 150), min_size=20, max_size=20), st.sampled_from([-7_000, -4_000, 3_000, 9_000, 21_000])
)
def test_a_house_that_wavers_makes_nobody_start_and_stop_again(wavers: list[int], target: int) -> None:
    devices = {"a": A, "b": _on(2, B), "car": replace(CAR, held=Held(lowest_w=0, highest_w=0))}
    moved = []
    for waver in wavers:
        orders = make_plan(_asked(target + waver, *devices.values())).orders
        bands = {name: (order.lowest_w, order.highest_w) for name, order in orders.items()}
        moved.append(frozenset(name for name, (low, high) in bands.items() if low or high))
        devices = {
            name: replace(each, held=Held(lowest_w=bands[name][0], highest_w=bands[name][1]), power_w=bands[name][0])
            for name, each in devices.items()
        }
    for name in devices:
        turns = [name in busy for busy in moved]
        assert sum(before != after for before, after in pairwise(turns[1:])) <= 1
