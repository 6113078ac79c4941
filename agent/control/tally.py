"""What one command has delivered: energy by the meters' registers, for the time in which it was in force.

Registers go on while we are down, so a mark taken at the start is enough: after a restart the difference covers
whatever happened meanwhile. A replaced meter closes its own account and opens another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.control.errors import RestoreError
from agent.evidence import cbor


@dataclass(frozen=True, slots=True)
class Register:
    """What a meter shows now."""

    meter_id: str
    net_milliwatt_hours: int
    """Import minus export."""


@dataclass(frozen=True, slots=True)
class Account:
    """One device's register since the command came into force."""

    meter_id: str
    first_milliwatt_hours: int
    last_milliwatt_hours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Energy and time of one command so far."""

    first_us: int | None = None
    """When it first came into force."""
    last_us: int | None = None
    """When it was last in force, as far as is known."""
    closed_milliwatt_hours: int | None = None
    """Of accounts that are over; None: nothing was ever counted."""
    accounts: Mapping[str, Account] = field(default_factory=dict)
    """Open ones, by device; empty while the command is not in force."""
    reason: str = ""
    """Why it is not, or not wholly, obeyed: the plan's word when last asked."""

    def seen(
        self, in_force: bool, devices: Sequence[str], registers: Mapping[str, Register], now_us: int, reason: str
    ) -> Tally:
        """The tally after one look at the registers of the devices that count."""
        if not in_force:
            paused = self.paused()
            return Tally(
                first_us=paused.first_us,
                last_us=paused.last_us,
                closed_milliwatt_hours=paused.closed_milliwatt_hours,
                reason=reason,
            )
        closed = self.closed_milliwatt_hours
        accounts = dict(self.accounts)
        for device in devices:
            shown = registers.get(device)
            if shown is None:
                continue
            account = accounts.get(device)
            if account is not None and account.meter_id == shown.meter_id:
                first = account.first_milliwatt_hours
            else:
                if account is not None:
                    closed = (closed or 0) + account.last_milliwatt_hours - account.first_milliwatt_hours
                first = shown.net_milliwatt_hours
            accounts[device] = Account(shown.meter_id, first, shown.net_milliwatt_hours)
        return Tally(
            first_us=now_us if self.first_us is None else self.first_us,
            last_us=now_us,
            closed_milliwatt_hours=closed,
            accounts=accounts,
            reason=reason,
        )

    def paused(self) -> Tally:
        """The tally with all accounts closed."""
        if not self.accounts:
            return self
        return Tally(
            first_us=self.first_us,
            last_us=self.last_us,
            closed_milliwatt_hours=self._sum_milliwatt_hours(),
            reason=self.reason,
        )

    def delivered_wh(self) -> int | None:
        """Whole Wh towards zero, + import; None when no register was ever seen."""
        total = self._sum_milliwatt_hours()
        if total is None:
            return None
        return total // 1000 if total >= 0 else -(-total // 1000)

    def _sum_milliwatt_hours(self) -> int | None:
        if self.closed_milliwatt_hours is None and not self.accounts:
            return None
        counted = sum(a.last_milliwatt_hours - a.first_milliwatt_hours for a in self.accounts.values())
        return (self.closed_milliwatt_hours or 0) + counted

    def value(self) -> cbor.Value:
        """For the store."""
        accounts: list[cbor.Value] = [
            [device, a.meter_id, a.first_milliwatt_hours, a.last_milliwatt_hours]
            for device, a in sorted(self.accounts.items())
        ]
        return [self.first_us, self.last_us, self.closed_milliwatt_hours, accounts, self.reason]


def tally_of(value: cbor.Value) -> Tally:
    """A stored tally. Raises RestoreError."""
    match value:
        case [
            (int() | None) as first, (int() | None) as last, (int() | None) as closed, list(items), str(reason)
        ]:  # fmt: skip
            accounts = {}
            for item in items:
                match item:
                    case [str(device), str(meter_id), int(start), int(end)]:
                        accounts[device] = Account(meter_id, start, end)
                    case _:
                        raise RestoreError("command note: an account is not laid out as version 1")
            return Tally(first_us=first, last_us=last, closed_milliwatt_hours=closed, accounts=accounts, reason=reason)
    raise RestoreError("command note: its tally is not laid out as version 1")
