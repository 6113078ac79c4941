"""Schedules: their format, what they ask for at a moment, and who may agree on one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.admission import Admitted, Refused, judge
from agent.control.authorization import authorize, sign_body, sign_body_dual
from agent.control.book import Book
from agent.control.command import CommandType, Mode, Point, Price, grid_command
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.order import Now, Rank
from agent.control.ordered import Ordered
from agent.control.plan import make_plan
from agent.control.schedule import (
    STEP_US,
    TYP,
    Agreed,
    Schedule,
    decode_agreed,
    decode_schedule,
    encode_agreed,
    encode_schedule,
)
from agent.control.schedule_admission import ScheduleKnown, ScheduleRefused
from agent.control.schedule_keeper import ScheduleKeeper, Taken
from agent.control.schedule_numbers import decode_numbers, encode_numbers
from agent.evidence import cbor
from agent.evidence.statements import CommandReceipt, CommandState
from tests.agent.control.schedules import QUARTER_US, SCHEDULE, agreed, judged, schedule, signed
from tests.agent.control.support import (
    BATTERY,
    CAR,
    GATEWAY,
    GOVERNOR,
    HOUR_US,
    NOW,
    OPERATOR,
    PV,
    SOME_COMMAND,
    START_US,
    STRANGER,
    order_of,
    policy,
    rights,
    site,
    trust_list,
)

STEPS = st.lists(st.none() | st.integers(-20_000, 20_000), min_size=1, max_size=30).map(tuple)
SCHEDULES = st.builds(
    Schedule,
    audience=st.just(GATEWAY),
    targets=st.sets(st.sampled_from(["a", "b", "c-1"])).map(lambda names: tuple(sorted(names))),
    point=st.sampled_from(Point),
    start_us=st.integers(0, 2_000_000).map(lambda n: n * STEP_US),
    steps=STEPS,
    price=st.none() | st.builds(Price, st.integers(0, 10**12), st.just("EUR")),
    random_start_s=st.integers(0, 1800),
    issuer=st.text(min_size=1, max_size=20),
    epoch=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**63 - 1),
)


@given(SCHEDULES)
def test_a_schedule_survives_its_encoding_and_the_store(one: Schedule) -> None:
    assert decode_schedule(encode_schedule(one)) == one
    stored = replace(
        agreed(one, 5),
        receipts=(
            CommandReceipt(
                command_hash=bytes(32), command_id="s", state=CommandState.RECEIVED, timestamp_us=1, reason="",
                delivered_energy_wh=None,
            ),
        ),
    )  # fmt: skip
    assert decode_agreed(encode_agreed(stored)) == stored


@given(st.binary(max_size=80))
def test_what_is_no_schedule_is_refused_and_never_a_fault(body: bytes) -> None:
    with pytest.raises(CommandFormatError):
        decode_schedule(body)
    with pytest.raises(RestoreError):
        decode_agreed(body)
    assert isinstance(judged(body), ScheduleRefused)


@pytest.mark.parametrize(
    "change",
    [
        {"start_us": QUARTER_US + 1}, {"start_us": -STEP_US}, {"steps": ()}, {"steps": (1,) * 673},
        {"steps": (2_000_000_000,)}, {"random_start_s": 1801}, {"targets": ("x", "x")}, {"audience": "anybody"},
        {"issuer": ""}, {"sequence": -1}, {"price": Price(1, "euro")},
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_meant_does_not_exist(change: dict[str, object]) -> None:
    with pytest.raises(CommandFormatError, match="schedule"):
        schedule(**change)


@pytest.mark.parametrize("index", range(11))
def test_each_field_of_another_kind_is_refused(index: int) -> None:
    value = cbor.decode(encode_schedule(SCHEDULE), what="test")
    assert isinstance(value, list)
    value[index] = True if index not in (6,) else "x"
    with pytest.raises(CommandFormatError):
        decode_schedule(cbor.encode(value))


def _order_at(after_us: int, one: Agreed | None = None) -> tuple[int, int, int] | None:
    order = (one or agreed()).order(Now(wall_us=QUARTER_US + after_us))
    if order is None:
        return None
    command = order.command
    return command.signed_power_w, (command.start_us - QUARTER_US) // STEP_US, (command.end_us - QUARTER_US) // STEP_US


def test_equal_quarters_are_one_run_and_nothing_is_asked_where_nothing_is_agreed() -> None:
    assert _order_at(-1) is None
    assert _order_at(0) == _order_at(2 * STEP_US - 1) == (-4_000, 0, 2)
    assert _order_at(2 * STEP_US) is None
    assert _order_at(3 * STEP_US) == (2_000, 3, 4)
    assert _order_at(4 * STEP_US) is None


def test_without_a_clock_no_schedule_is_followed() -> None:
    assert agreed().order(Now(wall_us=QUARTER_US, time_known=False)) is None


def test_a_random_start_puts_off_each_beginning_and_no_step_after_it() -> None:
    late = agreed(schedule(steps=(1_000, 2_000, None, 3_000), random_start_s=600), 300_000_000)
    assert _order_at(299_999_999, late) is None
    assert _order_at(300_000_000, late) == (1_000, 0, 1)
    assert _order_at(STEP_US, late) == (2_000, 1, 2)
    assert _order_at(3 * STEP_US, late) is None
    assert _order_at(3 * STEP_US + 300_000_000, late) == (3_000, 3, 4)


@given(SCHEDULES, st.integers(0, 1_800_000_000), st.lists(st.integers(-STEP_US, 31 * STEP_US), max_size=20))
def test_what_is_asked_for_changes_only_at_the_moments_that_were_told(
    one: Schedule, delay_us: int, moments: list[int]
) -> None:
    it = agreed(one, min(delay_us, one.random_start_s * 1_000_000))
    for moment in moments:
        at_us = one.start_us + moment
        if at_us < 0:
            continue
        change_us = it.next_change_us(at_us)
        until_us = one.end_us + STEP_US if change_us is None else change_us - 1
        before, after = it.order(Now(wall_us=at_us)), it.order(Now(wall_us=max(at_us, until_us)))
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert before.command == after.command


def test_a_draw_is_taken_only_where_a_schedule_asks_for_it() -> None:
    asked = judged(signed(schedule(random_start_s=600)), draw=0.5)
    assert isinstance(asked, Agreed)
    assert asked.delay_us == 300_000_000
    plain = judged(signed(), draw=0.5)
    assert isinstance(plain, Agreed)
    assert plain.delay_us == 0


def test_the_target_is_the_command_else_the_schedule_else_the_default() -> None:
    order = agreed().order(Now(wall_us=QUARTER_US))
    assert order is not None
    assert order.rank is Rank.SCHEDULE
    plan = make_plan(site(BATTERY, CAR, orders=(order,)))
    assert plan.orders["battery"].lowest_w == plan.orders["battery"].highest_w == -4_000
    assert "pre-agreed schedule" in plan.orders["battery"].reason
    command = order_of(replace(SOME_COMMAND, type=CommandType.CHARGE, power_w=1_000))
    plan = make_plan(site(BATTERY, CAR, orders=(command, order)))
    assert plan.orders["battery"].highest_w == 1_000
    assert not plan.commands[order.hash].in_force
    assert make_plan(site(BATTERY, CAR)).orders["battery"].released


def test_a_limit_by_command_narrows_what_the_schedule_asks_for() -> None:
    order = agreed().order(Now(wall_us=QUARTER_US))
    assert order is not None
    curtail = order_of(
        replace(SOME_COMMAND, type=CommandType.CURTAIL, mode=Mode.EXPORT_LIMIT, power_w=1_500, targets=("battery",)),
        "l",
    )
    plan = make_plan(site(BATTERY, PV, orders=(curtail, order)))
    assert plan.orders["battery"].lowest_w == -1_500


def test_an_admitted_schedule_has_its_content_for_its_name() -> None:
    one = judged(signed())
    assert isinstance(one, Agreed)
    assert one.schedule == SCHEDULE
    assert isinstance(judged(signed(), one), ScheduleKnown)


REFUSALS = [
    (signed(key=STRANGER), "not in trust list"),
    (signed(schedule(issuer="somebody")), "names issuer 'somebody'"),
    (signed(schedule(audience="zone:south")), "not here"),
    (signed(schedule(targets=("toaster",))), "cannot be controlled here"),
    (signed(schedule(start_us=QUARTER_US - 8 * STEP_US)), "over already"),
    (signed(schedule(steps=(1,) * 672, start_us=QUARTER_US + STEP_US)), "horizon"),
    (signed(schedule(steps=(200_000,))), "at most 100000 W"),
    (signed(schedule(steps=(10_000,) * 96)), "operational and a governance"),
    (signed(schedule(steps=(40_000,), price=Price(2_000_000_000, "EUR"))), "worth more than"),
    (asyncio.run(sign_body(encode_schedule(SCHEDULE), "v2g-gateway/command+cose", OPERATOR)), "typ is"),
    (signed()[:-1] + b"\0", ""),
]


@pytest.mark.parametrize(("encoded", "says"), REFUSALS)
def test_a_schedule_that_may_not_be_followed_is_refused_with_its_reason(encoded: bytes, says: str) -> None:
    verdict = judged(encoded)
    assert isinstance(verdict, ScheduleRefused)
    assert says in verdict.reason
    assert verdict.reason


def test_rights_that_are_missing_or_over_refuse() -> None:
    only_charge = trust_list(rights(types=frozenset({0})))
    verdict = judged(signed(), trust=only_charge)
    assert isinstance(verdict, ScheduleRefused)
    assert "no right to order DISCHARGE" in verdict.reason
    elsewhere = judged(signed(), trust=trust_list(rights(targets=("zone:south",))))
    assert isinstance(elsewhere, ScheduleRefused)
    over = judged(signed(), trust=trust_list(expires_us=QUARTER_US))
    assert isinstance(over, ScheduleRefused)
    no_time = judged(signed(), now=Now(wall_us=QUARTER_US, time_known=False))
    assert isinstance(no_time, ScheduleRefused)
    assert "send it again" in no_time.reason


def test_two_signatures_pass_the_bound_of_one() -> None:
    much = schedule(steps=(10_000,) * 96)
    both = asyncio.run(sign_body_dual(encode_schedule(much), TYP, OPERATOR, GOVERNOR))
    assert isinstance(judged(both), Agreed)
    twice_one_role = asyncio.run(sign_body_dual(encode_schedule(much), TYP, OPERATOR, STRANGER))
    trust = trust_list(rights(), rights(STRANGER, issuer="other"))
    assert isinstance(judged(twice_one_role, trust=trust), ScheduleRefused)


def test_a_bound_is_not_passed_by_splitting_and_a_renewal_does_not_add_up() -> None:
    first = agreed(schedule(steps=(10_000,) * 48))
    second = schedule(targets=("car",), steps=(10_000,) * 48, sequence=2)
    assert isinstance(judged(signed(second), first), ScheduleRefused)
    renewed = schedule(steps=(9_000,) * 48, sequence=2)
    assert isinstance(judged(signed(renewed), first), Agreed)


def test_a_number_that_was_used_is_refused_and_two_meanings_of_one_are_an_alarm() -> None:
    key = OPERATOR.verify_key.key_id
    old = judged(signed(), newest={key: (0, 1)})
    assert isinstance(old, ScheduleRefused)
    assert "older" in old.reason
    other = judged(signed(schedule(steps=(1,))), agreed())
    assert isinstance(other, ScheduleRefused)
    assert other.alarm
    assert isinstance(judged(signed(schedule(steps=(1,), epoch=1)), newest={key: (0, 10**9)}), Agreed)


def test_the_bound_of_one_signature_is_the_issuers_with_whatever_key_and_by_commands_too() -> None:
    """SAFETY 10: whoever may not agree on so much by one schedule may not by two keys, or half by commands."""
    first = agreed(schedule(steps=(10_000,) * 48))
    second = schedule(targets=("car",), steps=(10_000,) * 48, sequence=2)
    both = trust_list(rights(), rights(STRANGER))
    refused = judged(signed(second, STRANGER), first, trust=both)
    assert isinstance(refused, ScheduleRefused)
    assert "governance" in refused.reason
    half = ScheduleKeeper(lambda: 0.0)
    half.restore({})
    assert isinstance(
        half.receive(signed(first.schedule), policy(), both, NOW, lambda _: Ordered(50_000)), ScheduleRefused
    )
    assert isinstance(half.receive(signed(first.schedule), policy(), both, NOW, lambda _: Ordered(30_000)), Taken)


def test_a_command_counts_with_what_its_issuer_agreed_on() -> None:
    command = replace(SOME_COMMAND, power_w=20_000, end_us=START_US + 4 * HOUR_US)
    message = grid_command("c1", command, asyncio.run(authorize(command, OPERATOR)))
    for agreed_wh, expected in ((80_000, Admitted), (81_000, Refused)):
        sums = {"grid": Ordered(agreed_wh)}
        found = judge(message, None, policy(), trust_list(), Book(), NOW, sums.__getitem__)
        assert isinstance(found, expected)


def _later(hours: float) -> Now:
    return replace(NOW, wall_us=QUARTER_US + round(hours * HOUR_US))


def test_what_was_followed_counts_for_a_day_after_its_schedule_was_replaced_or_over() -> None:
    """Four hours at the site's rating, then another schedule for four more: the first four were not given back."""
    keeper = ScheduleKeeper(lambda: 0.0)
    keeper.restore({})
    full, empty = (40_000,) * 16, (None,) * 16
    plan = schedule(steps=full + (None,) * 40)
    assert isinstance(keeper.receive(signed(plan), policy(), trust_list(), _later(0)), Taken)
    again = replace(plan, steps=empty + full + (None,) * 24, sequence=2)
    assert isinstance(keeper.receive(signed(again), policy(), trust_list(), _later(4)), ScheduleRefused)
    nothing = replace(plan, steps=(None,) * 56, sequence=3)
    assert isinstance(keeper.receive(signed(nothing), policy(), trust_list(), _later(4)), Taken)
    assert keeper.ordered("grid", _later(5)).energy_wh == 160_000
    restarted = ScheduleKeeper(lambda: 0.0)
    restarted.restore({key: note for key, note in keeper.take_notes().items() if note is not None})
    for each in (keeper, restarted):
        assert isinstance(
            each.receive(signed(replace(again, sequence=4)), policy(), trust_list(), _later(5)), ScheduleRefused
        )
        assert each.ordered("grid", _later(5)).energy_wh == 160_000
        # A day later it is another day.
        assert each.ordered("grid", _later(30)).energy_wh == 0


