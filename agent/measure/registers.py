"""One cumulative register: whether what a meter says now can follow what it said before.

Registers are the truth and are never rejected; but a single look can be wrong (0 on waking, a torn read, a scale factor
that moved). So each look gets a verdict, and `meter.py` holds what is doubtful until a later look confirms or ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

UNRATED_W: Final = 1_000_000
"""What a device without a known rating is believed to carry at most."""
RISE_MARGIN: Final = 2
"""A register may rise this many times faster than the rating: nameplates are modest and clocks are not exact."""
SLACK_MILLIWATT_HOURS: Final = 1_000_000
"""Coarsest step of a register that we believe in, 1 kWh: a rise of one step is never a jump, nor is a fall a reset."""
ROLL_OVER_NEAR: Final = 100
"""A roll-over starts in the last hundredth below the limit and ends in the first above zero."""
_ROLL_OVERS: Final = tuple((1 << 32) * step for step in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000))
"""32-bit registers in steps of 1 mWh to 1 kWh (SunSpec acc32 with its scale factor), in milliwatt-hours."""


class Verdict(Enum):
    """On one look at one register."""

    GOOD = "follows"
    SLIPPED = "a little lower than before, as rounding makes it: keep the earlier value until it is passed"
    FELL = "fell: a waking meter, or a reset"
    JUMPED = "rose faster than the device can"


@dataclass(frozen=True, slots=True)
class Register:
    """The last good look."""

    milliwatt_hours: int
    """Never falls within an epoch: what the device says, plus `offset`."""
    offset: int
    """Sum of the roll-overs so far in this epoch."""
    changed_us: int
    """When the value last moved, Unix microseconds: a meter that counts in steps rests between them."""


def first_look(said: int, at_us: int) -> Register:
    """The origin of an epoch."""
    return Register(said, 0, at_us)


def look(last: Register, said: int, at_us: int, rated_w: int | None) -> tuple[Verdict, Register]:
    """Judge what the meter says now. The second value is the register to go on with if it is believed."""
    value = said + last.offset
    if value < last.milliwatt_hours:
        limit = _rolled_over(last.milliwatt_hours - last.offset, said)
        if limit is not None:
            return Verdict.GOOD, Register(value + limit, last.offset + limit, at_us)
        fall = last.milliwatt_hours - value
        slipped = fall <= SLACK_MILLIWATT_HOURS and said > (last.milliwatt_hours - last.offset) // 2
        return (Verdict.SLIPPED if slipped else Verdict.FELL), first_look(said, at_us)
    rise = value - last.milliwatt_hours
    now = Register(value, last.offset, at_us if rise else last.changed_us)
    return (Verdict.JUMPED if rise > most_rise(at_us - last.changed_us, rated_w) else Verdict.GOOD), now


def most_rise(elapsed_us: int, rated_w: int | None) -> int:
    """Milliwatt-hours that a register can plausibly gain in this time."""
    rated_w = UNRATED_W if rated_w is None else rated_w
    return SLACK_MILLIWATT_HOURS + max(elapsed_us, 0) * rated_w * RISE_MARGIN // 3_600_000


def _rolled_over(before: int, said: int) -> int | None:
    """The limit that the register passed, when it looks like one."""
    for limit in _ROLL_OVERS:
        if limit - limit // ROLL_OVER_NEAR <= before < limit and said < limit // ROLL_OVER_NEAR:
            return limit
    return None
