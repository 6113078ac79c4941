"""Waits between connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.backoff import STEADY_AFTER_S, Backoff, hinted_s

draws = st.floats(0, 1, exclude_max=True)


def test_first_try_is_at_once() -> None:
    assert Backoff(0.5, 60.0).wait_s(0.9) == 0.0


@given(st.integers(1, 10_000), draws)
def test_wait_stays_within_half_the_least_and_the_most(failures: int, draw: float) -> None:
    assert 0.25 <= Backoff(0.5, 60.0, failures).wait_s(draw) <= 60.0


@given(draws)
def test_waits_double_until_the_most(draw: float) -> None:
    backoff = Backoff(0.5, 60.0)
    waits = []
    for _ in range(12):
        backoff = backoff.failed()
        waits.append(backoff.wait_s(draw))
    assert waits[1] == 2 * waits[0]
    assert waits[-1] == waits[-2] == 60.0 * (0.5 + draw / 2)


def test_two_gateways_that_lost_one_platform_do_not_come_back_together() -> None:
    backoff = Backoff(0.5, 60.0, 9)
    assert backoff.wait_s(0.1) != backoff.wait_s(0.9)


def test_connection_that_held_or_was_useful_makes_the_next_wait_short() -> None:
    worn = Backoff(0.5, 60.0, 9)
    assert worn.ended(STEADY_AFTER_S, useful=False).failures == 1
    assert worn.ended(0.1, useful=True).failures == 1


def test_platform_that_accepts_and_drops_at_once_is_not_hammered() -> None:
    assert Backoff(0.5, 60.0, 9).ended(0.1, useful=False).failures == 10


@given(st.floats(0, 60), st.floats(0, 3600), draws)
def test_a_platforms_hint_counts_where_it_is_longer_and_is_spread(wait_s: float, hint_s: float, draw: float) -> None:
    assert max(wait_s, hint_s) <= hinted_s(wait_s, hint_s, draw) <= max(wait_s, hint_s * 1.25)
    assert hinted_s(wait_s, 0.0, draw) == wait_s
    assert hinted_s(0.0, 100.0, 0.1) != hinted_s(0.0, 100.0, 0.9)