def test_a_plan_of_the_day_that_is_sent_anew_each_hour_is_counted_once() -> None:
    keeper = ScheduleKeeper(lambda: 0.0)
    keeper.restore({})
    for hour in range(5):
        plan = schedule(steps=(40_000,) * 16 + (None,) * 40, sequence=hour + 1)
        assert isinstance(keeper.receive(signed(plan), policy(), trust_list(), _later(hour)), Taken)


def test_what_had_its_final_receipt_gets_no_other_one() -> None:
    """Sent again it is refused, but not under its own hash: that one says SUPERSEDED or COMPLETED for good."""
    keeper = ScheduleKeeper(lambda: 0.0)
    keeper.restore({})
    first, second = signed(), signed(schedule(steps=(1_000,) * 9, sequence=2))
    taken = keeper.receive(first, policy(), trust_list(), NOW)
    assert isinstance(taken, Taken)
    keeper.receive(second, policy(), trust_list(), NOW)
    refused = keeper.receive(first, policy(), trust_list(), NOW)
    assert isinstance(refused, ScheduleRefused)
    assert "older" in refused.reason
    assert refused.hash != taken.hash


@given(st.binary(max_size=60))
def test_damaged_numbers_are_said(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode_numbers(note)


def test_the_numbers_of_a_version_without_sums_are_still_read() -> None:
    assert decode_numbers(cbor.encode([1, [[b"k", 0, 7]]])) == ({b"k": (0, 7)}, {})
    gone = {b"grid": {3: Ordered(5, 6), 4: Ordered(1, 0)}}
    assert decode_numbers(encode_numbers({b"k": (0, 7)}, gone)) == ({b"k": (0, 7)}, gone)


def test_a_long_wait_is_no_reason_to_start_late() -> None:
    assert agreed().next_change_us(QUARTER_US - 5 * HOUR_US) == QUARTER_US
