"""Who carries a target: with the least loss and wear, without turning more than must, and without flapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.control import fewest, merit_order
from agent.control.allocation import Range, fill
from agent.control.losses import Losses, losses_of
from agent.control.merit_order import LEAST_PERCENT, START_PERCENT, Carrier, share, why_it_rests
from drivers.device import DeviceKind

BATTERY_LOSSES, CAR_LOSSES = losses_of(DeviceKind.BATTERY), losses_of(DeviceKind.CHARGER)


def _carrier(low: int = -10_000, high: int = 10_000, minimum: int = 0, losses: Losses = BATTERY_LOSSES) -> Carrier:
    return Carrier(range=Range(low, high, minimum), losses=losses, rated_import_w=high, rated_export_w=-low)


BANK = _carrier()
CAR = _carrier(minimum=1_380, losses=CAR_LOSSES)
efficiencies = st.one_of(
    st.none(),
    st.floats(80, 99).map(lambda percent: round(percent, 1)),
    st.lists(st.integers(1, 100), min_size=2, max_size=5, unique=True).flatmap(
        lambda loads: st.tuples(*(st.tuples(st.just(float(load)), st.floats(70, 99)) for load in sorted(loads)))
    ),
)
losses = st.builds(
    losses_of,
    st.sampled_from([DeviceKind.BATTERY, DeviceKind.CHARGER]),
    efficiencies,
    st.one_of(st.none(), st.integers(0, 400)),
    st.one_of(st.none(), st.integers(0, 400)),
)


@st.composite
def carriers(
    draw: st.DrawFn, most: int = 7, least: int = 1, *, at_rest: bool = False, minimums: bool = True
) -> dict[str, Carrier]:
    found = {}
    for name in draw(st.lists(st.sampled_from("abcdefghi"), min_size=least, max_size=most, unique=True)):
        low, high = draw(st.integers(-20_000, 0)), draw(st.integers(0, 20_000))
        found[name] = Carrier(
            range=Range(low, high, draw(st.sampled_from([0, 1_380, 4_140])) if minimums else 0),
            losses=draw(losses),
            rated_import_w=high + draw(st.sampled_from([0, 5_000])),
            rated_export_w=-low,
            lowest_w=0 if at_rest else draw(st.integers(-20_000, 0)),
            highest_w=0 if at_rest else draw(st.integers(0, 20_000)),
            disobeys=not at_rest and draw(st.booleans()),
            spent=not at_rest and draw(st.booleans()),
        )
    return found


totals = st.integers(-60_000, 60_000)


def _cost(powers: Mapping[str, int], some: Mapping[str, Carrier]) -> int:
    """Microwatts: what devices that rested lose, with the wear and what starting counts as."""
    cost = 0
    for name, power_w in powers.items():
        each = some[name]
        rating_w = max(abs(power_w), each.rated_import_w if power_w > 0 else each.rated_export_w)
        wear_ppm = each.losses.wear_in_ppm if power_w > 0 else each.losses.wear_out_ppm
        started = each.losses.fixed_of(rating_w) // 2 if power_w else 0
        cost += each.losses.lost(power_w, rating_w) + wear_ppm * abs(power_w) + started
    return cost


def _is_sensible(powers: Mapping[str, int], some: Mapping[str, Carrier]) -> bool:
    """Whether nobody has less than what it is set in motion for."""
    for name, power_w in powers.items():
        room = some[name].range
        least_w = (room.high if power_w > 0 else -room.low) * LEAST_PERCENT // 100
        if power_w > 0:
            least_w = max(least_w, room.minimum * START_PERCENT // 100)
        if 0 < abs(power_w) < least_w:
            return False
    return True


def _moving(some: Mapping[str, Carrier], powers: Mapping[str, int]) -> dict[str, Carrier]:
    return {name: replace(each, lowest_w=powers[name], highest_w=powers[name]) for name, each in some.items()}


def _busy(powers: Mapping[str, int]) -> set[str]:
    return {name for name, power in powers.items() if power}


def _goals(total: int, some: Mapping[str, Carrier]) -> Mapping[str, int]:
    return share(total, some).goals


def _of(total: int, **some: Carrier) -> Mapping[str, int]:
    return _goals(total, some)


# -- what holds always


@given(carriers(), totals)
def test_the_sum_is_never_further_off_than_with_all_devices(some: dict[str, Carrier], total: int) -> None:
    over_all = fill(total, {name: each.range for name, each in some.items()})
    assert abs(total - sum(_goals(total, some).values())) <= abs(total - sum(over_all.values()))


@given(carriers(), totals)
def test_powers_stay_in_their_ranges_and_above_the_minimum_currents(some: dict[str, Carrier], total: int) -> None:
    for name, power in _goals(total, some).items():
        assert some[name].range.low <= power <= some[name].range.high
        assert power <= 0 or power >= some[name].range.minimum


@given(carriers(), totals)
def test_the_order_of_devices_changes_nothing(some: dict[str, Carrier], total: int) -> None:
    assert share(total, some) == share(total, dict(reversed(some.items())))


@given(carriers(5, at_rest=True), totals)
def test_no_more_is_lost_than_by_equal_sharing(some: dict[str, Carrier], total: int) -> None:
    goals, equal = _goals(total, some), fill(total, {name: each.range for name, each in some.items()})
    assume(sum(goals.values()) == sum(equal.values()) and _is_sensible(equal, some))
    assert _cost(goals, some) <= _cost(equal, some)


@given(carriers(5, at_rest=True), totals)
def test_no_more_is_lost_than_by_the_rule_of_a_quarter(some: dict[str, Carrier], total: int) -> None:
    goals = _goals(total, some)
    quarter = fewest.share(
        total,
        {name: fewest.Carrier(range=each.range, is_car=each.losses.wear_in_ppm == 0) for name, each in some.items()},
    )
    assume(sum(goals.values()) == sum(quarter.values()) and _is_sensible(quarter, some))
    assert _cost(goals, some) <= _cost(quarter, some)


@settings(max_examples=40)
@given(carriers(7, 7, at_rest=True, minimums=False), totals)
def test_of_many_devices_no_more_than_one_fixed_loss_more_is_lost_than_at_best(
    some: dict[str, Carrier], total: int
) -> None:
    assume(all(max(-each.range.low, each.range.high) >= 100 for each in some.values()))  # below, whole watts decide
    ranked = _goals(total, some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merit_order, "MOST_EXACT", 7)
        best = _goals(total, some)
    assume(sum(ranked.values()) == sum(best.values()))
    assert _cost(ranked, some) <= _cost(best, some) + max(_cost_of_least(each) for each in some.values())


def _cost_of_least(each: Carrier) -> int:
    """What it costs at the least, where that is dearest: least powers may come between."""
    least_w = max(-each.range.low, each.range.high) * LEAST_PERCENT // 100
    return max(_cost({"": power_w}, {"": each}) for power_w in (-least_w, least_w)) + each.losses.fixed_of(25_000)


@given(carriers(5, at_rest=True), totals)
def test_what_was_chosen_is_chosen_again_once_it_moves(some: dict[str, Carrier], total: int) -> None:
    first = _goals(total, some)
    assume(
        _is_sensible(first, some) and all(not power or abs(power) >= merit_order.MOVES_W for power in first.values())
    )
    assert _busy(_goals(total, _moving(some, first))) == _busy(first)


@given(
    st.lists(st.sampled_from([BANK, CAR, _carrier(-5_000, 5_000), _carrier(-3_000, 7_000)]), min_size=1, max_size=5),
    st.integers(-30_000, 30_000),
    st.integers(1, 100),
)
def test_a_total_that_wavers_a_little_starts_and_stops_each_device_once_at_most(
    kinds: list[Carrier], total: int, change: int
) -> None:
    some = {f"{number}": each for number, each in enumerate(kinds)}
    assume(total * (total + change) > 0)
    seen = []
    for wavering in [total, total + change] * 4:
        goals = _goals(wavering, some)
        some = _moving(some, goals)
        seen.append(_busy(goals))
    for name in some:
        turns = [name in busy for busy in seen]
        assert sum(before != after for before, after in pairwise(turns)) <= 1, (name, seen)


# -- who goes first


def test_a_small_total_is_carried_by_one_of_many() -> None:
    assert _of(-2_000, a=BANK, b=BANK, c=BANK) == {"a": -2_000, "b": 0, "c": 0}


def test_a_large_total_is_still_carried_by_all_at_a_common_level() -> None:
    assert _of(-24_000, a=BANK, b=BANK, c=BANK) == {"a": -8_000, "b": -8_000, "c": -8_000}


def test_twins_share_from_where_their_fixed_losses_are_made_up_for() -> None:
    """50 W fixed; by the usual curve both lose as much as one at 5 kW, and starting counts for half the fixed loss."""
    assert _busy(_of(-5_900, a=BANK, b=BANK)) == {"a"}
    assert _of(-6_400, a=BANK, b=BANK) == {"a": -3_200, "b": -3_200}


def test_without_a_fixed_loss_nobody_need_rest() -> None:
    free = replace(BANK, losses=losses_of(DeviceKind.BATTERY, ((10.0, 97.0), (50.0, 95.0), (100.0, 93.0))))
    assert _of(-4_000, a=free, b=free) == {"a": -2_000, "b": -2_000}


def test_the_more_efficient_one_is_taken() -> None:
    better = replace(BANK, losses=losses_of(DeviceKind.BATTERY, 96.0))
    assert _busy(_of(-2_000, a=BANK, b=better)) == {"b"}


def test_beside_a_better_one_the_worse_takes_less() -> None:
    better = replace(BANK, losses=losses_of(DeviceKind.BATTERY, 96.0))
    powers = _of(-16_000, a=BANK, b=better)
    assert powers["b"] < powers["a"] < 0


def test_a_total_that_swings_about_the_threshold_starts_and_stops_nobody() -> None:
    some, seen = {"a": BANK, "b": BANK}, []
    for total in [-5_900, -6_400, -5_900, -4_000, -6_000, -3_000, -6_000]:
        powers = _goals(total, some)
        some = _moving(some, powers)
        seen.append(_busy(powers))
    assert seen == [{"a"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a"}, {"a"}]


def test_a_car_is_discharged_only_when_the_batteries_have_enough_to_do() -> None:
    assert _busy(_of(-4_000, car=CAR, bank=BANK)) == {"bank"}
    assert _busy(_of(-12_000, car=CAR, bank=BANK)) == {"car", "bank"}


def test_a_car_is_charged_before_a_battery() -> None:
    assert _busy(_of(4_000, bank=BANK, car=CAR)) == {"car"}


def test_a_car_goes_before_a_battery_that_is_worn_more() -> None:
    dear = replace(BANK, losses=losses_of(DeviceKind.BATTERY, wear_wh_per_kwh=400))
    assert _busy(_of(-4_000, bank=dear, car=CAR)) == {"car"}


def test_a_total_below_a_cars_minimum_goes_to_the_battery() -> None:
    assert _of(1_000, bank=BANK, car=CAR) == {"bank": 1_000, "car": 0}


def test_a_car_does_not_start_for_a_total_that_will_not_hold_it() -> None:
    assert _busy(_of(1_500, bank=BANK, car=CAR)) == {"bank"}
    assert _busy(_of(1_500, bank=BANK, car=replace(CAR, lowest_w=1_500, highest_w=1_500))) == {"car"}


def test_a_small_correction_turns_no_battery_when_another_can_take_it() -> None:
    charging = replace(BANK, lowest_w=3_000, highest_w=3_000)
    assert _busy(_of(-2_000, a=charging, b=BANK)) == {"b"}


def test_nothing_is_staked_on_a_device_that_does_not_follow() -> None:
    assert _busy(_of(-2_000, a=replace(BANK, disobeys=True), b=BANK)) == {"b"}


def test_a_battery_with_hardly_any_cycles_left_goes_last() -> None:
    spent = replace(BANK, spent=True)
    assert _busy(_of(-9_000, a=spent, b=BANK)) == {"b"}
    assert _of(-15_000, a=spent, b=BANK) == {"a": -5_000, "b": -10_000}
    assert _busy(_of(-2_000, a=spent, car=CAR)) == {"car"}


def test_who_helps_out_does_a_sensible_part_and_stays_until_the_others_have_some_to_spare() -> None:
    some = {"bank": BANK, "car": CAR}
    powers = _goals(-10_010, some)
    assert powers == {"bank": -9_510, "car": -500}
    some = _moving(some, powers)
    assert _busy(_goals(-9_700, some)) == {"bank", "car"}
    assert _busy(_goals(-9_400, some)) == {"bank"}


def test_what_the_phases_do_not_bear_is_spread_further() -> None:
    some = {"a": BANK, "b": BANK, "c": BANK}
    shares = share(-5_000, some, lambda powers: min(powers.values()) >= -3_000)
    assert shares.goals == {"a": -2_500, "b": -2_500, "c": 0}
    assert share(-5_000, some, lambda _: False).goals == fill(-5_000, dict.fromkeys(some, BANK.range))


# -- on the way there


def _ramped(some: Mapping[str, Carrier], powers: Mapping[str, int], step: int) -> dict[str, Carrier]:
    return {
        name: replace(
            each,
            lowest_w=powers[name],
            highest_w=powers[name],
            now=Range(
                max(each.range.low, min(0, powers[name]) - step),
                min(each.range.high, max(0, powers[name]) + step),
                each.range.minimum,
            ),
        )
        for name, each in some.items()
    }


@given(carriers(6, minimums=False), totals, st.integers(100, 2_000))
def test_while_a_ramp_holds_some_back_the_others_bring_the_sum_as_near_as_it_can_be(
    some: dict[str, Carrier], total: int, step: int
) -> None:
    ramped = _ramped(some, dict.fromkeys(some, 0), step)
    shares = share(total, ramped)
    now = {name: each.now or each.range for name, each in ramped.items()}
    assert abs(total - sum(shares.powers.values())) <= abs(total - sum(fill(total, now).values()))
    assert all(now[name].low <= power <= now[name].high for name, power in shares.powers.items())


def test_after_the_ramp_those_carry_it_that_would_without_one() -> None:
    some = {"a": BANK, "b": BANK, "c": BANK}
    powers: Mapping[str, int] = dict.fromkeys(some, 0)
    sums, busy = [], []
    for _ in range(12):
        powers = share(-3_000, _ramped(some, powers, 500)).powers
        sums.append(sum(powers.values()))
        busy.append(_busy(powers))
    assert sums[:4] == [-1_500, -3_000, -3_000, -3_000]
    assert busy[0] == {"a", "b", "c"}
    assert busy[-1] == {"a"}
    assert all(later <= before for before, later in pairwise(busy))


# -- why


@pytest.mark.parametrize(
    ("mine", "total", "says"),
    [
        (replace(BANK, disobeys=True), -2_000, "it does not follow"),
        (replace(BANK, spent=True), -2_000, "hardly any of its full cycles of the day is left"),
        (replace(BANK, lowest_w=2_000, highest_w=2_000), -2_000, "it would have to turn round"),
        (CAR, 1_500, "it takes 1380 W at the least"),
        (CAR, -2_000, "it would be worn more"),
        (_carrier(low=0), -2_000, "it can give nothing now"),
        (_carrier(high=0), 2_000, "it can take nothing now"),
        (BANK, -2_000, "less is lost so"),
    ],
)
def test_it_is_told_why_one_rests_and_not_another(mine: Carrier, total: int, says: str) -> None:
    assert why_it_rests(mine, total, [BANK]) == says
