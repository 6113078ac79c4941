"""Replay of whole decisions: what came goes through the same core again, and whoever alters any of it is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.control import codec
from agent.control.authorization import authorize
from agent.control.command import Command, CommandType, Price, grid_command
from agent.control.decision_log import MOST_WAITING, segments
from agent.control.decisions import plan_bytes, plan_of
from agent.control.errors import RestoreError
from agent.control.events import Event, Kept, Kind, Memory, Message, Record, Rules, decode, given_of, said_bytes
from agent.control.inputs import InputClamp
from agent.control.needing import Wish
from agent.control.recorder import UNRECORDABLE
from agent.control.schedule import STEP_US, Schedule
from agent.control.segments import Header, SegmentWriter, read_segment
from agent.control.tally import Register
from agent.evidence.statements import Alarm, CommandState, Severity
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control import schedules, test_feeds
from tests.agent.control.boxes import Box
from tests.agent.control.support import (
    GATEWAY,
    OPERATOR,
    SOME_COMMAND,
    STRANGER,
    SoftKey,
    curtail,
    rights,
    trust_list,
)

SECOND_US = 1_000_000


def signed(name: str, command: Command, key: SoftKey = OPERATOR) -> GridCommand:
    return grid_command(name, command, asyncio.run(authorize(command, key)))


def discharge(box: Box, number: int = 1, seconds: float = 30, **changes: object) -> Command:
    base = replace(
        SOME_COMMAND, start_us=box.wall_us, end_us=box.wall_us + round(seconds * 1e6), sequence=number, power_w=4_000
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Command


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "decisions")


def full_day(box: Box) -> None:
    """Something of everything."""
    for _ in range(5):
        box.turn()
    for number in range(3):
        box.feed(test_feeds.signed(test_feeds.value(number, at_us=box.wall_us), test_feeds.KEYS[number]))
    first = signed("c1", discharge(box, price=Price(400_000, "EUR")))
    box.message(first)
    box.message(first)
    box.message(signed("stranger", discharge(box, 2), STRANGER))
    box.turn()
    box.commit()
    for _ in range(5):
        box.turn()
    box.message(GridCommand(command_id="idle", type=GridCommand().type, valid_until_timestamp_us=1))
    box.pass_(12)
    box.message(first, "battery")
    box.message(signed("c2", curtail(0, start_us=box.wall_us, end_us=box.wall_us + 5 * SECOND_US, sequence=3)))
    box.turn()
    start_us = box.wall_us // STEP_US * STEP_US
    box.schedule(schedules.signed(schedules.schedule(audience=GATEWAY, targets=("battery",), start_us=start_us)))
    box.schedule(b"nothing")
    box.commit()
    box.wish(Wish(energy_wh=9_000, departure_us=box.wall_us + 3_600 * SECOND_US))
    assert box.hold("battery", 99_000) != ""
    assert box.hold("battery", 2_000) == ""
    box.turn()
    box.commit()
    for _ in range(30):
        box.turn()
    box.millihertz = 49_700
    box.turn()
    box.end_hold("battery")
    assert box.end_hold("battery") != ""
    box.pressed_by, box.clamps = "me", (InputClamp(name="ripple", export_limit_w=0),)
    box.turn()
    box.pressed_by, box.clamps, box.millihertz = None, (), 50_000
    box.silent = {"car"}
    for _ in range(40):
        box.turn()
    box.write()


def test_something_of_everything_comes_out_again_byte_for_byte(box: Box) -> None:
    full_day(box)
    found = box.audited()
    assert found.first_difference is None
    assert found.holds
    assert (found.not_again, found.alone) == (0, 0)
    assert found.decisions == found.same == found.signed > 80
    assert found.messages == 3 + 6 + 2
    assert found.answers == len(box.receipts)
    states = {receipt.state for receipt in box.receipts}
    assert {CommandState.ACCEPTED, CommandState.REJECTED, CommandState.EXECUTING, CommandState.COMPLETED} <= states


def test_a_part_of_the_time_is_replayed_from_the_memory_before_it(box: Box) -> None:
    full_day(box)
    some = box.audited(box.wall_us - 10 * SECOND_US, box.wall_us - 5 * SECOND_US)
    assert some.holds
    assert some.decisions == some.same == 6


def test_an_hour_later_another_segment_begins_with_what_the_one_before_came_to(box: Box) -> None:
    full_day(box)
    box.now_s += 3_600
    box.turn()
    box.turn()
    box.write()
    found = box.audited()
    assert len(segments(box.folder)) == 2
    assert found.holds
    assert found.not_again == 0


def test_a_restart_goes_on_in_a_segment_of_its_own(box: Box) -> None:
    full_day(box)
    box.start()
    box.turn()
    box.write()
    assert len(segments(box.folder)) == 2
    assert box.audited().holds


def test_what_could_not_be_noted_costs_no_more_than_itself(box: Box) -> None:
    box.turn()
    for _ in range(MOST_WAITING):
        box.turn()
    box.write()
    lost = MOST_WAITING + 1 - box.audited().decisions
    assert lost > 0
    box.message(signed("c1", discharge(box)))
    box.turn()
    box.write()
    found = box.audited()
    assert found.holds
    assert found.not_again == 0
    assert len(segments(box.folder)) == 1


def test_what_comes_between_a_plan_and_its_books_happens_there_again(box: Box) -> None:
    for _ in range(5):
        box.turn()
    box.message(signed("c1", discharge(box)))
    box.decide()
    box.commit()
    box.message(signed("c2", discharge(box, 2, power_w=2_000)))
    box.tape.anew()
    box.hold("battery", 0)  # no memory is taken here, so it is not in the record ...
    box.keep()
    box.turn()  # ... but what came of it is
    box.write()
    found = box.audited()
    assert found.first_difference is None
    assert found.holds
    assert (found.messages, found.not_again) == (2, 0)


def test_of_an_alarm_all_but_its_time_is_compared_and_the_recorders_own_word_is_not() -> None:
    alarm = Alarm(timestamp_us=7, severity=Severity.INFO, code="site.stop", subject="site", text="by me")
    assert said_bytes([alarm]) == said_bytes([replace(alarm, timestamp_us=9)]) != said_bytes([replace(alarm, text="")])
    assert said_bytes([replace(alarm, code=UNRECORDABLE)]) == ()


def test_a_fault_of_the_core_in_the_midst_of_an_event_is_no_difference_afterwards(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.turn()
    with monkeypatch.context() as patch:
        patch.setattr(box.core.schedules, "orders", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            box.turn()
    box.turn()
    box.write()
    assert box.audited().holds


# -- alterations

Alter = Callable[[Record], Record | None]
"""Another record in place of this one; None: it stays."""


def altered(box: Box, alter: Alter) -> int:
    """Writes the record anew with the first alteration that is one; at which moment that was."""
    (path,) = segments(box.folder)
    values = [value for value, _ in read_segment(path)]
    header, records = values[0], values[1:]
    assert isinstance(header, Header)
    frames, at_us = [], 0
    for record in records:
        assert isinstance(record, Memory | Rules | Event)
        other = alter(record) if not at_us else None
        if other is not None and other != record:
            at_us = other.now.wall_us if isinstance(other, Event) else 1
            record = other
        frames.append({Memory: b"M", Rules: b"R", Event: b"E"}[type(record)] + codec.encode(record))
    assert at_us, "nothing was altered: this test tests nothing"
    path.write_bytes(SegmentWriter(header).take(frames))
    return at_us


def events(kind: Kind, alter: Callable[[Event], Event | None], skip: int = 0) -> Alter:
    """The alteration of one event of a kind, after so many others."""
    seen = 0

    def altering(record: Record) -> Record | None:
        nonlocal seen
        if not isinstance(record, Event) or record.kind is not kind:
            return None
        seen += 1
        return alter(record) if seen > skip else None

    return altering


def other_given(event: Event, **changes: object) -> Event:
    other = replace(given_of(event), **changes)  # type: ignore[arg-type]  # fields of what is given
    return replace(event, given=codec.encode(other))


def more_power(event: Event) -> Event | None:
    """One bit of the signed body."""
    came = given_of(event)
    assert isinstance(came, Message)
    message = GridCommand.FromString(came.message)
    if not message.authorization:
        return None
    message.authorization = message.authorization[:-70] + bytes([message.authorization[-70] ^ 1])
    return other_given(event, message=message.SerializeToString())


def other_name(event: Event) -> Event:
    came = given_of(event)
    assert isinstance(came, Message)
    message = GridCommand.FromString(came.message)
    message.command_id += "x"
    return other_given(event, message=message.SerializeToString())


def sampled(event: Event, **changes: object) -> Event:
    """All devices show something else."""
    (look,) = event.looks
    statuses = tuple(
        replace(s, last_sample=replace(s.last_sample, **changes))  # type: ignore[type-var]  # every device shows one
        for s in look.statuses
    )
    return replace(event, looks=(replace(look, statuses=statuses),))


def shows_w(event: Event, power_w: int) -> bool:
    (look,) = event.looks
    return any(s.last_sample is not None and s.last_sample.power_w == power_w for s in look.statuses)


def ordered_w(event: Event, name: str = "battery") -> int | None:
    return plan_of(event.decisions[0].plan).orders[name].highest_w


def other_plan(event: Event) -> Event:
    (made,) = event.decisions
    plan = plan_of(made.plan)
    name, order = min(plan.orders.items())
    plan = replace(plan, orders={**plan.orders, name: replace(order, highest_w=77)})
    return replace(event, decisions=(replace(made, plan=plan_bytes(plan)),))


ALTERATIONS: dict[str, tuple[Alter, str]] = {
    "a bit of a signed command": (events(Kind.MESSAGE, more_power), "then said RECEIVED of 'c1'; now REJECTED of 'c1'"),
    "a command's name": (events(Kind.MESSAGE, other_name), "command 'c1x' on the gateway's link: then said"),
    "whose stream it came on": (
        events(Kind.MESSAGE, lambda e: other_given(e, device_id="car"), skip=3),
        "command 'idle' on the stream of car",
    ),
    "the moment at which a command came": (
        events(Kind.MESSAGE, lambda e: replace(e, now=replace(e.now, wall_us=e.now.wall_us + 60 * SECOND_US))),
        "now REJECTED of 'c1' (expired",
    ),
    "that the time was known": (
        events(Kind.MESSAGE, lambda e: replace(e, now=replace(e.now, time_known=False))),
        "command 'c1'",
    ),
    "an answer": (events(Kind.MESSAGE, lambda e: replace(e, said=e.said[:1])), "then said nothing; now ACCEPTED"),
    "how much waited for the store": (events(Kind.MESSAGE, lambda e: replace(e, backlog=90_000)), "command 'c1'"),
    "who may order what": (
        lambda r: replace(r, trust=None) if isinstance(r, Rules) else None,
        "there is no trust list here",
    ),
    "what the site accepts": (
        lambda r: replace(r, policy=replace(r.policy, site_rating_w=1)) if isinstance(r, Rules) else None,
        "dual control",
    ),
    "a schedule": (
        events(Kind.SCHEDULE, lambda e: other_given(e, signed=b"something else")),
        "a schedule: then said RECEIVED",
    ),
    "a value of a feed": (
        events(Kind.FEED, lambda e: other_given(e, signed=given_of(e).signed[:-1] + b"?")),  # type: ignore[union-attr]
        "a value of a feed: then answered ''; now",
    ),
    "a hold by hand": (events(Kind.HOLD, lambda e: other_given(e, power_w=3_000), skip=1), "a hold by hand of 'batt"),
    "who holds it": (events(Kind.HOLD, lambda e: other_given(e, by="you"), skip=1), "a hold by hand of 'battery'"),
    "a refusal to hold": (events(Kind.HOLD, lambda e: replace(e, answer="")), "then answered ''; now"),
    "whose hold ended": (events(Kind.HOLD_ENDED, lambda e: other_given(e, device_id="car")), "the end of a hold"),
    "a hold that was stored": (
        events(Kind.HOLD_STORED, lambda e: other_given(e, hold=replace(given_of(e).hold, power_w=1))),  # type: ignore[union-attr]
        "the plan of its time: battery: then 2000 to 2000 W",
    ),
    "a driver's word": (events(Kind.WISH, lambda e: other_given(e, wish=Wish(departure_us=1))), "a driver's word of"),
    "what was stored": (events(Kind.STORED, lambda e: other_given(e, hash=b"?")), "the plan of its time"),
    "what a meter showed": (
        events(Kind.TURN, lambda e: sampled(e, power_w=0) if shows_w(e, -4_000) else None),
        "the plan of its time: ",
    ),
    "the grid's frequency": (
        events(Kind.TURN, lambda e: sampled(e, frequency_millihertz=49_000), skip=5),
        "then said nothing; now alarm site.frequency",
    ),
    "who pressed STOP": (
        events(Kind.TURN, lambda e: replace(e, looks=(replace(e.looks[0], stop="me"),))),
        "local STOP",
    ),
    "a wired input": (
        events(
            Kind.TURN,
            lambda e: (
                replace(e, looks=(replace(e.looks[0], clamps=(InputClamp(name="x", import_limit_w=0),)),))
                if ordered_w(e) == 2_000
                else None
            ),
        ),
        "battery: then 2000 to 2000 W",
    ),
    "a register": (
        events(
            Kind.KEPT,
            lambda e: (
                other_given(e, registers={"battery": Register("", 9_000_000)})
                if isinstance(came := given_of(e), Kept) and came.registers
                else None
            ),
        ),
        "then said COMPLETED of 'c1'",
    ),
    "the dice": (events(Kind.TURN, lambda e: replace(e, drawn=(0.75,)) if e.drawn else None), "then said alarm"),
    "dice that were not thrown": (events(Kind.TURN, lambda e: replace(e, drawn=(0.5,) * 2), skip=2), "throws dice"),
    "a look that was none": (events(Kind.TURN, lambda e: replace(e, looks=()), skip=2), "it looks at the site"),
    "a plan": (events(Kind.TURN, other_plan), "battery: then"),
    "a plan that is not there": (events(Kind.TURN, lambda e: replace(e, decisions=())), "then 0 plans were made"),
    "what the gateway remembered": (
        lambda r: (
            replace(r, around=replace(r.around, watch=replace(r.around.watch, islanded=True)))
            if isinstance(r, Memory)
            else None
        ),
        "the plan of its time",
    ),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_alteration_is_the_first_difference(box: Box, what: str) -> None:
    """Of the record's content alone; that its bytes are not those that were signed shows besides."""
    full_day(box)
    alter, words = ALTERATIONS[what]
    at_us = altered(box, alter)
    found = box.audited()
    assert found.first_difference is not None
    assert found.first_difference.at_us >= at_us
    assert words in found.first_difference.what
    assert found.not_again > 0
    assert any("not those that were signed" in fault for fault in found.faults)


