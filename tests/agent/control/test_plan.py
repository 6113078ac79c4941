"""The plan: what each rule of SAFETY.md promises, and that commands are shared out, narrowed and explained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.command import CommandType, Mode, Point, Price
from agent.control.order import Order
from agent.control.override import Override
from agent.control.plan import DeviceOrder, Plan, make_plan, orders_to_give
from agent.control.rules.draft import Rule
from agent.control.site import DeviceView, Held, Mandate, MeterView, SiteView
from drivers.device import DeadMan, DeviceKind
from tests.agent.control.strategies import following_sites, sites
from tests.agent.control.support import (
    BATTERY,
    CAR,
    HOUR_US,
    LIMITS,
    MINUTE_US,
    NOW,
    PLAIN,
    PV,
    SOME_COMMAND,
    START_US,
    V2G_SESSION,
    capabilities,
    curtail,
    order_of,
    site,
)


def _setpoint(power_w: int, *targets: str, point: Point = Point.DEVICE, **changes: object) -> Order:
    type_ = CommandType.CHARGE if power_w >= 0 else CommandType.DISCHARGE
    command = replace(SOME_COMMAND, type=type_, power_w=abs(power_w), targets=targets, point=point)
    return order_of(replace(command, **changes), f"set{power_w}{point}")  # type: ignore[arg-type]


def _band(plan: Plan, name: str) -> tuple[int | None, int | None]:
    return plan.orders[name].lowest_w, plan.orders[name].highest_w


def _car(**session: object) -> DeviceView:
    return replace(CAR, vehicle=replace(V2G_SESSION, **session))  # type: ignore[arg-type]


# -- nobody commands (SAFETY 12) ------------------------------------------------------------------------------------


def test_without_authority_cars_charge_and_never_discharge_and_the_rest_is_left_to_itself() -> None:
    plan = make_plan(site())
    assert _band(plan, "battery") == (None, None)
    assert _band(plan, "pv") == (None, None)
    assert plan.orders["car"].lowest_w == 0
    assert plan.orders["plain"].lowest_w == 0
    assert (plan.orders["plain"].highest_w or 0) > 10_000


def test_the_owners_default_can_let_cars_wait_and_the_battery_rest() -> None:
    view = site()
    plan = make_plan(replace(view, defaults=replace(view.defaults, cars_wait=True, battery_idle=True)))
    assert [_band(plan, name) for name in ("car", "plain", "battery")] == [(0, 0)] * 3


def test_every_order_has_a_reason() -> None:
    for order in make_plan(site(orders=(_setpoint(-7_000, "battery", "car"),))).orders.values():
        assert order.reason


# -- commands -------------------------------------------------------------------------------------------------------


def test_a_discharge_is_shared_by_battery_and_car() -> None:
    order = _setpoint(-17_000, "battery", "car")
    plan = make_plan(site(orders=(order,)))
    assert _band(plan, "battery") == (-10_000, -10_000)  # A car's battery is worn more: it gives what is missing.
    assert _band(plan, "car") == (-7_000, -7_000)
    assert "DISCHARGE 17000 W by grid" in plan.orders["car"].reason
    command = plan.commands[order.hash]
    assert (command.planned_w, command.in_force, command.short) == (-17_000, True, False)


def test_a_setpoint_at_the_connection_is_met_with_the_house_and_pv_counted() -> None:
    order = _setpoint(-9_000, point=Point.CONNECTION)
    plan = make_plan(site(BATTERY, PV, CAR, house_w=1_000, orders=(order,)))
    storage = sum(plan.orders[name].lowest_w or 0 for name in ("battery", "car"))
    assert storage == -5_000
    assert plan.commands[order.hash].planned_w == -9_000


def test_a_battery_does_not_work_against_a_setpoint_at_the_connection_that_another_device_shall_reach() -> None:
    order = _setpoint(-4_000, "car", point=Point.CONNECTION)
    charging = replace(BATTERY, power_w=3_000)
    plan = make_plan(site(charging, CAR, house_w=1_000, orders=(order,)))
    assert _band(plan, "battery") == (0, 0)
    assert _band(plan, "car") == (-5_000, -5_000)
    assert "rests" in plan.orders["battery"].reason


def test_pv_counts_in_a_discharge_that_names_it() -> None:
    plan = make_plan(site(orders=(_setpoint(-7_000, "battery", "pv"),)))
    assert _band(plan, "battery") == (-2_000, -2_000)


def test_pv_alone_is_held_at_what_it_is_asked_for() -> None:
    plan = make_plan(site(orders=(_setpoint(-2_000, "pv"),)))
    assert _band(plan, "pv") == (-2_000, None)


def test_idle_stops_storage_and_cars_and_leaves_pv_alone_unless_named() -> None:
    idle = replace(SOME_COMMAND, type=CommandType.IDLE, power_w=0, targets=())
    plan = make_plan(site(orders=(order_of(idle),)))
    assert [_band(plan, name) for name in ("battery", "car", "plain")] == [(0, 0)] * 3
    assert _band(plan, "pv") == (None, None)
    plan = make_plan(site(orders=(order_of(replace(idle, targets=("pv",))),)))
    assert _band(plan, "pv") == (0, 0)


def test_between_commands_for_one_device_the_higher_has_it_and_the_other_waits() -> None:
    high, low = _setpoint(-2_000, "battery"), _setpoint(5_000, "battery", "car")
    plan = make_plan(site(orders=(high, low)))
    assert _band(plan, "battery") == (-2_000, -2_000)
    assert not plan.commands[low.hash].in_force
    assert "outranked" in plan.commands[low.hash].reason


def test_a_limit_and_a_setpoint_hold_together_and_the_limit_binds() -> None:
    plan = make_plan(site(orders=(_setpoint(-7_000, "battery", "car"), order_of(curtail(3_000), "limit"))))
    exports = sum(min(0, plan.orders[name].lowest_w or 0) for name in plan.orders)
    assert exports >= -3_000
    assert Rule.EXPORT_COMMAND in plan.orders["pv"].bound_by


def test_curtail_of_one_device_is_exact() -> None:
    plan = make_plan(site(orders=(order_of(curtail(2_345, targets=("pv",))),)))
    assert _band(plan, "pv") == (-2_345, None)


def test_curtail_at_the_connection_lets_the_house_use_the_sun() -> None:
    order = order_of(curtail(1_000, point=Point.CONNECTION))
    plan = make_plan(site(PV, house_w=1_250, orders=(order,)))
    assert _band(plan, "pv") == (-2_200, None)  # in steps of 100 W, downwards


def test_an_import_limit_at_devices_cuts_all_to_one_level() -> None:
    command = replace(curtail(8_000), mode=Mode.IMPORT_LIMIT, targets=("car", "plain"))
    plan = make_plan(site(orders=(order_of(command),)))
    assert [plan.orders[n].highest_w for n in ("car", "plain")] == [4_000, 4_000]


def test_a_command_that_cannot_be_met_says_what_is_possible_and_why() -> None:
    empty = replace(BATTERY, state_of_charge_permille=50)
    order = _setpoint(-7_000, "battery")
    command = make_plan(site(empty, orders=(order,))).commands[order.hash]
    assert command.short
    assert Rule.BATTERY_MINIMUM.value in command.reason


def test_a_plan_of_next_to_nothing_is_not_obeyed_by_nothing() -> None:
    """A receipt that says EXECUTING and COMPLETED must not be had by standing still."""
    tight = replace(LIMITS, export_limit_w=0)
    order = _setpoint(-5_000, "battery")
    view = site(BATTERY, house_w=150, orders=(order,), limits=tight)
    assert make_plan(view).commands[order.hash].planned_w == -100
    assert not make_plan(view).commands[order.hash].responded
    follows = replace(BATTERY, power_w=-100, held=Held(lowest_w=-100, highest_w=-100))
    assert make_plan(replace(view, devices={"battery": follows})).commands[order.hash].responded


def test_the_power_that_responds_is_the_metered_one() -> None:
    order = _setpoint(-5_000, "battery")
    assert not make_plan(site(orders=(order,))).commands[order.hash].responded
    moved = replace(BATTERY, power_w=-4_700)
    assert make_plan(site(moved, orders=(order,))).commands[order.hash].responded


# -- cars (SAFETY 9) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("car", "rule"),
    [
        (_car(state_of_charge_permille=None), Rule.CAR_STATE),
        (replace(CAR, state_of_charge_age_s=301.0), Rule.CAR_STATE),
        (replace(CAR, state_of_charge_age_s=None), Rule.CAR_STATE),
        (_car(token_id="guest"), Rule.CAR_MANDATE),
        (_car(token_id=None), Rule.CAR_MANDATE),
        (_car(transaction_id=None), Rule.CAR_MANDATE),
        (_car(state_of_charge_permille=300), Rule.CAR_MINIMUM),
        (_car(energy_needed_wh=9_000, departure_timestamp_us=START_US + HOUR_US), Rule.CAR_DEPARTURE),
        (_car(energy_needed_wh=9_000), Rule.CAR_DEPARTURE),
        (_car(charge_now=True), Rule.CAR_NOW),
        (replace(CAR, vehicle=None), Rule.NO_CAR),
    ],
)
def test_a_car_is_not_discharged_where_anything_is_unknown_or_forbids_it(car: DeviceView, rule: Rule) -> None:
    order = _setpoint(-5_000, "car")
    plan = make_plan(site(car, orders=(order,)))
    assert (plan.orders["car"].lowest_w or 0) >= 0
    assert rule.value in plan.commands[order.hash].reason


def test_an_old_state_of_charge_is_counted_less_what_the_car_can_have_given_since() -> None:
    """SAFETY 9: never below the minimum, which the next value would only show too late."""
    order = _setpoint(-11_000, "car")
    giving = replace(
        _car(state_of_charge_permille=304), power_w=-11_000, held=Held(lowest_w=-11_000, highest_w=-11_000)
    )
    fresh = make_plan(site(replace(giving, state_of_charge_age_s=1.0), orders=(order,)))
    assert (fresh.orders["car"].lowest_w or 0) < 0
    old = make_plan(site(replace(giving, state_of_charge_age_s=120.0), orders=(order,)))  # 11 kW x 120 s = 0.6 %
    assert old.orders["car"].lowest_w == 0
    assert Rule.CAR_MINIMUM.value in old.commands[order.hash].reason


def test_without_the_sites_permission_no_car_is_discharged() -> None:
    view = site(CAR, orders=(_setpoint(-5_000, "car"),))
    plan = make_plan(replace(view, limits=replace(LIMITS, discharge_permitted=False)))
    assert plan.orders["car"].lowest_w == 0


def test_a_car_whose_owner_names_a_price_is_discharged_for_that_price_only() -> None:
    mandate = Mandate(token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=200_000, currency="EUR")
    for price, lowest in [
        (None, 0),
        (Price(199_999, "EUR"), 0),
        (Price(900_000, "USD"), 0),
        (Price(200_000, "EUR"), -5_000),
    ]:
        view = site(CAR, orders=(_setpoint(-5_000, "car", price=price),), mandates={"owner": mandate})
        assert make_plan(view).orders["car"].lowest_w == lowest


@pytest.mark.parametrize("point", Point)
def test_a_car_whose_owner_names_issuers_is_discharged_by_those_only(point: Point) -> None:
    order = _setpoint(-5_000, "car", point=point)
    for issuers, gives in (((), True), (("grid",), True), (("solar", "grid"), True), (("solar",), False)):
        mandate = Mandate(
            token_id="owner",
            minimum_soc_permille=300,
            least_price_micro_per_kwh=0,
            currency="EUR",
            issuers=frozenset(issuers),
        )
        plan = make_plan(site(CAR, orders=(order,), mandates={"owner": mandate}, house_w=0))
        assert ((plan.orders["car"].lowest_w or 0) < 0) is gives
        assert (Rule.CAR_ISSUER.value in plan.commands[order.hash].reason) is not gives


def test_a_command_that_does_not_have_the_car_pays_for_nothing() -> None:
    """SAFETY 9: the price of what waits, or cannot be followed, is nobody's."""
    mandate = Mandate(token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=200_000, currency="EUR")
    dear = _setpoint(-9_000, point=Point.CONNECTION, price=Price(900_000, "EUR"))
    cheap = _setpoint(-5_000, "car", price=Price(1, "EUR"))
    lost = site(CAR, house_w=None, orders=(dear, cheap), mandates={"owner": mandate})
    assert make_plan(lost).orders["car"].lowest_w == 0
    by_hand = Override(device_id="car", power_w=-5_000, since_us=START_US, until_us=START_US + HOUR_US, by="me")
    held = site(CAR, orders=(dear,), mandates={"owner": mandate}, overrides={"car": by_hand})
    assert make_plan(held).orders["car"].lowest_w == 0


