"""The flexibility envelope: what can be offered, and that the plan would carry it out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from agent.control.bounds import Allowance, BoundsView
from agent.control.coming_back import ComingBack
from agent.control.command import Command, CommandType, Point
from agent.control.envelope import Envelope, envelope
from agent.control.frequency import GridFrequency
from agent.control.inputs import InputClamp
from agent.control.override import Override
from agent.control.plan import make_plan, tolerance_w
from agent.control.rules.draft import STEP_W
from agent.control.site import Defaults, DeviceView, Held, Mandate, MeterView, SiteView
from tests.agent.control.strategies import following_sites, sites
from tests.agent.control.support import (
    BATTERY,
    CAR,
    HOUR_US,
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


def test_a_battery_offers_both_ways_from_where_it_is() -> None:
    made = envelope(site(replace(BATTERY, power_w=3_000)))
    assert (made.power_up_w, made.power_down_w) == (13_000, 7_000)
    assert (made.energy_up_wh, made.energy_down_wh) == (3_250, 1_750)
    assert (made.ramp_up_w_per_min, made.ramp_down_w_per_min) == (13_000 * 30, 7_000 * 30)
    assert (made.minimum_soc_permille, made.maximum_soc_permille) == (100, 1000)


def test_at_its_minimum_a_battery_offers_no_discharge() -> None:
    assert envelope(site(replace(BATTERY, state_of_charge_permille=100))).power_up_w == 0


def test_pv_offers_to_produce_less_and_never_more() -> None:
    made = envelope(site(PV))
    assert (made.power_up_w, made.power_down_w) == (0, 5_000)


def test_a_car_offers_what_it_has_above_its_owners_minimum() -> None:
    made = envelope(site(replace(CAR, vehicle=replace(V2G_SESSION, state_of_charge_permille=310))))
    assert made.power_up_w == 11_000
    assert made.energy_up_wh == 600  # 1 % of 60 kWh
    assert made.minimum_soc_permille == 300


def _holding(capacity_wh: int | None, permille: int) -> DeviceView:
    return replace(
        BATTERY,
        capabilities=replace(capabilities(10_000, 10_000), energy_capacity_wh=capacity_wh),
        state_of_charge_permille=permille,
    )


def test_a_battery_offers_the_energy_that_it_holds_between_its_bounds() -> None:
    made = envelope(site(_holding(10_000, 200)))
    assert (made.power_up_w, made.energy_up_wh) == (10_000, 1_000)  # 10 % of 10 kWh above its minimum
    assert (made.power_down_w, made.energy_down_wh) == (10_000, 2_500)
    assert made.capacity_w == 10_000
    made = envelope(site(_holding(10_000, 950)))
    assert (made.energy_up_wh, made.energy_down_wh) == (2_500, 500)


def test_what_can_be_held_for_the_whole_quarter_is_the_capacity_of_the_bid() -> None:
    made = envelope(site(_holding(2_000, 500)))
    assert (made.energy_up_wh, made.energy_down_wh) == (800, 1_000)
    assert made.capacity_w == 4_000


def test_what_is_kept_for_the_grids_frequency_is_not_offered() -> None:
    keeps = Defaults(answers_frequency=True, frequency_reserve_permille=100)
    made = envelope(site(_holding(10_000, 250), defaults=keeps))
    assert made.energy_up_wh == 500
    assert (made.minimum_soc_permille, made.maximum_soc_permille) == (200, 900)


def test_a_battery_whose_capacity_nobody_tells_is_offered_by_its_rating() -> None:
    made = envelope(site(_holding(None, 200)))
    assert (made.energy_up_wh, made.energy_down_wh) == (2_500, 2_500)


def test_less_charging_is_energy_from_no_storage() -> None:
    made = envelope(site(replace(PLAIN, power_w=8_000)))
    assert (made.power_up_w, made.energy_up_wh) == (8_000, 2_000)


@pytest.mark.parametrize("hours", [1.0, 1.05])
def test_a_car_whose_departure_comes_near_offers_no_less_than_it_needs(hours: float) -> None:
    need = replace(
        PLAIN.vehicle or V2G_SESSION, energy_needed_wh=9_000, departure_timestamp_us=START_US + round(hours * HOUR_US)
    )
    made = envelope(site(replace(PLAIN, power_w=11_000, vehicle=need)))
    assert made.power_up_w < 11_000 / 2


def test_the_connection_bounds_the_sum() -> None:
    view = site(BATTERY, CAR)
    view = replace(view, limits=replace(view.limits, export_limit_w=4_000, import_limit_w=6_000))
    made = envelope(view)  # the house takes 1 kW
    assert (made.power_up_w, made.power_down_w) == (5_000, 5_000)


def test_without_the_contracts_permission_storage_covers_the_site_and_no_more() -> None:
    view = site(BATTERY, house_w=2_000)
    view = replace(view, limits=replace(view.limits, discharge_permitted=False))
    assert envelope(view).power_up_w == 2_000


def test_the_price_is_the_one_for_which_every_owner_agrees() -> None:
    mandates = {
        "owner": Mandate(token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=250_000, currency="EUR")
    }
    made = envelope(site(CAR, mandates=mandates))
    assert (made.least_price_micro_per_kwh, made.currency) == (250_000, "EUR")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stop": "me"}, "STOP"),
        ({"islanded": True}, "islanded"),
        ({"safe_mode": "why"}, "safe mode: why"),
        ({"meter": None}, "grid meter"),
    ],
)
def test_a_site_that_follows_nobody_offers_nothing_and_says_why(change: dict[str, object], says: str) -> None:
    made = envelope(replace(site(), **change))  # type: ignore[arg-type]  # fields of SiteView
    assert made == Envelope(why_not=made.why_not)
    assert says in made.why_not


def test_a_site_without_devices_and_one_of_silent_ones_offer_nothing() -> None:
    assert envelope(site(replace(BATTERY, online=False))).why_not
    assert envelope(replace(site(BATTERY), devices={})).why_not


def test_what_comes_back_slowly_offers_no_more_than_its_allowance() -> None:
    back = ComingBack(why="x", since_s=0, wait_s=0, allowance_permille=100)
    made = envelope(site(BATTERY, coming_back=back))
    assert (made.power_up_w, made.power_down_w) == (1_000, 1_000)


@given(sites())
def test_an_envelope_is_never_negative_and_its_energy_fits_its_power(view: SiteView) -> None:
    made = envelope(view)
    for value in (made.power_up_w, made.power_down_w, made.energy_up_wh, made.energy_down_wh,
                  made.ramp_up_w_per_min, made.ramp_down_w_per_min):  # fmt: skip
        assert value >= 0
    assert made.energy_up_wh <= made.power_up_w / 4
    assert made.energy_down_wh <= made.power_down_w / 4
    assert (made.power_up_w + made.power_down_w == 0) == bool(made.why_not)


@given(sites())
def test_a_discharge_that_was_offered_by_a_battery_is_planned(view: SiteView) -> None:
    view = replace(view, orders=(), devices={name: d for name, d in view.devices.items() if name == "battery"})
    made = envelope(view)
    battery = view.devices.get("battery")
    if battery is None or made.power_up_w == 0 or not view.limits.discharge_permitted:
        return
    target_w = battery.likely_w - made.power_up_w
    asked = replace(
        SOME_COMMAND, type=CommandType.DISCHARGE if target_w < 0 else CommandType.CHARGE, power_w=abs(target_w)
    )
    plan = make_plan(replace(view, orders=(order_of(asked),)))
    assert not plan.commands[order_of(asked).hash].short


HELD = Override(device_id="battery", power_w=0, since_us=START_US, until_us=START_US + HOUR_US, by="me")


@pytest.mark.parametrize(
    ("change", "up_w", "down_w"),
    [
        ({"overrides": {"battery": HELD}}, 0, 0),
        ({"inputs": (InputClamp(name="relay", export_limit_w=0, import_limit_w=3_000),)}, 1_000, 2_000),
        ({"orders": (order_of(curtail(0)),)}, 0, 10_000),
        ({"orders": (order_of(curtail(0, point=Point.CONNECTION)),)}, 1_000, 10_000),
        ({"bounds": BoundsView(devices={"battery": Allowance(energy=False)})}, 0, 0),
        ({"bounds": BoundsView(devices={"battery": Allowance(cycles=False)})}, 0, 0),
        ({"bounds": BoundsView(devices={"battery": Allowance(sign=1)})}, 0, 10_000),
        ({"bounds": BoundsView(events_left=0)}, 0, 0),
        ({"frequency": GridFrequency(millihertz=49_700, side=-1, base_w={"battery": 0})}, 10_000, 0),
        ({"frequency": GridFrequency(millihertz=50_300, side=1, base_w={"battery": 0})}, 0, 10_000),
    ],
)
def test_what_binds_a_command_binds_the_offer(change: dict[str, object], up_w: int, down_w: int) -> None:
    made = envelope(replace(site(BATTERY), **change))  # type: ignore[arg-type]  # fields of SiteView; the house takes 1 kW
    assert (made.power_up_w, made.power_down_w) == (up_w, down_w)


def test_nothing_is_offered_without_saying_what_forbids_it() -> None:
    assert "by me" in envelope(site(BATTERY, overrides={"battery": HELD})).why_not
    assert "events per hour" in envelope(site(BATTERY, bounds=BoundsView(events_left=0))).why_not


def test_a_battery_on_one_phase_offers_no_more_than_its_fuse() -> None:
    made = envelope(site(replace(BATTERY, phases=(1,), capabilities=capabilities(30_000, 30_000))))
    assert made.power_up_w <= 63 * 230 + 1_000
    assert made.power_down_w <= 63 * 230


def test_the_local_ramp_is_the_ramp_of_the_offer() -> None:
    """However often plans are made: what the ramp lets pass in one plan is of its interval."""
    for in_this_plan in (0.0, 0.5, 2.0):
        ramped = Allowance(ramp_permille=in_this_plan, ramp_permille_per_s=1)
        made = envelope(site(BATTERY, bounds=BoundsView(devices={"battery": ramped})))
        assert made.ramp_up_w_per_min == 10_000 * 60 // 1000
        # In a quarter of an hour it comes to nine tenths, and has given the half of that.
        assert (made.power_up_w, made.energy_up_wh) == (9_000, 1_125)


def test_the_energy_that_a_local_bound_leaves_is_all_that_is_offered() -> None:
    made = envelope(site(BATTERY, bounds=BoundsView(devices={"battery": Allowance(energy_left_wh=100)})))
    assert (made.energy_up_wh, made.energy_down_wh, made.capacity_w) == (100, 100, 400)


def test_a_car_whose_owner_names_who_may_discharge_it_is_offered_all_the_same() -> None:
    """Who takes the offer is not known before it does; its command is judged by whose it is."""
    mandate = Mandate(
        token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=0, currency="EUR",
        issuers=frozenset({"aggregator"}),
    )  # fmt: skip
    assert envelope(site(CAR, mandates={"owner": mandate})).power_up_w == 11_000


@pytest.mark.parametrize(
    "needs", [{"charge_now": True}, {"energy_needed_wh": 9_000, "departure_timestamp_us": START_US}]
)
def test_a_car_that_charges_whatever_is_ordered_is_no_flexibility(needs: dict[str, object]) -> None:
    car = replace(CAR, power_w=3_000, vehicle=replace(V2G_SESSION, **needs))  # type: ignore[arg-type]  # its fields
    made = envelope(site(car))
    assert (made.power_up_w, made.power_down_w) == (0, 0)


def test_what_is_full_offers_to_take_nothing_in_whatever_its_size() -> None:
    assert envelope(site(replace(BATTERY, state_of_charge_permille=1000))).power_down_w == 0
    full = replace(PLAIN.vehicle or V2G_SESSION, state_of_charge_permille=1000)
    assert envelope(site(replace(PLAIN, vehicle=full))).power_down_w == 0


def test_a_device_that_does_not_follow_is_not_promised() -> None:
    assert envelope(site(replace(BATTERY, follows=False))).power_up_w == 0


def test_pv_that_would_leave_more_import_than_is_allowed_is_not_offered() -> None:
    view = site(PV, house_w=6_000)  # 1 kW is taken in, 6 kW would be without the sun
    assert envelope(replace(view, limits=replace(view.limits, import_limit_w=3_000))).power_down_w == 2_000


def test_charging_less_is_not_offered_where_the_sun_would_have_to_go_out_that_may_not() -> None:
    """The car takes what PV makes: stopped, it would leave 5 kW of sun of which 1 kW is let out, and PV held back."""
    car = replace(PLAIN, power_w=5_000)
    view = site(car, PV, house_w=0)
    view = replace(view, limits=replace(view.limits, export_limit_w=1_000))
    assert envelope(view).power_up_w == 1_000
    assert envelope(replace(view, inputs=(InputClamp(name="relay", export_limit_w=0),))).power_up_w == 0
    order = order_of(curtail(400, point=Point.CONNECTION))
    assert envelope(replace(view, orders=(order,))).power_up_w == 400


@given(following_sites())
def test_what_is_offered_is_what_a_command_for_it_gets(view: SiteView) -> None:
    """From rest, where nobody has to come down before another may rise: that is the next plan's."""
    devices = {name: replace(d, held=None, power_w=0) for name, d in view.devices.items() if name != "pv"}
    view = replace(view, orders=(), devices=devices, meter=MeterView(power_w=view.house_w or 0))
    made = envelope(view)
    movable = [view for view in view.devices.values() if view.online and view.capabilities is not None]
    for offered_w, sign in ((made.power_up_w, -1), (made.power_down_w, 1)):
        target_w = sum(device.likely_w for device in movable) + sign * offered_w
        if not offered_w:
            continue
        asked: Command = replace(
            SOME_COMMAND,
            targets=tuple(device.device_id for device in movable),
            type=CommandType.DISCHARGE if target_w < 0 else CommandType.CHARGE,
            power_w=abs(target_w),
        )
        order = order_of(asked)
        planned_w = make_plan(replace(view, orders=(order,))).commands[order.hash].planned_w
        # What is at its minimum rests, and cannot give a part of what it gave by itself.
        assert planned_w is not None
        assert (planned_w - target_w) * sign >= -tolerance_w(target_w) - STEP_W


