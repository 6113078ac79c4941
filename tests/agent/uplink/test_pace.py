"""The cap on batches holds over any time, and holds nothing back when there is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.pace import BURST_S, Pace


def test_without_a_cap_nothing_waits() -> None:
    pace = Pace(None)
    pace.sent(1 << 40, 0.0)
    assert pace.wait_s(0.0) == 0.0


def test_the_first_batch_goes_at_once_and_what_follows_waits_its_time() -> None:
    pace = Pace(1000.0)
    assert pace.wait_s(50.0) == 0.0
    pace.sent(3000, 50.0)
    assert pace.wait_s(50.0) == 3.0 - BURST_S
    assert pace.wait_s(60.0) == 0.0


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(0.0, 20.0)), min_size=1, max_size=50))
def test_over_any_time_no_more_goes_than_the_cap_a_burst_and_one_batch(batches: list[tuple[int, float]]) -> None:
    pace, rate, now_s = Pace(8000.0), 8000.0, 100.0
    sent: list[tuple[float, int]] = []
    for size, pause_s in batches:
        now_s += pause_s
        now_s += pace.wait_s(now_s)
        pace.sent(size, now_s)
        sent.append((now_s, size))
    for first, (begin_s, _) in enumerate(sent):
        for last in range(first, len(sent)):
            total = sum(size for _, size in sent[first : last + 1])
            largest = max(size for _, size in sent[first : last + 1])
            assert total <= rate * (sent[last][0] - begin_s + BURST_S) + largest + 1e-3