def test_charge_now_beats_idle_and_discharge_but_not_the_fuse() -> None:
    idle = order_of(replace(SOME_COMMAND, type=CommandType.IDLE, power_w=0, targets=("car",)))
    plan = make_plan(site(_car(charge_now=True), orders=(idle,)))
    assert _band(plan, "car") == (0, 11_000)
    view = site(_car(charge_now=True), house_w=36_000, orders=(idle,))
    assert (make_plan(view).orders["car"].highest_w or 0) <= 4_000


def test_a_departure_that_needs_all_the_time_left_makes_the_car_charge() -> None:
    view = site(_car(energy_needed_wh=10_000, departure_timestamp_us=START_US + 30 * MINUTE_US))
    plan = make_plan(replace(view, defaults=replace(view.defaults, cars_wait=True)))
    assert plan.orders["car"].highest_w == 11_000
    assert Rule.CAR_DEPARTURE in plan.orders["car"].bound_by


# -- connection, silence, meter (SAFETY 2, 3, 8) --------------------------------------------------------------------


def test_storage_gives_way_before_the_sun_at_the_export_limit() -> None:
    view = site(BATTERY, PV, orders=(_setpoint(-10_000, "battery"),))
    plan = make_plan(replace(view, limits=replace(LIMITS, export_limit_w=8_000)))
    assert _band(plan, "battery") == (-4_000, -4_000)  # 8 kW + 1 kW house - 5 kW sun
    assert Rule.CONNECTION_EXPORT in plan.orders["battery"].bound_by


