"""When to seal: at the linger, at the count, at once when urgent; and never more than a batch holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence.batch import MAX_LEAVES
from agent.evidence.seal import MOST_QUEUED_BYTES, MOST_QUEUED_LEAVES, Queue, SealPolicy, fitting, wait_s
from agent.evidence.statements import MAX_STATEMENT_BYTES

POLICY = SealPolicy(linger_s=1.0, linger_leaves=2048)


def queue(count: int, *, size: int = 70, urgent: bool = False) -> Queue:
    return Queue(count=count, encoded_bytes=count * size, oldest_monotonic_s=100.0, urgent=urgent)


def test_nothing_is_sealed_when_nothing_waits() -> None:
    assert wait_s(POLICY, queue(0), 100.0) is None
    assert wait_s(POLICY, queue(0, urgent=True), 100.0) is None


def test_a_first_statement_waits_for_others_as_long_as_the_linger() -> None:
    assert wait_s(POLICY, queue(1), 100.0) == 1.0
    assert wait_s(POLICY, queue(5), 100.75) == 0.25
    assert wait_s(POLICY, queue(5), 101.0) == 0.0
    assert wait_s(POLICY, queue(5), 500.0) == 0.0


def test_enough_statements_end_the_wait() -> None:
    assert wait_s(POLICY, queue(2047), 100.0) == 1.0
    assert wait_s(POLICY, queue(2048), 100.0) == 0.0


def test_a_full_batch_of_bytes_ends_the_wait() -> None:
    assert wait_s(POLICY, queue(20, size=60_000), 100.0) == 0.0


def test_an_urgent_statement_does_not_wait() -> None:
    assert wait_s(POLICY, queue(1, urgent=True), 100.0) == 0.0


def test_a_moment_before_the_queue_began_never_waits_longer_than_the_linger() -> None:
    assert wait_s(POLICY, queue(1), 90.0) == 1.0


@given(st.lists(st.integers(1, MAX_STATEMENT_BYTES), max_size=200))
def test_what_fits_is_a_longest_prefix_within_the_limits(sizes: list[int]) -> None:
    count = fitting(sizes)
    assert sum(sizes[:count]) <= MOST_QUEUED_BYTES
    if sizes:
        assert count >= 1
    if count < len(sizes):
        assert sum(sizes[: count + 1]) > MOST_QUEUED_BYTES


@pytest.mark.parametrize("waiting", [MAX_LEAVES - 1, MAX_LEAVES, 3 * MAX_LEAVES])
def test_a_place_is_left_for_the_sealing(waiting: int) -> None:
    assert fitting([70] * waiting) == MOST_QUEUED_LEAVES == MAX_LEAVES - 1
