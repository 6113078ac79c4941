"""What the local bounds will leave to a command in its time: the account of `bounds.py`, gone through ahead. Pure.

Hours fall out of the day and turns out of the hour as time goes on, so what is used up today may be free tomorrow. How
many commands may begin depends on those that were sent ahead; they are asked about as the plan will ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.book import Book
from agent.control.bounds import HOUR_US, HOURS, SIGN_LEAST_W, BoundSettings, BoundsView, Counted, Use
from agent.control.bounds_watch import BoundsWatch
from agent.control.command import Mode
from agent.control.order import Now, Order, precedence, stands
from agent.control.rules.bounds import is_event
from agent.control.rules.draft import Draft, Rule
from agent.control.rules.targets import find_targets
from agent.control.schedule_keeper import ScheduleKeeper
from agent.control.site import DeviceView, SiteView
from drivers.device import DeviceKind

HOUR_S: Final = 3600.0
GRAIN_WH: Final = 1.0
"""Less than that is a rounding."""
MOST_MOMENTS: Final = 64
"""Starts and ends of other commands that are looked at before one begins; more are taken to leave room."""
MOST_ORDERS: Final = 1_000
"""That are gone through in these moments together: where many commands are known, fewer moments are looked at."""
EVENTS_OF_A_SCHEDULE: Final = 5
"""Quarters of an hour that begin within any hour."""
RAMP_PARTS: Final = 6
"""Steps in which a rise over the whole rating is gone through."""

USED_UP: Final = f"has moved all that commands may move in a day ({Rule.ENERGY_DAY.value})"
CYCLED: Final = f"has gone through all the cycles of a day ({Rule.CYCLES_DAY.value})"
TURNED: Final = f"may not be turned round ({Rule.SIGN_CHANGES.value})"
RAMPS: Final = f"rises no faster than it may ({Rule.RAMP.value})"
WAITS: Final = f"it may not begin ({Rule.EVENTS.value})"


def _nothing(now: Now) -> tuple[Order, ...]:
    return ()


def _never(after_us: int) -> int | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What is known of the time to come, beside the command that is asked about."""

    settings: BoundSettings = field(default_factory=BoundSettings)
    counted: Counted = field(default_factory=Counted)
    orders: Callable[[Now], tuple[Order, ...]] = _nothing
    """What will stand at a moment, highest first."""
    next_change_us: Callable[[int], int | None] = _never
    """When the next of these starts or ends after a moment."""
    most_others: int = 0
    """More of these than that do not begin within any hour."""


NOTHING_AHEAD: Final = Ahead()


def ahead_of(bounds: BoundsWatch, book: Book, schedules: ScheduleKeeper) -> Ahead:
    """As it is known now."""

    def next_change_us(after_us: int) -> int | None:
        moments = (book.next_change_us(after_us), schedules.next_change_us(after_us))
        return min((moment_us for moment_us in moments if moment_us is not None), default=None)

    return Ahead(
        settings=bounds.settings,
        counted=bounds.counted,
        orders=lambda at: (*book.settle(at).book.candidates(at), *schedules.orders(at)),
        next_change_us=next_change_us,
        most_others=book.count_open + EVENTS_OF_A_SCHEDULE * schedules.count,
    )


