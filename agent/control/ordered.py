"""What one issuer has ordered, in energy and in money: dual control goes by the sum of a day (SAFETY 10). Pure.

Commands and schedules are added up: who may not order so much by the one may not by both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.control.command import Command, Mode
from agent.control.schedule import STEP_US, Schedule

DAY_US: Final = 86_400 * 1_000_000


class Ordered(NamedTuple):
    """A sum, or one command's part of it."""

    energy_wh: int = 0
    value_micro: int = 0
    """Micro-units, of whatever currency the prices are in: the bound is a round number, and no rate is known here."""


NOTHING: Final = Ordered()
_SETPOINT: Final = Mode.SETPOINT
"""Looked up once: a day's commands are added up for each that comes."""


def ordered_by(command: Command, end_us: int | None = None) -> Ordered:
    """The most that a setpoint can move until `end_us` (default: its end), and be paid for; limits order nothing."""
    if command.mode is not _SETPOINT:
        return NOTHING
    duration_us = (command.end_us if end_us is None else end_us) - command.start_us
    if duration_us <= 0:
        return NOTHING
    energy_wh = command.power_w * duration_us // 3_600_000_000
    if command.max_energy_wh is not None:
        energy_wh = min(energy_wh, command.max_energy_wh)
    if command.price is None:
        return Ordered(energy_wh)
    return Ordered(energy_wh, energy_wh * command.price.micro_per_kwh // 1000)


def scheduled_by(schedule: Schedule, from_us: int, until_us: int) -> Ordered:
    """What a schedule agrees on between two moments, whatever the direction."""
    watt_us = 0
    for number, power_w in enumerate(schedule.steps):
        start_us = schedule.start_us + number * STEP_US
        for_us = min(start_us + STEP_US, until_us) - max(start_us, from_us)
        if power_w and for_us > 0:
            watt_us += abs(power_w) * for_us
    return _worth(watt_us // 3_600_000_000, schedule)


def most_scheduled_by(schedule: Schedule, from_us: int) -> Ordered:
    """The most energy of any 24 h of it from a moment on; and what all of it is worth from then on."""
    starts_us = [max(from_us, schedule.start_us)]
    starts_us += range(schedule.start_us, schedule.end_us, STEP_US)
    days = [scheduled_by(schedule, at_us, at_us + DAY_US) for at_us in starts_us if at_us >= from_us]
    whole = scheduled_by(schedule, from_us, schedule.end_us)
    return Ordered(max((day.energy_wh for day in days), default=0), whole.value_micro)


def _worth(energy_wh: int, schedule: Schedule) -> Ordered:
    price_micro = 0 if schedule.price is None else schedule.price.micro_per_kwh
    return Ordered(energy_wh, energy_wh * price_micro // 1000)


def total(parts: Iterable[Ordered]) -> Ordered:
    """Of all parts."""
    energy_wh = value_micro = 0
    for part in parts:
        energy_wh += part.energy_wh
        value_micro += part.value_micro
    return Ordered(energy_wh, value_micro)
