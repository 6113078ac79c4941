"""A judge of schedules and feeds written from proto/COMMANDS.md sections 9 and 10 alone: no code of agent/."""

from __future__ import annotations

import hashlib
import statistics
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature

from tests.agent.control.independent import (
    CHARGE,
    DID,
    DISCHARGE,
    HOUR_US,
    ZONE,
    elements,
    matches,
    price,
    signed_body,
    targets,
    text,
    uint,
)
from tests.agent.control.independent_admission import DAY_US, MOST_MICRO, RefusedError, Site, in_time, require
from tests.agent.evidence import independent as evidence

QUARTER_US = 900_000_000
SCHEDULE, FEED = "v2g-gateway/schedule+cose", "v2g-gateway/feed+cose"
MOST_STORED = 16
PRICE, FREQUENCY = 0, 1
RANGES = {PRICE: (-(10**9), 10**9), FREQUENCY: (45_000, 66_000)}
SIGMAS = {PRICE: (500, 5_000), FREQUENCY: (2, 10)}
AHEAD_US = 60_000_000


# -- section 9


@dataclass(frozen=True)
class Schedule:
    audience: str
    targets: list[str]
    point: int
    start_us: int
    steps: list[int | None]
    price: list[Any] | None
    issuer: str
    epoch: int
    sequence: int

    @property
    def end_us(self) -> int:
        return self.start_us + len(self.steps) * QUARTER_US

    def at(self, at_us: int) -> int | None:
        """W that are agreed."""
        quarter = (at_us - self.start_us) // QUARTER_US
        return self.steps[quarter] if 0 <= quarter < len(self.steps) else None

    def energy_wh(self, from_us: int, until_us: int) -> int:
        """Either way."""
        watt_us = 0
        for number, power_w in enumerate(self.steps):
            begin_us = self.start_us + number * QUARTER_US
            watt_us += abs(power_w or 0) * max(0, min(begin_us + QUARTER_US, until_us) - max(begin_us, from_us))
        return watt_us // HOUR_US

    def most_wh(self, from_us: int) -> int:
        """Of any 24 h from a moment on."""
        begins = [from_us, *(self.start_us + number * QUARTER_US for number in range(len(self.steps)))]
        return max(self.energy_wh(begin, begin + DAY_US) for begin in begins if begin >= from_us)

    def worth_micro(self, from_us: int) -> int:
        return 0 if self.price is None else self.energy_wh(from_us, self.end_us) * self.price[0] // 1000

    def covers(self, other: Schedule) -> bool:
        devices = not self.targets or (bool(other.targets) and set(other.targets) <= set(self.targets))
        return self.point == other.point and devices and self.start_us <= other.start_us and self.end_us >= other.end_us


def schedule_of(body: bytes) -> Schedule | None:
    """None: refused."""
    value = elements(body, 11, 32 * 1024)
    if value is None:
        return None
    _, audience, wanted, point, start, steps, money, random_start, issuer, epoch, sequence = value
    good = (
        matches(f"{ZONE}|{DID}", audience)
        and targets(wanted)
        and uint(point, 1)
        and uint(start, 2**53 - 1)
        and start % QUARTER_US == 0
        and isinstance(steps, list)
        and 1 <= len(steps) <= 672
        and all(step is None or (type(step) is int and abs(step) <= 10**9) for step in steps)
        and start + QUARTER_US * len(steps) < 2**53
        and price(money)
        and uint(random_start, 1800)
        and text(issuer)
        and uint(epoch, 2**32 - 1)
        and uint(sequence, 2**63 - 1)
    )
    return Schedule(audience, wanted, point, start, steps, money, issuer, epoch, sequence) if good else None


