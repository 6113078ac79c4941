"""Schedules for tests: agreed with the operator of `support.py`."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

from agent.control.authorization import sign_body
from agent.control.command import Point
from agent.control.order import Now
from agent.control.schedule import STEP_US, TYP, Agreed, Schedule, encode_schedule
from agent.control.schedule_admission import Verdict, judge_schedule
from agent.identity.trust import TrustList
from tests.agent.control.support import GATEWAY, NOW, OPERATOR, START_US, SoftKey, policy, trust_list

QUARTER_US = START_US // STEP_US * STEP_US
"""The quarter of an hour in which tests live."""

SCHEDULE = Schedule(
    audience=GATEWAY,
    targets=("battery",),
    point=Point.DEVICE,
    start_us=QUARTER_US,
    steps=(-4_000, -4_000, None, 2_000),
    issuer="grid",
    sequence=1,
)


def schedule(**changes: object) -> Schedule:
    return replace(SCHEDULE, **changes)  # type: ignore[arg-type]  # fields of Schedule


def agreed(one: Schedule = SCHEDULE, delay_us: int = 0) -> Agreed:
    """As it stands once it was admitted."""
    return Agreed(
        schedule=one,
        hash=hashlib.sha256(encode_schedule(one)).digest(),
        issuer_key=OPERATOR.verify_key.key_id,
        received_us=START_US,
        delay_us=delay_us,
    )


def signed(one: Schedule = SCHEDULE, key: SoftKey = OPERATOR) -> bytes:
    return asyncio.run(sign_body(encode_schedule(one), TYP, key))


def judged(
    encoded: bytes,
    *stored: Agreed,
    trust: TrustList | None = None,
    newest: dict[bytes, tuple[int, int]] | None = None,
    now: Now = NOW,
    draw: float = 0.0,
    site_rating_w: int = 40_000,
) -> Verdict:
    """The verdict at the test site."""
    return judge_schedule(
        encoded,
        hashlib.sha256(encoded).digest(),
        policy(site_rating_w=site_rating_w),
        trust or trust_list(),
        stored,
        newest or {},
        now,
        draw,
    )
