"""PARTIAL from the start: what will stand against a command before its end is seen when it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.control.command import Command, CommandType, Point
from agent.control.foresight import shortfall
from agent.control.plan import make_plan
from drivers.device import VehicleSession
from tests.agent.control.support import BATTERY, CAR, HOUR_US, SOME_COMMAND, START_US, V2G_SESSION, order_of, site

DISCHARGE = replace(SOME_COMMAND, targets=("car",), power_w=10_000, end_us=START_US + 3 * HOUR_US)


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
    assert shortfall(command, site(replace(CAR, vehicle=_leaves(5, 10_000)), BATTERY)) == ""


def _rest(hours: int, **changes: object) -> Command:
    base = replace(DISCHARGE, type=CommandType.IDLE, power_w=0, end_us=START_US + hours * HOUR_US)
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Command


def test_a_rest_that_goes_beyond_the_moment_at_which_the_car_must_charge_is_partial() -> None:
    view = site(replace(CAR, vehicle=_leaves(6, 22_000)))  # it must begin 2.5 h before
    assert shortfall(_rest(3), view) == ""
    assert "charges for its departure from 2027-01-15 11:30:00Z on" in shortfall(_rest(4), view)
    assert shortfall(_rest(4), site(replace(CAR, vehicle=_leaves(6, 0)))) == ""


def test_a_charge_that_brings_the_car_what_it_needs_is_accepted() -> None:
    view = site(replace(CAR, vehicle=_leaves(6, 22_000)))
    assert shortfall(_rest(6, type=CommandType.CHARGE, power_w=5_000), view) == ""
    assert "departure" in shortfall(_rest(6, type=CommandType.CHARGE, power_w=2_000), view)


def test_nothing_is_foreseen_for_the_connection_and_without_a_clock() -> None:
    view = site(replace(CAR, vehicle=_leaves(5, 10_000)))
    assert shortfall(replace(DISCHARGE, point=Point.CONNECTION), view) == ""
    assert shortfall(DISCHARGE, replace(view, now=replace(view.now, time_known=False))) == ""
