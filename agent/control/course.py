"""How a command will go from its start to its end: shared out as the plan would, from one turn to the next. Pure.

A turn is where something begins or ends: storage is empty or full, a car must charge or leaves, a local bound is used
up or free again. Between two turns powers stay as they are, or rise by the ramp; house and PV stay as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.control.allocation import Range, fill
from agent.control.bounds_ahead import GRAIN_WH, RAMPS, TURNED, Budget
from agent.control.command import Command, CommandType
from agent.control.departure import DEPARTURE_MARGIN, DEPARTURE_RESERVE_S
from agent.control.plan import tolerance_w
from agent.control.rules.sharing import Carry

LEAST_TURNS: Final = 32
"""Steps in which a command is gone through: half of them from turn to turn, the others share what time is left."""
MOST_TURNS: Final = 400
MOST_STEPS: Final = 6_400
"""Turns of all devices together: many devices are gone through in fewer turns."""
LEAST_S: Final = 1.0
"""Turns that come closer together are one."""
MOST_CHOICES: Final = 3
"""Of those that carry a target, before it is taken to stay."""
NEVER_S: Final = float("inf")
MINIMUM: Final = "is at its owner's minimum"
EMPTY: Final = "is at its least charge"
FULL: Final = "is full"
CHARGES: Final = "charges for its departure"
LEAVES: Final = "leaves"


@dataclass(slots=True, kw_only=True)
class Store:
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
    budget: Budget
    bounded: bool
    """Whether the bounds on energy and cycles of a day hold for this command."""
    charges_by_itself: bool
    """What its owner has it do when no command moves it: a car charges, a battery looks after the house."""
    must_charge: bool = False
    power_w: int = 0
    """Until now."""

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
        return Range(low_w, max(low_w, high_w), self.minimum_w)

    def used_up(self, now_s: float) -> bool:
        """Whether a local bound leaves it to itself at this moment; which one is noted."""
        why = self.budget.used_up(now_s) if self.bounded and not self.must_charge else ""
        if why:
            self.turned.setdefault(why, now_s)
        return bool(why)

    def on_its_side(self, possible: Range, now_s: float, *, gives: bool) -> Range:
        """The side to which it may still be ordered in this hour."""
        sign = self.budget.only_sign(now_s)
        if (sign < 0 and not gives) or (sign > 0 and gives):
            self.turned.setdefault(TURNED, now_s)
        if sign > 0 and possible.low < 0:
            return Range(0, max(0, possible.high), possible.minimum)
        if sign < 0 and possible.high > 0:
            return Range(min(0, possible.low), 0, possible.minimum)
        return possible

    def lasts_s(self, power_w: int, now_s: float, *, commanded: bool) -> float:
        """How long it can go on like this until it turns."""
        found = [self.leaves_s - now_s, self.budget.lasts_s(power_w, now_s, commanded=commanded)]
        if power_w < 0 and self.above_wh is not None:
            found.append(self.above_wh * 3600 / -power_w)
        if power_w > 0 and self.below_wh is not None:
            found.append(self.below_wh * 3600 / power_w)
        if self.has_need and self.high_w > 0:
            found.append(self._turns_in_s(power_w, now_s))
        rise_s = self.budget.rises(power_w) if commanded else None
        if rise_s is not None:
            found.append(rise_s)
        return max(LEAST_S, min(found))

    def go(self, power_w: int, now_s: float, duration_s: float, *, commanded: bool) -> float:
        """Time passes with this power wanted of it. What it has on average, W."""
        if commanded and self.budget.rises(power_w) is not None:
            self.turned.setdefault(RAMPS, now_s)
        average_w = self.budget.go(power_w, now_s, duration_s, commanded=commanded)
        moved_wh = average_w * duration_s / 3600
        self.power_w = power_w
        self.need_wh -= moved_wh
        if self.above_wh is not None:
            self.above_wh += moved_wh
        if self.below_wh is not None:
            self.below_wh -= moved_wh
        return average_w

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a command asks of all its devices together."""

    command: Command
    stores: Sequence[Store]
    rest_w: int
    """The power that all of them together should have."""
    sun_w: int
    """What PV among its devices gives, positive: the plan holds it back where storage can take no more."""
    beside_w: int | None
    """What the connection has without them; None: nobody measures it."""
    carry: Carry | None
    """How they carry it; None: all alike."""
    begins_s: float
    """When it comes into force, after its start."""
    whole_s: float


@dataclass(slots=True)
class Course:
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


