"""Events of a transaction: repetition is recognised, gaps are known and filled, and both survive a restart."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.sequence import MOST_MISSING, REMEMBERED_EVENTS, REMEMBERED_TRANSACTIONS, SequenceLog


def count(log: SequenceLog, number: int, kind: str = "Updated", transaction: str = "T") -> tuple[bool, str]:
    return log.count(transaction, number, kind, f"2026-01-01T00:00:{number:02d}Z")


def restored(log: SequenceLog) -> SequenceLog:
    again = SequenceLog()
    again.restore(orjson.loads(orjson.dumps(log.encode())))
    return again


def test_what_was_before_the_first_event_heard_is_not_missed() -> None:
    log = SequenceLog()
    assert count(log, 500) == (True, "")
    assert log.with_gaps() == []


def test_an_event_with_the_same_number_but_another_time_is_another_one() -> None:
    log = SequenceLog()
    assert log.count("T", 0, "Updated", "2026-01-01T00:00:00Z")[0]
    assert log.count("T", 0, "Updated", "2026-01-01T00:00:05Z")[0]


def test_a_jump_that_is_no_counting_is_no_gap() -> None:
    log = SequenceLog()
    count(log, 0)
    assert log.count("T", 10 * MOST_MISSING, "Updated", "x") == (True, "")
    assert log.with_gaps() == []


def test_after_a_restart_the_first_jump_is_what_was_heard_meanwhile() -> None:
    log = SequenceLog()
    count(log, 0)
    again = restored(log)
    assert count(again, 7) == (True, "")
    assert "2 events" in count(again, 10)[1]


def test_what_a_charger_can_make_grow_is_bounded() -> None:
    log = SequenceLog()
    for number in range(3 * REMEMBERED_EVENTS):
        log.count(f"T{number}", 0, "Started", "t")
        log.count(f"T{number}", 500, "Updated", "t")
    kept = log.encode()
    assert len(kept["transactions"]) == REMEMBERED_TRANSACTIONS  # type: ignore[arg-type]  # JSON
    assert len(orjson.dumps(kept)) < 100_000


@pytest.mark.parametrize("kept", [{}, {"seen": ["zz"], "transactions": {}}, {"seen": [], "transactions": {"T": {}}}])
def test_damaged_memory_is_an_error(kept: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        SequenceLog().restore(kept)  # type: ignore[arg-type]  # that is the point


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=12), st.integers(0, 24))
def test_in_any_order_and_with_any_repetition_each_event_counts_once(
    order: list[int], repeated: list[int], restart_at: int
) -> None:
    log = SequenceLog()
    count(log, 0)
    fresh = 1
    for place, number in enumerate(order + repeated):
        if place == restart_at:
            log = restored(log)
        fresh += count(log, number)[0]
    assert fresh == 12
    assert not set(log.missing("T")) & set(order)
