"""Properties of SAFETY.md that no other file of tests holds: rules 2, 8, 9 and 11, over anything that can be drawn.

The others: 1, 3, 8 and 9 in test_plan.py, 4 in tests/drivers/sunspec/test_only_ours.py, 5 in test_grid_code.py, 6 and
12 in test_authority.py, 7 in test_coming_back.py, 8 (difference) in test_balance.py, 10 in test_bounds.py and
test_admission.py, 11 (symmetry) in test_frequency.py, 13 in test_inputs.py; all of them together over time in
test_site_machine.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.command import Command, CommandType, Point
from agent.control.departure import DEPARTURE_RESERVE_S, slack_s
from agent.control.dispatcher import (
    AFTERWARDS_S,
    LEAST_LEASE_S,
    PLAN_OLD_S,
    Carriage,
    Deed,
    confirmed,
    lease_for,
    next_step,
    sent,
)
from agent.control.frequency import HOLD_S, RAMP_S, Curve, FrequencyReading, GridFrequency, step_frequency
from agent.control.plan import DeviceOrder, make_plan
from agent.control.site import Held, MeterView, SiteView
from drivers.device import DeadMan, DeviceKind
from tests.agent.control.strategies import following_sites, sites
from tests.agent.control.support import (
    CAR,
    HOUR_US,
    LIMITS,
    PLAIN,
    SOME_COMMAND,
    START_US,
    V2G_SESSION,
    capabilities,
    order_of,
    site,
)

LEASE_S = 60.0


# -- 2: dead man on both sides


@given(
    following_sites(),
    st.sampled_from(DeadMan),
    st.integers(0, 11_000),
    st.integers(0, 11_000),
    st.integers(0, 35_000),
)
@settings(max_examples=100, deadline=None)
def test_a_silent_device_is_counted_at_its_worst_and_without_a_fallback_at_its_nameplate(
    view: SiteView, dead_man: DeadMan, shown_w: int, granted_w: int, limit_w: int
) -> None:
    """SAFETY 2 and 3: the largest of grant, last power and fallback; without one, whatever those are."""
    worst_w = max(shown_w, granted_w) if dead_man is DeadMan.REVERTS_TO_FALLBACK else 11_000
    holds = replace(PLAIN.capabilities or capabilities(11_000, 0), dead_man=dead_man)
    silent = replace(
        PLAIN,
        online=False,
        capabilities=holds,
        power_w=shown_w,
        held=Held(lowest_w=0, highest_w=granted_w),
        fallback_import_w=0,
    )
    house_w = (view.house_w or 0) + (view.devices["plain"].present_w if "plain" in view.devices else 0)
    devices = {**view.devices, "plain": silent}
    metered_w = house_w + sum(device.present_w for device in devices.values())
    view = replace(
        view,
        devices=devices,
        meter=MeterView(power_w=metered_w),
        limits=replace(view.limits, import_limit_w=limit_w, phase_limit_w=100_000),
    )
    plan = make_plan(view)
    assert view.house_most_w is not None
    room_w = limit_w - view.house_most_w
    given_w = 0
    for name, device in devices.items():
        if not device.online:
            room_w -= worst_w if name == "plain" else device.worst_import_w
            continue
        room_w += max(0, -device.present_w)
        highest_w = plan.orders[name].highest_w
        if device.kind is not DeviceKind.PV:
            given_w += max(0, device.present_w if highest_w is None else highest_w)
    if any((plan.orders[name].highest_w or 0) > 0 for name, device in devices.items() if device.online):
        assert given_w <= max(0, room_w)


_ORDERS = st.builds(
    lambda low, high, authority: DeviceOrder(
        device_id="d", lowest_w=low, highest_w=high, reason="", authority_s=authority
    ),
    st.sampled_from([-5_000, 0]),
    st.sampled_from([0, 5_000]),
    st.none() | st.floats(0.0, 90.0),
)


@given(st.lists(st.tuples(st.none() | _ORDERS, st.integers(1, 200)), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_no_permission_outlives_its_authority_and_the_planner_by_more_than_a_lease(
    course: list[tuple[DeviceOrder | None, int]],
) -> None:
    """SAFETY 2: `None`: the planner is dead for so many half seconds; else it plans that order each second."""
    now_s, permitted_until_s = 0.0, float("-inf")
    carriage = Carriage(kind=DeviceKind.BATTERY)
    planned_s = authority_ends_s = float("-inf")
    for order, half_seconds in course:
        if order is not None:
            authority_ends_s = now_s + (float("inf") if order.authority_s is None else order.authority_s)
        for half in range(half_seconds):
            if order is not None and half % 2 == 0 and now_s <= authority_ends_s:
                planned_s = now_s
                carriage = replace(
                    carriage, wanted=order, wanted_s=now_s, wanted_until_s=authority_ends_s + AFTERWARDS_S
                )
            deed, wait_s = next_step(carriage, now_s < carriage.lease_ends_s, LEASE_S, now_s)
            if deed is Deed.APPLY and wait_s == 0 and carriage.wanted is not None:
                lease_s = lease_for(carriage, LEASE_S, now_s)
                wanted = carriage.wanted
                carriage = confirmed(sent(carriage, wanted, lease_s, now_s), wanted, now_s + lease_s, now_s)
                allows = (wanted.lowest_w, wanted.highest_w) != (0, 0)
                permitted_until_s = now_s + lease_s if allows else float("-inf")
                if allows:  # What was given by an earlier, longer authority ends with that.
                    assert permitted_until_s <= max(authority_ends_s + AFTERWARDS_S, now_s) + LEAST_LEASE_S
            if now_s < permitted_until_s:
                assert now_s <= planned_s + PLAN_OLD_S + LEASE_S
            now_s += 0.5


# -- 8: without a meter


@given(sites())
@settings(max_examples=100, deadline=None)
def test_without_a_meter_what_is_granted_fits_beside_the_most_that_the_house_draws(view: SiteView) -> None:
    """SAFETY 8: the budget is limit and fuse less the house's most, and the silent at their worst."""
    view = replace(view, meter=None, stop=None, islanded=False)
    plan = make_plan(view)
    fuse_w = view.limits.phase_limit_w * view.limits.phases
    silent_w = sum(device.worst_import_w for device in view.devices.values() if not device.online)
    granted_w = sum(
        max(0, plan.orders[name].highest_w or 0)
        for name, device in view.devices.items()
        if device.online and device.kind is not DeviceKind.PV
    )
    assert granted_w <= max(0, min(view.limits.import_limit_w, fuse_w) - view.limits.house_reserve_w - silent_w)


