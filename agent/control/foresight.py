"""What will stand against a command before its end, seen from its start: empty and full storage, departures. Pure.

The plan knows one moment. A receipt must say from the start what will not be delivered later: a battery that is empty
before the end, a car that reaches its owner's minimum, must charge for its departure, or leaves (SAFETY 9). So the
command is gone through from one such turn to the next, shared out as the plan would; house and PV stay as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.control.allocation import Range
from agent.control.command import Command, CommandType, Mode, Point
from agent.control.departure import DEPARTURE_MARGIN, DEPARTURE_RESERVE_S
from agent.control.plan import CommandPlan, tolerance_w
from agent.control.rules.draft import Draft
from agent.control.rules.needs import set_room
from agent.control.rules.sharing import Carry, carry_by
from agent.control.rules.targets import scope_of
from agent.control.site import SiteView
from agent.control.storage import storage_wh
from agent.evidence.statements import CommandState
from drivers.device import DeviceKind

ENOUGH_PERCENT: Final = 95
MOST_TURNS: Final = 32
"""Steps in which a command is gone through: half of them from turn to turn, the others share what time is left."""
LEAST_S: Final = 1.0
"""Turns that come closer together are one."""
GRAIN_WH: Final = 1.0
"""Less than that is a rounding."""
NEVER_S: Final = float("inf")
MINIMUM: Final = "is at its owner's minimum"
EMPTY: Final = "is at its least charge"
FULL: Final = "is full"
CHARGES: Final = "charges for its departure"
LEAVES: Final = "leaves"
USED_UP: Final = "has moved all that the local bound lets commands move in a day"


@dataclass(slots=True, kw_only=True)
class _Store:
    """One device in the course of a command. Energies in Wh, times in seconds from its start."""

    device_id: str
    is_car: bool
    low_w: int
    high_w: int
    minimum_w: int
    above_wh: float | None
    """Until it has no more to give; None: not known."""
    below_wh: float | None
    need_wh: float
    """What it has to take in until it leaves; below 0: it has more."""
    has_need: bool
    leaves_s: float
    turned: dict[str, float]
    """Why it does not follow any more, and since when."""
    must_charge: bool = False
    power_w: int = 0
    """Until now."""
    quota_wh: float | None = None
    """What the local bound leaves to commands today; None: any."""

    def range(self, now_s: float, *, gives: bool) -> Range:
        """Where it can be at this moment; a turn that has come is noted. `gives`: storage shall give power."""
        low_w, high_w = self.low_w, self.high_w
        if now_s >= self.leaves_s:
            self.turned.setdefault(LEAVES, self.leaves_s)
            self.must_charge = False
            return Range(0, 0)
        slack_s = self.slack_s(now_s)
        if self.must_charge and (self.need_wh < GRAIN_WH or self._is_full):
            self.must_charge = False
        elif self.has_need and slack_s < LEAST_S and not self._is_full:
            self.must_charge = True
        if self.must_charge:
            self.turned.setdefault(CHARGES, now_s)
        if (
            gives
            and low_w < 0
            and self.has_need
            and (CHARGES in self.turned or slack_s < DEPARTURE_RESERVE_S + LEAST_S)
        ):
            self.turned.setdefault(CHARGES, now_s)
            low_w = 0  # Once it has turned it gives no more: it would turn again soon.
        if self.above_wh is not None and self.above_wh < GRAIN_WH and low_w < 0:
            self.turned.setdefault(MINIMUM if self.is_car else EMPTY, now_s)
            low_w = 0
        if self._is_full and high_w > 0:
            self.turned.setdefault(FULL, now_s)
            high_w = 0
        if self.quota_wh is not None and self.quota_wh < GRAIN_WH and not self.must_charge:
            self.turned.setdefault(USED_UP, now_s)
            low_w = high_w = 0
        return Range(low_w, max(low_w, high_w), self.minimum_w)

    def lasts_s(self, power_w: int, now_s: float) -> float:
        """How long it can go on like this until it turns."""
        found = [self.leaves_s - now_s]
        if power_w < 0 and self.above_wh is not None:
            found.append(self.above_wh * 3600 / -power_w)
        if power_w > 0 and self.below_wh is not None:
            found.append(self.below_wh * 3600 / power_w)
        if power_w and self.quota_wh is not None and self.quota_wh >= GRAIN_WH:
            found.append(self.quota_wh * 3600 / abs(power_w))
        if self.has_need and self.high_w > 0:
            found.append(self._turns_in_s(power_w, now_s))
        return max(LEAST_S, min(found))

    def go(self, power_w: int, duration_s: float) -> None:
        """Time passes at this power."""
        moved_wh = power_w * duration_s / 3600
        self.power_w = power_w
        self.need_wh -= moved_wh
        if self.quota_wh is not None:
            self.quota_wh -= abs(moved_wh)
        if self.above_wh is not None:
            self.above_wh += moved_wh
        if self.below_wh is not None:
            self.below_wh -= moved_wh

    @property
    def _is_full(self) -> bool:
        return self.below_wh is not None and self.below_wh < GRAIN_WH

    def slack_s(self, now_s: float) -> float:
        """Until it must charge for its departure."""
        if not self.has_need or self.need_wh < GRAIN_WH:
            return NEVER_S
        if self.high_w <= 0:
            return -1.0
        return self.leaves_s - now_s - self.need_wh * 3600 / (self.high_w * DEPARTURE_MARGIN)

    def _turns_in_s(self, power_w: int, now_s: float) -> float:
        """Until it must charge, or until it has what it needs while it does.

        What is given has to be charged again, and what is taken in need not: the slack goes faster, or slower.
        """
        if self.must_charge:
            return max(0.0, self.need_wh) * 3600 / max(1, power_w)
        pace = 1 - power_w / (self.high_w * DEPARTURE_MARGIN)
        if pace <= 0:
            return NEVER_S  # It is charged quickly enough by the command itself.
        slack_s = self.leaves_s - now_s - self.need_wh * 3600 / (self.high_w * DEPARTURE_MARGIN)
        if self.low_w < 0 and CHARGES not in self.turned and power_w < 0:
            slack_s -= DEPARTURE_RESERVE_S
        # A car that has all that it needs by then does not turn.
        if power_w > 0 and slack_s / pace * power_w >= self.need_wh * 3600:
            return NEVER_S
        return slack_s / pace


def foresee(command: Command, alone: CommandPlan, site: SiteView) -> tuple[CommandState, str]:
    """ACCEPTED or PARTIAL, and why. `alone`: what the plan makes of it, were it alone and its time now."""
    reason = (alone.reason or "it can do less now") if alone.short else shortfall(command, site)
    return (CommandState.PARTIAL, reason) if reason else (CommandState.ACCEPTED, hardship(command, site))


def hardship(command: Command, site: SiteView) -> str:
    """Which cars an import limit will leave short at their departure: it is kept all the same. Empty: none is foreseen.

    The nearest departure is served first; what PV or a battery may add is not counted on.
    """
    if command.mode is not Mode.IMPORT_LIMIT or not site.now.time_known:
        return ""
    stores, _, _ = _stores(command, site)
    if command.point is Point.CONNECTION and site.house_w is not None:
        limit_w = command.power_w - site.house_w
    else:
        limit_w = command.power_w
    whole_s = (command.end_us - max(command.start_us, site.now.wall_us)) / 1e6
    taken_wh, found = 0.0, []
    for store in sorted(stores, key=lambda store: (store.leaves_s, store.device_id)):
        if not store.has_need or store.slack_s(0.0) < 0:
            continue  # Without the command it would not be better off.
        counted_w = store.high_w * DEPARTURE_MARGIN
        later_wh = counted_w * max(0.0, store.leaves_s - whole_s) / 3600
        needed_wh = max(0.0, store.need_wh - later_wh)
        there_wh = min(max(0, limit_w), counted_w) * min(whole_s, store.leaves_s) / 3600
        given_wh = min(needed_wh, there_wh, max(0.0, max(0, limit_w) * min(whole_s, store.leaves_s) / 3600 - taken_wh))
        taken_wh += given_wh
        if needed_wh - given_wh >= GRAIN_WH:
            found.append(f"{store.device_id} will lack {round(needed_wh - given_wh)} Wh at its departure")
    return ", ".join(found)[:500]


def shortfall(command: Command, site: SiteView) -> str:
    """Why the command cannot be done over its whole time although it can begin; empty when nothing is foreseen."""
    if command.mode is not Mode.SETPOINT or not site.now.time_known:
        return ""
    if command.point is Point.CONNECTION and site.house_w is None:
        return ""  # The plan says that already.
    stores, rest_w, carry = _stores(command, site)
    if not stores:
        return ""
    from_us = max(command.start_us, site.now.wall_us)
    gone = _go_through(command, stores, rest_w, (command.end_us - from_us) / 1e6, carry=carry)
    turned = [(since_s, store.device_id, why) for store in stores for why, since_s in store.turned.items()]
    because = ", ".join(f"{name} {why} from {_clock(from_us, s)} on" for s, name, why in sorted(turned))
    if not because:
        return ""
    if gone.short_wh * 100 > gone.moved_wh * (100 - ENOUGH_PERCENT):
        possible_wh = max(0, round(gone.asked_wh - gone.short_wh))
        told = f"{possible_wh} Wh of {round(gone.asked_wh)} Wh are possible"
        if gone.asked_wh == 0:
            told = f"{round(gone.short_wh)} Wh of what the house takes, or PV gives, cannot be made up for"
        return f"{told}, for {because}"[:500]
    return f"not until its end: {because}"[:500] if gone.over_s * 100 > gone.whole_s * (100 - ENOUGH_PERCENT) else ""


@dataclass(slots=True)
class _Course:
    """How a command went, foreseen."""

    whole_s: float
    asked_wh: float = 0.0
    """By the command, at its point."""
    moved_wh: float = 0.0
    """Of the devices, for it."""
    short_wh: float = 0.0
    """Less along its direction."""
    over_s: float = 0.0
    """Beyond it, or against it: what charges for its departure."""


def _stores(command: Command, site: SiteView) -> tuple[list[_Store], int, Carry]:
    """What can be moved for it, the power that all of it together should have, and how they carry it."""
    drafts = {name: Draft(view) for name, view in sorted(site.devices.items())}
    scope = [name for name in scope_of(command, drafts) if name not in site.overrides]
    from_us, stores = max(command.start_us, site.now.wall_us), []
    for name in scope:
        draft, view = drafts[name], drafts[name].view
        if not draft.dispatchable or view.kind is DeviceKind.PV:
            continue
        car = view.vehicle
        if view.kind is DeviceKind.CHARGER and car is None:
            continue
        set_room(draft, site, command.price or site.spot, command.issuer)
        above_wh, below_wh = storage_wh(view, site)
        leaves_us = None if car is None else car.departure_timestamp_us
        quota_wh = site.bounds.of(name).energy_left_wh if command.mode is Mode.SETPOINT and command.power_w else None
        stores.append(
            _Store(
                device_id=name,
                is_car=car is not None,
                low_w=min(0, draft.room_low),
                high_w=max(0, draft.room_high),
                minimum_w=draft.minimum_w,
                above_wh=above_wh,
                below_wh=below_wh,
                need_wh=0.0 if car is None else float(car.energy_needed_wh or 0),
                has_need=car is not None and bool(car.energy_needed_wh) and leaves_us is not None,
                leaves_s=NEVER_S if leaves_us is None else (leaves_us - from_us) / 1e6,
                turned={},
                must_charge=draft.must_charge,
                quota_wh=None if quota_wh is None else float(quota_wh),
            )
        )
    rest_w = command.signed_power_w
    moved = {store.device_id for store in stores}
    if command.point is Point.CONNECTION:
        assert site.house_w is not None, "shortfall() foresees nothing there without a meter"
        # Batteries beside it rest meanwhile; all else stays as it is now.
        resting = [v for v in site.devices.values() if v.kind is DeviceKind.BATTERY and v.device_id not in scope]
        beside = [v for n, v in site.devices.items() if n not in moved and v not in resting]
        rest_w -= site.house_w + sum(view.likely_w for view in beside)
    elif command.type is not CommandType.IDLE:
        rest_w -= sum(drafts[name].view.likely_w for name in scope_of(command, drafts) if name not in moved)
    return stores, rest_w, carry_by(moved, drafts, site)


def _go_through(command: Command, stores: list[_Store], rest_w: int, whole_s: float, *, carry: Carry) -> _Course:
    course = _Course(whole_s)
    now_s = delivered_wh = 0.0
    most_wh = float("inf") if command.max_energy_wh is None else float(command.max_energy_wh)
    for turn in range(MOST_TURNS):
        if now_s >= whole_s or delivered_wh >= most_wh:
            break
        powers_w = _powers_w(command, stores, rest_w, now_s, carry=carry)
        lasts_s = min(store.lasts_s(powers_w[store.device_id], now_s) for store in stores)
        left_s = whole_s - now_s
        lasts_s = min(left_s, max(lasts_s, left_s / (MOST_TURNS - turn) if turn >= MOST_TURNS // 2 else 0))
        short_w, is_over = _judged(sum(powers_w.values()), rest_w)
        given_w = max(0, command.power_w - short_w)
        if given_w:
            lasts_s = min(lasts_s, max(LEAST_S, (most_wh - delivered_wh) * 3600 / given_w))
        course.asked_wh += command.power_w * lasts_s / 3600
        course.moved_wh += abs(rest_w) * lasts_s / 3600
        course.short_wh += short_w * lasts_s / 3600
        course.over_s += lasts_s if is_over else 0
        delivered_wh += given_w * lasts_s / 3600
        for store in stores:
            store.go(powers_w[store.device_id], lasts_s)
        now_s += lasts_s
    if course.asked_wh > most_wh:
        course.asked_wh = course.moved_wh = most_wh
        course.short_wh = max(0.0, most_wh - delivered_wh)
    return course


def _powers_w(command: Command, stores: list[_Store], rest_w: int, now_s: float, *, carry: Carry) -> Mapping[str, int]:
    """As the plan shares it out: who must charge does, the others fill up to what is asked."""
    ranges = {store.device_id: store.range(now_s, gives=rest_w < 0) for store in stores}
    powers_w = {s.device_id: ranges[s.device_id].high for s in stores if s.must_charge}
    movable = {name: found for name, found in ranges.items() if name not in powers_w}
    if command.type is CommandType.IDLE:
        return powers_w | dict.fromkeys(movable, 0)
    left_w = rest_w - sum(powers_w.values())
    return powers_w | carry(left_w, movable, {store.device_id: store.power_w for store in stores})


def _judged(sum_w: int, rest_w: int) -> tuple[int, bool]:
    """(W short of what was asked along its direction, whether it goes beyond it)."""
    missing_w = abs(rest_w) - (sum_w if rest_w >= 0 else -sum_w)
    if abs(missing_w) <= tolerance_w(rest_w):
        return 0, False
    return max(0, min(missing_w, abs(rest_w))), missing_w < 0


def _clock(from_us: int, after_s: float) -> str:
    moment_us = from_us + round(max(0.0, after_s) * 1e6)
    return datetime.fromtimestamp(moment_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
