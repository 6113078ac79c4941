"""PARTIAL from the start: what will stand against a command before its end is seen when it comes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import foresight
from agent.control.bounds import BoundSettings, Counted, Use
from agent.control.bounds_ahead import NOTHING_AHEAD, Ahead
from agent.control.command import Command, CommandType, Mode, Point
from agent.control.foresight import foresee, hardship
from agent.control.plan import make_plan
from agent.control.site import Defaults, DeviceView, Held, Sharing, SiteView
from agent.evidence.statements import CommandState
from drivers.device import VehicleSession
from tests.agent.control.strategies import sites
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

DISCHARGE = replace(SOME_COMMAND, targets=("car",), power_w=10_000, end_us=START_US + 3 * HOUR_US)


def shortfall(command: Command, view: SiteView, ahead: Ahead = NOTHING_AHEAD) -> str:
    return foresight.shortfall(order_of(command), view, ahead)


def _car(**changes: object) -> VehicleSession:
    return replace(V2G_SESSION, **changes)  # type: ignore[arg-type]  # fields of VehicleSession


def _leaves(hours: float, need_wh: int) -> VehicleSession:
    return _car(departure_timestamp_us=START_US + round(hours * HOUR_US), energy_needed_wh=need_wh)


def test_a_discharge_that_the_departure_will_end_is_partial_from_the_start() -> None:
    view = site(replace(CAR, vehicle=_leaves(5, 10_000)), BATTERY)
    assert not make_plan(replace(view, orders=(order_of(DISCHARGE),))).commands[order_of(DISCHARGE).hash].short
    said = shortfall(DISCHARGE, view)
    assert "of 30000 Wh are possible" in said
    assert "car charges for its departure" in said
    # 5 h less 1 h 8 min for the need and 15 min: 3 h 37 min of slack go 2.1 times as fast while it gives 10 kW.
    assert 15_000 < int(said.split(" Wh")[0]) < 18_500


def test_a_discharge_that_the_owners_minimum_will_end_is_partial_from_the_start() -> None:
    said = shortfall(DISCHARGE, site(replace(CAR, vehicle=_car())))
    assert said.startswith("24000 Wh of 30000 Wh are possible")  # 70 to 30 % of 60 kWh
    assert "owner's minimum" in said


@pytest.mark.parametrize("change", [{"end_us": START_US + HOUR_US}, {"max_energy_wh": 10_000}, {"power_w": 4_000}])
def test_what_can_be_done_to_its_end_is_accepted(change: dict[str, int]) -> None:
    command = replace(DISCHARGE, **change)  # type: ignore[arg-type]  # fields of Command
    assert shortfall(command, site(replace(CAR, vehicle=_leaves(24, 1_000)))) == ""


def test_a_battery_beside_the_car_takes_over() -> None:
    command = replace(DISCHARGE, targets=("car", "battery"))
    view = site(replace(CAR, vehicle=_leaves(5, 10_000)), replace(BATTERY, capabilities=capabilities(30_000, 30_000)))
    assert shortfall(command, view) == ""


def test_a_battery_that_carries_it_alone_until_it_is_empty_is_foreseen_as_the_plan_lets_it() -> None:
    """1 kWh at 4 kW is gone in a quarter of an hour; the car beside it gives no more than 2 kW from then on."""
    command = replace(DISCHARGE, targets=("car", "battery"), power_w=4_000, end_us=START_US + HOUR_US)
    battery = replace(
        BATTERY,
        capabilities=replace(capabilities(24_000, 24_000), energy_capacity_wh=10_000),
        state_of_charge_permille=200,
    )
    car = replace(CAR, capabilities=capabilities(2_000, 2_000))
    view = site(car, battery)
    for power_w in (0, -4_000):
        seen = site(car, replace(battery, power_w=power_w), orders=(order_of(command),))
        orders = make_plan(seen).orders
        assert (orders["battery"].lowest_w, orders["car"].lowest_w) == (-4_000, 0)
    said = shortfall(command, view)
    assert said.startswith("2500 Wh of 4000 Wh are possible")
    assert "battery is at its least charge from" in said


def test_what_the_local_bound_of_a_day_will_end_is_partial_from_the_start() -> None:
    command = replace(DISCHARGE, targets=("battery",), power_w=4_000, end_us=START_US + HOUR_US)
    view = site(BATTERY, house_w=0)
    for left_wh, foreseen in ((1_000, "1000 Wh of 4000 Wh are possible"), (4_500, ""), (None, "")):
        settings = BoundSettings(energy_per_day_wh=None if left_wh is None else 10_000 + left_wh)
        used = Counted(devices={"battery": Use(energy_milliwatt_hours={START_US // HOUR_US: 10_000_000})})
        said = shortfall(command, view, Ahead(settings=settings, counted=used))
        assert said.startswith(foreseen) if foreseen else said == ""
        assert not foreseen or "all that commands may move in a day (local bound: energy per day)" in said


def test_a_battery_that_is_too_small_for_what_the_car_charges_does_not() -> None:
    command = replace(DISCHARGE, targets=("car", "battery"))
    small = replace(BATTERY, capabilities=capabilities(4_000, 4_000))
    said = shortfall(command, site(replace(CAR, vehicle=_leaves(5, 10_000)), small))
    assert "of 30000 Wh are possible, for car charges for its departure" in said


def _battery(capacity_wh: int | None, permille: int = 600) -> DeviceView:
    return replace(
        BATTERY,
        capabilities=capabilities(10_000, 10_000, energy_capacity_wh=capacity_wh),
        state_of_charge_permille=permille,
    )


HOURS_OF_BATTERY = replace(SOME_COMMAND, power_w=5_000, end_us=START_US + 2 * HOUR_US)


def test_a_battery_that_will_be_empty_before_the_end_is_partial_from_the_start() -> None:
    said = shortfall(HOURS_OF_BATTERY, site(_battery(10_000)))
    assert said == "5000 Wh of 10000 Wh are possible, for battery is at its least charge from 2027-01-15 09:00:00Z on"
    assert shortfall(HOURS_OF_BATTERY, site(_battery(20_000))) == ""
    assert shortfall(HOURS_OF_BATTERY, site(_battery(None))) == ""


def test_a_battery_that_will_be_full_before_the_end_is_partial_from_the_start() -> None:
    charge = replace(HOURS_OF_BATTERY, type=CommandType.CHARGE)
    said = shortfall(charge, site(_battery(10_000)))
    assert said == "4000 Wh of 10000 Wh are possible, for battery is full from 2027-01-15 08:48:00Z on"
    assert shortfall(replace(charge, max_energy_wh=4_000), site(_battery(10_000))) == ""
    assert shortfall(replace(charge, max_energy_wh=5_000), site(_battery(10_000))).startswith("4000 Wh of 5000 Wh")


def test_what_is_kept_for_the_grids_frequency_is_not_counted_on() -> None:
    keeps = Defaults(answers_frequency=True, frequency_reserve_permille=200)
    assert shortfall(HOURS_OF_BATTERY, site(_battery(10_000), defaults=keeps)).startswith("3000 Wh of 10000 Wh")


@pytest.mark.parametrize("targets", [(), ("battery", "car", "pv")])
@pytest.mark.parametrize("audience", [SOME_COMMAND.audience, "zone:north"])
def test_it_is_foreseen_for_the_whole_site_and_for_a_zone(targets: tuple[str, ...], audience: str) -> None:
    command = replace(HOURS_OF_BATTERY, audience=audience, targets=targets)
    view = site(_battery(10_000), replace(PV, power_w=0), replace(CAR, vehicle=_leaves(2, 10_000)))
    said = shortfall(command, view)
    assert "of 10000 Wh are possible" in said
    assert "battery is at its least charge" in said
    assert "car charges for its departure" in said
    larger = replace(view, devices={**view.devices, "battery": _battery(100_000)})
    assert "battery" not in shortfall(command, larger)


def test_it_is_foreseen_for_the_connection() -> None:
    command = replace(HOURS_OF_BATTERY, targets=(), point=Point.CONNECTION, power_w=4_000)
    # With 1 kW of house it gives 5 kW: 5 kWh above its minimum last for an hour of two.
    said = shortfall(command, site(_battery(10_000), house_w=1_000))
    assert said == "3000 Wh of 8000 Wh are possible, for battery is at its least charge from 2027-01-15 09:00:00Z on"
    assert shortfall(command, site(_battery(10_000), replace(PV, power_w=-3_000), house_w=1_000)) == ""


def test_it_is_foreseen_for_a_connection_that_shall_neither_take_nor_give() -> None:
    zero = replace(HOURS_OF_BATTERY, type=CommandType.CHARGE, targets=(), point=Point.CONNECTION, power_w=0)
    said = shortfall(zero, site(_battery(10_000), house_w=5_000))
    assert said.startswith("5000 Wh of what the house takes, or PV gives, cannot be made up for, for battery")


def test_a_car_that_leaves_before_the_end_is_seen() -> None:
    said = shortfall(DISCHARGE, site(replace(CAR, vehicle=_car(departure_timestamp_us=START_US + HOUR_US))))
    assert said == "10000 Wh of 30000 Wh are possible, for car leaves from 2027-01-15 09:00:00Z on"


def test_many_cars_with_as_many_turns_are_gone_through() -> None:
    cars = [
        replace(CAR, device_id=f"car-{number}", vehicle=_leaves(2 + number / 100, 10_000 + number))
        for number in range(200)
    ]
    command = replace(DISCHARGE, targets=(), power_w=400_000)
    assert "Wh are possible" in shortfall(command, site(*cars))


def _limit(hours: int, power_w: int, point: Point = Point.DEVICE) -> Command:
    end_us = START_US + hours * HOUR_US
    return curtail(power_w, mode=Mode.IMPORT_LIMIT, targets=("car",), point=point, end_us=end_us)


def _judged(command: Command, view: SiteView) -> tuple[CommandState, str]:
    order = order_of(command)
    return foresee(order, make_plan(replace(view, orders=(order,))), view)


def test_an_import_limit_that_leaves_a_car_short_at_its_departure_is_kept_and_says_so() -> None:
    view = site(replace(CAR, vehicle=replace(_leaves(6, 22_000), state_of_charge_permille=400)))
    # Four hours at 1 kW, then two at 8.8 kW: 21.6 of 22 kWh.
    assert _judged(_limit(4, 1_000), view) == (CommandState.ACCEPTED, "car will lack 400 Wh at its departure")
    assert _judged(_limit(4, 2_000), view) == (CommandState.ACCEPTED, "")
    # At the connection the house takes its kilowatt of it.
    assert _judged(_limit(4, 2_000, Point.CONNECTION), view)[1] == "car will lack 400 Wh at its departure"


def test_an_export_limit_and_a_departure_that_is_lost_anyway_cost_nobody_anything() -> None:
    view = site(replace(CAR, vehicle=replace(_leaves(1, 22_000), state_of_charge_permille=400)))
    assert _judged(_limit(4, 1_000), view) == (CommandState.ACCEPTED, "")
    view = site(replace(CAR, vehicle=replace(_leaves(6, 22_000), state_of_charge_permille=400)))
    assert hardship(curtail(0, end_us=START_US + 4 * HOUR_US), view) == ""


def test_the_nearest_departure_is_served_first_under_a_limit() -> None:
    cars = [
        replace(CAR, device_id=name, vehicle=replace(_leaves(hours, 4_000), state_of_charge_permille=400))
        for name, hours in (("a", 4), ("b", 3))
    ]
    command = replace(_limit(4, 2_000), targets=())
    assert hardship(command, site(*cars)) == ""
    assert hardship(replace(command, power_w=1_500), site(*cars)) == "a will lack 2000 Wh at its departure"


@given(sites(), st.sampled_from(CommandType), st.integers(0, 60_000), st.integers(1, 48), st.booleans())
def test_any_site_and_command_is_gone_through_and_says_no_more_than_was_asked(
    view: SiteView, kind: CommandType, power_w: int, hours: int, connection: bool
) -> None:
    if kind is CommandType.CURTAIL:
        command = curtail(power_w, end_us=START_US + hours * HOUR_US)
    elif kind is CommandType.IDLE:
        command = _rest(hours, targets=())
    else:
        point = Point.CONNECTION if connection else Point.DEVICE
        command = _rest(hours, targets=(), type=kind, power_w=power_w, point=point)
    said = shortfall(command, view)
    found = re.match(r"(\d+) Wh of (\d+) Wh", said)
    assert len(hardship(replace(curtail(power_w), mode=Mode.IMPORT_LIMIT), view)) <= 500
    if found is not None:
        assert int(found[1]) <= int(found[2]) <= power_w * hours
    assert len(said) <= 500


def _rest(hours: int, **changes: object) -> Command:
    base = replace(DISCHARGE, type=CommandType.IDLE, power_w=0, end_us=START_US + hours * HOUR_US)
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Command


def test_a_rest_that_goes_beyond_the_moment_at_which_the_car_must_charge_is_partial() -> None:
    view = site(replace(CAR, vehicle=_leaves(6, 22_000)))  # it must begin 2.5 h before
    assert shortfall(_rest(3), view) == ""
    assert "charges for its departure from 2027-01-15 11:30:00Z on" in shortfall(_rest(4), view)
    assert shortfall(_rest(4), site(replace(CAR, vehicle=_leaves(6, 0)))) == ""


def test_a_charge_that_brings_the_car_what_it_needs_is_accepted() -> None:
    view = site(replace(CAR, vehicle=replace(_leaves(6, 22_000), state_of_charge_permille=400)))
    assert shortfall(_rest(6, type=CommandType.CHARGE, power_w=5_000), view) == ""
    assert "departure" in shortfall(_rest(6, type=CommandType.CHARGE, power_w=2_000), view)


def test_nothing_is_foreseen_without_a_clock_and_at_a_connection_that_nobody_measures() -> None:
    view = site(replace(CAR, vehicle=_leaves(5, 10_000)))
    assert shortfall(DISCHARGE, replace(view, now=replace(view.now, time_known=False))) == ""
    assert shortfall(replace(DISCHARGE, point=Point.CONNECTION), replace(view, meter=None)) == ""


def test_what_a_battery_does_already_is_not_foreseen_as_ramped() -> None:
    ahead = Ahead(settings=BoundSettings(ramp_permille_per_s=1), counted=Counted())
    command = replace(SOME_COMMAND, targets=("battery",), power_w=3_000, end_us=START_US + 60_000_000)
    assert shortfall(command, site(BATTERY), ahead)
    assert shortfall(command, site(replace(BATTERY, power_w=-3_000)), ahead) == ""
    assert shortfall(command, site(replace(BATTERY, power_w=3_000)), ahead)


@pytest.mark.parametrize(
    ("held_w", "charge_permille", "sharing", "state"),
    [
        (0, None, Sharing.LOSSES, CommandState.ACCEPTED),
        (0, 700, Sharing.LOSSES, CommandState.ACCEPTED),
        (0, 1_000, Sharing.LOSSES, CommandState.PARTIAL),
        (11_000, None, Sharing.LOSSES, CommandState.PARTIAL),  # It may charge, and does not.
        (0, None, Sharing.QUARTER, CommandState.PARTIAL),  # As records of earlier releases say.
    ],
)
def test_a_car_that_rests_because_it_may_not_charge_will_take_what_it_is_allowed(
    held_w: int, charge_permille: int | None, sharing: Sharing, state: CommandState
) -> None:
    car = replace(
        PLAIN,
        capabilities=capabilities(11_000, 0, minimum_import_w=1_380, follows_setpoint=False),
        held=Held(lowest_w=0, highest_w=held_w),
        vehicle=VehicleSession(transaction_id="t2", token_id="guest", state_of_charge_permille=charge_permille),
    )
    command = replace(SOME_COMMAND, targets=("plain",), type=CommandType.CHARGE, power_w=11_000)
    assert _judged(command, replace(site(car), sharing=sharing))[0] is state


@pytest.mark.parametrize("gives", [False, True])
@pytest.mark.parametrize("point", [Point.DEVICE, Point.CONNECTION])
def test_a_car_that_takes_nothing_by_its_chargers_word_is_partial_from_the_start(gives: bool, point: Point) -> None:
    """It tells no state of charge; but the charger says that the car itself takes nothing (OCPP: SuspendedEV)."""
    full = VehicleSession(transaction_id="t2", token_id="guest", declines=True)
    base = CAR if gives else PLAIN
    car = replace(base, device_id="plain", held=Held(lowest_w=0, highest_w=0), vehicle=full)
    command = replace(SOME_COMMAND, targets=("plain",), type=CommandType.CHARGE, power_w=11_000, point=point)
    state, reason = _judged(command, site(car))
    assert state is CommandState.PARTIAL
    assert "plain: its charger says that the car takes nothing (SuspendedEV)" in reason
    taking = replace(car, vehicle=replace(full, declines=False))
    assert "SuspendedEV" not in _judged(command, site(taking))[1]


def test_others_take_the_part_of_a_car_that_takes_nothing() -> None:
    declining = replace(
        CAR, device_id="a", held=Held(lowest_w=0, highest_w=0), vehicle=replace(V2G_SESSION, declines=True)
    )
    other = replace(CAR, device_id="b", held=Held(lowest_w=0, highest_w=0))
    command = replace(SOME_COMMAND, targets=("a", "b"), type=CommandType.CHARGE, power_w=6_000)
    assert _judged(command, site(declining, other)) == (CommandState.ACCEPTED, "")
    discharge = replace(command, type=CommandType.DISCHARGE)
    assert _judged(discharge, site(declining)) == (CommandState.ACCEPTED, "")
