"""How far the site is from its schedule: energy by the registers, quarter by quarter, and what it would cost. Pure.

The platform charges 5 % of the spot price for what is missing and 2 % for what is too much (PLATFORM.md). Both are
reckoned along the schedule: who was to export 4 kWh and exported 3 is 1 kWh short, who was to take 4 kWh in likewise.
A quarter in which a command went before the schedule is excused. Each schedule is reckoned with by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.command import MAX_TIME_US, Price
from agent.control.errors import RestoreError
from agent.control.schedule import STEP_US
from agent.control.tally import Register
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError

UNDER_PERCENT: Final = 5
OVER_PERCENT: Final = 2
MOST_KEPT: Final = 96
"""A day of quarters."""
LATE_US: Final = 60 * 1_000_000
"""Registers that are read so long after a quarter's end tell its energy only by estimate."""


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
        """By the registers; None while one of them is missing, or was exchanged."""
        if not self.devices:
            return None
        total = 0
        for name in self.devices:
            first, last = self.first.get(name), self.last.get(name)
            if first is None or last is None or first.meter_id != last.meter_id:
                return None
            total += last.net_milliwatt_hours - first.net_milliwatt_hours
        return int(total / 1000)


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
    """The registers were read too late, or not from its beginning."""
    reason: str
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


def observe(
    book: DeviationBook, agreements: Sequence[Agreement], registers: Mapping[str, Register], now_us: int
) -> tuple[DeviationBook, tuple[Deviation, ...]]:
    """The book after one look, and the quarters that ended with it. `agreements`: of this moment, one a schedule."""
    asked = {agreement.schedule_hash: agreement for agreement in agreements}
    going_on: dict[bytes, Quarter] = {}
    closed: list[Deviation] = []
    followed: set[tuple[str, ...]] = set()
    """Devices whose quarter ended with this look: the next one begins where it ended."""
    for key, quarter in book.open.items():
        agreement = asked.get(key)
        if now_us < quarter.end_us and agreement is not None and agreement.devices == quarter.devices:
            going_on[key] = quarter
            continue
        until_us = min(now_us, quarter.end_us)
        closed.append(close(_gone(quarter, until_us, registers), now_us))
        followed.add(quarter.devices)
    for deviation in closed:
        book = _with(book, deviation)
    opened = {}
    for key, agreement in asked.items():
        quarter = _gone(going_on.get(key) or _opened(agreement, followed, registers, now_us), now_us, registers)
        opened[key] = replace(
            quarter,
            power_w=agreement.power_w,
            commanded=quarter.commanded or agreement.commanded,
            reason=agreement.reason or quarter.reason,
            price=agreement.price or quarter.price,
        )
    return replace(book, open=opened), tuple(closed)


def keep_only(book: DeviationBook, standing: Set[bytes]) -> DeviationBook:
    """Without the own sums of schedules that are over; all together still has them."""
    kept = {key: sums for key, sums in book.by_schedule.items() if key in standing}
    return book if len(kept) == len(book.by_schedule) else replace(book, by_schedule=kept)


def _opened(
    agreement: Agreement, followed: Set[tuple[str, ...]], registers: Mapping[str, Register], now_us: int
) -> Quarter:
    """A quarter that begins. After a change within one the rest of it is reckoned alone."""
    start_us = now_us // STEP_US * STEP_US
    return Quarter(
        start_us=start_us,
        schedule_hash=agreement.schedule_hash,
        seen_us=now_us if agreement.devices not in followed or now_us - start_us > LATE_US else start_us,
        power_w=agreement.power_w,
        first={name: registers[name] for name in agreement.devices if name in registers},
        devices=agreement.devices,
    )


def _gone(quarter: Quarter, now_us: int, registers: Mapping[str, Register]) -> Quarter:
    """Time has gone on to this moment."""
    passed_us = max(0, now_us - quarter.seen_us)
    shown = {name: registers[name] for name in quarter.devices if name in registers}
    return replace(
        quarter,
        seen_us=max(now_us, quarter.seen_us),
        scheduled_milliwatt_seconds=quarter.scheduled_milliwatt_seconds + quarter.power_w * passed_us // 1000,
        first={**shown, **quarter.first},
        last={**quarter.last, **shown},
    )


