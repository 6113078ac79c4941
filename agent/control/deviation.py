"""How far the site is from its schedule: energy by the registers, quarter by quarter, and what it would cost. Pure.

The platform charges 5 % of the spot price for what is missing and 2 % for what is too much (PLATFORM.md). Both are
reckoned along the schedule: who was to export 4 kWh and exported 3 is 1 kWh short, who was to take 4 kWh in likewise.
A quarter in which a command went before the schedule is excused. Each schedule is reckoned with by itself.

What is agreed goes by the clock, what flows by registers, each with the time at which it was read: where a register is
missing at an end, what it shows is spread evenly over its own time, and where that tells too little nothing is said.
A clock that is set ends the reckoning; the rest of the quarter is reckoned alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.command import Price
from agent.control.schedule import STEP_US
from agent.control.tally import Register

UNDER_PERCENT: Final = 5
OVER_PERCENT: Final = 2
MOST_KEPT: Final = 96
"""A day of quarters."""
LATE_US: Final = 60 * 1_000_000
"""Registers that are read so far from the ends of what is reckoned tell its energy only by estimate."""
LEAST_METERED, MOST_METERED = 0.5, 4
"""Of the time that is reckoned: registers over less, or over more, tell nothing about it."""
JUMP_US: Final = 2 * 1_000_000
"""By so much more or less than time has passed, a clock was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What one schedule asks for now, and how the plan does it."""

    schedule_hash: bytes
    power_w: int
    devices: tuple[str, ...]
    """Whose registers count."""
    commanded: bool
    """A command goes before it."""
    reason: str
    """What binds it."""
    price: Price | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarter:
    """One quarter of an hour under a schedule, as far as it has gone."""

    start_us: int
    schedule_hash: bytes
    seen_us: int
    power_w: int
    """What was agreed since `seen_us`."""
    scheduled_milliwatt_seconds: int = 0
    first: Mapping[str, Register] = field(default_factory=dict)
    last: Mapping[str, Register] = field(default_factory=dict)
    from_us: int = 0
    """From here on it is reckoned with."""
    first_us: Mapping[str, int] = field(default_factory=dict)
    """When the first registers were read."""
    last_us: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    commanded: bool = False
    reason: str = ""
    price: Price | None = None

    @property
    def end_us(self) -> int:
        return self.start_us + STEP_US

    @property
    def scheduled_wh(self) -> int:
        """Agreed until `seen_us`; + import."""
        return int(self.scheduled_milliwatt_seconds / 3_600_000)

    def delivered_wh(self) -> int | None:
        """By the registers, until `seen_us`; None while one of them is missing, was exchanged, or tells too little."""
        parts = [self._delivered_milliwatt_hours(name) for name in self.devices]
        known = [part for part in parts if part is not None]
        return int(sum(known) / 1000) if parts and len(known) == len(parts) else None

    @property
    def estimated(self) -> bool:
        """A register was not read at an end of what is reckoned."""
        return any(self._is_off(name) for name in self.devices)

    def _is_off(self, name: str) -> bool:
        early_us, late_us = self.first_us.get(name, 0) - self.from_us, self.last_us.get(name, 0) - self.seen_us
        return abs(early_us) > LATE_US or abs(late_us) > LATE_US

    def _delivered_milliwatt_hours(self, name: str) -> int | None:
        first, last = self.first.get(name), self.last.get(name)
        if first is None or last is None or first.meter_id != last.meter_id:
            return None
        flowed = last.net_milliwatt_hours - first.net_milliwatt_hours
        reckoned_us, metered_us = self.seen_us - self.from_us, self.last_us[name] - self.first_us[name]
        if self._is_off(name) and not LEAST_METERED * reckoned_us <= metered_us <= MOST_METERED * reckoned_us:
            return None
        return flowed * reckoned_us // metered_us if metered_us > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One quarter that is over."""

    start_us: int
    schedule_hash: bytes
    scheduled_wh: int
    """+ import."""
    delivered_wh: int | None
    """None: the meters do not tell."""
    excused: bool
    """A command went before the schedule."""
    estimated: bool
    """The registers were not read at its ends, or the clock was set in it."""
    reason: str
    from_us: int = 0
    """What is reckoned is from here until there: a part, where it was agreed on, replaced, or the clock set within."""
    until_us: int = 0
    under_wh: int = 0
    over_wh: int = 0
    penalty_micro: int | None = None
    """Of the currency; None: there was no price, or nothing to reckon."""
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of one schedule."""

    quarters: int = 0
    under_wh: int = 0
    over_wh: int = 0


NO_SUMS: Final = Sums()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviationBook:
    """The open quarters, the last day's, and sums since the first."""

    open: Mapping[bytes, Quarter] = field(default_factory=dict)
    """By schedule hash."""
    closed: tuple[Deviation, ...] = ()
    under_wh: int = 0
    over_wh: int = 0
    penalties_micro: Mapping[str, int] = field(default_factory=dict)
    """By currency."""
    quarters: int = 0
    """Of all schedules together."""
    by_schedule: Mapping[bytes, Sums] = field(default_factory=dict)
    """Of those that still stand."""
    ahead_us: int | None = None
    """Of the clock, of uptime, at the last look; None: of an earlier run."""