def go_through(task: Task) -> Course:
    """All of it; the stores have changed then."""
    command, whole_s = task.command, task.whole_s
    course = Course(whole_s)
    now_s, delivered_wh = min(task.begins_s, whole_s), 0.0
    _count(course, task, now_s, short_w=max(abs(task.rest_w), command.power_w), is_over=False)
    most_wh = float("inf") if command.max_energy_wh is None else float(command.max_energy_wh)
    turns = max(LEAST_TURNS, min(MOST_TURNS, MOST_STEPS // max(1, len(task.stores))))
    for turn in range(turns):
        if now_s >= whole_s or delivered_wh >= most_wh:
            break
        powers_w, commanded = _powers_w(task, now_s)
        lasts_s = min(s.lasts_s(powers_w[s.device_id], now_s, commanded=s.device_id in commanded) for s in task.stores)
        left_s = whole_s - now_s
        lasts_s = min(left_s, max(lasts_s, left_s / (turns - turn) if turn >= turns // 2 else 0))
        given_w = max(0, command.power_w - _judged(sum(powers_w.values()), task)[0])
        if given_w:
            lasts_s = min(lasts_s, max(LEAST_S, (most_wh - delivered_wh) * 3600 / given_w))
        average_w = sum(
            store.go(powers_w[store.device_id], now_s, lasts_s, commanded=store.device_id in commanded)
            for store in task.stores
        )
        short_w, is_over = _judged(round(average_w), task)
        _count(course, task, lasts_s, short_w=short_w, is_over=is_over)
        delivered_wh += max(0, command.power_w - short_w) * lasts_s / 3600
        now_s += lasts_s
    if course.asked_wh > most_wh:
        course.asked_wh = course.moved_wh = most_wh
        course.short_wh = max(0.0, most_wh - delivered_wh)
    return course


def _count(course: Course, task: Task, duration_s: float, *, short_w: int, is_over: bool) -> None:
    course.asked_wh += task.command.power_w * duration_s / 3600
    course.moved_wh += abs(task.rest_w) * duration_s / 3600
    course.short_wh += short_w * duration_s / 3600
    course.over_s += duration_s if is_over else 0


def _powers_w(task: Task, now_s: float) -> tuple[Mapping[str, int], frozenset[str]]:
    """As the plan shares it out: who must charge does, the others fill up to what is asked. And whom it moves."""
    gives = task.rest_w < 0
    ranges = {store.device_id: store.range(now_s, gives=gives) for store in task.stores}
    powers_w = {s.device_id: ranges[s.device_id].high for s in task.stores if s.must_charge}
    movable = [store for store in task.stores if not store.must_charge]
    commanded = frozenset(store.device_id for store in movable)
    if task.command.type is CommandType.IDLE:
        return powers_w | dict.fromkeys(commanded, 0), commanded
    used_up = [store for store in movable if store.used_up(now_s)]
    if used_up and len(used_up) == len(movable):
        return powers_w | _by_themselves_w(task, ranges, used_up, sum(powers_w.values())), frozenset()
    rests = {store.device_id for store in used_up}
    open_to = {
        store.device_id: Range(0, 0)
        if store.device_id in rests
        else store.on_its_side(ranges[store.device_id], now_s, gives=gives)
        for store in movable
    }
    left_w = task.rest_w - sum(powers_w.values())
    if task.carry is None:
        return powers_w | fill(left_w, open_to), commanded
    return powers_w | _carried(left_w, task.carry, movable, open_to), commanded


def _carried(total_w: int, carry: Carry, stores: Sequence[Store], ranges: Mapping[str, Range]) -> dict[str, int]:
    """Who moves stays at less than who would join: so the choice is asked for again until it stays."""
    now_w = {store.device_id: store.power_w for store in stores}
    for _ in range(MOST_CHOICES):
        before_w, now_w = now_w, carry(total_w, ranges, now_w)
        if now_w == before_w:
            break
    return now_w


def _by_themselves_w(task: Task, ranges: Mapping[str, Range], stores: Sequence[Store], beside_w: int) -> dict[str, int]:
    """Whom no command may move does as its owner has it do: a battery brings the connection to nothing."""
    powers_w = {s.device_id: ranges[s.device_id].high if s.charges_by_itself else 0 for s in stores if s.is_car}
    batteries = {s.device_id: ranges[s.device_id] for s in stores if not s.is_car and s.charges_by_itself}
    powers_w |= {s.device_id: 0 for s in stores if not s.is_car and not s.charges_by_itself}
    if task.beside_w is None:
        return powers_w | dict.fromkeys(batteries, 0)
    return powers_w | fill(-(task.beside_w + beside_w + sum(powers_w.values())), batteries)


def _judged(sum_w: int, task: Task) -> tuple[int, bool]:
    """(W short of what was asked along its direction, whether it goes beyond it)."""
    rest_w = task.rest_w
    missing_w = abs(rest_w) - (sum_w if rest_w >= 0 else -sum_w)
    if rest_w > 0 and missing_w > 0:
        missing_w = max(0, missing_w - task.sun_w)
    if abs(missing_w) <= tolerance_w(rest_w):
        return 0, False
    return max(0, min(missing_w, abs(rest_w))), missing_w < 0