def close(quarter: Quarter, now_us: int) -> Deviation:
    """The reckoning of a quarter. `now_us`: when its registers were read."""
    scheduled_wh = quarter.scheduled_wh
    delivered_wh, estimated = quarter.delivered_wh(), False
    late_us = now_us - quarter.seen_us
    if delivered_wh is not None and late_us > LATE_US:
        # We were away: what flowed is spread evenly over the time.
        delivered_wh = delivered_wh * STEP_US // (STEP_US + late_us)
        estimated = True
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
        estimated=estimated,
        reason=quarter.reason[:400],
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


def encode_deviations(book: DeviationBook) -> bytes:
    """For the store: the sums and the open quarters; what is closed stands in the evidence."""
    opened: list[cbor.Value] = []
    for _, quarter in sorted(book.open.items()):
        price: cbor.Value = None if quarter.price is None else [quarter.price.micro_per_kwh, quarter.price.currency]
        opened.append([
            quarter.start_us, quarter.schedule_hash, quarter.seen_us, quarter.power_w,
            quarter.scheduled_milliwatt_seconds,
            [[name, r.meter_id, r.net_milliwatt_hours] for name, r in sorted(quarter.first.items())],
            list(quarter.devices), quarter.commanded, quarter.reason[:400], price,
        ])  # fmt: skip
    sums: list[cbor.Value] = [[currency, micro] for currency, micro in sorted(book.penalties_micro.items())]
    own: list[cbor.Value] = [
        [key, one.quarters, one.under_wh, one.over_wh] for key, one in sorted(book.by_schedule.items())
    ]
    return cbor.encode([2, book.quarters, book.under_wh, book.over_wh, sums, opened, own])


def decode_deviations(note: bytes) -> DeviationBook:
    """A stored book. Raises RestoreError."""
    try:
        match cbor.decode(note, what="deviations note"):
            case [1, int(quarters), int(under_wh), int(over_wh), list(sums), one]:  # by a version before this one
                opened: list[cbor.Value] = [] if one is None else [one]
                own: list[cbor.Value] = []
            case [2, int(quarters), int(under_wh), int(over_wh), list(sums), list(opened), list(own)]:
                pass
            case _:
                raise RestoreError("deviations note: not laid out as version 2")
    except EvidenceError as error:
        raise RestoreError(f"deviations note: {error}") from error
    found = [_quarter(value) for value in opened]
    return DeviationBook(
        open={quarter.schedule_hash: quarter for quarter in found},
        under_wh=under_wh,
        over_wh=over_wh,
        quarters=quarters,
        penalties_micro=_sums(sums),
        by_schedule=dict(_own(value) for value in own),
    )


def _own(value: cbor.Value) -> tuple[bytes, Sums]:
    match value:
        case [bytes(key), int(quarters), int(under_wh), int(over_wh)]:
            return key, Sums(quarters=quarters, under_wh=under_wh, over_wh=over_wh)
    raise RestoreError("deviations note: a schedule's sums are not laid out as version 2")


def _sums(items: Sequence[cbor.Value]) -> dict[str, int]:
    found = {}
    for item in items:
        match item:
            case [str(currency), int(micro)]:
                found[currency] = micro
            case _:
                raise RestoreError("deviations note: a sum is not laid out as version 2")
    return found


def _quarter(value: cbor.Value) -> Quarter:
    match value:
        case [
            int(start_us), bytes(schedule_hash), int(seen_us), int(power_w), int(scheduled), list(first),
            list(devices), bool(commanded), str(reason), ([int(), str()] | None) as price,
        ] if 0 <= start_us < MAX_TIME_US:  # fmt: skip
            registers = {}
            for item in first:
                match item:
                    case [str(name), str(meter_id), int(net)]:
                        registers[name] = Register(meter_id, net)
                    case _:
                        raise RestoreError("deviations note: a register is not laid out as version 2")
            return Quarter(
                start_us=start_us,
                schedule_hash=schedule_hash,
                seen_us=seen_us,
                power_w=power_w,
                scheduled_milliwatt_seconds=scheduled,
                first=registers,
                devices=tuple(str(name) for name in devices),
                commanded=commanded,
                reason=reason,
                price=None if price is None else Price(int(str(price[0])), str(price[1])),
            )
    raise RestoreError("deviations note: an open quarter is not laid out as version 2")