def test_without_permission_to_export_a_battery_covers_the_sites_own_demand_only() -> None:
    view = site(BATTERY, house_w=2_050, orders=(_setpoint(-10_000, "battery"),))
    plan = make_plan(replace(view, limits=replace(LIMITS, discharge_permitted=False)))
    assert _band(plan, "battery") == (-2_000, -2_000)


def test_a_silent_device_is_counted_at_the_largest_of_grant_power_and_fallback() -> None:
    silent = replace(PLAIN, online=False, power_w=3_000, held=Held(lowest_w=0, highest_w=9_000))
    assert silent.worst_import_w == 9_000
    assert replace(silent, held=None).worst_import_w == 3_000
    assert replace(silent, held=None, power_w=0, capabilities=None).worst_import_w == 4_000
    nameplate = replace(PLAIN, capabilities=capabilities(22_000, 0, dead_man=DeadMan.NONE), online=False)
    assert nameplate.worst_import_w == 22_000
    view = site(silent, CAR, house_w=0)
    plan = make_plan(replace(view, limits=replace(LIMITS, import_limit_w=12_000, house_reserve_w=0)))
    assert plan.orders["car"].highest_w == 3_000


def test_a_silent_device_that_stopped_since_makes_no_room_that_it_can_take_back() -> None:
    """SAFETY 3: its old power is no relief of the house."""
    silent = replace(PLAIN, online=False, power_w=11_000)
    view = site(silent, CAR, limits=replace(LIMITS, import_limit_w=15_000))
    # The meter shows 1 kW: that is the house, since the silent charger draws nothing just now.
    plan = make_plan(replace(view, meter=MeterView(power_w=1_000)))
    assert plan.orders["car"].highest_w == 3_000
    # It draws on: the house is the same, and no more than the reserve is set aside for what is not known.
    plan = make_plan(replace(view, meter=MeterView(power_w=12_000), limits=replace(LIMITS, import_limit_w=20_000)))
    assert plan.orders["car"].highest_w == 4_000


