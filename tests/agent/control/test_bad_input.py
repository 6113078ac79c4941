"""Bad input that all of control must bear: contradictions, nothing to control, a million commands, who has left."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import UnsignedCommands
from agent.control.admission import Admitted, Refused, judge
from agent.control.answers import MOST_REFUSALS_KEPT
from agent.control.authorization import authorize
from agent.control.book import MAX_KEPT, MAX_OPEN, RESERVED_FOR_RESTRICTIVE, Book
from agent.control.bounds import BoundSettings
from agent.control.bounds_ahead import MOST_ORDERS, Ahead, begins_us
from agent.control.command import CommandType, Mode, Point, grid_command
from agent.control.decision_log import MOST_WAITING
from agent.control.errors import CommandFormatError
from agent.control.events import Kind, Message
from agent.control.inputs import InputClamp
from agent.control.order import Now, Order
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import SiteView
from agent.control.undecided import MOST_UNDECIDED, Waiting
from agent.evidence.statements import CommandState
from drivers.device import DeviceKind
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.boxes import Box
from tests.agent.control.strategies import sites
from tests.agent.control.support import (
    BATTERY,
    HOUR_US,
    LIMITS,
    MINUTE_US,
    NOW,
    OPERATOR,
    SOME_COMMAND,
    START_US,
    curtail,
    order_of,
    policy,
    site,
    trust_list,
)


@given(sites(), st.integers(0, 3))
def test_clamps_that_contradict_one_another_leave_no_empty_band_and_wake_nothing_that_rests(
    view: SiteView, more: int
) -> None:
    """No import and no export by command, by contract and by wire, and setpoints both ways beside them."""
    limits = (
        replace(curtail(0), mode=Mode.EXPORT_LIMIT, point=Point.CONNECTION),
        replace(curtail(0), mode=Mode.IMPORT_LIMIT, point=Point.CONNECTION),
        replace(curtail(0), mode=Mode.EXPORT_LIMIT),
        replace(curtail(0), mode=Mode.IMPORT_LIMIT),
    )
    wishes = [
        replace(SOME_COMMAND, type=type_, targets=(), power_w=9_000)
        for type_ in (CommandType.CHARGE, CommandType.DISCHARGE)
    ]
    orders = tuple(order_of(command, f"c{n}") for n, command in enumerate((*limits, *wishes[: more + 1])))
    tight = replace(
        view,
        orders=orders,
        limits=replace(view.limits, import_limit_w=0, export_limit_w=0),
        inputs=(InputClamp(name="wire", export_limit_w=0, import_limit_w=0),),
    )
    plan = make_plan(tight)
    for name, order in plan.orders.items():
        if order.lowest_w is not None and order.highest_w is not None:
            assert order.lowest_w <= order.highest_w
        device = view.devices[name]
        importing = device.online and device.kind is not DeviceKind.PV and not view.islanded
        if importing and order.highest_w is not None and view.meter is not None and view.stop is None:
            assert order.highest_w <= 0 or device.vehicle is not None or device.present_w != 0
    assert plan == make_plan(tight)


@given(st.booleans(), st.booleans())
def test_a_site_with_nothing_to_control_makes_a_plan_of_nothing(metered: bool, ordered: bool) -> None:
    orders = (order_of(SOME_COMMAND), order_of(curtail(0), "limit")) if ordered else ()
    view = replace(site(BATTERY, house_w=900 if metered else None, orders=orders), devices={})
    plan = make_plan(view)
    assert plan.orders == {}
    assert len(plan.commands) == len(orders)
    assert not any(command.responded and command.planned_w for command in plan.commands.values())


async def test_a_command_to_a_site_with_nothing_to_control_is_refused_with_that_reason() -> None:
    command = replace(SOME_COMMAND, targets=())
    message = grid_command("c", command, await authorize(command, OPERATOR))
    nothing = replace(policy(), controllable=frozenset())
    decision = judge(message, None, nothing, trust_list(), Book(), NOW)
    assert isinstance(decision, Refused)
    assert "nothing can be controlled at this site" in decision.reason


def test_a_stored_command_for_a_device_that_has_left_ends_once_and_says_why() -> None:
    order = order_of(replace(SOME_COMMAND, targets=("gone",)))
    plan = make_plan(site(BATTERY, orders=(order,)))
    assert plan.orders["battery"].released
    outcome = plan.commands[order.hash].outcome
    assert not outcome.in_force
    book = Book().admitted(order, CommandState.ACCEPTED, "", NOW).book.committed(order.hash)
    book = book.observe({order.hash: outcome}, {}, NOW).book
    ended = book.settle(Now(wall_us=SOME_COMMAND.end_us))
    (final,) = ended.receipts
    assert final.state is CommandState.EXPIRED
    assert "names no device that is here" in final.reason
    assert ended.book.settle(Now(wall_us=SOME_COMMAND.end_us + HOUR_US)).receipts == ()


def test_a_million_commands_take_no_more_room_than_the_book_has() -> None:
    """As many as a test has time for; each day of them fills the same room, and what was ordered is still known."""
    book, kept, now = Book(), 0, NOW
    for number in range(6_000):
        now = replace(NOW, wall_us=START_US + number * MINUTE_US)
        command = replace(
            SOME_COMMAND, sequence=number, start_us=now.wall_us, end_us=now.wall_us + MINUTE_US, power_w=60,
            targets=(("battery",), ("car",), ("pv",))[number % 3],
        )  # fmt: skip
        if book.room_for(command):
            order = order_of(command, f"c{number}", received_us=now.wall_us)
            book = book.admitted(order, CommandState.ACCEPTED, "", now).book
        if number % 50 == 0:
            book, _ = book.settle(now).book.tidied(now)
            kept = max(kept, len(book.entries))
    assert kept <= MAX_OPEN + MAX_KEPT
    assert len(book.windows) == 1
    assert sum(len(hours) for hours in book.forgotten.values()) <= 26
    assert 0 < book.ordered("grid", now.wall_us - 24 * HOUR_US).energy_wh <= 25 * 60


def test_a_flood_of_hostile_commands_leaves_everything_bounded_and_each_is_judged_at_once(tmp_path: Path) -> None:
    """Forty thousand that all differ, signed by nobody or not at all, through the intake of a whole core.

    Nothing that they touch grows with their number: a million take as much room.
    """
    box = Box(tmp_path / "decisions")
    for _ in range(12):
        box.turn()
    sizes: list[tuple[int, ...]] = []
    for begin in range(0, 40_000, 10_000):
        box.turn()
        box.recorder.said.clear()
        sizes.append(_sizes(box))
        with box.tape.event(Kind.MESSAGE, Message(message=b"", device_id=None, since_s=box.now_s)):
            for number in range(begin, begin + 10_000):
                _hostile(box, number)
    sizes.append(_sizes(box))
    entries, windows, answered, refusals, undecided, waiting = (max(found) for found in zip(*sizes, strict=True))
    assert entries <= MAX_OPEN + MAX_KEPT
    assert windows == 0  # none of them is an issuer
    assert refusals <= MOST_REFUSALS_KEPT
    assert answered <= refusals + MAX_OPEN + MAX_KEPT
    assert undecided <= MOST_UNDECIDED
    assert waiting <= MOST_WAITING
    assert sizes[-1][:2] == sizes[-2][:2]
    stop = curtail(0, targets=("battery",), start_us=box.wall_us, end_us=box.wall_us + HOUR_US, sequence=1)
    box.message(grid_command("stop", stop, asyncio.run(authorize(stop, OPERATOR))))
    assert box.receipts[-1].command_id == "stop"


def test_each_of_many_valid_commands_asks_about_no_more_than_a_few_moments_of_the_others() -> None:
    """A thousand that are known already, and a bound on how many may begin: one more does not go through all of them
    at each moment at which one of them starts or ends."""
    asked: list[int] = []
    others = tuple(
        order_of(replace(SOME_COMMAND, sequence=n, end_us=START_US + n * MINUTE_US), f"o{n}") for n in range(1, 1_000)
    )

    def orders(at: Now) -> tuple[Order, ...]:
        asked.append(at.wall_us)
        return others

    ahead = Ahead(
        settings=BoundSettings(events_per_hour=1),
        orders=orders,
        next_change_us=lambda after_us: after_us + MINUTE_US,
        most_others=len(others),
    )
    begins_us(order_of(replace(SOME_COMMAND, end_us=START_US + 24 * HOUR_US)), site(), ahead)
    assert 1 <= len(asked) * len(others) <= MOST_ORDERS


def test_valid_commands_of_one_issuer_fill_the_book_and_are_then_refused_with_a_reason() -> None:
    """Signed ones beyond what the book holds: each gets one final receipt, and nothing grows with their number."""
    book, refused = Book(), 0
    key, trust, accepts = OPERATOR, trust_list(), policy()
    for number in range(MAX_OPEN - RESERVED_FOR_RESTRICTIVE + 30):
        command = replace(SOME_COMMAND, sequence=number, power_w=1, end_us=START_US + MINUTE_US)
        message = grid_command(f"v{number}", command, asyncio.run(authorize(command, key)))
        decision = judge(message, None, accepts, trust, book, NOW)
        if isinstance(decision, Refused):
            refused += 1
            assert "too many commands are stored" in decision.reason
        else:
            assert isinstance(decision, Admitted)
            book = book.admitted(decision.order, CommandState.ACCEPTED, "", NOW).book
    assert refused == 30
    assert book.count_open == MAX_OPEN - RESERVED_FOR_RESTRICTIVE
    assert len(book.windows) == 1


def _hostile(box: Box, number: int) -> None:
    message = GridCommand(
        command_id=f"h{number}", valid_until_timestamp_us=box.wall_us + HOUR_US, power_limit_kw=number % 7 + 1
    )
    message.type = number % 2  # type: ignore[assignment]  # CHARGE and DISCHARGE, by number
    if number % 5 == 0:
        message.authorization = number.to_bytes(8, "big") * 20
    box.core.intake.take(Waiting(message, None, box.now_s), box.now())


def _sizes(box: Box) -> tuple[int, ...]:
    memory, book = box.core.intake.memory(), box.core.books.book
    return (
        len(book.entries), len(book.windows), len(memory.answers.answered), len(memory.answers.refusals),
        len(memory.undecided), len(box.log._waiting),
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"end_us": START_US - 1},
        {"end_us": START_US},
        {"power_w": -1},
        {"power_w": 10**12},
        {"end_us": 2**63},
        {"sequence": -1},
    ],
)
def test_a_body_with_a_negative_window_an_absurd_power_or_a_number_out_of_range_cannot_even_be_made(
    changes: dict[str, int],
) -> None:
    with pytest.raises(CommandFormatError):
        replace(SOME_COMMAND, **changes)  # type: ignore[arg-type]  # fields of Command


async def test_a_far_future_is_refused_although_it_is_well_signed() -> None:
    command = replace(SOME_COMMAND, start_us=2**52, end_us=2**53 - 1)
    message = grid_command("c", command, await authorize(command, OPERATOR))
    decision = judge(message, None, policy(), trust_list(), Book(), NOW)
    assert isinstance(decision, Refused)
    assert "horizon" in decision.reason


@given(st.floats(), st.floats(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 9))
def test_no_number_in_a_plain_message_gets_past_as_power(power: float, price: float, until: int, type_: int) -> None:
    message = GridCommand(command_id="u", valid_until_timestamp_us=until)
    message.power_limit_kw, message.price_per_kwh_cents = power, price
    message.type = type_  # type: ignore[assignment]  # unknown types arrive as numbers
    decision = judge(message, "battery", replace(policy(), unsigned="all"), None, Book(), NOW)  # type: ignore[arg-type]
    if not isinstance(decision, Refused):
        ordered = decision.order.command  # type: ignore[union-attr]
        assert ordered.type is CommandType.IDLE or (math.isfinite(power) and power >= -0.0005)
        assert START_US < ordered.end_us <= START_US + 7 * 24 * HOUR_US


def test_limits_of_nothing_at_all_are_borne() -> None:
    nothing = replace(LIMITS, import_limit_w=0, export_limit_w=0, phase_limit_w=0, house_reserve_w=0, phases=1)
    for house_w in (None, -(10**9), 0, 10**9):
        plan = make_plan(site(house_w=house_w, limits=nothing))
        assert set(plan.orders) == {"battery", "car", "plain", "pv"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"power_limit_kw": math.nan}, "power"),
        ({"power_limit_kw": math.inf}, "power"),
        ({"power_limit_kw": -3.0}, "power"),
        ({"power_limit_kw": 3e30}, "power"),
        ({"price_per_kwh_cents": math.nan}, "price"),
        ({"valid_until_timestamp_us": 0}, "valid_until"),
        ({"valid_until_timestamp_us": START_US - HOUR_US}, "expired 3600 s ago"),
        ({"valid_until_timestamp_us": START_US + 8 * 24 * HOUR_US}, "horizon of 7 days"),
        ({"valid_until_timestamp_us": 2**62}, "end_us"),
        ({"valid_until_timestamp_us": -1}, "valid_until"),
        ({"type": 77}, "type"),
        ({"command_id": ""}, "command_id"),
    ],
)
def test_nan_absurd_powers_negative_windows_and_far_futures_are_refused_with_the_reason(
    fields: dict[str, object], reason: str
) -> None:
    message = GridCommand(command_id="u", valid_until_timestamp_us=START_US + HOUR_US, power_limit_kw=2.0)
    message.type = 1  # type: ignore[assignment]  # DISCHARGE
    message.authorization = b""
    for name, value in fields.items():
        setattr(message, name, value)
    if not message.command_id:
        message.authorization = b"\x01"
    decision = judge(message, "battery", policy(UnsignedCommands.ALL), None, Book(), NOW)
    assert isinstance(decision, Refused)
    assert reason in decision.reason


def test_clamps_that_contradict_one_another_are_named_in_the_reasons_of_whom_they_bind() -> None:
    """No import by wire, no export by command, and a command each way: both rest, and each says which clamp it was."""
    wire = InputClamp(name="relay", import_limit_w=0)
    no_export = order_of(replace(curtail(0), mode=Mode.EXPORT_LIMIT, targets=(), point=Point.CONNECTION), "no-export")
    for type_, rule in ((CommandType.CHARGE, Rule.WIRED), (CommandType.DISCHARGE, Rule.EXPORT_COMMAND)):
        wish = order_of(replace(SOME_COMMAND, type=type_, power_w=4_000), "wish")
        plan = make_plan(replace(site(BATTERY, house_w=0, orders=(no_export, wish)), inputs=(wire,)))
        order = plan.orders["battery"]
        assert (order.lowest_w, order.highest_w) == (0, 0)
        assert rule in order.bound_by
        assert f"0 W of {wish.command.signed_power_w} W are possible" in plan.commands[wish.hash].reason
        assert rule.value in plan.commands[wish.hash].reason
