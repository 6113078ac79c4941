"""The rule of a quarter, by which earlier releases shared out: as they did it, for the records that they made."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.control.allocation import Range, fill
from agent.control.command import CommandType
from agent.control.fewest import Carrier, share
from agent.control.plan import make_plan
from agent.control.site import Held, Sharing, SiteView
from tests.agent.control.support import BATTERY, SOME_COMMAND, order_of, site

BANK = Carrier(range=Range(-10_000, 10_000))
CAR = Carrier(range=Range(-10_000, 10_000, 1_380), is_car=True)
carriers = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        Carrier,
        range=st.builds(Range, st.integers(-20_000, 0), st.integers(0, 20_000), st.sampled_from([0, 1_380, 4_140])),
        is_car=st.booleans(),
        lowest_w=st.integers(-20_000, 0),
        highest_w=st.integers(0, 20_000),
        disobeys=st.booleans(),
    ),
    min_size=1,
)
totals = st.integers(-60_000, 60_000)


def _moving(carrier: Carrier, power_w: int) -> Carrier:
    return replace(carrier, lowest_w=power_w, highest_w=power_w)


def _busy(powers: dict[str, int]) -> set[str]:
    return {name for name, power in powers.items() if power}


@given(carriers, totals)
def test_the_sum_is_never_further_off_than_with_all_devices(some: dict[str, Carrier], total: int) -> None:
    over_all = fill(total, {name: each.range for name, each in some.items()})
    assert abs(total - sum(share(total, some).values())) <= abs(total - sum(over_all.values()))


@given(carriers, totals)
def test_powers_stay_in_their_ranges_and_above_the_minimum_currents(some: dict[str, Carrier], total: int) -> None:
    for name, power in share(total, some).items():
        assert some[name].range.low <= power <= some[name].range.high
        assert power <= 0 or power >= some[name].range.minimum


@given(carriers, totals)
def test_the_order_of_devices_changes_nothing(some: dict[str, Carrier], total: int) -> None:
    assert share(total, some) == share(total, dict(reversed(some.items())))


@given(st.integers(1, 6), totals)
def test_what_was_chosen_is_chosen_again_once_it_moves(count: int, total: int) -> None:
    some = {f"{number}": (CAR, BANK)[number % 2] for number in range(count)}
    first = share(total, some)
    moving = {name: _moving(each, first[name]) for name, each in some.items()}
    assert share(total, moving) == first


def test_a_small_total_is_carried_by_one_of_many() -> None:
    assert share(-2_000, {"a": BANK, "b": BANK, "c": BANK}) == {"a": -2_000, "b": 0, "c": 0}


def test_a_large_total_is_still_carried_by_all_at_a_common_level() -> None:
    assert share(-9_000, {"a": BANK, "b": BANK, "c": BANK}) == {"a": -3_000, "b": -3_000, "c": -3_000}


def test_a_total_that_swings_about_the_threshold_starts_and_stops_nobody() -> None:
    some = {"a": BANK, "b": BANK}
    seen = []
    for total in [-4_900, -5_100, -4_900, -5_100, -4_900]:
        powers = share(total, some)
        some = {name: _moving(each, powers[name]) for name, each in some.items()}
        seen.append(_busy(powers))
    assert seen == [{"a"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}]


def test_a_car_is_discharged_only_when_the_batteries_have_enough_to_do() -> None:
    assert _busy(share(-4_000, {"a-car": CAR, "bank": BANK})) == {"bank"}
    assert _busy(share(-12_000, {"a-car": CAR, "bank": BANK})) == {"a-car", "bank"}


def test_a_car_is_charged_before_a_battery() -> None:
    assert _busy(share(4_000, {"a-bank": BANK, "car": CAR})) == {"car"}


def test_a_total_below_a_cars_minimum_goes_to_the_battery() -> None:
    assert share(1_000, {"a-bank": BANK, "car": CAR}) == {"a-bank": 1_000, "car": 0}


def test_a_small_correction_turns_no_battery_when_another_can_take_it() -> None:
    assert _busy(share(-2_000, {"a": _moving(BANK, 3_000), "b": BANK})) == {"b"}


def test_nothing_is_staked_on_a_device_that_does_not_follow() -> None:
    assert _busy(share(-2_000, {"a": replace(BANK, disobeys=True), "b": BANK})) == {"b"}


def _two_batteries(**changes: object) -> SiteView:
    first = replace(BATTERY, device_id="a", held=Held(lowest_w=0, highest_w=0))
    order = order_of(replace(SOME_COMMAND, type=CommandType.DISCHARGE, power_w=1_000, targets=("a", "b")))
    return replace(site(first, replace(first, device_id="b"), orders=(order,), sharing=Sharing.QUARTER), **changes)  # type: ignore[arg-type] # any field


def test_a_plan_lets_the_second_battery_rest_and_says_why() -> None:
    orders = make_plan(_two_batteries()).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w, orders["b"].highest_w) == (-1_000, 0, 0)
    assert orders["b"].reason.startswith("rests, since others carry DISCHARGE 1000 W")
    assert orders["b"].reason.endswith("(command 'c')")


def test_what_is_not_on_every_phase_shares_as_before() -> None:
    view = _two_batteries()
    devices = {name: replace(each, phases=(1,)) for name, each in view.devices.items()}
    orders = make_plan(replace(view, devices=devices)).orders
    assert (orders["a"].lowest_w, orders["b"].lowest_w) == (-500, -500)
