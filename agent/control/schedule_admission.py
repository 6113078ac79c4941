"""Whether a schedule that came may be followed here: the decision alone, pure (proto/COMMANDS.md section 9).

A schedule needs the rights of the commands that it stands for, and never acts at once: what cannot be judged now is
refused, and its issuer sends it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from agent.control.admission import HIGH_VALUE_MICRO, HORIZON_US, Policy
from agent.control.authorization import decode_signed
from agent.control.command import CommandType
from agent.control.errors import CommandFormatError, quoted
from agent.control.order import Now
from agent.control.ordered import DAY_US, Ordered, most_scheduled_by, scheduled_by, total
from agent.control.schedule import TYP, Agreed, Schedule, decode_schedule
from agent.control.signers import RefusalError, check_reach, ordering_of, required, resolved, trusted_signers
from agent.evidence.errors import EvidenceError
from agent.identity.trust import IssuerRights, TrustList

MOST_STORED: Final = 16


@dataclass(frozen=True, slots=True)
class ScheduleRefused:
    """Not to be followed, and why."""

    hash: bytes
    """Of the body; of all that came where it could not be read."""
    reason: str
    alarm: bool = False
    """Its issuer has said two things with one number."""


@dataclass(frozen=True, slots=True)
class ScheduleKnown:
    """The same receipts again."""

    agreed: Agreed


class Before(NamedTuple):
    """What an issuer ordered in the last 24 h beside the schedules that are stored."""

    commanded: Ordered = Ordered()
    gone: Ordered = Ordered()
    """By schedules that have ended or were replaced, while they were followed."""


NOTHING_BEFORE: Final = Before()
Verdict: TypeAlias = Agreed | ScheduleRefused | ScheduleKnown


def judge_schedule(
    signed: bytes,
    came_hash: bytes,
    policy: Policy,
    trust: TrustList | None,
    stored: Iterable[Agreed],
    newest: dict[bytes, tuple[int, int]],
    now: Now,
    draw: float,
    before: Callable[[str], Before] = lambda _: NOTHING_BEFORE,
) -> Verdict:
    """What to do with a schedule. `came_hash`: of the bytes as they came; `newest`: the highest number of each key.

    `before`: what an issuer ordered otherwise in the last 24 h.
    """
    try:
        read = decode_signed(signed, TYP)
        schedule = decode_schedule(read.body)
    except CommandFormatError as error:
        return ScheduleRefused(came_hash, str(error))
    stored = tuple(stored)
    for agreed in stored:
        if agreed.hash == read.hash:
            return ScheduleKnown(agreed)
    try:
        trust = required(trust)
        rights = trusted_signers(read, schedule.issuer, trust)
    except (RefusalError, CommandFormatError, EvidenceError) as error:
        return ScheduleRefused(came_hash, str(error))
    ordering = ordering_of(rights)
    same = any(a.issuer_key == ordering.key.key_id and a.schedule.number == schedule.number for a in stored)
    if not same and schedule.number <= newest.get(ordering.key.key_id, (0, -1)):
        # It may have been followed, and have had its final receipt: it must not get another one.
        why = f"epoch {schedule.epoch} sequence {schedule.sequence} is older than what is known"
        return ScheduleRefused(came_hash, why)
    try:
        schedule = replace(schedule, targets=resolved(schedule.targets, policy.classes))
        _check_number(schedule, ordering, stored)
        _check_address(schedule, policy)
        _check_time(schedule, rights, trust, now)
        for entry in rights:
            _check_rights(schedule, entry, policy)
        if len(rights) == 1:
            mine = [agreed for agreed in stored if agreed.schedule.issuer == schedule.issuer]
            _check_value(schedule, ordering.key.key_id, mine, before(schedule.issuer), policy, now)
        if sum(not _gives_way(agreed, schedule, ordering.key.key_id) for agreed in stored) >= MOST_STORED:
            raise RefusalError(f"{MOST_STORED} schedules are stored; wait until one has ended, or replace one")
    except RefusalError as error:
        return ScheduleRefused(read.hash, str(error), error.alarm)
    return Agreed(
        schedule=schedule,
        hash=read.hash,
        issuer_key=ordering.key.key_id,
        received_us=now.wall_us,
        delay_us=int(draw * schedule.random_start_s * 1_000_000),
        signed=signed,
    )


def _check_number(schedule: Schedule, rights: IssuerRights, stored: tuple[Agreed, ...]) -> None:
    same = [a for a in stored if a.issuer_key == rights.key.key_id and a.schedule.number == schedule.number]
    if same:
        raise RefusalError(
            f"epoch {schedule.epoch} sequence {schedule.sequence} was signed for schedule {same[0].hash.hex()[:16]} "
            "already: the issuer has said two things with one number",
            alarm=True,
        )


def _check_address(schedule: Schedule, policy: Policy) -> None:
    if schedule.audience not in policy.audiences:
        raise RefusalError(f"is for {quoted(schedule.audience)}, which is not here")
    strangers = sorted(set(schedule.targets) - policy.controllable)
    if strangers or not policy.controllable:
        raise RefusalError(f"names {quoted(', '.join(strangers) or 'all devices')}, which cannot be controlled here")


def _check_time(schedule: Schedule, rights: list[IssuerRights], trust: TrustList, now: Now) -> None:
    if not now.time_known:
        raise RefusalError("the time is not known since the reboot; send it again")
    if schedule.end_us <= now.wall_us:
        raise RefusalError("is over already")
    if schedule.end_us > now.wall_us + HORIZON_US:
        raise RefusalError("ends beyond the horizon of 7 days")
    if trust.expired(now.wall_us) or any(r.expired(now.wall_us) for r in rights):
        raise RefusalError("the trust list or the issuer's rights have expired")


def _check_rights(schedule: Schedule, rights: IssuerRights, policy: Policy) -> None:
    who = quoted(rights.issuer)
    check_reach(rights, schedule.audience, schedule.targets, policy.gateway_id, policy.classes)
    steps = schedule.all_steps
    needed = {CommandType.DISCHARGE if step < 0 else CommandType.CHARGE for step in steps}
    missing = sorted(type_.name for type_ in needed if int(type_) not in rights.types)
    if missing:
        raise RefusalError(f"{who} has no right to order {', '.join(missing)}")
    most_w = max((abs(step) for step in steps), default=0)
    if most_w > rights.highest_power_w:
        raise RefusalError(f"{who} may order at most {rights.highest_power_w} W, not {most_w} W")


def _check_value(
    schedule: Schedule, issuer_key: bytes, mine: Iterable[Agreed], before: Before, policy: Policy, now: Now
) -> None:
    """One signature is enough up to the bound of commands, in any 24 h, with all else of its issuer (SAFETY 10).

    Of those that it replaces, and that are gone, counts what was followed; but a plan of the day that is sent anew each
    hour tells its own past each time.
    """
    mine = tuple(mine)
    going = [each for each in mine if _gives_way(each, schedule, issuer_key)]
    others = [acted_and_to_come(each, now) for each in mine if each not in going]
    followed = total([before.gone, *(acted(each, now) for each in going)])
    told = scheduled_by(schedule, now.wall_us - DAY_US, now.wall_us)
    beyond = Ordered(max(0, followed.energy_wh - told.energy_wh), max(0, followed.value_micro - told.value_micro))
    sums = total([most_scheduled_by(schedule, schedule.start_us), beyond, *others, before.commanded])
    needed = "an operational and a governance signature are needed"
    if sums.energy_wh > policy.high_value_wh:
        raise RefusalError(
            f"with it this issuer agrees on {sums.energy_wh} Wh in 24 h; above {policy.high_value_wh} Wh {needed}"
        )
    if schedule.price is not None and sums.value_micro > HIGH_VALUE_MICRO:
        raise RefusalError(
            f"with it this issuer orders what is worth more than 10,000 {schedule.price.currency}: {needed}"
        )


def acted(agreed: Agreed, now: Now) -> Ordered:
    """What a schedule asked for in the last 24 h, since it came."""
    return scheduled_by(agreed.schedule, max(agreed.received_us, now.wall_us - DAY_US), now.wall_us)


def acted_and_to_come(agreed: Agreed, now: Now) -> Ordered:
    """And the most that it will ask for in 24 h."""
    return total([acted(agreed, now), most_scheduled_by(agreed.schedule, now.wall_us)])


def _gives_way(old: Agreed, schedule: Schedule, issuer_key: bytes) -> bool:
    """Whether a stored one goes when this comes: of the same key only."""
    return old.issuer_key == issuer_key and replaces(schedule, old.schedule)


def replaces(new: Schedule, old: Schedule) -> bool:
    """Whether nothing of the old one is left beside the new one of the same key."""
    same = new.point is old.point and (not new.targets or (bool(old.targets) and set(old.targets) <= set(new.targets)))
    return same and new.start_us <= old.start_us and new.end_us >= old.end_us
