"""What was learned of one control function on one device, and the form in which it is kept over restarts. Pure.

Learned from refusals, read-backs and what was seen to happen; never from silence. Kept with the device's firmware
version: another one may have other habits, and is learned anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson


class Writing(Enum):
    """How a device takes writes; learned from its refusals. A time-out is not a refusal."""

    RUNS = "a run of registers at once (function 16)"
    POINTS = "point by point (function 16)"
    SINGLES = "register by register (function 6)"


class Timer(Enum):
    """What is known of a revert timer."""

    UNTRIED = "no order with a timer was given yet"
    KEPT = "its register keeps what is written"
    COUNTS = "its remaining time was seen to fall"
    PROVEN = "an order was seen to end by itself"
    FORGOTTEN = "its register does not keep what is written"
    STUCK = "its remaining time does not move"
    IGNORED = "an order was seen to outlive it"

    @property
    def fails(self) -> bool:
        """Whether it cannot be counted on: no device-side dead man."""
        return self in (Timer.FORGOTTEN, Timer.STUCK, Timer.IGNORED)


MOST_KEPT_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Habits of one function."""

    writing: Writing = Writing.RUNS
    timer: Timer = Timer.UNTRIED
    in_percent: bool = False
    """Takes its setpoint as a percentage only."""

    def kept(self, version: str) -> bytes:
        """As `recalled` takes it."""
        return orjson.dumps(
            {
                "writing": self.writing.name,
                "timer": self.timer.name,
                "in_percent": self.in_percent,
                "version": version,
            }
        )


NOTHING_LEARNED: Final = Learned()


def recalled(kept: bytes | None, version: str) -> Learned:
    """What `Learned.kept` made these bytes of; nothing learned when they are anything else, or of other firmware."""
    if kept is None or len(kept) > MOST_KEPT_BYTES:
        return NOTHING_LEARNED
    try:
        content: object = orjson.loads(kept)
        if not isinstance(content, dict) or content["version"] != version:
            return NOTHING_LEARNED
        return Learned(
            writing=Writing[content["writing"]],
            timer=Timer[content["timer"]],
            in_percent=content["in_percent"] is True,
        )
    except (KeyError, TypeError, ValueError):
        return NOTHING_LEARNED
