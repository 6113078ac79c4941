"""What one issuer has ordered, in energy and in money: dual control goes by the sum of a day (SAFETY 10). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.control.command import Command, Mode


class Ordered(NamedTuple):
    """A sum, or one command's part of it."""

    energy_wh: int = 0
    value_micro: int = 0
    """Micro-units, of whatever currency the prices are in: the bound is a round number, and no rate is known here."""


def ordered_by(command: Command, end_us: int | None = None) -> Ordered:
    """The most that a setpoint can move until `end_us` (default: its end), and be paid for; limits order nothing."""
    if command.mode is not Mode.SETPOINT:
        return Ordered()
    duration_us = max(0, (command.end_us if end_us is None else end_us) - command.start_us)
    energy_wh = command.power_w * duration_us // 3_600_000_000
    if command.max_energy_wh is not None:
        energy_wh = min(energy_wh, command.max_energy_wh)
    price_micro = 0 if command.price is None else command.price.micro_per_kwh
    return Ordered(energy_wh, energy_wh * price_micro // 1000)


def total(parts: Iterable[Ordered]) -> Ordered:
    """Of all parts."""
    energy_wh = value_micro = 0
    for part in parts:
        energy_wh += part.energy_wh
        value_micro += part.value_micro
    return Ordered(energy_wh, value_micro)