@dataclass
class ScheduleMemory:
    """What a gateway follows, and the newest number of each key."""

    stored: list[tuple[bytes, bytes, Schedule]] = field(default_factory=list)
    """Hash of the body, key id."""
    newest: dict[bytes, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleVerdict:
    verdict: str
    hash: bytes
    alarm: bool = False


def judge_schedule(signed: bytes, site: Site, memory: ScheduleMemory) -> ScheduleVerdict:
    """Of one that came at the moment of the site."""
    about = hashlib.sha256(signed).digest()
    try:
        try:
            body, claims = signed_body(signed, SCHEDULE)
        except Exception as error:
            raise RefusedError(2, f"envelope: {error}") from error
        schedule = schedule_of(body)
        require(schedule is not None, 2, "body")
        assert schedule is not None
        digest = hashlib.sha256(body).digest()
        if any(digest == known for known, _, _ in memory.stored):
            return ScheduleVerdict("again", digest)
        signers = site.signers(claims, schedule.issuer, 3)
        key_id = bytes.fromhex(site.named(signers)["key_id"])
        number = schedule.epoch, schedule.sequence
        twice = any(key == key_id and (old.epoch, old.sequence) == number for _, key, old in memory.stored)
        require(twice or number > memory.newest.get(key_id, (-1, -1)), None, "number")
        about = digest
        site.address(schedule.audience, schedule.targets, 6)
        require(not twice, 7, "another schedule has this number", alarm=True)
        now_us = site.said["now_us"]
        in_time(schedule.end_us, now_us, None)
        require(now_us < site.said["trust_list_expires_us"], None, "an expired list")
        for each in signers:
            require(now_us < each["expires_us"], None, "rights that have expired")
            site.reach(each, schedule.audience, schedule.targets, 9)
            agreed = [step for step in schedule.steps if step is not None]
            require(all((DISCHARGE if step < 0 else CHARGE) in each["types"] for step in agreed), 9, "type")
            require(all(abs(step) <= each["highest_power_w"] for step in agreed), 9, "power")
        left = [item for item in memory.stored if not (item[1] == key_id and schedule.covers(item[2]))]
        if len(signers) == 1:
            mine = [old for _, _, old in left if old.issuer == schedule.issuer]
            energy_wh = schedule.most_wh(schedule.start_us) + sum(old.most_wh(now_us) for old in mine)
            require(energy_wh <= site.most_wh, 10, "energy")
            micro = schedule.worth_micro(schedule.start_us) + sum(old.worth_micro(now_us) for old in mine)
            require(schedule.price is None or micro <= MOST_MICRO, 10, "worth")
        require(len(left) < MOST_STORED, None, "the seventeenth")
    except RefusedError as error:
        return ScheduleVerdict("refused", about, error.alarm)
    memory.stored = [*left, (digest, key_id, schedule)]
    memory.newest[key_id] = number
    return ScheduleVerdict("admitted", digest)


# -- section 10


@dataclass(frozen=True)
class Value:
    kind: int
    area: str
    value: int
    currency: str
    at_us: int
    until_us: int
    source: str
    sequence: int


def value_of(body: bytes) -> Value | None:
    """None: no value."""
    value = elements(body, 9, 1024)
    if value is None:
        return None
    _, kind, area, number, currency, at_us, until_us, source, sequence = value
    good = (
        uint(kind, 1)
        and isinstance(area, str)
        and type(number) is int
        and RANGES[kind][0] <= number <= RANGES[kind][1]
        and matches("" if kind == FREQUENCY else "[A-Z]{3}", currency)
        and uint(at_us, 2**53 - 1)
        and uint(until_us, 2**53 - 1)
        and at_us < until_us
        and isinstance(source, str)
        and uint(sequence, 2**63 - 1)
    )
    return Value(kind, area, number, currency, at_us, until_us, source, sequence) if good else None


def counts(signed: bytes, site: dict[str, Any], last: dict[tuple[str, int], int]) -> bool:
    """Whether a value counts; `last` is the sequence of each source and kind, and is brought up to date."""
    try:
        body, claims = signed_body(signed, FEED)
        value = value_of(body)
        (claim,) = claims
        (source,) = (each for each in site["sources"] if each["key_id"] == claim.key_id.hex())
        evidence.refuse_unless(claim.algorithm == source["algorithm"], "algorithm")
        spki = bytes.fromhex(source["public_key_der"])
        evidence.check_signature(spki, claim.algorithm, claim.message, claim.signature)
    except (evidence.RefusedError, InvalidSignature, ValueError, KeyError, TypeError):
        return False
    if value is None or value.source != source["name"] or value.area != site["area"]:
        return False
    now_us = site["now_us"]
    if value.kind == PRICE:
        fresh = value.at_us - AHEAD_US <= now_us < value.until_us
    else:
        fresh = value.at_us - AHEAD_US <= now_us and abs(now_us - value.at_us) <= site["frequency_fresh_us"]
    if not fresh or value.sequence <= last.get((value.source, value.kind), -1):
        return False
    last[value.source, value.kind] = value.sequence
    return True


def agreement(kind: int, said: list[tuple[str, int]], needed: int) -> tuple[int | None, int]:
    """Of fresh values (currency, value): what they agree on, and how many do."""
    if not said:
        return None, 0
    currencies = sorted({currency for currency, _ in said})
    most = max(currencies, key=lambda each: sum(currency == each for currency, _ in said))
    values = [value for currency, value in said if currency == most]
    middle = statistics.median(values)
    low, high = SIGMAS[kind]
    sigma = min(max(1.4826 * statistics.median(abs(value - middle) for value in values), low), high)
    agreed = [value for value in values if abs(value - middle) <= 2 * sigma]
    return (statistics.median_low(agreed), len(agreed)) if len(agreed) >= needed else (None, 0)