def observe(
    book: DeviationBook,
    agreements: Sequence[Agreement],
    registers: Mapping[str, Register],
    now_us: int,
    uptime_us: int | None = None,
) -> tuple[DeviationBook, tuple[Deviation, ...]]:
    """The book after one look, and the quarters that ended with it. `agreements`: of this moment, one a schedule.

    `uptime_us`: whether the clock was set shows beside it; None: not known.
    """
    asked = {agreement.schedule_hash: agreement for agreement in agreements}
    going_on: dict[bytes, Quarter] = {}
    closed: list[Deviation] = []
    followed: dict[tuple[str, ...], int] = {}
    """Devices whose quarter ended with this look, and when: the next one begins where it ended."""
    ahead_us = None if uptime_us is None else now_us - uptime_us
    was_set = ahead_us is not None and book.ahead_us is not None and abs(ahead_us - book.ahead_us) > JUMP_US
    for key, quarter in book.open.items():
        agreement = asked.get(key)
        if was_set or now_us < quarter.start_us:
            closed.append(replace(close(quarter), estimated=True))
            continue
        if now_us < quarter.end_us and agreement is not None and agreement.devices == quarter.devices:
            going_on[key] = quarter
            continue
        until_us = min(now_us, quarter.end_us)
        closed.append(close(_gone(quarter, until_us, registers, now_us)))
        followed[quarter.devices] = until_us
    for deviation in closed:
        book = _with(book, deviation)
    opened = {}
    for key, agreement in asked.items():
        quarter = going_on.get(key) or _opened(agreement, followed, now_us)
        quarter = _gone(quarter, now_us, registers, now_us)
        opened[key] = replace(
            quarter,
            power_w=agreement.power_w,
            commanded=quarter.commanded or agreement.commanded,
            reason=agreement.reason or quarter.reason,
            price=agreement.price or quarter.price,
        )
    return replace(book, open=opened, ahead_us=ahead_us), tuple(closed)


def keep_only(book: DeviationBook, standing: Set[bytes]) -> DeviationBook:
    """Without the own sums of schedules that are over; all together still has them."""
    kept = {key: sums for key, sums in book.by_schedule.items() if key in standing}
    return book if len(kept) == len(book.by_schedule) else replace(book, by_schedule=kept)


def _opened(agreement: Agreement, followed: Mapping[tuple[str, ...], int], now_us: int) -> Quarter:
    """A quarter that begins. After a change within one the rest of it is reckoned alone."""
    start_us = now_us // STEP_US * STEP_US
    ended_us = followed.get(agreement.devices, now_us)
    from_us = max(start_us, ended_us) if now_us - ended_us <= LATE_US else now_us
    return Quarter(
        start_us=start_us,
        schedule_hash=agreement.schedule_hash,
        seen_us=from_us,
        power_w=agreement.power_w,
        from_us=from_us,
        devices=agreement.devices,
    )


def _gone(quarter: Quarter, until_us: int, registers: Mapping[str, Register], now_us: int) -> Quarter:
    """Time has gone on until then, and the registers were read now."""
    passed_us = max(0, until_us - quarter.seen_us)
    shown = {name: registers[name] for name in quarter.devices if name in registers}
    read_us = dict.fromkeys(shown, now_us)
    return replace(
        quarter,
        seen_us=max(until_us, quarter.seen_us),
        scheduled_milliwatt_seconds=quarter.scheduled_milliwatt_seconds + quarter.power_w * passed_us // 1000,
        first={**shown, **quarter.first},
        last={**quarter.last, **shown},
        first_us={**read_us, **quarter.first_us},
        last_us={**quarter.last_us, **read_us},
    )


def close(quarter: Quarter) -> Deviation:
    """The reckoning of a quarter."""
    scheduled_wh, delivered_wh = quarter.scheduled_wh, quarter.delivered_wh()
    under_wh = over_wh = 0
    if delivered_wh is not None and not quarter.commanded:
        along_wh = delivered_wh if scheduled_wh >= 0 else -delivered_wh
        if scheduled_wh == 0:
            over_wh = abs(delivered_wh)
        else:
            under_wh, over_wh = max(0, abs(scheduled_wh) - along_wh), max(0, along_wh - abs(scheduled_wh))
    penalty_micro, price = None, quarter.price
    if price is not None and delivered_wh is not None:
        penalty_micro = (under_wh * UNDER_PERCENT + over_wh * OVER_PERCENT) * price.micro_per_kwh // 100_000
    return Deviation(
        start_us=quarter.start_us,
        schedule_hash=quarter.schedule_hash,
        scheduled_wh=scheduled_wh,
        delivered_wh=delivered_wh,
        excused=quarter.commanded,
        estimated=delivered_wh is not None and quarter.estimated,
        reason=quarter.reason[:400],
        from_us=quarter.from_us,
        until_us=quarter.seen_us,
        under_wh=under_wh,
        over_wh=over_wh,
        penalty_micro=penalty_micro,
        currency="" if price is None else price.currency,
    )


def _with(book: DeviationBook, closed: Deviation) -> DeviationBook:
    penalties = dict(book.penalties_micro)
    if closed.penalty_micro:
        penalties[closed.currency] = penalties.get(closed.currency, 0) + closed.penalty_micro
    own = book.by_schedule.get(closed.schedule_hash, NO_SUMS)
    own = Sums(quarters=own.quarters + 1, under_wh=own.under_wh + closed.under_wh, over_wh=own.over_wh + closed.over_wh)
    return replace(
        book,
        by_schedule={**book.by_schedule, closed.schedule_hash: own},
        closed=(*book.closed, closed)[-MOST_KEPT:],
        under_wh=book.under_wh + closed.under_wh,
        over_wh=book.over_wh + closed.over_wh,
        penalties_micro=penalties,
        quarters=book.quarters + 1,
    )
