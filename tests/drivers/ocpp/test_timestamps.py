"""Timestamps: RFC 3339 to integers and back, and what chargers send instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.timestamps import format_timestamp, is_timestamp, parse_timestamp_us

MILLISECOND_US = 1000


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.000Z",
        "2026-01-02T04:04:05+01:00",
        "2026-01-02t03:04:05z",
        "2026-01-02T03:04:05",
    ],
)
def test_every_usual_spelling_is_the_same_moment(text: str) -> None:
    assert parse_timestamp_us(text) == 1_767_323_045_000_000


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T" + "0" * 500])
def test_what_is_no_time_is_refused(text: str) -> None:
    assert not is_timestamp(text)


@given(st.text(max_size=60))
def test_any_text_is_a_time_or_not_and_nothing_else_happens(text: str) -> None:
    is_timestamp(text)


@given(st.integers(0, 4_000_000_000_000).map(lambda ms: ms * MILLISECOND_US))
def test_milliseconds_go_there_and_back(timestamp_us: int) -> None:
    assert parse_timestamp_us(format_timestamp(timestamp_us)) == timestamp_us