def test_a_silent_inverter_that_produces_less_since_makes_no_room_for_export() -> None:
    silent = replace(PV, device_id="roof", online=False, power_w=-5_000)
    view = site(silent, BATTERY, orders=(_setpoint(-10_000, "battery"),), limits=replace(LIMITS, export_limit_w=8_000))
    plan = make_plan(replace(view, meter=MeterView(power_w=-1_000)))  # it makes 2 kW just now, of 5 kW before
    assert _band(plan, "battery") == (-3_000, -3_000)


def test_an_inverter_that_was_left_to_itself_counts_at_its_nameplate_when_it_falls_silent() -> None:
    free = replace(PV, online=False, power_w=0, held=Held(lowest_w=None, highest_w=None))
    assert free.worst_export_w == 8_000
    assert replace(free, held=None).worst_export_w == 0  # at the fallback that is in it
    assert replace(free, held=Held(lowest_w=-2_000, highest_w=None)).worst_export_w == 2_000


def test_a_device_that_was_never_heard_counts_at_its_share_or_else_at_the_installers_bound() -> None:
    unheard = replace(PLAIN, online=False, capabilities=None, power_w=None, rated_import_w=22_000)
    assert unheard.worst_import_w == 4_000
    assert replace(unheard, fallback_import_w=None).worst_import_w == 22_000
    assert replace(PV, online=False, capabilities=None, power_w=None, rated_export_w=8_000).worst_export_w == 8_000


