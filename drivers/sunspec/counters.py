"""Energy registers that fell: hold them back and look again, before anybody takes a waking device for a new one. Pure.

A fall that stays is passed on as it is: whether it is a reset is for `agent/measure` to judge, which keeps its epochs
over restarts. So is a roll-over, which it continues; that one is passed at once, and only from near the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from drivers.sunspec.measurement import Measurement

LOOKS_AGAIN: Final = 3
AGAIN_S: Final = 5.0
"""A fall is passed on at its third look, and not before this long: inverters take seconds to wake, not one read."""
NEAR: Final = 100
"""A roll-over starts in the last hundredth below the limit and ends in the first above zero."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One register: the last value that was passed on, and what is held back since."""

    last: int
    fell_s: float | None = None
    """Moment of the first look at a value below `last`; None: nothing is held back."""
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Both registers of one device; None where it has not told one yet."""

    imported: Counter | None = None
    exported: Counter | None = None


def settle(counters: Counters, measured: Measurement, now_s: float) -> tuple[Counters, Measurement]:
    """The measurement with registers that fell left out (absent, never 0), and the state for the next look."""
    limit = measured.rolls_over_milliwatt_hours
    imported, import_value = _settle(counters.imported, measured.import_register_milliwatt_hours, limit, now_s)
    exported, export_value = _settle(counters.exported, measured.export_register_milliwatt_hours, limit, now_s)
    return Counters(imported, exported), replace(
        measured, import_register_milliwatt_hours=import_value, export_register_milliwatt_hours=export_value
    )


def _settle(
    counter: Counter | None, said: int | None, limit: int | None, now_s: float
) -> tuple[Counter | None, int | None]:
    if said is None:
        return counter, None
    if counter is None or said >= counter.last or _rolled_over(counter.last, said, limit):
        return Counter(said), said
    since_s = now_s if counter.fell_s is None else counter.fell_s
    looks = counter.looks + 1
    if looks >= LOOKS_AGAIN and now_s - since_s >= AGAIN_S:
        return Counter(said), said
    return Counter(counter.last, since_s, looks), None


def _rolled_over(last: int, said: int, limit: int | None) -> bool:
    return limit is not None and limit - limit // NEAR <= last < limit and said < limit // NEAR
