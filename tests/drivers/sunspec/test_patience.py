"""A unit that falls silent costs little and is found again; a slow one is not given up for being slow."""

from __future__ import annotations

from drivers.sunspec.patience import BURST, FULL_EVERY, PAUSE_LEAST_S, PAUSE_MOST_S, SHORT_S, Patience


def test_a_silent_unit_is_waited_for_shortly_until_it_answers() -> None:
    patience = Patience()
    assert patience.timeout_s(1.0) == 1.0
    patience.was_silent(0.0)
    assert patience.timeout_s(1.0) == SHORT_S
    patience.answered(0.1)
    assert patience.timeout_s(1.0) == 1.0


def test_a_slow_unit_gets_twice_the_time_of_its_slowest_answer() -> None:
    patience = Patience()
    patience.answered(0.4)
    patience.answered(0.1)
    patience.was_silent(0.0)
    assert patience.timeout_s(2.0) == 0.8
    assert patience.timeout_s(0.5) == 0.5


def test_a_unit_that_was_never_heard_gets_the_whole_time_once_in_a_while() -> None:
    patience = Patience()
    waits = []
    for _ in range(2 * FULL_EVERY):
        waits.append(patience.timeout_s(1.0))
        patience.was_silent(0.0)
    assert [index for index, wait_s in enumerate(waits) if wait_s == 1.0] == [0, FULL_EVERY]


def test_pauses_grow_to_their_bound_and_an_answer_ends_them() -> None:
    patience = Patience()
    pauses = []
    for index in range(1, 10 * BURST + 1):
        patience.was_silent(100.0)
        if index % BURST == 0:
            pauses.append(patience.pause_s(100.0))
    assert pauses[0] == PAUSE_LEAST_S
    assert pauses == sorted(pauses)
    assert max(pauses) == PAUSE_MOST_S
    patience.answered(0.1)
    assert patience.pause_s(100.0) <= 0


def test_three_places_can_be_tried_before_a_pause() -> None:
    patience = Patience()
    for _ in range(BURST - 1):
        patience.was_silent(0.0)
        assert patience.pause_s(0.0) <= 0
