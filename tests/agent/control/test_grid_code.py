"""SAFETY 5 and 11 in the plan: the site answers the frequency where it shall, and nothing works against it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from agent.control.command import CommandType
from agent.control.frequency import GridFrequency
from agent.control.inputs import InputClamp
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import Defaults, DeviceView, Held, MeterView, SiteView
from drivers.device import DeviceKind
from tests.agent.control.strategies import sites
from tests.agent.control.support import (
    BATTERY,
    CAR,
    LIMITS,
    PLAIN,
    PV,
    SOME_COMMAND,
    capabilities,
    curtail,
    order_of,
    site,
)

ANSWERS = Defaults(answers_frequency=True)


def frequency(millihertz: int, share: int, **base_w: int) -> GridFrequency:
    side = (millihertz > 50_000) - (millihertz < 50_000)
    return GridFrequency(millihertz=millihertz, monotonic_s=0, side=side, share_permille=share, base_w=base_w)


def test_a_battery_answers_from_its_setpoint_both_ways() -> None:
    view = site(BATTERY, orders=(order_of(replace(SOME_COMMAND, power_w=1_000)),), defaults=ANSWERS)
    rated_w = max(BATTERY.most_import_w, BATTERY.most_export_w)
    for share in (-100, 100):
        plan = make_plan(replace(view, frequency=frequency(50_000 + share, share, battery=0)))
        order = plan.orders["battery"]
        assert order.lowest_w == order.highest_w == -1_000 + rated_w * share // 1000
        assert Rule.FREQUENCY in order.bound_by
        assert "frequency response" in order.reason


def test_a_battery_that_looks_after_the_house_answers_from_where_it_was() -> None:
    view = site(replace(BATTERY, power_w=-700), defaults=ANSWERS)
    later = replace(view, frequency=frequency(49_500, -100, battery=-200))
    rated_w = max(BATTERY.most_import_w, BATTERY.most_export_w)
    assert make_plan(later).orders["battery"].lowest_w == -200 - rated_w // 10


def test_nothing_is_answered_unless_the_configuration_says_so() -> None:
    view = site(BATTERY, frequency=frequency(49_500, -100, battery=0))
    assert make_plan(view).orders["battery"].released


def test_a_device_with_a_droop_of_its_own_is_left_to_it() -> None:
    assert BATTERY.capabilities is not None
    own = replace(BATTERY, capabilities=replace(BATTERY.capabilities, own_droop=True))
    view = site(own, defaults=ANSWERS, frequency=frequency(49_500, -100, battery=0))
    assert make_plan(view).orders["battery"].released


def test_pv_is_held_back_when_the_frequency_is_too_high_and_not_touched_when_it_is_too_low() -> None:
    view = site(replace(PV, power_w=-4_000), defaults=ANSWERS)
    rated_w = PV.most_export_w
    too_high = make_plan(replace(view, frequency=frequency(50_500, 100, pv=-4_000))).orders["pv"]
    assert too_high.lowest_w == -4_000 + rated_w // 10
    too_low = make_plan(replace(view, frequency=frequency(49_500, -100, pv=-4_000))).orders["pv"]
    assert too_low.lowest_w is None


def test_a_car_that_must_charge_is_not_slowed() -> None:
    assert CAR.vehicle is not None
    hurried = replace(CAR, power_w=7_000, vehicle=replace(CAR.vehicle, charge_now=True))
    view = site(hurried, defaults=ANSWERS, frequency=frequency(49_500, -100, car=7_000))
    highest_w = make_plan(view).orders["car"].highest_w
    assert highest_w is not None
    assert highest_w >= 7_000


def test_a_battery_keeps_its_reserve_until_the_grid_needs_it() -> None:
    keeps = replace(ANSWERS, battery_minimum_soc_permille=100, frequency_reserve_permille=100)
    low = replace(BATTERY, state_of_charge_permille=150)
    view = site(low, orders=(order_of(SOME_COMMAND),), defaults=keeps)
    assert make_plan(view).orders["battery"].lowest_w == 0
    needed = make_plan(replace(view, frequency=frequency(49_500, -100, battery=0))).orders["battery"]
    assert needed.lowest_w is not None
    assert needed.lowest_w < 0


def test_a_discharge_that_arrives_while_the_frequency_is_too_high_waits() -> None:
    view = site(
        replace(BATTERY, power_w=300),
        orders=(order_of(SOME_COMMAND),),
        frequency=frequency(50_300, 0, battery=300),
    )
    order = make_plan(view).orders["battery"]
    assert (order.lowest_w, order.highest_w) == (300, 300)
    assert Rule.GRID_CODE in order.bound_by


def test_a_curtail_that_arrives_while_the_frequency_is_too_low_waits() -> None:
    view = site(replace(PV, power_w=-4_000), orders=(order_of(curtail(0)),), frequency=frequency(49_700, 0, pv=-4_000))
    assert make_plan(view).orders["pv"].lowest_w == -4_000


def test_a_bound_is_not_lifted_while_the_frequency_is_too_high() -> None:
    held = replace(PV, power_w=-1_000, held=Held(lowest_w=-1_000, highest_w=None))
    view = site(held, frequency=frequency(50_300, 0, pv=-1_000))
    order = make_plan(view).orders["pv"]
    assert order.lowest_w == -1_000
    assert Rule.GRID_CODE in order.bound_by


def test_a_device_that_came_since_it_began_is_not_ordered_against_it_either() -> None:
    for power_w, hertz, band in ((300, 50_300, (300, 300)), (-300, 49_700, (-300, -300))):
        type_ = CommandType.DISCHARGE if power_w > 0 else CommandType.CHARGE
        order = order_of(replace(SOME_COMMAND, type=type_))
        view = site(replace(BATTERY, power_w=power_w), orders=(order,), frequency=frequency(hertz, 0))
        battery = make_plan(view).orders["battery"]
        assert (battery.lowest_w, battery.highest_w) == band


def test_without_a_grid_meter_nothing_works_against_the_frequency_either() -> None:
    view = site(BATTERY, house_w=None, orders=(order_of(SOME_COMMAND),), frequency=frequency(50_300, 0, battery=0))
    assert make_plan(view).orders["battery"].lowest_w == 0


@pytest.mark.parametrize("wired", [True, False])
def test_with_the_meter_lost_contract_and_wires_give_way_to_the_frequency_and_the_fuse_does_not(wired: bool) -> None:
    """SAFETY 5: except to protect a fuse or on STOP."""
    car, low_w = replace(PLAIN, power_w=9_000), LIMITS.house_reserve_w + 3_000
    most = {"frequency": frequency(50_300, 0, plain=9_000), "house_w": None}
    clamps = (InputClamp(name="relay", import_limit_w=low_w),) if wired else ()
    limits = LIMITS if wired else replace(LIMITS, import_limit_w=low_w)
    assert make_plan(site(car, limits=limits, inputs=clamps, house_w=None)).orders["plain"].highest_w == 3_000
    order = make_plan(site(car, limits=limits, inputs=clamps, **most)).orders["plain"]  # type: ignore[arg-type]
    assert order.highest_w == 9_000
    assert Rule.GRID_CODE in order.bound_by
    fused = replace(limits, phase_limit_w=(LIMITS.house_reserve_w + 6_000) // 3)
    order = make_plan(site(car, limits=fused, inputs=clamps, **most)).orders["plain"]  # type: ignore[arg-type]
    assert order.highest_w == 6_000


def test_with_the_meter_lost_a_fuse_is_kept_on_the_phase_that_its_cars_are_on() -> None:
    cars = [replace(PLAIN, device_id=f"car-{n}", phases=(1,), capabilities=capabilities(7_400, 0)) for n in range(3)]
    orders = make_plan(site(*cars, house_w=None)).orders
    highest_w = sum(orders[car.device_id].highest_w or 0 for car in cars)
    assert 0 < highest_w <= LIMITS.phase_limit_w - LIMITS.house_reserve_w // 3


def test_a_car_that_rests_does_not_begin_because_the_frequency_is_too_low() -> None:
    limited = replace(PLAIN, capabilities=capabilities(11_000, 0, follows_setpoint=False, minimum_import_w=1_380))
    view = site(limited, defaults=replace(ANSWERS, cars_wait=True), frequency=frequency(49_500, -100, plain=0))
    assert make_plan(view).orders["plain"].highest_w == 0


def test_stop_and_the_fuse_come_before_the_grid() -> None:
    battery = replace(BATTERY, power_w=4_000)
    view = site(battery, frequency=frequency(50_300, 0, battery=4_000))
    assert make_plan(replace(view, stop="the page")).orders["battery"].highest_w == 0
    small = replace(view.limits, phase_limit_w=500)
    charging = order_of(replace(SOME_COMMAND, type=SOME_COMMAND.type.CHARGE))
    hot = replace(view, limits=small, meter=MeterView(power_w=4_000), orders=(charging,))
    highest_w = make_plan(hot).orders["battery"].highest_w
    assert highest_w is not None
    assert highest_w < 4_000


def test_islanded_nothing_is_answered() -> None:
    view = site(BATTERY, defaults=ANSWERS, islanded=True, frequency=frequency(49_500, -100, battery=0))
    assert make_plan(view).orders["battery"].released


def _planned_low(device: DeviceView, low: int | None) -> int:
    return low if low is not None else -device.most_export_w


@pytest.mark.parametrize("side", [1, -1])
@given(view=sites())
def test_on_any_site_no_order_works_against_the_frequency(side: int, view: SiteView) -> None:
    base_w = {name: device.likely_w for name, device in view.devices.items()}
    seen = GridFrequency(millihertz=50_000 + 300 * side, monotonic_s=0, side=side, base_w=base_w)
    plan = make_plan(replace(view, frequency=seen, stop=None, islanded=False))
    if view.meter is None:
        return  # without it the fuse is protected by static sums, which come first
    for name, order in plan.orders.items():
        device = view.devices[name]
        if not device.online or device.capabilities is None:
            continue
        excused = {Rule.PHASE, *_owners_and_ratings()} & set(order.bound_by)
        if excused:
            continue
        if side > 0 and order.highest_w is not None:
            assert order.highest_w >= min(base_w[name], device.most_import_w), (name, order)
        if side < 0 and order.lowest_w is not None:
            assert order.lowest_w <= max(base_w[name], -device.most_export_w), (name, order)


def _owners_and_ratings() -> set[Rule]:
    """What a device can or may not do is no act of ours against the grid."""
    return {
        Rule.RATING, Rule.CAPABILITY, Rule.NO_CAR, Rule.CAR_STATE, Rule.CAR_MANDATE, Rule.CAR_MINIMUM, Rule.CAR_PRICE,
        Rule.CAR_DEPARTURE, Rule.CAR_NOW, Rule.SITE_DISCHARGE, Rule.BATTERY_MINIMUM, Rule.BATTERY_STATE,
    }  # fmt: skip


def test_a_pv_that_has_no_limit_is_not_asked_for_one() -> None:
    assert PV.kind is DeviceKind.PV
    plain = replace(PV, power_w=-4_000, capabilities=capabilities(0, 10_000, limits_export=False))
    view = site(plain, defaults=ANSWERS, frequency=frequency(50_500, 100, pv=-4_000))
    assert make_plan(view).orders["pv"].lowest_w is None
