"""An order: a command with its identity and authority, when it stands, and whose word goes first. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from agent.control.command import Command, Point


class Rank(IntEnum):
    """Whose word goes first; lower is higher."""

    GOVERNANCE = 0
    """Signed by a governance key, alone or beside an operational one."""
    OPERATIONAL = 1
    UNSIGNED = 2
    SCHEDULE = 3
    """Pre-agreed, for the time in which nobody commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command with its identity and authority."""

    hash: bytes
    command_id: str
    command: Command
    issuer_key: bytes
    """kid of the issuer's operational key; empty for the unsigned, who are one issuer."""
    rank: Rank
    received_us: int
    received_uptime_us: int = 0
    """Since the kernel's start, of one that came while the time was not known; of the others it says nothing."""
    authorization: bytes = b""
    """As it came, for whoever must prove it later."""

    def age_of_word(self) -> tuple[int, int]:
        """Orders the words of one issuer."""
        return (self.command.epoch, self.command.sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The moment, as far as commands care."""

    wall_us: int
    time_known: bool = True
    """False after a reboot until the wall time has been trusted once."""
    uptime_us: int = 0
    """Since the kernel's start."""


def same_matter(one: Command, other: Command) -> bool:
    """Whether two commands of one issuer speak of the same: point, mode, and at least one device in common."""
    if (one.point, one.mode) != (other.point, other.mode):
        return False
    return not one.targets or not other.targets or not set(one.targets).isdisjoint(other.targets)


def began(command: Command, now: Now) -> bool:
    return now.wall_us >= command.start_us


def stands(order: Order, now: Now) -> bool:
    """Whether it is an order's time. With the time lost, what restricts stands for its full duration of uptime."""
    command = order.command
    if now.time_known:
        return command.start_us <= now.wall_us < command.end_us
    return command.restrictive and now.uptime_us - order.received_uptime_us < command.end_us - command.start_us


def precedence(order: Order) -> tuple[int, int, int, int, int, bytes]:
    """Sorts the highest first (DESIGN: Commands): role, then priority, then the more restrictive, then the earlier.

    What names devices goes before what speaks of the whole connection, which then gets the devices that are left.
    """
    command = order.command
    return (
        int(order.rank),
        int(command.priority),
        0 if command.point is Point.DEVICE else 1,
        command.power_w,
        order.received_us,
        order.hash,
    )


def name_of(order: Order) -> str:
    """For a sentence."""
    return f"command {order.command_id!r} ({order.hash.hex()[:12]})"
