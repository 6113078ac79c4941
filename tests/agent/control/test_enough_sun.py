"""No command and no hand holds PV back so far that the connection or a fuse has too much to carry (SAFETY 8)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.command import Command, CommandType
from agent.control.inputs import InputClamp
from agent.control.override import Override
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import Held, MeterView, SiteView
from tests.agent.control.support import BATTERY, HOUR_US, PLAIN, PV, SOME_COMMAND, START_US, curtail, order_of, site

SUNNY = replace(PV, power_w=-8_000)
CHARGE = replace(SOME_COMMAND, targets=(), type=CommandType.CHARGE, power_w=40_000)
HELD = Override(device_id="pv", power_w=0, since_us=START_US, until_us=START_US + HOUR_US, by="me")


def _limited(view: SiteView, import_w: int) -> SiteView:
    return replace(view, limits=replace(view.limits, import_limit_w=import_w))


@pytest.mark.parametrize("command", [curtail(0), curtail(0, targets=("pv",)), CHARGE])
def test_a_command_leaves_the_sun_that_the_connection_needs(command: Command) -> None:
    """The house takes 25 kW, the contract allows 20 kW: without its 8 kW of sun it would be 25 kW."""
    view = _limited(site(SUNNY, house_w=25_000, orders=(order_of(command),)), 20_000)
    order = make_plan(view).orders["pv"]
    assert order.lowest_w == -5_000
    assert Rule.CONNECTION_IMPORT in order.bound_by


def test_what_the_connection_does_not_need_is_held_back_as_ordered() -> None:
    view = _limited(site(SUNNY, house_w=15_000, orders=(order_of(curtail(0)),)), 20_000)
    assert make_plan(view).orders["pv"].lowest_w == 0


def test_where_a_command_bounds_a_device_it_is_not_said_that_nobody_commands() -> None:
    plan = make_plan(site(SUNNY, BATTERY, house_w=1_000, orders=(order_of(curtail(0)),)))
    assert "nobody commands" not in plan.orders["pv"].reason
    assert plan.orders["pv"].reason.startswith("nobody orders a power: it produces what it can; bound by")


def test_a_hold_by_hand_and_a_wired_import_limit_leave_it_too() -> None:
    view = _limited(site(SUNNY, house_w=25_000, overrides={"pv": HELD}), 20_000)
    assert make_plan(view).orders["pv"].lowest_w == -5_000
    wired = (InputClamp(name="relay", import_limit_w=21_000),)
    view = site(SUNNY, house_w=25_000, inputs=wired, orders=(order_of(curtail(0)),))
    assert make_plan(view).orders["pv"].lowest_w == -4_000


def test_a_fuse_gets_its_sun_too() -> None:
    """Phase 1 carries 16 kW of house beside a fuse of 14.5 kW, with 8 kW of sun over three phases."""
    meter = MeterView(power_w=12_000, phase_power_w=(16_000 - 2_667, 667, -2_000))
    view = replace(site(SUNNY, house_w=20_000, orders=(order_of(curtail(0)),)), meter=meter)
    order = make_plan(view).orders["pv"]
    assert order.lowest_w is not None
    assert -order.lowest_w / 3 >= 16_000 - 63 * 230 - 1
    assert Rule.PHASE in order.bound_by


@pytest.mark.parametrize("wired", [True, False])
def test_no_more_sun_than_contract_and_wires_let_out(wired: bool) -> None:
    """A silent charger is counted at 11 kW, and may take nothing: what is let in for its sake would go out."""
    charger = replace(PLAIN, online=False, power_w=0, held=Held(lowest_w=0, highest_w=11_000))
    sun = replace(PV, power_w=-500, held=Held(lowest_w=-500, highest_w=None))
    clamps = (InputClamp(name="relay", export_limit_w=0),) if wired else ()
    view = _limited(site(sun, charger, house_w=500, inputs=clamps), 8_000)
    if not wired:
        view = replace(view, limits=replace(view.limits, export_limit_w=0))
    order = make_plan(view).orders["pv"]
    assert order.lowest_w is not None
    assert -order.lowest_w <= 500


@pytest.mark.parametrize(("house_w", "let_w"), [(500, 500), (19_000, 4_600)])
def test_a_fuse_that_carries_too_much_gets_more_sun_than_may_go_out_and_one_that_might_does_not(
    house_w: int, let_w: int
) -> None:
    """All on phase 1; the other phases export as much, by what is not controlled."""
    charger = replace(PLAIN, online=False, power_w=0, held=Held(lowest_w=0, highest_w=15_000), phases=(1,))
    sun = replace(PV, power_w=0, held=Held(lowest_w=0, highest_w=None), phases=(1,))
    elsewhere_w = 0 if house_w < 1_000 else -house_w
    view = site(sun, charger, inputs=(InputClamp(name="relay", export_limit_w=0),))
    meter = MeterView(power_w=house_w + elsewhere_w, phase_power_w=(house_w, elsewhere_w // 2, elsewhere_w // 2))
    order = make_plan(replace(view, meter=meter)).orders["pv"]
    assert order.lowest_w is not None
    assert -order.lowest_w <= let_w
    assert -order.lowest_w >= house_w - 63 * 230


def test_local_stop_goes_before_it() -> None:
    view = _limited(site(SUNNY, house_w=25_000, stop="me", orders=(order_of(curtail(0)),)), 20_000)
    order = make_plan(view).orders["pv"]
    assert (order.lowest_w, order.highest_w) == (0, 0)


@given(
    house_w=st.integers(0, 40_000), sun_w=st.integers(0, 8_000), import_w=st.integers(0, 40_000),
    ordered_w=st.integers(0, 8_000),
)  # fmt: skip
def test_curtailed_sun_never_makes_an_import_too_large_that_was_not(
    house_w: int, sun_w: int, import_w: int, ordered_w: int
) -> None:
    view = site(replace(PV, power_w=-sun_w), BATTERY, house_w=house_w, orders=(order_of(curtail(ordered_w)),))
    order = make_plan(_limited(view, import_w)).orders["pv"]
    left_w = sun_w if order.lowest_w is None else min(sun_w, -order.lowest_w)
    assert house_w - left_w <= max(import_w, house_w - sun_w)
    # And the command is obeyed as far as that allows.
    assert left_w <= max(ordered_w, house_w - import_w + 100)
