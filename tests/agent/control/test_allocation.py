"""Sharing out: within ranges, at a common level, never above a limit, lower before raise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.control.allocation import Range, fill, fit, hold_raises

ranges = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(Range, st.integers(-20_000, 0), st.integers(0, 20_000), st.sampled_from([0, 1_380, 4_140])),
    min_size=1,
)
wishes = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20_000), min_size=1)


@given(ranges, st.integers(-100_000, 100_000))
def test_powers_stay_in_their_ranges_and_above_the_minimum_currents(given_ranges: dict[str, Range], total: int) -> None:
    for name, power in fill(total, given_ranges).items():
        assert given_ranges[name].low <= power <= given_ranges[name].high
        assert power <= 0 or power >= given_ranges[name].minimum


@given(ranges, st.integers(-100_000, 100_000))
def test_without_minimum_currents_the_sum_is_met_whenever_it_can_be(given_ranges: dict[str, Range], total: int) -> None:
    free = {name: Range(r.low, r.high) for name, r in given_ranges.items()}
    reachable = min(max(total, sum(r.low for r in free.values())), sum(r.high for r in free.values()))
    assert sum(fill(total, free).values()) == reachable


@given(ranges, st.integers(0, 100_000))
def test_minimum_currents_never_lift_the_sum_above_a_total_that_can_be_kept(
    given_ranges: dict[str, Range], total: int
) -> None:
    assert sum(fill(total, given_ranges).values()) <= total


@given(wishes, st.integers(-1_000, 100_000))
def test_what_is_fitted_never_exceeds_the_limit_nor_the_wish(wanted: dict[str, int], limit: int) -> None:
    kept = fit(limit, wanted)
    assert sum(kept.values()) <= max(0, limit)
    assert all(0 <= kept[name] <= wanted[name] for name in wanted)


@given(wishes, wishes, wishes, st.integers(0, 100_000))
def test_nobody_is_raised_beyond_what_the_others_have_left_by_now(
    wanted: dict[str, int], granted: dict[str, int], metered: dict[str, int], limit: int
) -> None:
    wanted = fit(limit, wanted)
    raised = hold_raises(limit, wanted, granted, metered)
    now = {name: max(granted.get(name, 0), metered.get(name, 0)) for name in wanted}
    worst = sum(max(raised[name], now[name]) for name in wanted)
    assert worst <= max(limit, sum(max(now[name], min(now[name], wanted[name])) for name in wanted))
    assert all(raised[name] <= wanted[name] for name in wanted)


def test_equal_devices_share_equally_whatever_their_names() -> None:
    assert fill(-7_000, {"b": Range(-10_000, 0), "a": Range(-11_000, 0)}) == {"a": -3_500, "b": -3_500}


def test_a_device_below_its_minimum_pauses_so_that_another_can_charge() -> None:
    assert fill(2_000, {"a": Range(0, 11_000, 1_380), "b": Range(0, 11_000, 1_380)}) == {"a": 2_000, "b": 0}