def test_a_discharge_waits_until_another_device_has_stopped_exporting() -> None:
    """SAFETY 3: lower first, confirm by meter, then raise another; of export too."""
    tight = replace(LIMITS, export_limit_w=5_000)
    coming_down = replace(BATTERY, power_w=-5_000, held=Held(lowest_w=-5_000, highest_w=-5_000))
    idle = order_of(replace(SOME_COMMAND, type=CommandType.IDLE, power_w=0, targets=("battery",)), "idle")
    orders = (idle, _setpoint(-5_000, "car"))
    plan = make_plan(site(coming_down, CAR, house_w=0, orders=orders, limits=tight))
    assert _band(plan, "battery") == (0, 0)
    assert _band(plan, "car") == (0, 0)
    assert Rule.RAISE_LATER in plan.orders["car"].bound_by
    down = replace(BATTERY, held=Held(lowest_w=0, highest_w=0))
    plan = make_plan(site(down, CAR, house_w=0, orders=orders, limits=tight))
    assert _band(plan, "car") == (-5_000, -5_000)


def test_without_permission_storage_does_not_cover_what_a_silent_inverter_covers() -> None:
    silent = replace(PV, device_id="roof", online=False, power_w=-5_000)
    view = site(silent, BATTERY, house_w=2_000, orders=(_setpoint(-10_000, "battery"),))
    plan = make_plan(replace(view, limits=replace(LIMITS, discharge_permitted=False)))
    assert _band(plan, "battery") == (0, 0)


def test_a_raise_waits_until_the_other_has_come_down() -> None:
    """SAFETY 3: lower first, confirm by meter, then raise another."""
    drawing = replace(PLAIN, power_w=11_000, held=Held(lowest_w=0, highest_w=11_000))
    waiting = replace(CAR, held=Held(lowest_w=0, highest_w=0))
    tight = replace(LIMITS, import_limit_w=12_000)
    plan = make_plan(replace(site(drawing, waiting, house_w=0), limits=tight))
    assert plan.orders["plain"].highest_w == 6_000
    assert plan.orders["car"].highest_w == 0  # 1 kW is left, which is less than 6 A
    down = replace(PLAIN, power_w=6_000, held=Held(lowest_w=0, highest_w=6_000))
    plan = make_plan(replace(site(down, waiting, house_w=0), limits=tight))
    assert plan.orders["car"].highest_w == 6_000


