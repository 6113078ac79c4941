"""The grid's frequency: what is believed, how strongly the site answers, and how an answer ends without a value."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.frequency import Curve, FrequencyReading, GridFrequency, step_frequency

CURVE = Curve()
SIXTY = Curve(nominal_millihertz=60_000)


def step(
    state: GridFrequency, *millihertz: int, now_s: float, powers: dict[str, int] | None = None, curve: Curve = CURVE
) -> GridFrequency:
    readings = [FrequencyReading(value, now_s) for value in millihertz]
    return step_frequency(state, curve, readings, powers or {}, now_s)


@pytest.mark.parametrize(
    ("curve", "millihertz", "permille"),
    [
        (CURVE, 50_000, 0),
        (CURVE, 49_800, 0),
        (CURVE, 50_200, 0),
        (CURVE, 49_700, -40),  # 100 mHz beyond, of 2,500 for the full rating
        (CURVE, 50_300, 40),
        (CURVE, 45_000, -1000),
        (SIXTY, 59_800, 0),
        (SIXTY, 59_500, -100),
        (Curve(droop_permille=2), 49_700, -1000),
    ],
)
def test_the_answer_begins_at_the_dead_band_and_is_proportional(curve: Curve, millihertz: int, permille: int) -> None:
    assert curve.share_permille(millihertz) == permille


@given(st.integers(0, 5_000))
def test_the_answer_is_symmetric(deviation: int) -> None:
    assert CURVE.share_permille(50_000 + deviation) == -CURVE.share_permille(50_000 - deviation)


def test_an_event_remembers_where_devices_were_when_it_began_and_ends_a_little_inside_the_band() -> None:
    state = step(GridFrequency(), 49_790, now_s=1, powers={"battery": 500})
    assert (state.side, state.base_w) == (-1, {"battery": 500})
    state = step(state, 49_750, now_s=2, powers={"battery": -900})
    assert state.base_w == {"battery": 500}
    state = step(state, 49_805, now_s=3)
    assert (state.side, state.share_permille) == (-1, 0)
    state = step(state, 49_811, now_s=4)
    assert (state.side, state.base_w) == (0, {})


def test_from_one_side_to_the_other_is_another_event() -> None:
    state = step(GridFrequency(), 49_700, now_s=1, powers={"battery": 0})
    state = step(state, 50_300, now_s=2, powers={"battery": -300})
    assert (state.side, state.share_permille, state.base_w) == (1, 40, {"battery": -300})


def test_without_a_value_the_answer_holds_for_two_seconds_and_is_gone_ten_later() -> None:
    began = step(GridFrequency(), 49_450, now_s=0, powers={"battery": 0})
    shares, state = [], began
    for second in range(14):
        state = step(state, now_s=float(second))
        shares.append((state.share_permille, state.side))
    assert shares[0] == shares[2] == (-140, -1)
    assert shares[7] == (-70, -1)
    assert shares[12] == (0, 0)
    assert all(abs(later) <= abs(earlier) for (earlier, _), (later, _) in pairwise(shares))


def test_a_value_that_comes_back_is_answered_at_once() -> None:
    state = step(GridFrequency(), 49_450, now_s=0)
    state = step(state, now_s=8.0)
    assert step(state, 49_450, now_s=9.0).share_permille == -140


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        ((), "nothing measures"),
        ((44_999,), "no grid's frequency"),
        ((55_001,), "no grid's frequency"),
        ((0,), "no grid's frequency"),
        ((49_700, 49_801), "differ"),
    ],
)
def test_what_is_not_believed_says_why(values: tuple[int, ...], doubt: str) -> None:
    state = step(GridFrequency(), *values, now_s=1.0)
    assert doubt in state.doubt
    assert (state.share_permille, state.side) == (0, 0)


def test_two_meters_that_agree_are_believed_and_the_grid_meters_word_counts() -> None:
    assert step(GridFrequency(), 49_700, 49_760, now_s=1.0).share_permille == -40


def test_nonsense_beside_a_sound_value_is_passed_over() -> None:
    assert step(GridFrequency(), 0, 49_700, now_s=1.0).share_permille == -40


def test_an_old_value_is_none() -> None:
    state = step_frequency(GridFrequency(), CURVE, [FrequencyReading(49_700, 1.0)], {}, 3.1)
    assert state.share_permille == 0
    assert state.doubt
