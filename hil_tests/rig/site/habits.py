"""What a simulated device does otherwise than the standard says: the habits of real ones, for tests to switch on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PointKey = tuple[int, str]
"""Model id and point name."""


class Timers(Enum):
    """What its reversion timers do."""

    RUN = "end the order in time"
    FORGOTTEN = "are taken and read 0 afterwards"
    STUCK = "are kept, and the remaining time never moves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """None of them: a device that conforms."""

    timers: Timers = Timers.RUN
    lacks: frozenset[PointKey] = frozenset()
    """Points that read as not implemented; writes of them are taken and ignored."""
    ignores: frozenset[PointKey] = frozenset()
    """Points that keep their value, whatever is written."""
    clamps: Mapping[PointKey, tuple[int, int]] = field(default_factory=dict)
    """Points that quietly keep the nearest value within these bounds."""
    hidden: frozenset[PointKey] = frozenset()
    """Points whose registers are answered with exception 2, as an SMA does at night."""
    takes_halves: bool = False
    """Takes one register of a point that has two, as a device must that knows function 6 only."""
    acts_on_switch_alone: bool = False
    """A limit takes effect with a write of its switch that does not carry the limit too, as on a Fronius."""
    deaf_after_answer_s: float = 0.0
    """Does not hear a request that comes sooner after its last answer."""
    refuses: frozenset[int] = frozenset()
    """Modbus functions that it answers with exception 1."""


CONFORMING = Habits()