def test_a_command_whose_authorization_says_something_else_than_the_book_is_named(box: Box) -> None:
    full_day(box)
    box.now_s += 3_600
    box.turn()
    box.write()
    first, second = segments(box.folder)
    first.unlink()

    def forged(record: Record) -> Record | None:
        if not isinstance(record, Memory):
            return None
        entry = next(e for e in record.book.entries if e.order.authorization)
        order = replace(entry.order, command=replace(entry.order.command, power_w=9_999))
        return replace(record, book=replace(record.book, entries=(replace(entry, order=order),)))

    altered(box, forged)
    assert any("its authorization says something else" in fault for fault in box.audited().faults)
    assert second.exists()


def test_a_memory_that_the_events_before_do_not_come_to_is_a_difference(box: Box) -> None:
    full_day(box)
    box.now_s += 3_600
    box.turn()
    box.write()
    second = segments(box.folder)[1]
    values = [value for value, _ in read_segment(second)]
    memory = values[1]
    assert isinstance(memory, Memory)
    memory = replace(memory, intake=replace(memory.intake, flooded=True))
    second.write_bytes(SegmentWriter(values[0]).take([b"M" + codec.encode(memory)]))  # type: ignore[arg-type]
    found = box.audited()
    assert found.first_difference is not None
    assert found.first_difference.what == "what the gateway remembers: intake.flooded: then True; now False"


