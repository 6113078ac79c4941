"""Replay windows: no number is fresh twice, and a window keeps its memory over joining and storing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.errors import RestoreError
from agent.control.replay import WIDTH, Freshness, ReplayWindow, decode_window

EMPTY = ReplayWindow(b"k" * 32, "zone:north")
numbers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * WIDTH)), max_size=60)


def _after(used: list[tuple[int, int]]) -> ReplayWindow:
    window = EMPTY
    for epoch, sequence in used:
        if window.judge(epoch, sequence) is Freshness.FRESH:
            window = window.after(epoch, sequence)
    return window


@given(numbers)
def test_no_number_that_was_used_is_ever_fresh_again(used: list[tuple[int, int]]) -> None:
    window = EMPTY
    accepted = set()
    for number in used:
        fresh = window.judge(*number) is Freshness.FRESH
        assert not (fresh and number in accepted)
        if fresh:
            window = window.after(*number)
            accepted.add(number)
    assert all(window.judge(*number) is not Freshness.FRESH for number in accepted)


@given(numbers, numbers)
def test_a_joined_window_knows_what_either_knew(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    joined = _after(one).joined(_after(other))
    for window in (_after(one), _after(other)):
        for number in one + other:
            if window.judge(*number) is not Freshness.FRESH:
                assert joined.judge(*number) is not Freshness.FRESH


@given(numbers)
def test_a_window_survives_the_store(used: list[tuple[int, int]]) -> None:
    window = _after(used)
    assert decode_window(window.encode()) == window


def test_numbers_may_come_out_of_order_within_the_window_only() -> None:
    window = EMPTY.after(0, WIDTH + 10)
    assert window.judge(0, WIDTH) is Freshness.FRESH
    assert window.judge(0, 10) is Freshness.TOO_OLD
    assert window.after(1, 0).judge(0, WIDTH + 11) is Freshness.OLD_EPOCH


def test_a_damaged_window_is_named_and_not_guessed() -> None:
    with pytest.raises(RestoreError):
        decode_window(b"\x80")