@given(sites(), st.integers(0, 5_000))
@settings(max_examples=100, deadline=None)
def test_without_a_meter_export_is_within_the_static_shares(view: SiteView, share_w: int) -> None:
    devices = {name: replace(device, fallback_export_w=share_w) for name, device in view.devices.items()}
    view = replace(view, meter=None, stop=None, islanded=False, devices=devices)
    plan = make_plan(view)
    budget_w = min(view.limits.export_limit_w, share_w * len(devices))
    budget_w -= sum(device.worst_export_w for device in devices.values() if not device.online)
    given_w = 0
    for name, device in devices.items():
        lowest_w = plan.orders[name].lowest_w
        if device.online and (device.kind is DeviceKind.PV or lowest_w is not None):
            given_w += device.most_export_w if lowest_w is None else max(0, -lowest_w)
    assert given_w <= max(0, budget_w)


# -- 9: cars are somebody's


@given(
    following_sites(),
    st.sampled_from([0, 5_000]) | st.integers(0, 60_000),
    st.none() | st.integers(-3_600, 6 * 3_600),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_no_command_discharges_a_car_below_its_minimum_or_into_the_time_that_its_departure_needs(
    view: SiteView, need_wh: int, leaves_in_s: int | None, charge: int, minimum: int
) -> None:
    departure_us = None if leaves_in_s is None else START_US + leaves_in_s * 1_000_000
    session = replace(
        V2G_SESSION,
        energy_needed_wh=need_wh,
        departure_timestamp_us=departure_us,
        state_of_charge_permille=charge,
    )
    mandates = {"owner": replace(view.mandates["owner"], minimum_soc_permille=minimum)}
    orders = (order_of(replace(SOME_COMMAND, targets=("car",), power_w=9_000), "first"), *view.orders)
    # Nothing but the car's own needs shall stand against it.
    view = replace(
        view,
        devices={**view.devices, "car": replace(CAR, vehicle=session)},
        orders=orders,
        mandates=mandates,
        limits=replace(LIMITS, export_limit_w=100_000, phase_limit_w=100_000),
    )
    order = make_plan(view).orders["car"]
    if order.lowest_w is None or order.lowest_w >= 0:
        return
    assert charge > minimum
    slack = slack_s(session, CAR.most_import_w, view.now)
    assert slack is not None
    assert slack >= DEPARTURE_RESERVE_S


def _any_setpoint(kind: CommandType, power_w: int, point: Point, target: str | None) -> Command:
    if kind is CommandType.IDLE:
        power_w, point = 0, Point.DEVICE
    targets = () if target is None else (target,)
    return replace(SOME_COMMAND, type=kind, power_w=power_w, point=point, targets=targets, end_us=START_US + HOUR_US)


@given(
    st.sampled_from([CommandType.CHARGE, CommandType.DISCHARGE, CommandType.IDLE]),
    st.integers(0, 30_000),
    st.sampled_from(Point),
    st.sampled_from([None, "car", "battery", "plain"]),
    st.integers(-11_000, 11_000),
)
def test_no_setpoint_slows_a_car_whose_driver_wants_to_charge_now(
    kind: CommandType, power_w: int, point: Point, target: str | None, present_w: int
) -> None:
    """SAFETY 9: beside limits and fuses that leave room."""
    car = replace(CAR, power_w=present_w, vehicle=replace(V2G_SESSION, charge_now=True))
    roomy = replace(LIMITS, import_limit_w=200_000, phase_limit_w=70_000)
    free = site(car, limits=roomy)
    ordered = replace(free, orders=(order_of(_any_setpoint(kind, power_w, point, target)),))
    for view in (free, ordered):
        order = make_plan(view).orders["car"]
        assert (order.lowest_w, order.highest_w) == (0, 11_000)


# -- 11: frequency response


@given(
    st.integers(45_000, 55_000),
    st.lists(st.tuples(st.floats(0.05, 3.0), st.sampled_from(["none", "nonsense", "old"])), min_size=1, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_without_a_plausible_value_the_answer_holds_at_most_and_is_gone_in_time(
    millihertz: int, looks: list[tuple[float, str]]
) -> None:
    """SAFETY 11: holds for 2 s, and is zero 10 s later; it never grows meanwhile."""
    curve, powers = Curve(), {"battery": 0}
    state = step_frequency(GridFrequency(), curve, [FrequencyReading(millihertz, 0.0)], powers, 0.0)
    full, now_s, before = state.share_permille, 0.0, abs(state.share_permille)
    for passed_s, kind in looks:
        now_s += passed_s
        if kind == "old" and now_s <= HOLD_S:
            continue  # that is still a value
        readings = {
            "none": [],
            "nonsense": [FrequencyReading(80_000, now_s)],
            "old": [FrequencyReading(millihertz, now_s - HOLD_S - 0.1)],
        }[kind]
        state = step_frequency(state, curve, readings, powers, now_s)
        assert abs(state.share_permille) <= before
        before = abs(state.share_permille)
        if now_s <= HOLD_S:
            assert state.share_permille == full
        if now_s >= HOLD_S + RAMP_S:
            assert (state.share_permille, state.side) == (0, 0)


@pytest.mark.parametrize("nominal_hz", [50, 60])
@given(st.integers(40_000, 70_000))
def test_what_no_grid_can_have_is_never_answered(nominal_hz: int, millihertz: int) -> None:
    curve = Curve(nominal_millihertz=nominal_hz * 1000)
    state = step_frequency(GridFrequency(), curve, [FrequencyReading(millihertz, 0.0)], {}, 0.0)
    low, high = (45_000, 55_000) if nominal_hz == 50 else (54_000, 66_000)
    assert (state.millihertz is not None) == (low <= millihertz <= high)
    if state.millihertz is None:
        assert (state.share_permille, state.side) == (0, 0)
