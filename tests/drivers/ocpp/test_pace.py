"""Pace: a burst at once, a rate in the long run, and no more whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.pace import Pace


def test_a_burst_passes_and_what_comes_after_it_waits() -> None:
    pace = Pace(per_s=10, burst=3)
    assert [pace.take(1, 5.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take(1, 5.0) == pytest.approx(0.1)
    assert pace.take(1, 5.1) == pytest.approx(0.1)
    assert pace.take(1, 6.0) == 0


def test_whoever_is_refused_spends_nothing() -> None:
    pace = Pace(per_s=1, burst=2)
    assert [pace.allows(1, 0.0) for _ in range(50)] == [True, True] + [False] * 48
    assert pace.allows(1, 1.0)


@given(st.lists(st.tuples(st.floats(-1, 5), st.floats(0.1, 4)), max_size=60))
def test_nobody_gets_more_than_burst_and_rate_even_when_the_clock_goes_back(steps: list[tuple[float, float]]) -> None:
    pace, now_s, latest_s, passed = Pace(per_s=2, burst=5), 0.0, 0.0, 0.0
    for step_s, cost in steps:
        now_s += step_s
        latest_s = max(latest_s, now_s)
        if pace.allows(cost, now_s):
            passed += cost
        assert passed <= 5 + 2 * (latest_s + 1) + 1e-6
