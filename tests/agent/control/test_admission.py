"""Admission: what is decoded with care, who may order what, and what is said twice."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import UnsignedCommands
from agent.control import book as book_module
from agent.control.admission import HORIZON_US, Admitted, Decision, Duplicate, Nothing, Refused, Undecided, judge
from agent.control.authorization import authorize, authorize_dual
from agent.control.book import Book
from agent.control.command import Command, CommandType, Mode, Point, Price, Priority, grid_command
from agent.control.notes import changed_notes, restore
from agent.control.order import Now, Rank
from agent.evidence.statements import CommandState
from agent.identity.trust import Role
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.support import (
    GOVERNOR,
    HOUR_US,
    MINUTE_US,
    NOW,
    OPERATOR,
    SOME_COMMAND,
    START_US,
    STRANGER,
    SoftKey,
    curtail,
    policy,
    rights,
    trust_list,
)

PLAIN = GridCommand(command_id="p1", type=3, power_limit_kw=2.0, valid_until_timestamp_us=START_US + HOUR_US)  # type: ignore[arg-type]  # CURTAIL


async def _message(command: Command = SOME_COMMAND, key: SoftKey = OPERATOR, name: str = "c1") -> GridCommand:
    return grid_command(name, command, await authorize(command, key))


def _judge(message: GridCommand, book: Book | None = None, device_id: str | None = None, now: Now = NOW) -> Decision:
    return judge(message, device_id, policy(), trust_list(), book or Book(), now)


def _plain(**fields: object) -> GridCommand:
    message = GridCommand()
    message.CopyFrom(PLAIN)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def _admit(book: Book, decision: Decision) -> Book:
    assert isinstance(decision, Admitted), decision
    return book.admitted(decision.order, CommandState.ACCEPTED, "", NOW).book


async def test_a_command_signed_by_an_enrolled_issuer_is_admitted() -> None:
    decision = _judge(await _message())
    assert isinstance(decision, Admitted)
    assert decision.order.command == SOME_COMMAND
    assert decision.order.rank is Rank.OPERATIONAL


def test_an_empty_message_is_no_command_although_it_reads_as_charge() -> None:
    assert isinstance(_judge(GridCommand()), Nothing)
    assert isinstance(_judge(GridCommand(acknowledged_sequence=7)), Nothing)


async def test_a_signed_command_without_an_id_is_refused() -> None:
    decision = _judge(await _message(name=""))
    assert isinstance(decision, Refused)
    assert "command_id" in decision.reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", CommandType.CHARGE),
        ("power_limit_kw", math.nextafter(5.0, 6.0) + 1e-6),
        ("power_limit_kw", math.nan),
        ("price_per_kwh_cents", -0.0),
        ("valid_until_timestamp_us", SOME_COMMAND.end_us + 1),
        ("command_hash", b""),
    ],
)
async def test_a_plain_field_that_differs_from_the_body_in_one_bit_is_refused(field: str, value: object) -> None:
    message = await _message()
    setattr(message, field, value)
    decision = _judge(message)
    assert isinstance(decision, Refused)
    assert field in decision.reason


async def test_a_full_book_refuses_what_is_permissive_first_and_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_OPEN", 2)
    monkeypatch.setattr(book_module, "RESERVED_FOR_RESTRICTIVE", 1)
    book = _admit(Book(), _judge(await _message()))
    charge = _judge(await _message(replace(SOME_COMMAND, sequence=SOME_COMMAND.sequence + 1), name="c2"), book)
    assert isinstance(charge, Refused)
    assert "too many" in charge.reason
    book = _admit(book, _judge(await _message(curtail(sequence=8), name="c3"), book))
    assert isinstance(_judge(await _message(curtail(sequence=9), name="c4"), book), Refused)
    assert isinstance(_judge(_plain(), book, "pv"), Refused)


async def test_a_site_where_nothing_can_be_controlled_takes_no_command() -> None:
    nothing = replace(policy(), controllable=frozenset())
    for message, stream in ((await _message(curtail(targets=())), None), (PLAIN, None)):
        decision = judge(message, stream, nothing, trust_list(), Book(), NOW)
        assert isinstance(decision, Refused)
        assert "nothing can be controlled" in decision.reason


async def test_a_tampered_copy_does_not_use_up_the_real_command() -> None:
    message = await _message()
    tampered = GridCommand()
    tampered.CopyFrom(message)
    tampered.power_limit_kw = 4.0
    refusal = _judge(tampered)
    assert isinstance(refusal, Refused)
    assert refusal.hash != message.command_hash
    book = Book().refused(refusal.hash, refusal.command_id, refusal.order, refusal.reason, NOW).book
    assert isinstance(_judge(message, book), Admitted)


REFUSED_BODIES = [
    (replace(SOME_COMMAND, audience="did:key:zDnaeAnotherGateway"), "not here"),
    (replace(SOME_COMMAND, audience="zone:south"), "not here"),
    (replace(SOME_COMMAND, targets=("battery", "gone")), "cannot be controlled here"),
    (replace(SOME_COMMAND, start_us=1, end_us=START_US), "expired"),
    (replace(SOME_COMMAND, end_us=START_US + HORIZON_US + 1), "horizon"),
    (replace(SOME_COMMAND, power_w=200_000, max_energy_wh=1), "at most 100000 W"),
    (replace(SOME_COMMAND, power_w=50_000, end_us=START_US + 4 * HOUR_US), "governance signature"),
]


@pytest.mark.parametrize(("command", "said"), REFUSED_BODIES)
async def test_a_signed_body_that_must_not_be_obeyed_is_refused_under_its_own_hash(command: Command, said: str) -> None:
    message = await _message(command)
    decision = _judge(message)
    assert isinstance(decision, Refused)
    assert said in decision.reason
    assert decision.hash == message.command_hash


async def test_nobody_orders_beyond_the_rights_of_the_trust_list() -> None:
    message = await _message()
    for entry, said in [
        (rights(types=frozenset({0, 2, 3})), "no right to order DISCHARGE"),
        (rights(targets=("pv",)), "no right over these targets"),
        (rights(highest_power_w=4_999), "at most 4999 W"),
        (rights(highest_priority=1), "no right to priority"),
        (rights(expires_us=START_US), "have expired"),
        (rights(issuer="somebody"), "is signed by"),
        (rights(STRANGER), "not in trust list"),
    ]:
        decision = judge(message, None, policy(), trust_list(entry), Book(), NOW)
        assert isinstance(decision, Refused)
        assert said in decision.reason


async def test_without_a_trust_list_no_signature_counts() -> None:
    decision = judge(await _message(), None, policy(), None, Book(), NOW)
    assert isinstance(decision, Refused)
    assert "no trust list" in decision.reason


async def test_rights_over_a_device_are_enough_for_a_command_to_that_device() -> None:
    entry = rights(targets=("battery",), highest_priority=0)
    assert isinstance(judge(await _message(), None, policy(), trust_list(entry), Book(), NOW), Admitted)
    whole = await _message(replace(SOME_COMMAND, targets=()))
    assert isinstance(judge(whole, None, policy(), trust_list(entry), Book(), NOW), Refused)


async def test_an_expired_trust_list_leaves_only_what_restricts() -> None:
    expired = trust_list(rights(), expires_us=START_US)
    assert isinstance(judge(await _message(), None, policy(), expired, Book(), NOW), Refused)
    assert isinstance(judge(await _message(curtail()), None, policy(), expired, Book(), NOW), Admitted)


async def test_high_value_needs_two_roles_and_adds_up_over_a_day_however_it_is_split() -> None:
    """SAFETY 10, PLATFORM 17: a bound per command is passed by splitting it."""
    book, orders = Book(), 0
    for sequence in range(1, 12):
        command = replace(
            SOME_COMMAND, power_w=20_000, end_us=START_US + HOUR_US, sequence=sequence, campaign=f"k{sequence}"
        )
        decision = _judge(await _message(command, name=f"c{sequence}"), book)
        if isinstance(decision, Refused):
            assert "governance" in decision.reason
            break
        book, orders = _admit(book, decision), orders + 1
    assert orders == 8  # 8 x 20 kWh are the four hours at 40 kW
    command = replace(SOME_COMMAND, power_w=20_000, end_us=START_US + HOUR_US, sequence=50)
    dual = grid_command("dual", command, await authorize_dual(command, OPERATOR, GOVERNOR))
    decision = _judge(dual, book)
    assert isinstance(decision, Admitted)
    assert decision.order.rank is Rank.GOVERNANCE


async def test_money_adds_up_over_a_day_as_energy_does_and_with_whatever_key_the_issuer_signs() -> None:
    """SAFETY 10: 10,000 of a currency; an issuer with two keys (a rotation) is still one issuer."""
    trust = trust_list(rights(), rights(STRANGER), rights(GOVERNOR, issuer="board", role=Role.GOVERNANCE))
    book, paid = Book(), 0
    for sequence, key in enumerate((OPERATOR, STRANGER, OPERATOR, STRANGER), 1):
        command = replace(
            SOME_COMMAND, power_w=5_000, end_us=START_US + HOUR_US, sequence=sequence,
            price=Price(600 * 1_000_000, "EUR"),
        )  # fmt: skip
        message = grid_command(f"c{sequence}", command, await authorize(command, key))
        decision = judge(message, None, policy(), trust, book, NOW)
        if isinstance(decision, Refused):
            assert "worth 12000 EUR" in decision.reason
            assert "dual control" in decision.reason
            break
        book, paid = _admit(book, decision), paid + 3_000
    assert paid == 9_000


async def test_without_any_signature_a_day_is_bounded_too() -> None:
    """SAFETY 10: whoever obeys unsigned commands obeys no more of them than of one signature."""
    open_policy = policy(UnsignedCommands.ALL)
    much = _plain(command_id="u1", type=1, power_limit_kw=40.0, valid_until_timestamp_us=START_US + 5 * HOUR_US)
    decision = judge(much, "battery", open_policy, None, Book(), NOW)
    assert isinstance(decision, Refused)
    assert "dual control" in decision.reason


@pytest.mark.parametrize(
    ("named", "stands_for"),
    [
        (("class:charger",), ("car", "plain")),
        (("class:charger", "battery"), ("battery", "car", "plain")),
        (("car", "class:charger"), ("car", "plain")),
        (("plain", "battery"), ("plain", "battery")),
    ],
)
async def test_a_class_stands_for_its_devices_and_the_command_stays_what_it_is(
    named: tuple[str, ...], stands_for: tuple[str, ...]
) -> None:
    command = replace(SOME_COMMAND, targets=named)
    message = grid_command("k", command, await authorize(command, OPERATOR))
    classes = {"charger": frozenset({"car", "plain"}), "pv": frozenset[str]()}
    decision = judge(message, None, replace(policy(), classes=classes), trust_list(), Book(), NOW)
    assert isinstance(decision, Admitted)
    assert decision.order.command.targets == stands_for
    assert decision.order.hash == message.command_hash
    book = _admit(Book(), decision)
    restored, faults = restore(changed_notes(Book(), book))
    assert not faults
    assert restored.entries[decision.order.hash].order == decision.order
    repeated = judge(message, None, replace(policy(), classes=classes), trust_list(), restored, NOW)
    assert isinstance(repeated, Duplicate)


async def test_a_class_needs_the_right_over_each_of_its_devices_and_one_device_at_least() -> None:
    command = replace(SOME_COMMAND, targets=("class:charger",))
    message = grid_command("k", command, await authorize(command, OPERATOR))
    narrow = trust_list(rights(targets=("car",)))
    for members, says in (({"car"}, ""), ({"car", "plain"}, "no right over"), (set[str](), "there is none here")):
        decision = judge(message, None, replace(policy(), classes={"charger": members}), narrow, Book(), NOW)
        assert isinstance(decision, Refused if says else Admitted)
        if isinstance(decision, Refused):
            assert says in decision.reason


async def test_a_right_over_a_class_reaches_its_devices_and_no_other_and_not_the_whole_site() -> None:
    narrow = trust_list(rights(targets=("class:charger",)))
    here = replace(policy(), classes={"charger": {"car"}, "battery": {"battery"}})
    for targets, admitted in (
        (("class:charger",), True),
        (("car",), True),
        (("battery",), False),
        (("battery", "car"), False),
        ((), False),
    ):
        command = replace(SOME_COMMAND, targets=targets)
        message = grid_command("k", command, await authorize(command, OPERATOR))
        decision = judge(message, None, here, narrow, Book(), NOW)
        assert isinstance(decision, Admitted if admitted else Refused), targets
        assert admitted or (isinstance(decision, Refused) and "no right over" in decision.reason)


PRICES = st.sampled_from([0, 1, 50]) | st.integers(0, 3_000)
"""Where one kWh is worth little its energy is what the bound is of."""


@given(st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 24 * 60), PRICES), max_size=12))
def test_one_signature_never_orders_more_than_the_bound_in_a_day(orders: list[tuple[int, int, int]]) -> None:
    """Whatever is admitted with one signature, its sum stays within both bounds (SAFETY 10)."""
    book, limits = Book(), policy()
    for sequence, (power_w, minutes, price) in enumerate(orders, 1):
        command = replace(
            SOME_COMMAND, power_w=power_w, end_us=START_US + minutes * MINUTE_US, sequence=sequence,
            price=Price(price * 1_000_000, "EUR"), campaign=f"k{sequence}",
        )  # fmt: skip
        message = grid_command(f"c{sequence}", command, asyncio.run(authorize(command, OPERATOR)))
        decision = _judge(message, book)
        if isinstance(decision, Admitted):
            book = _admit(book, decision)
            restored, faults = restore(changed_notes(Book(), book))  # as after a restart
            assert not faults
            book = restored
    sums = book.ordered("grid", START_US - 1)
    assert sums.energy_wh <= limits.high_value_wh
    assert sums.value_micro <= 10_000 * 1_000_000


async def test_two_signatures_of_one_role_are_no_dual_control() -> None:
    second = rights(STRANGER, issuer="other")
    message = grid_command("d", SOME_COMMAND, await authorize_dual(SOME_COMMAND, OPERATOR, STRANGER))
    decision = judge(message, None, policy(), trust_list(rights(), second), Book(), NOW)
    assert isinstance(decision, Refused)
    assert "one of each role" in decision.reason


async def test_both_signers_must_have_the_right() -> None:
    board = rights(GOVERNOR, issuer="board", role=Role.GOVERNANCE, types=frozenset({3}))
    message = grid_command("d", SOME_COMMAND, await authorize_dual(SOME_COMMAND, OPERATOR, GOVERNOR))
    assert isinstance(judge(message, None, policy(), trust_list(rights(), board), Book(), NOW), Refused)


async def test_the_same_command_again_is_a_duplicate_on_whatever_stream_it_comes() -> None:
    message = await _message()
    book = _admit(Book(), _judge(message))
    for stream in (None, "battery", "pv"):
        assert isinstance(_judge(message, book, stream), Duplicate)


async def test_one_id_for_two_bodies_is_an_alarm() -> None:
    book = _admit(Book(), _judge(await _message()))
    decision = _judge(await _message(replace(SOME_COMMAND, power_w=1, sequence=2)), book)
    assert isinstance(decision, Refused)
    assert decision.alarm


async def test_one_number_for_two_bodies_is_an_alarm() -> None:
    book = _admit(Book(), _judge(await _message()))
    decision = _judge(await _message(replace(SOME_COMMAND, power_w=1), name="c2"), book)
    assert isinstance(decision, Refused)
    assert decision.alarm
    assert "two things" in decision.reason


async def test_a_command_that_was_forgotten_cannot_be_replayed_nor_end_twice() -> None:
    message = await _message()
    book = _admit(Book(), _judge(message))
    forgotten = Book({}, book.windows)
    decision = _judge(message, forgotten)
    assert isinstance(decision, Refused)
    assert "used before" in decision.reason
    assert decision.hash != message.command_hash


async def test_while_the_time_is_not_known_only_what_restricts_is_judged() -> None:
    now = Now(wall_us=1, time_known=False, uptime_us=7)
    assert isinstance(_judge(await _message(), now=now), Undecided)
    admitted = _judge(await _message(curtail()), now=now)
    assert isinstance(admitted, Admitted)
    assert admitted.order.received_uptime_us == 7


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": 4}, "type 4"),
        ({"power_limit_kw": math.nan}, "no number"),
        ({"power_limit_kw": math.inf}, "no number"),
        ({"power_limit_kw": -1.0}, "negative"),
        ({"power_limit_kw": 1e9}, "beyond anything"),
        ({"price_per_kwh_cents": math.nan}, "no number"),
        ({"valid_until_timestamp_us": 0}, "needs an end"),
        ({"valid_until_timestamp_us": -5}, "needs an end"),
        ({"valid_until_timestamp_us": START_US}, "expired"),
        ({"valid_until_timestamp_us": START_US + HORIZON_US + 1}, "horizon"),
        ({"type": 0}, "only IDLE and CURTAIL"),
        ({"command_id": "x" * 300}, "characters"),
        ({"authorization": b"junk"}, "authorization"),
    ],
)
def test_an_unsigned_message_is_decoded_with_care(fields: dict[str, object], said: str) -> None:
    decision = _judge(_plain(**fields), device_id="pv")
    assert isinstance(decision, Refused)
    assert said in decision.reason


def test_an_unsigned_curtail_is_for_the_device_of_its_stream_from_now_on() -> None:
    decision = _judge(PLAIN, device_id="pv")
    assert isinstance(decision, Admitted)
    command = decision.order.command
    assert (command.targets, command.mode, command.point) == (("pv",), Mode.EXPORT_LIMIT, Point.DEVICE)
    assert (command.power_w, command.start_us) == (2_000, START_US)
    assert decision.order.rank is Rank.UNSIGNED


def test_what_unsigned_commands_may_do_is_the_sites_choice() -> None:
    charge = _plain(type=0, power_limit_kw=3.0)
    for unsigned, curtailed, charged in [
        (UnsignedCommands.REFUSE, Refused, Refused),
        (UnsignedCommands.RESTRICTIVE, Admitted, Refused),
        (UnsignedCommands.ALL, Admitted, Admitted),
    ]:
        assert isinstance(judge(PLAIN, "pv", policy(unsigned), None, Book(), NOW), curtailed)
        assert isinstance(judge(charge, "car", policy(unsigned), None, Book(), NOW), charged)


def test_charge_with_zero_is_stop_charging_and_restrictive() -> None:
    assert isinstance(_judge(_plain(type=0, power_limit_kw=0.0), device_id="car"), Admitted)


async def test_priority_is_held_against_the_rights_not_against_the_sequence() -> None:
    entry = rights(highest_priority=1)
    low = await _message(replace(SOME_COMMAND, priority=Priority.CARBON))
    assert isinstance(judge(low, None, policy(), trust_list(entry), Book(), NOW), Admitted)