@dataclass(slots=True, kw_only=True)
class Budget:
    """What commands may do with one device in the course of one of them; times in seconds from that one's start."""

    from_us: int
    most_wh: float | None = None
    """Of a day, by commands; None: any."""
    most_cycled_wh: float | None = None
    """Of a day, into the storage and out of it, whoever moves it."""
    most_turns: int | None = None
    """Of an hour."""
    ramp_w_per_s: float | None = None
    rating_w: int = 0
    moved_wh: dict[int, float] = field(default_factory=dict)
    """By hour, since 1970."""
    cycled_wh: dict[int, float] = field(default_factory=dict)
    turned_s: list[float] = field(default_factory=list)
    sign: int = 0
    """Of the last order with one."""
    power_w: float = 0.0
    """What commands have of it, or what it does already; here the ramp begins."""

    def used_up(self, now_s: float) -> str:
        """Why no command moves it now; empty: one may."""
        hour = self._hour(now_s)
        if self.most_wh is not None and self.most_wh - _of_a_day(self.moved_wh, hour) < GRAIN_WH:
            return USED_UP
        if self.most_cycled_wh is not None and self.most_cycled_wh - _of_a_day(self.cycled_wh, hour) < GRAIN_WH:
            return CYCLED
        return ""

    def only_sign(self, now_s: float) -> int:
        """The only sign that may be ordered beside nothing; 0: either."""
        return self.sign if self._free_in_s(now_s) > 0 else 0

    def lasts_s(self, power_w: float, now_s: float, *, commanded: bool) -> float:
        """How long it stays as it is: until something is used up, or free again."""
        hour, found = self._hour(now_s), [float("inf")]
        for most_wh, by_hour, counts in (
            (self.most_wh, self.moved_wh, commanded),
            (self.most_cycled_wh, self.cycled_wh, True),
        ):
            if most_wh is None:
                continue
            left_wh = most_wh - _of_a_day(by_hour, hour)
            if left_wh < GRAIN_WH:
                oldest = min((at for at, wh in by_hour.items() if at > hour - HOURS and wh > 0), default=hour)
                found.append(((oldest + HOURS) * HOUR_US - self.from_us) / 1e6 - now_s)
            elif power_w and counts:
                found.append(left_wh * 3600 / abs(power_w))
        free_in_s = self._free_in_s(now_s)
        if free_in_s > 0:
            found.append(free_in_s)
        return min(found)

    def rises(self, wanted_w: float) -> float | None:
        """How far it may go in one step of the ramp, s; None: it is there at once."""
        missing_w = abs(wanted_w) - self._from_w(wanted_w)
        if self.ramp_w_per_s is None or missing_w <= 0:
            return None
        return min(missing_w, self.rating_w / RAMP_PARTS) / self.ramp_w_per_s

    def go(self, wanted_w: float, now_s: float, duration_s: float, *, commanded: bool) -> float:
        """Time passes with this wanted of it. What it has on average, W."""
        reached_w = average_w = wanted_w
        if commanded:
            self._turn(wanted_w, now_s)
            from_w, most_w = self._from_w(wanted_w), abs(wanted_w)
            if self.ramp_w_per_s is not None and from_w < most_w:
                rise_s = min(duration_s, (most_w - from_w) / self.ramp_w_per_s)
                end_w = from_w + rise_s * self.ramp_w_per_s
                share = rise_s / duration_s if duration_s > 0 else 1.0
                direction = 1 if wanted_w > 0 else -1
                reached_w = direction * end_w
                average_w = direction * ((from_w + end_w) / 2 * share + end_w * (1 - share))
        self.power_w = reached_w if commanded else 0.0
        moved_wh = abs(average_w) * duration_s / 3600
        if moved_wh:
            self._count(moved_wh, now_s, duration_s, commanded=commanded)
        return average_w

    def _count(self, moved_wh: float, now_s: float, duration_s: float, *, commanded: bool) -> None:
        at_s, end_s = now_s, now_s + duration_s
        while at_s < end_s:
            hour = self._hour(at_s)
            next_s = min(end_s, max(at_s + 1e-3, ((hour + 1) * HOUR_US - self.from_us) / 1e6))
            part_wh = moved_wh * (next_s - at_s) / duration_s
            if commanded and self.most_wh is not None:
                self.moved_wh[hour] = self.moved_wh.get(hour, 0.0) + part_wh
            if self.most_cycled_wh is not None:
                self.cycled_wh[hour] = self.cycled_wh.get(hour, 0.0) + part_wh
            if self.most_wh is None and self.most_cycled_wh is None:
                return
            at_s = next_s

    def _turn(self, wanted_w: float, now_s: float) -> None:
        if abs(wanted_w) < SIGN_LEAST_W:
            return
        sign = 1 if wanted_w > 0 else -1
        if self.sign and sign != self.sign:
            self.turned_s.append(now_s)
        self.sign = sign

    def _from_w(self, wanted_w: float) -> float:
        return abs(self.power_w) if self.power_w * wanted_w > 0 else 0.0

    def _free_in_s(self, now_s: float) -> float:
        """Until it may be turned round; 0: it may."""
        if self.most_turns is None:
            return 0.0
        recent = sorted(at_s for at_s in self.turned_s if at_s > now_s - HOUR_S)
        if len(recent) < self.most_turns:
            return 0.0
        return recent[len(recent) - self.most_turns] + HOUR_S - now_s

    def _hour(self, now_s: float) -> int:
        return (self.from_us + round(now_s * 1e6)) // HOUR_US