def test_a_battery_that_cannot_go_on_as_it_does_offers_no_energy_on_top() -> None:
    """It covers the house with 9 kW and is soon empty: whatever is asked, the connection takes it in then."""
    covers = replace(_holding(1_000, 360), power_w=-9_000)
    made = envelope(site(covers, house_w=9_000))
    assert made.power_up_w == 1_000
    assert (made.energy_up_wh, made.energy_down_wh) == (0, 9_000 // 4 + 640)


@pytest.mark.parametrize(("permille", "power_w"), [(900, 11_000), (950, 5_500), (990, 0)])
def test_a_car_that_is_nearly_full_offers_to_take_less_and_less(permille: int, power_w: int) -> None:
    car = replace(PLAIN, vehicle=replace(V2G_SESSION, state_of_charge_permille=permille))
    made = envelope(site(car))
    assert made.power_down_w == power_w
    assert made.energy_down_wh <= (1000 - permille) * 60


@pytest.mark.parametrize(("age_s", "offers_w"), [(60.0, 0), (0.5, 8_000)])
def test_a_car_that_takes_less_than_it_may_offers_no_more_once_it_had_time(age_s: float, offers_w: int) -> None:
    held = Held(lowest_w=0, highest_w=11_000, age_s=age_s)
    assert envelope(site(replace(PLAIN, power_w=3_000, held=held))).power_down_w == offers_w


def test_a_car_that_declines_by_its_chargers_word_is_not_offered_to_take_anything() -> None:
    for base in (PLAIN, CAR):
        car = replace(base, vehicle=replace(base.vehicle or V2G_SESSION, declines=True))
        assert envelope(site(car)).power_down_w == 0


def test_a_car_that_begins_to_charge_whatever_is_ordered_is_counted_against_the_offer() -> None:
    car = replace(CAR, vehicle=replace(V2G_SESSION, charge_now=True, max_charge_w=6_000))
    made = envelope(site(BATTERY, car))
    assert made.power_up_w == 4_000
    assert made.energy_up_wh == 1_000


def test_a_car_that_leaves_in_the_quarter_offers_no_energy_after_that() -> None:
    leaving = replace(V2G_SESSION, departure_timestamp_us=START_US + 300 * 1_000_000)
    made = envelope(site(replace(CAR, vehicle=leaving)))
    assert made.power_down_w == 11_000
    assert made.energy_down_wh == 11_000 * 300 // 3600


def test_what_the_bound_on_cycles_leaves_of_the_day_is_all_the_energy() -> None:
    bounds = BoundsView(devices={"battery": Allowance(charge_left_permille=50)})
    made = envelope(site(_holding(10_000, 600), bounds=bounds))
    assert (made.energy_up_wh, made.energy_down_wh) == (500, 500)


def test_sun_that_is_held_back_takes_the_place_of_what_storage_takes_in() -> None:
    """No export is allowed and PV is at its bound: nobody knows how much more it would make."""
    held_back = replace(PV, power_w=-1_000, held=Held(lowest_w=-1_000, highest_w=None))
    view = site(replace(BATTERY, capabilities=capabilities(5_000, 5_000)), held_back, house_w=1_000)
    made = envelope(replace(view, limits=replace(view.limits, export_limit_w=0)))
    free = envelope(site(replace(BATTERY, capabilities=capabilities(5_000, 5_000)), replace(PV, power_w=-1_000)))
    assert made.power_down_w <= 6_000
    assert free.power_down_w == 6_000


def test_what_a_phase_takes_of_a_shared_command_is_not_offered() -> None:
    """Shares of two batteries are equal, and the one's phase bears no more: its part is made up for by nobody."""
    one = replace(BATTERY, device_id="one", phases=(1,))
    two = replace(BATTERY, device_id="two", phases=(2,))
    sun = replace(PV, phases=(2,), power_w=-8_000, capabilities=capabilities(0, 8_000, follows_setpoint=False))
    view = site(one, two, sun, house_w=0)
    view = replace(view, limits=replace(view.limits, phase_limit_w=8_000, difference_limit_w=None))
    made = envelope(view)
    target_w = -8_000 - made.power_up_w
    order = order_of(replace(SOME_COMMAND, targets=(), point=Point.CONNECTION, power_w=-target_w))
    planned_w = make_plan(replace(view, orders=(order,))).commands[order.hash].planned_w
    assert planned_w is not None
    assert planned_w <= target_w + tolerance_w(target_w)