def test_each_phase_keeps_its_fuse() -> None:
    one_phase = replace(PLAIN, phases=(1,), capabilities=capabilities(7_400, 0))
    view = site(one_phase, house_w=9_000)
    meter = MeterView(power_w=9_000, phase_power_w=(9_000, 0, 0))
    plan = make_plan(replace(view, meter=meter))
    assert plan.orders["plain"].highest_w == 5_400  # 63 A x 230 V = 14,490 W, less 9,000, in steps of 100 W
    assert Rule.PHASE in plan.orders["plain"].bound_by


def test_without_the_meter_static_sums_hold_and_connection_targets_rest() -> None:
    order = _setpoint(-3_000, point=Point.CONNECTION)
    view = site(house_w=None, orders=(order,))
    tight = replace(LIMITS, import_limit_w=15_000)
    plan = make_plan(replace(view, limits=tight))
    assert sum(plan.orders[name].highest_w or 0 for name in ("car", "plain")) <= 15_000 - LIMITS.house_reserve_w
    assert not plan.commands[order.hash].in_force
    assert "meter" in plan.commands[order.hash].reason


def test_without_the_meter_export_falls_to_the_static_shares() -> None:
    plan = make_plan(site(replace(PV, fallback_export_w=3_000), house_w=None))
    assert _band(plan, "pv") == (-3_000, None)
    assert Rule.METER_LOST in plan.orders["pv"].bound_by


def test_an_islanded_site_follows_no_command_and_its_cars_stop() -> None:
    order = _setpoint(-5_000, "battery", "car")
    plan = make_plan(site(orders=(order,), islanded=True))
    assert _band(plan, "car") == (0, 0)
    assert _band(plan, "battery") == (None, None)
    assert not plan.commands[order.hash].in_force


def test_local_stop_stops_everything_and_says_who_pressed_it() -> None:
    silent = replace(PLAIN, online=False)
    view = site(BATTERY, PV, _car(charge_now=True), silent, stop="the page", orders=(_setpoint(-5_000, "battery"),))
    for order in make_plan(view).orders.values():
        assert (order.lowest_w, order.highest_w) == (0, 0)
        assert "the page" in order.reason


def test_a_site_without_controllable_devices_has_an_empty_plan() -> None:
    view = replace(site(), devices={}, orders=(_setpoint(-5_000),))
    assert make_plan(view).orders == {}


# -- invariants -----------------------------------------------------------------------------------------------------


def _exported(order: DeviceOrder, view: DeviceView) -> int:
    """The most that a device may export under its order."""
    return view.most_export_w if order.lowest_w is None else max(0, -order.lowest_w)


@given(sites())
@settings(max_examples=300, deadline=None)
def test_any_site_gets_a_sound_plan(view: SiteView) -> None:
    plan = make_plan(view)
    assert plan == make_plan(view)
    assert set(plan.orders) == set(view.devices)
    for name, order in plan.orders.items():
        device = view.devices[name]
        if order.lowest_w is not None and order.highest_w is not None:
            assert order.lowest_w <= order.highest_w
        if order.highest_w is not None:
            assert order.highest_w <= max(0, device.most_import_w)
        if device.kind is not DeviceKind.PV and order.lowest_w is not None:
            assert order.lowest_w >= -device.most_export_w


@given(following_sites())
@settings(max_examples=300, deadline=None)
def test_import_never_exceeds_the_limit_once_devices_have_had_their_time(view: SiteView) -> None:
    """SAFETY 3 and 8: grants of those that answer, the worst of those that do not, and the house."""
    plan = make_plan(view)
    assert view.house_most_w is not None
    granted = {
        n: plan.orders[n].highest_w or 0
        for n, d in view.devices.items()
        if d.online and plan.orders[n].highest_w is not None and d.kind is not DeviceKind.PV
    }
    exports = sum(max(0, -d.present_w) for d in view.devices.values() if d.online)
    own = sum(max(0, d.present_w) for n, d in view.devices.items() if d.online and n not in granted)
    silent = sum(d.worst_import_w for d in view.devices.values() if not d.online)
    room = view.limits.import_limit_w - view.house_most_w - silent - own + exports
    assert sum(granted.values()) <= max(0, room)


