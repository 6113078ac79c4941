"""OCPP timestamps (RFC 3339) to integer microseconds and back."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LONGEST: Final = 40


@functools.lru_cache(maxsize=512)  # a message says its moment several times, and the schemas have read it before
def parse_timestamp_us(text: str) -> int:
    """Unix time in microseconds. A time without zone is taken as UTC, as chargers mean it. Raises ValueError."""
    if len(text) > _LONGEST or "T" not in text.upper():
        raise ValueError(f"not an RFC 3339 date and time: {text[:_LONGEST]!a}")
    moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows "t" and "z"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return (moment - _EPOCH) // _MICROSECOND
    except OverflowError as error:
        raise ValueError(f"date is out of range: {text[:_LONGEST]!a}") from error


def is_timestamp(text: str) -> bool:
    """Whether `parse_timestamp_us` takes it; the format check of the schemas, so that what passes them parses."""
    try:
        parse_timestamp_us(text)
    except ValueError:
        return False
    return True


def format_timestamp(timestamp_us: int) -> str:
    """RFC 3339 in UTC with milliseconds: chargers are known to stumble over six digits."""
    moment = _EPOCH + timedelta(microseconds=timestamp_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