def budget_of(view: DeviceView, ahead: Ahead, from_us: int, does_w: int = 0) -> Budget:
    """As it is now, for a command that starts then. `does_w`: what no ramp takes from it."""
    settings, use = ahead.settings, ahead.counted.devices.get(view.device_id, Use())
    rating_w = max(view.most_import_w, view.most_export_w)
    ramp, cycles = settings.ramp_permille_per_s, settings.cycles_per_day_permille
    capacity_wh = _capacity_wh(view)
    return Budget(
        from_us=from_us,
        most_wh=None if settings.energy_per_day_wh is None else float(settings.energy_per_day_wh),
        most_cycled_wh=None if cycles is None or capacity_wh is None else 2 * cycles * capacity_wh / 1000,
        most_turns=settings.sign_changes_per_hour,
        ramp_w_per_s=None if ramp is None or not rating_w else rating_w * ramp / 1000,
        rating_w=rating_w,
        moved_wh={hour: amount / 1000 for hour, amount in use.energy_milliwatt_hours.items()},
        cycled_wh={hour: amount * (capacity_wh or 0) / 1000 for hour, amount in use.charge_permille.items()},
        turned_s=[(at_us - from_us) / 1e6 for at_us in use.turned_us],
        sign=use.sign,
        power_w=float(max(use.commanded_w, does_w, key=abs)),
    )


def _capacity_wh(view: DeviceView) -> int | None:
    """Of what moves with its state of charge; None: nobody knows, and no cycle is counted."""
    if view.vehicle is not None:
        return None if view.vehicle.state_of_charge_permille is None else view.vehicle.battery_capacity_wh
    if view.kind is not DeviceKind.BATTERY or view.state_of_charge_permille is None or view.capabilities is None:
        return None
    return view.capabilities.energy_capacity_wh


def _of_a_day(by_hour: Mapping[int, float], hour: int) -> float:
    return sum(wh for at, wh in by_hour.items() if at > hour - HOURS)


def begins_us(order: Order, site: SiteView, ahead: Ahead) -> int:
    """When the bound on commands that begin in an hour lets this one come into force; its end: not before that."""
    command, most = order.command, ahead.settings.events_per_hour
    start_us = max(command.start_us, site.now.wall_us)
    if most is None or command.mode is not Mode.SETPOINT or command.restrictive:
        return start_us
    begun, drafts = dict(ahead.counted.events), {name: Draft(view) for name, view in sorted(site.devices.items())}
    if ahead.most_others + sum(1 for then_us in begun.values() if then_us > start_us - HOUR_US) < most:
        return start_us
    # What began, or would begin, more than an hour before it is of no account to it.
    at_us, end_us = max(site.now.wall_us, start_us - HOUR_US + 1), command.end_us
    for _ in range(max(2, min(MOST_MOMENTS, MOST_ORDERS // max(1, ahead.most_others)))):
        at = replace(site.now, wall_us=at_us)
        standing = [other for other in ahead.orders(at) if other.hash != order.hash]
        if stands(order, at):
            standing.append(order)
        recent = sum(1 for then_us in begun.values() if then_us > at_us - HOUR_US)
        bounds = BoundsView(events_left=max(0, most - recent), begun=frozenset(begun))
        then = replace(site, now=at, orders=tuple(sorted(standing, key=precedence)), bounds=bounds)
        for target in find_targets(drafts, then):
            if target.order.hash == order.hash and target.reason != Rule.EVENTS.value:
                return at_us  # Whatever else stands against it is not of this bound.
            if target.in_force and target.order.command.mode is Mode.SETPOINT and is_event(target.order, then):
                begun[target.order.hash] = at_us
        moments = [then_us + HOUR_US for then_us in begun.values()]
        moments += [moment_us for moment_us in (ahead.next_change_us(at_us), command.start_us) if moment_us is not None]
        at_us = min((moment_us for moment_us in moments if moment_us > at_us), default=end_us)
        if at_us >= end_us:
            return end_us
    return max(start_us, at_us)
