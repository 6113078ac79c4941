"""Missed windows, as the platform counts them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.errors import RestoreError
from agent.control.missed_windows import (
    WINDOW_US,
    MissedWindows,
    decode_windows,
    encode_windows,
    looked,
    step_windows,
)


def _walk(*heard: bool, begin: MissedWindows | None = None) -> MissedWindows:
    """One look in each window, and a last one in the next."""
    state = begin or step_windows(MissedWindows(), 0, heard=True)
    for window, each in enumerate(heard, start=1):
        state = step_windows(state, window * WINDOW_US, heard=each)
    return step_windows(state, (len(heard) + 1) * WINDOW_US, heard=False)


def test_counting_begins_with_the_first_acknowledgement_ever() -> None:
    state = MissedWindows()
    for window in range(10):
        state = step_windows(state, window * WINDOW_US, heard=False)
    assert (state.total, state.permille) == (0, 1000)


def test_two_in_a_row_derate_and_one_that_is_heard_ends_it() -> None:
    assert _walk(False).permille == 1000
    assert _walk(False, False).permille == 900
    state = _walk(False, False, True)
    assert (state.permille, state.in_a_row, state.total) == (1000, 0, 2)


def test_four_in_a_row_remove_until_a_person_has_looked() -> None:
    state = _walk(False, False, False, False)
    assert (state.removed, state.permille) == (True, 0)
    state = _walk(False, False, False, False, True, True)
    assert state.removed
    assert looked(state).permille == 1000


def test_windows_in_which_we_were_off_are_missed() -> None:
    state = step_windows(MissedWindows(), 0, heard=True)
    assert step_windows(state, 4 * WINDOW_US, heard=True).in_a_row == 3
    assert step_windows(state, 5 * WINDOW_US, heard=False).removed


def test_a_clock_that_goes_back_counts_nothing() -> None:
    state = step_windows(MissedWindows(), 10 * WINDOW_US, heard=True)
    assert step_windows(state, 10 * WINDOW_US - 1, heard=False) == state
    assert step_windows(state, 0, heard=False) == replace(state, window=0, heard=False)


def test_after_a_clock_that_was_far_ahead_windows_are_counted_again() -> None:
    ahead = step_windows(MissedWindows(), 10**6 * WINDOW_US, heard=True)
    back = step_windows(ahead, 7 * WINDOW_US, heard=False)
    assert step_windows(back, 10 * WINDOW_US, heard=False).in_a_row == 3


@given(st.lists(st.tuples(st.integers(0, 3 * WINDOW_US), st.booleans()), max_size=40))
def test_the_count_never_goes_down_and_survives_the_store(steps: list[tuple[int, bool]]) -> None:
    state, now_us = MissedWindows(), 0
    for passed_us, heard in steps:
        now_us += passed_us
        after = step_windows(state, now_us, heard=heard)
        assert after.total >= state.total
        assert decode_windows(encode_windows(after)) == after
        state = after


@given(st.binary(max_size=30))
def test_a_damaged_note_is_said(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode_windows(note)