@given(following_sites(), st.integers(0, 20_000))
@settings(max_examples=300, deadline=None)
def test_ordered_discharge_never_exceeds_the_export_limit(view: SiteView, asked_w: int) -> None:
    view = replace(view, orders=(_setpoint(-asked_w, *sorted(view.devices)), *view.orders))
    plan = make_plan(view)
    assert view.house_least_w is not None
    online = {n: d for n, d in view.devices.items() if d.online}
    storage = sum(
        _exported(plan.orders[n], d)
        for n, d in online.items()
        if d.kind is not DeviceKind.PV and plan.orders[n].lowest_w is not None  # else it looks after the house
    )
    imports = sum(max(0, d.present_w) for d in online.values())
    assert storage <= max(0, view.limits.export_limit_w + view.house_least_w + imports)
    if not view.limits.discharge_permitted:
        assert storage <= max(0, view.house_least_w + imports)


@given(sites())
@settings(max_examples=200, deadline=None)
def test_a_commanded_export_limit_at_devices_is_never_exceeded_by_bands(view: SiteView) -> None:
    plan = make_plan(view)
    for order in view.orders:
        command = order.command
        if (
            command.mode is not Mode.EXPORT_LIMIT
            or command.point is not Point.DEVICE
            or not plan.commands[order.hash].in_force
        ):
            continue
        scope = [n for n in command.targets or view.devices if n in view.devices and view.devices[n].online]
        # A connection or fuse that has too much to carry without the sun goes before (SAFETY 8): test_enough_sun.
        if any({Rule.CONNECTION_IMPORT, Rule.PHASE} & set(plan.orders[n].bound_by) for n in scope if n == "pv"):
            continue
        assert sum(_exported(plan.orders[n], view.devices[n]) for n in scope) <= command.power_w


@given(sites())
@settings(max_examples=200, deadline=None)
def test_no_car_is_discharged_without_a_command(view: SiteView) -> None:
    plan = make_plan(replace(view, orders=()))
    for name in ("car", "plain"):
        if name in plan.orders:
            assert (plan.orders[name].lowest_w or 0) >= 0


@given(sites(), st.sampled_from(["permission", "mandate", "car", "session", "charge", "age", "charge now"]))
@settings(max_examples=200, deadline=None)
def test_no_command_discharges_a_car_while_one_condition_of_its_owner_is_missing(view: SiteView, missing: str) -> None:
    """SAFETY 9: unknown means 0 W, whatever else is ordered, silent, lost or over a limit."""
    changes: dict[str, DeviceView] = {
        "car": replace(CAR, vehicle=None),
        "session": replace(CAR, vehicle=replace(V2G_SESSION, transaction_id=None)),
        "charge": replace(CAR, vehicle=replace(V2G_SESSION, state_of_charge_permille=None)),
        "age": replace(CAR, state_of_charge_age_s=300.1),
        "charge now": _car(charge_now=True),
    }
    orders = (_setpoint(-9_000, "car"), *view.orders)
    view = replace(view, devices={**view.devices, "car": changes.get(missing, CAR)}, orders=orders)
    if missing == "permission":
        view = replace(view, limits=replace(view.limits, discharge_permitted=False))
    if missing == "mandate":
        view = replace(view, mandates={})
    order = make_plan(view).orders["car"]
    assert order.lowest_w is not None
    assert order.lowest_w >= 0


@given(sites())
@settings(max_examples=200, deadline=None)
def test_local_stop_leaves_nobody_any_power_whatever_the_site_is_like(view: SiteView) -> None:
    """SAFETY 1: above commands, limits, islanding and a lost meter; no command counts as in force."""
    plan = make_plan(replace(view, stop="me"))
    assert all((order.lowest_w, order.highest_w) == (0, 0) for order in plan.orders.values())
    assert all(order.authority_s is None for order in plan.orders.values())
    assert not any(command.in_force for command in plan.commands.values())


