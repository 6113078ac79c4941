"""The known source: meters that count milliseconds, so that anybody can tell from a reading what they really said.

Import and export rise by fixed steps each millisecond of the kernel's monotonic clock, which is one for all processes.
A pair of registers therefore belongs to one millisecond or to none: a torn, invented or mixed-up value shows.
"""

from __future__ import annotations

from typing import Final

DEVICES: Final = ("meter-a", "meter-b", "meter-c", "meter-d")
PERIOD_S: Final = 0.05
IMPORT_PER_MS: Final = 14
"""Milliwatt-hours: 50.4 kW."""
EXPORT_PER_MS: Final = 3
FIRST: Final = 1_000_000
"""Milliwatt-hours between the origins of two devices: a reading under another's name shows."""


def registers(device_id: str, monotonic_ms: int) -> tuple[int, int]:
    """(import, export) in milliwatt-hours at a moment."""
    first = FIRST * (1 + DEVICES.index(device_id))
    return first + IMPORT_PER_MS * monotonic_ms, first + EXPORT_PER_MS * monotonic_ms


def moment_of(device_id: str, imported: int, exported: int) -> int | None:
    """The millisecond at which the meter showed this; None: it never did."""
    if device_id not in DEVICES:
        return None
    moment, rest = divmod(exported - FIRST * (1 + DEVICES.index(device_id)), EXPORT_PER_MS)
    return moment if not rest and registers(device_id, moment) == (imported, exported) else None
