"""Keeps the account of the local bounds from plan to plan, and over restarts (SAFETY 10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agent.config import BoundsSettings
from agent.control.bounds import (
    MOST_STEP_S,
    BoundSettings,
    BoundsView,
    Counted,
    Seen,
    allow,
    count,
    decode,
    encode,
    joined,
)
from agent.control.command import Mode
from agent.control.order import Now
from agent.control.plan import DeviceOrder, Plan
from agent.control.site import DeviceView, SiteView

KEEP_EVERY_US: Final = 30_000_000
"""Energy is written so often at most; a change of sign and an event at once."""


class BoundsWatch:
    """One for the gateway."""

    def __init__(self, settings: BoundsSettings, *, most_step_s: float = MOST_STEP_S) -> None:
        self.settings = BoundSettings(
            energy_per_day_wh=settings.energy_per_day_wh or None,
            cycles_per_day_permille=round(settings.cycles_per_day * 1000) or None,
            sign_changes_per_hour=settings.sign_changes_per_hour or None,
            events_per_hour=settings.events_per_hour or None,
            ramp_permille_per_s=round(settings.ramp_percent_per_s * 10) or None,
            most_step_s=most_step_s,
        )
        self._counted = Counted()
        self._kept = Counted()
        self._kept_us: int | None = None

    def allow(self, now: Now) -> BoundsView:
        """What commands may do at that moment, by what has been counted until now."""
        return allow(self.settings, self._counted, now)

    @property
    def counted(self) -> Counted:
        """What the bounds remember."""
        return self._counted

    def recall(self, counted: Counted) -> None:
        """Go on from there."""
        self._counted = counted

    def restore(self, note: bytes) -> None:
        """Go on from what an earlier run has counted. Raises RestoreError."""
        self._counted = joined(decode(note), self._counted)

    def after(self, view: SiteView, plan: Plan) -> bytes | None:
        """Take a plan into account; the note to write, when it is time for one."""
        now = view.now
        if not now.time_known:
            # Hours of a clock that may be years behind: nothing permissive is obeyed meanwhile.
            self._counted = replace(self._counted, uptime_us=now.uptime_us)
            return None
        seen = {
            name: _seen(view.devices[name], order, by_hand=name in view.overrides)
            for name, order in plan.orders.items()
        }
        ordering = {
            order.hash for order in view.orders if order.command.mode is Mode.SETPOINT and not order.command.restrictive
        }
        begun = frozenset(h for h, command in plan.commands.items() if command.in_force and h in ordering)
        self._counted = count(self._counted, seen, begun, now, most_step_s=self.settings.most_step_s)
        turned = {name: use.turned_us for name, use in self._counted.devices.items()}
        kept_turned = {name: use.turned_us for name, use in self._kept.devices.items()}
        at_once = self._counted.events.keys() != self._kept.events.keys() or turned != kept_turned
        due = self._kept_us is None or not 0 <= now.wall_us - self._kept_us < KEEP_EVERY_US
        if not (at_once or (due and self._counted.devices != self._kept.devices)):
            return None
        self._kept, self._kept_us = self._counted, now.wall_us
        return encode(self._counted)


def _seen(device: DeviceView, order: DeviceOrder, *, by_hand: bool) -> Seen:
    commanded_w = None
    if order.authority_s is not None and not by_hand:
        commanded_w = order.highest_w if order.highest_w else order.lowest_w
    charge = device.state_of_charge_permille
    if device.vehicle is not None:
        charge = device.vehicle.state_of_charge_permille
    return Seen(commanded_w=commanded_w, power_w=device.present_w, charge_permille=charge)