@given(following_sites(), st.tuples(*[st.integers(-12_000, 12_000)] * 3))
@settings(max_examples=200, deadline=None)
def test_what_is_granted_on_a_phase_stays_within_what_its_fuse_has_left(
    view: SiteView, phases_w: tuple[int, int, int]
) -> None:
    """SAFETY 8: the devices that answer, beside the house and the worst of those that do not."""
    view = replace(
        view,
        devices={**view.devices, "car": CAR, "plain": PLAIN},
        meter=MeterView(power_w=sum(phases_w), phase_power_w=phases_w),
        limits=replace(view.limits, import_limit_w=100_000),
    )
    plan = make_plan(view)
    answering = {name: device for name, device in view.devices.items() if device.online}
    silent_w = sum(d.worst_import_w // 3 for d in view.devices.values() if not d.online)
    exports_w = sum(max(0, -d.present_w) // 3 + 1 for d in answering.values())
    granted_w = sum(max(0, plan.orders[name].highest_w or 0) for name in answering)
    for phase_w in phases_w:
        house_w = phase_w - sum(d.present_w // 3 for d in view.devices.values())
        room_w = view.limits.phase_limit_w - house_w - silent_w + exports_w
        assert granted_w // 3 <= max(0, room_w)


def test_now_is_part_of_the_view_and_nothing_else_is_time() -> None:
    assert make_plan(site(now=replace(NOW, uptime_us=5))) == make_plan(site())


def test_what_a_device_does_beside_its_band_is_not_hidden_by_a_band_that_another_is_still_to_reach() -> None:
    rising = replace(CAR, power_w=0, held=Held(lowest_w=5_000, highest_w=5_000, age_s=0.0))
    defiant = replace(PLAIN, power_w=5_000, held=Held(lowest_w=0, highest_w=0, age_s=600.0))
    assert site(rising, defiant).house_most_w == 1_000
    assert site(rising, replace(defiant, follows=False)).house_most_w == 6_000


def test_an_export_beside_the_band_is_not_hidden_either() -> None:
    rising = replace(BATTERY, power_w=0, held=Held(lowest_w=-5_000, highest_w=-5_000, age_s=0.0))
    defiant = replace(PV, power_w=-5_000, held=Held(lowest_w=0, highest_w=None, age_s=600.0))
    assert site(rising, replace(defiant, follows=False)).house_least_w == -4_000


def test_a_device_that_does_not_follow_has_that_in_the_reason_of_its_order() -> None:
    defiant = replace(PV, held=Held(lowest_w=-1_000, highest_w=None, age_s=600.0))
    assert Rule.DISOBEYS in make_plan(site(replace(defiant, follows=False))).orders["pv"].bound_by
    assert Rule.DISOBEYS not in make_plan(site(replace(defiant, follows=True))).orders["pv"].bound_by


def test_a_device_that_has_not_shown_what_it_can_do_is_given_no_guess_but_stop() -> None:
    """After a restart it may hold an order of ours: a plan that knows nothing of it would only take that away."""
    unknown = replace(CAR, capabilities=None)
    given_to = site(unknown, PLAIN)
    assert set(orders_to_give(given_to, make_plan(given_to))) == {"plain"}
    stopped = replace(given_to, stop="a person")
    orders = orders_to_give(stopped, make_plan(stopped))
    assert (orders["car"].lowest_w, orders["car"].highest_w) == (0, 0)
    islanded = replace(given_to, islanded=True)
    assert "car" in orders_to_give(islanded, make_plan(islanded))


def test_pv_makes_room_for_a_charge_that_a_car_cannot_take() -> None:
    """Its own limit is below the least current of the charger's phases: nothing of it can be counted on."""
    small = replace(V2G_SESSION, max_charge_w=3_000)
    car = replace(PLAIN, capabilities=capabilities(11_000, 0, minimum_import_w=4_140), vehicle=small)
    command = replace(SOME_COMMAND, targets=(), type=CommandType.CHARGE, power_w=1_000, point=Point.CONNECTION)
    plan = make_plan(site(car, PV, house_w=1_000, orders=(order_of(command),)))
    assert plan.orders["pv"].lowest_w == 0
