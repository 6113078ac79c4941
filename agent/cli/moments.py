"""A moment as a person writes it: ISO 8601, a day alone is its beginning, without an offset it is UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def moment_us(text: str) -> int:
    """Unix time in microseconds. Raises ValueError, which says what would be right."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        us = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write 2026-05-01, or 2026-05-01T12:00:00+02:00") from None
    if us < 0:
        raise ValueError(f"{text!r} is before 1970")
    return us