def test_another_rule_is_found_out_where_it_first_decides_otherwise(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    full_day(box)
    monkeypatch.setattr("agent.control.admission.HORIZON_US", 1)
    found = box.audited()
    assert found.first_difference is not None
    assert "command 'c1' on the gateway's link: then said RECEIVED of 'c1'; now REJECTED" in found.first_difference.what
    assert "horizon" in found.first_difference.what
    assert found.faults == []


def test_another_watcher_is_found_out_too(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    full_day(box)
    monkeypatch.setattr("agent.control.site_watch.is_islanded", lambda _: True)
    found = box.audited()
    assert found.first_difference is not None
    assert "not connected to the public grid" in found.first_difference.what


@given(st.binary(max_size=80))
def test_bytes_that_are_no_record_are_said_to_be_none(frame: bytes) -> None:
    for tag in (b"", b"M", b"R", b"E"):
        with pytest.raises(RestoreError):
            decode(tag + frame)


class _Deed:
    """What a property does to a box, by number."""

    def __init__(self, box: Box) -> None:
        self.box, self.number = box, 0
        self.answered = 0
        """Receipts given before the last restart."""

    def do(self, what: int, power_w: int) -> None:
        box = self.box
        self.number += 1
        match what:
            case 0:
                box.turn()
            case 1:
                box.message(signed(f"c{self.number}", discharge(box, self.number, 20, power_w=power_w)))
            case 2:
                box.message(signed(f"c{power_w}", discharge(box, 7, type=CommandType.CHARGE, power_w=power_w)))
            case 3:
                box.commit()
            case 4:
                box.hold("battery", power_w - 5_000, 5.0)
            case 5:
                box.end_hold("battery")
            case 6:
                box.powers_w["grid"] = power_w * 5
                box.turn(11.0)
            case 7:
                box.car = not box.car
                box.millihertz = 49_600 + power_w // 10
                box.turn(0.2)
            case 8:
                box.schedule(schedules.signed(self._schedule(power_w)))
            case 9:
                box.wall_us += (power_w - 5_000) * SECOND_US  # somebody sets the clock
                box.turn()
            case 10:
                another = rights(STRANGER if power_w % 2 else OPERATOR, expires_us=2**53)
                box.trust = trust_list(another, expires_us=2**53)
            case 11:
                self.answered += len(box.receipts)
                box.write()
                box.start()

    def _schedule(self, power_w: int) -> Schedule:
        start_us = self.box.wall_us // STEP_US * STEP_US
        return schedules.schedule(start_us=start_us, steps=(power_w, -power_w) * 2, sequence=self.number)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 10_000)), max_size=25))
def test_whatever_happens_happens_again(tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[int, int]]) -> None:
    box = Box(tmp_path_factory.mktemp("box") / "decisions")
    deed = _Deed(box)
    for what, power_w in deeds:
        deed.do(what, power_w)
    box.turn()
    box.write()
    found = box.audited()
    assert found.first_difference is None
    assert found.holds
    assert found.not_again == 0
    assert found.answers == deed.answered + len(box.receipts)
