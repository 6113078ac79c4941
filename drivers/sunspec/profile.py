"""What was learned of a device as a whole, and the form in which it is kept over restarts. Pure.

The registers that it hides, how long it takes from an order to the metered power, and the pace that its line needs.
Kept with its firmware version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from drivers.sunspec.registers import NO_REFUSALS, Hole, Refusals

MOST_HOLES: Final = 500
MOST_KEPT_BYTES: Final = 64 * 1024
MOST_RESPONSE_S: Final = 120.0
"""Who takes longer does not follow."""
_FORGETS_BY: Final = 8
"""A faster response than what is known lowers it by this part of the difference: one cloud proves nothing."""

_NEWS_S: Final = 0.5
_NEWS_PART: Final = 0.2
"""A response time is written again when it is off by more than both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Habits of one device."""

    refusals: Refusals = NO_REFUSALS
    response_s: float | None = None
    """From an order to the metered power, at the slow end of what was seen. None: never seen."""
    gap_s: float | None = None
    """Pause that its line needs between an answer and the next request. None: none was found necessary."""

    def kept(self, version: str) -> bytes:
        """As `recalled` takes it."""
        seen = self.refusals
        return orjson.dumps(
            {
                "holes": sorted(seen.holes)[:MOST_HOLES],
                "torn": sorted(seen.torn)[:MOST_HOLES],
                "barriers": sorted(seen.barriers)[:MOST_HOLES],
                "response_s": self.response_s,
                "gap_s": self.gap_s,
                "version": version,
            }
        )


NOTHING_KNOWN: Final = Profile()


def recalled(kept: bytes | None, version: str) -> Profile:
    """What `Profile.kept` made these bytes of; nothing known when they are anything else, or of other firmware."""
    if kept is None or len(kept) > MOST_KEPT_BYTES:
        return NOTHING_KNOWN
    try:
        content: object = orjson.loads(kept)
        if not isinstance(content, dict) or content["version"] != version:
            return NOTHING_KNOWN
        response_s, gap_s = (_seconds(content[name]) for name in ("response_s", "gap_s"))
        refusals = Refusals(
            frozenset(_hole(*hole) for hole in content["holes"]),
            frozenset(_hole(*hole) for hole in content["torn"]),
            frozenset(_address(barrier) for barrier in content["barriers"]),
        )
        return Profile(refusals=refusals, response_s=response_s, gap_s=gap_s)
    except (KeyError, TypeError, ValueError):
        return NOTHING_KNOWN


def _seconds(value: object) -> float | None:
    if value is None or (type(value) is float and 0.0 <= value <= MOST_RESPONSE_S):
        return value
    raise TypeError(f"not a number of seconds: {value!r}")


def _address(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 0xFFFF:  # a bool is an int too
        raise TypeError(f"not an address: {value!r}")
    return value


def _hole(address: object, path: object) -> Hole:
    if not isinstance(path, str):
        raise TypeError(f"not a point: {path!r}")
    return _address(address), path


def slower_of(known_s: float | None, seen_s: float) -> float:
    """The response time to count on after one more was seen."""
    seen_s = min(MOST_RESPONSE_S, max(0.0, seen_s))
    if known_s is None or seen_s >= known_s:
        return seen_s
    return known_s + (seen_s - known_s) / _FORGETS_BY


def is_news(profile: Profile, on_record: Profile) -> bool:
    """Whether a profile differs enough from the one on record to be worth a write."""
    if (profile.refusals, profile.gap_s) != (on_record.refusals, on_record.gap_s):
        return True
    if profile.response_s is None or on_record.response_s is None:
        return profile.response_s is not on_record.response_s
    return abs(profile.response_s - on_record.response_s) > max(_NEWS_S, on_record.response_s * _NEWS_PART)
