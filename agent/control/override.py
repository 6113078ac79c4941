"""A device that its owner or installer holds by hand, with an end: above every setpoint, below every rule. Pure.

What must be safe stays so: connection, phases, ratings, the car's needs, limits by command and STOP narrow a hold as
they narrow a command. A driver's "charge now" goes before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from agent.control.command import MAX_TIME_US
from agent.control.errors import ControlError, RestoreError
from agent.control.order import Now
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError

LONGEST_S: Final = 7 * 86_400.0
SHORTEST_S: Final = 1.0


class OverrideError(ControlError):
    """A device cannot be held so. Says why, and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One hold."""

    device_id: str
    power_w: int | None
    """+ import; None: left to itself, and no command moves it."""
    since_us: int
    until_us: int
    by: str
    until_uptime_us: int | None = None
    """The same end by the uptime of the boot in which it began: nobody's clock moves it. None: of an earlier run."""

    @property
    def restrictive(self) -> bool:
        return self.power_w == 0

    @property
    def sentence(self) -> str:
        until = datetime.fromtimestamp(self.until_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        what = "left to itself" if self.power_w is None else f"held at {self.power_w} W"
        return f"{what} locally by {self.by} until {until}"

    def stands(self, now: Now) -> bool:
        """Whether it holds now. With the time lost after a reboot, 0 W holds for its full duration of uptime."""
        if self.until_uptime_us is not None:
            return now.uptime_us < self.until_uptime_us
        if now.time_known:
            return now.wall_us < self.until_us
        return self.restrictive and now.uptime_us < self.until_us - self.since_us

    def counted(self, now: Now) -> Override:
        """With its end by uptime, once the time is known: a clock that was set back makes it no longer than it was."""
        if self.until_uptime_us is not None or not now.time_known:
            return self
        left_us = min(self.until_us - now.wall_us, self.until_us - self.since_us)
        return replace(self, until_uptime_us=now.uptime_us + left_us)

    def left_s(self, now: Now) -> float:
        """Until its end."""
        if self.until_uptime_us is not None:
            return (self.until_uptime_us - now.uptime_us) / 1e6
        return (self.until_us - now.wall_us) / 1e6

    def over(self, now: Now) -> bool:
        """Whether it will never hold again; one that waits for the time is not over."""
        return not self.stands(now) and (self.until_uptime_us is not None or now.time_known)


def override_for(device_id: str, power_w: int | None, duration_s: float, by: str, now: Now) -> Override:
    """A hold that begins now. Raises OverrideError."""
    if not SHORTEST_S <= duration_s <= LONGEST_S:  # NaN is in no range
        raise OverrideError(f"a hold lasts {SHORTEST_S:g} s to 7 days, not {duration_s:g} s")
    duration_us = round(duration_s * 1e6)
    return Override(
        device_id=device_id,
        power_w=power_w,
        since_us=now.wall_us,
        until_us=now.wall_us + duration_us,
        by=by,
        until_uptime_us=now.uptime_us + duration_us,
    )


def encode(override: Override) -> bytes:
    """For the store."""
    return cbor.encode([1, override.device_id, override.power_w, override.since_us, override.until_us, override.by])


def decode(note: bytes) -> Override:
    """As `encode` wrote it. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="hold note")
    except EvidenceError as error:
        raise RestoreError(str(error)) from error
    match value:
        case [1, str(device_id), (int() | None) as power_w, int(since_us), int(until_us), str(by)] if (
            0 <= since_us < until_us <= min(since_us + LONGEST_S * 1e6, MAX_TIME_US)
        ):
            return Override(device_id=device_id, power_w=power_w, since_us=since_us, until_us=until_us, by=by)
    raise RestoreError("hold note: not laid out as version 1")
