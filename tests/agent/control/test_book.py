"""The book: one final receipt for every command, replacement within an issuer, energy by registers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.control.book import MAX_KEPT, MAX_OPEN, RESERVED_FOR_RESTRICTIVE, Book, Change, Outcome
from agent.control.command import CommandType
from agent.control.entry import TRANSITIONS
from agent.control.notes import changed_notes, decode_entry, encode_entry, restore
from agent.control.order import Now, Order
from agent.control.ordered import Ordered
from agent.control.tally import Register, Tally
from agent.evidence.statements import CommandReceipt, CommandState
from tests.agent.control.support import HOUR_US, MINUTE_US, NOW, SOME_COMMAND, START_US, curtail, order_of

END_US = SOME_COMMAND.end_us
IN_FORCE = Outcome(in_force=True, reason="", responded=True, counted_devices=("battery",))


def _admitted(book: Book, order: Order, now: Now = NOW) -> Book:
    return book.admitted(order, CommandState.ACCEPTED, "", now).book.committed(order.hash)


def _at(us: int) -> Now:
    return Now(wall_us=us)


def _states(change: Change) -> list[CommandState]:
    return [receipt.state for receipt in change.receipts]


def _order(name: str, sequence: int, **changes: object) -> Order:
    return order_of(replace(SOME_COMMAND, sequence=sequence, **changes), name)  # type: ignore[arg-type]


def test_every_state_has_its_successors_and_final_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(CommandState)
    assert all(not TRANSITIONS[state] for state in CommandState if state.final)


def test_an_obeyed_command_runs_through_its_receipts_to_completed() -> None:
    order = _order("a", 1)
    change = Book().admitted(order, CommandState.ACCEPTED, "", NOW)
    assert _states(change) == [CommandState.RECEIVED, CommandState.ACCEPTED]
    book = change.book.committed(order.hash)
    change = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", 50_000)}, NOW)
    assert _states(change) == [CommandState.EXECUTING]
    change = change.book.observe({order.hash: IN_FORCE}, {"battery": Register("m", -1_200_900)}, _at(END_US - 1))
    assert _states(change) == []
    change = change.book.settle(_at(END_US))
    assert _states(change) == [CommandState.COMPLETED]
    assert change.receipts[0].delivered_energy_wh == -1250


def test_what_was_never_in_force_expires_and_what_was_not_followed_fails() -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order)
    change = book.observe({order.hash: Outcome(in_force=False, reason="outranked")}, {}, NOW).book.settle(_at(END_US))
    assert _states(change) == [CommandState.EXPIRED]
    assert "outranked" in change.receipts[0].reason
    change = book.observe({order.hash: replace(IN_FORCE, responded=False)}, {}, NOW).book.settle(_at(END_US))
    assert _states(change) == [CommandState.FAILED]
    assert change.receipts[0].delivered_energy_wh is None


def test_a_command_is_complete_when_its_energy_is_delivered() -> None:
    order = _order("a", 1, max_energy_wh=100)
    book = _admitted(Book(), order).observe({order.hash: IN_FORCE}, {"battery": Register("m", 0)}, NOW).book
    change = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", -99_999)}, NOW)
    assert _states(change) == []
    change = change.book.observe({order.hash: IN_FORCE}, {"battery": Register("m", -100_000)}, NOW)
    assert _states(change) == [CommandState.COMPLETED]


def test_a_command_ends_with_its_energy_although_the_power_was_never_quite_where_it_should_be() -> None:
    """A derated battery must not go on for the command's whole time: its authority is used up."""
    order = _order("a", 1, max_energy_wh=100)
    slow = replace(IN_FORCE, responded=False)
    book = _admitted(Book(), order).observe({order.hash: slow}, {"battery": Register("m", 0)}, NOW).book
    change = book.observe({order.hash: slow}, {"battery": Register("m", -100_000)}, NOW)
    assert _states(change) == [CommandState.EXECUTING, CommandState.COMPLETED]
    assert change.receipts[-1].delivered_energy_wh == -100


def test_energy_survives_a_restart_and_a_replaced_meter() -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order).observe({order.hash: IN_FORCE}, {"battery": Register("m", 1_000_000)}, NOW).book
    book = Book({order.hash: decode_entry(encode_entry(book.entries[order.hash]))}, book.windows)
    book = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", 1_400_000)}, NOW).book
    book = book.observe({order.hash: IN_FORCE}, {"battery": Register("new", 5)}, NOW).book
    book = book.observe({order.hash: IN_FORCE}, {"battery": Register("new", 100_005)}, NOW).book
    assert book.settle(_at(END_US)).receipts[0].delivered_energy_wh == 500


def _off_and_on(book: Book) -> Book:
    """As after a restart: what the store has of it."""
    stored = {key: note for key, note in changed_notes(Book(), book).items() if note is not None}
    restored, faults = restore(stored)
    assert not faults
    return restored


@pytest.mark.parametrize("obeyed", [True, False])
def test_what_runs_out_while_the_gateway_is_off_moves_nothing_and_ends_in_one_final_receipt(obeyed: bool) -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order)
    if obeyed:
        book = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", 0)}, NOW).book
        book = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", -300_000)}, NOW).book
    later = _at(END_US + HOUR_US)
    ended = _off_and_on(book).settle(later)
    assert _states(ended) == [CommandState.COMPLETED if obeyed else CommandState.EXPIRED]
    assert ended.receipts[0].delivered_energy_wh == (-300 if obeyed else None)
    assert ended.book.candidates(later) == ()
    assert _states(_off_and_on(ended.book).settle(later)) == []


def test_what_was_sent_ahead_starts_on_its_time_although_the_gateway_was_off_when_it_came_near() -> None:
    begins_us = START_US + 10 * MINUTE_US
    book = _off_and_on(_admitted(Book(), _order("a", 1, start_us=begins_us)))
    assert book.candidates(_at(begins_us - 1)) == ()
    assert book.next_change_us(begins_us - 1) == begins_us
    assert [order.command_id for order in book.candidates(_at(begins_us))] == ["a"]


def test_a_clock_that_jumps_ahead_and_back_brings_no_ended_command_back() -> None:
    book = _admitted(Book(), _order("a", 1))
    ahead = book.settle(_at(END_US + HOUR_US))
    assert len(_states(ahead)) == 1
    back = ahead.book.settle(NOW)
    assert _states(back) == []
    assert back.book.candidates(NOW) == ()


def test_energy_counts_only_while_in_force() -> None:
    order = _order("a", 1)
    waits = Outcome(in_force=False, reason="outranked")
    book = _admitted(Book(), order)
    for outcome, shown in [(IN_FORCE, 0), (IN_FORCE, 10_000), (waits, 10_000), (IN_FORCE, 90_000), (IN_FORCE, 95_000)]:
        book = book.observe({order.hash: outcome}, {"battery": Register("m", shown)}, NOW).book
    assert book.settle(_at(END_US)).receipts[0].delivered_energy_wh == 15


def test_a_later_command_of_the_issuer_replaces_the_earlier_one_for_good() -> None:
    book = _admitted(_admitted(Book(), _order("a", 1)), _order("b", 2, end_us=START_US + MINUTE_US))
    change = book.settle(NOW)
    assert _states(change) == [CommandState.SUPERSEDED]
    assert [o.command_id for o in change.book.candidates(NOW)] == ["b"]
    assert change.book.settle(_at(START_US + MINUTE_US)).book.candidates(_at(START_US + MINUTE_US)) == ()


def test_with_resume_the_earlier_command_comes_back() -> None:
    book = _admitted(_admitted(Book(), _order("a", 1)), _order("b", 2, end_us=START_US + MINUTE_US, resume=True))
    assert [o.command_id for o in book.settle(NOW).book.candidates(NOW)] == ["b"]
    later = _at(START_US + MINUTE_US)
    assert [o.command_id for o in book.settle(later).book.candidates(later)] == ["a"]


def test_controls_sent_ahead_do_not_replace_one_another_before_their_time() -> None:
    book = Book()
    for i in range(5):
        start_us = START_US + i * MINUTE_US
        book = _admitted(book, _order(f"c{i}", i, start_us=start_us, end_us=start_us + MINUTE_US))
    for i in range(5):
        now = _at(START_US + i * MINUTE_US)
        change = book.settle(now)
        assert CommandState.SUPERSEDED not in _states(change)
        book = change.book
        assert [o.command_id for o in book.candidates(now)] == [f"c{i}"]


def test_commands_about_other_devices_or_of_other_issuers_replace_nothing() -> None:
    book = _admitted(Book(), _order("a", 1))
    book = _admitted(book, _order("b", 2, targets=("car",)))
    book = _admitted(book, _order("c", 3, issuer="another"))
    book = _admitted(book, order_of(curtail(sequence=9), "d"))
    change = book.settle(NOW)
    assert _states(change) == []
    assert len(change.book.candidates(NOW)) == 4


def test_a_command_cancels_only_its_own_issuers_commands() -> None:
    mine, other = _order("a", 1), _order("b", 1, issuer="another")
    book = _admitted(_admitted(Book(), mine), other)
    cancelling = _order("c", 2, targets=("pv",), cancels=(mine.hash, other.hash))
    change = book.admitted(cancelling, CommandState.ACCEPTED, "", NOW)
    assert _states(change)[2:] == [CommandState.SUPERSEDED]
    assert change.receipts[2].command_hash == mine.hash


def test_what_allows_power_is_no_candidate_before_it_is_durable_but_what_restricts_is() -> None:
    book = Book().admitted(_order("a", 1), CommandState.ACCEPTED, "", NOW).book
    book = book.admitted(order_of(curtail(), "b"), CommandState.ACCEPTED, "", NOW).book
    assert [o.command_id for o in book.candidates(NOW)] == ["b"]


def test_with_the_time_lost_what_restricts_holds_for_its_duration_of_uptime_and_what_allows_rests() -> None:
    book = _admitted(_admitted(Book(), _order("a", 1)), order_of(curtail(), "b"))
    lost = Now(wall_us=0, time_known=False, uptime_us=14 * MINUTE_US)
    assert [o.command_id for o in book.candidates(lost)] == ["b"]
    assert book.candidates(replace(lost, uptime_us=15 * MINUTE_US)) == ()
    assert book.settle(replace(lost, wall_us=END_US + HOUR_US)).receipts == ()


def test_with_the_time_lost_what_restricts_holds_for_its_duration_from_when_it_came() -> None:
    # A box that has been up for days, and whose time nobody vouches for.
    came = Now(wall_us=START_US, time_known=False, uptime_us=90 * HOUR_US)
    order = replace(order_of(curtail(), "b"), received_uptime_us=came.uptime_us)
    book = Book().admitted(order, CommandState.ACCEPTED, "", came).book
    assert book.candidates(replace(came, uptime_us=came.uptime_us + 15 * MINUTE_US - 1)) == (order,)
    assert book.candidates(replace(came, uptime_us=came.uptime_us + 15 * MINUTE_US)) == ()
    assert book.candidates(NOW) == (order,), "once the time is known it alone counts"


def test_rank_goes_before_priority_and_the_more_restrictive_before_the_earlier() -> None:
    names = [
        o.command_id
        for o in _admitted(
            _admitted(_admitted(Book(), _order("weak", 1, power_w=1_000, issuer="x")), _order("strong", 1, issuer="y")),
            order_of(replace(SOME_COMMAND, type=CommandType.IDLE, power_w=0, issuer="z"), "idle"),
        ).candidates(NOW)
    ]
    assert names == ["idle", "weak", "strong"]


def test_the_next_change_is_the_next_start_or_end_of_a_command_that_is_not_over() -> None:
    book = _admitted(_admitted(Book(), _order("a", 1)), _order("b", 2, start_us=END_US, end_us=END_US + HOUR_US))
    assert book.next_change_us(START_US) == END_US
    assert book.next_change_us(END_US) == END_US + HOUR_US
    assert book.next_change_us(END_US + HOUR_US) is None


def test_what_an_issuer_ordered_counts_for_a_day_however_many_commands_came_after_it() -> None:
    """SAFETY 10: a flood of small commands must not make the large ones forgotten."""
    now = _at(END_US + 1)
    book = _admitted(Book(), _order("large", 1, power_w=40_000)).settle(now).book
    for number in range(MAX_KEPT + 5):
        order = _order(f"small{number}", number + 2, power_w=0, type=CommandType.IDLE)
        book = book.refused(order.hash, order.command_id, order, "no", _at(END_US + 2 + number)).book
    book, gone = book.tidied(now)
    assert gone
    assert book.ordered("grid", START_US).energy_wh == 10_000
    for number in range(MAX_KEPT + 5):
        order = _order(f"tiny{number}", number + 2, power_w=4)
        book = _admitted(book, order)
    book, gone = book.settle(now).book.tidied(now)
    assert gone
    assert book.ordered("grid", START_US).energy_wh >= 10_000 + MAX_KEPT
    restored, _ = restore(changed_notes(Book(), book))
    assert restored.ordered("grid", START_US) == book.ordered("grid", START_US)
    later = _at(END_US + 30 * HOUR_US)
    assert book.tidied(later)[0].ordered("grid", later.wall_us - 24 * HOUR_US) == Ordered()


def test_a_flood_of_permissive_commands_leaves_room_for_one_that_restricts() -> None:
    order = _order("a", 1)
    entry = _admitted(Book(), order).entries[order.hash]
    book = Book({i.to_bytes(32): entry for i in range(MAX_OPEN - RESERVED_FOR_RESTRICTIVE)})
    assert not book.room_for(SOME_COMMAND)
    assert book.room_for(curtail())


def test_a_damaged_note_costs_one_command_and_is_named() -> None:
    book = _admitted(_admitted(Book(), _order("a", 1)), _order("b", 2))
    notes = changed_notes(Book(), book)
    assert restore(notes) == (book, ())
    damaged = next(key for key in notes if "entry" in key)
    restored, faults = restore({**notes, damaged: notes[damaged][:-3]})
    assert len(restored.entries) == 1
    assert len(faults) == 1
    assert damaged in faults[0]


def test_moving_registers_alone_are_not_written() -> None:
    order = _order("a", 1)
    first = _admitted(Book(), order).observe({order.hash: IN_FORCE}, {"battery": Register("m", 0)}, NOW).book
    second = first.observe({order.hash: IN_FORCE}, {"battery": Register("m", -5)}, _at(START_US + 1)).book
    assert changed_notes(first, second) == {}


def test_old_commands_are_forgotten_a_day_after_their_end() -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order).settle(_at(END_US)).book
    assert book.tidied(_at(END_US + 23 * HOUR_US))[1] == ()
    tidied, gone = book.tidied(_at(END_US + 25 * HOUR_US))
    assert gone == (order.hash,)
    assert not tidied.entries


def test_an_impossible_transition_is_our_fault_and_raises() -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order).settle(_at(END_US)).book
    with pytest.raises(AssertionError):
        book._ended(book.entries[order.hash], CommandState.COMPLETED, "", NOW)


class BookMachine(RuleBasedStateMachine):
    """Any course of events leaves at most one final receipt for each command, and exactly one once its time is over."""

    @initialize()
    def begin(self) -> None:
        self.book, self.now_us, self.count = Book(), START_US, 0
        self.receipts: list[CommandReceipt] = []

    def _take(self, change: Change) -> None:
        self.book = change.book
        self.receipts += change.receipts

    @rule(
        start_s=st.integers(-100, 600),
        length_s=st.integers(1, 600),
        issuer=st.sampled_from("xy"),
        resume=st.booleans(),
        limit=st.booleans(),
        durable=st.booleans(),
    )
    def admit(self, start_s: int, length_s: int, issuer: str, resume: bool, limit: bool, durable: bool) -> None:
        self.count += 1
        base = curtail() if limit else SOME_COMMAND
        start_us = self.now_us + start_s * 1_000_000
        end_us = max(self.now_us, start_us) + length_s * 1_000_000
        command = replace(base, start_us=start_us, end_us=end_us, issuer=issuer, resume=resume, sequence=self.count)
        order = order_of(command, f"c{self.count}", received_us=self.now_us)
        self._take(self.book.admitted(order, CommandState.ACCEPTED, "", _at(self.now_us)))
        if durable:
            self.book = self.book.committed(order.hash)

    @rule(seconds=st.integers(1, 300), time_known=st.booleans())
    def pass_time(self, seconds: int, time_known: bool) -> None:
        self.now_us += seconds * 1_000_000
        self._take(self.book.settle(Now(wall_us=self.now_us, time_known=time_known)))

    @rule(
        responded=st.booleans(),
        in_force=st.booleans(),
        shown=st.integers(-(10**9), 10**9),
        held=st.sampled_from(["", "battery is held at 0 W locally by owner"]),
    )
    def look(self, responded: bool, in_force: bool, shown: int, held: str) -> None:
        now = _at(self.now_us)
        outcome = Outcome(
            in_force=in_force, reason="", responded=responded and in_force, counted_devices=("battery",), held=held
        )
        outcomes = {order.hash: outcome for order in self.book.candidates(now)}
        self._take(self.book.observe(outcomes, {"battery": Register("m", shown)}, now))

    @rule()
    def restart(self) -> None:
        restored, faults = restore(changed_notes(Book(), self.book))
        assert not faults
        self.book = restored

    @invariant()
    def receipts_follow_the_table_and_end_once(self) -> None:
        if not hasattr(self, "book"):
            return
        for entry in self.book.entries.values():
            states = [r.state for r in self.receipts if r.command_hash == entry.order.hash]
            assert states[0] is CommandState.RECEIVED
            assert all(after in TRANSITIONS[before] for before, after in itertools.pairwise(states))
            assert sum(state.final for state in states) == entry.state.final

    @invariant()
    def after_its_end_every_command_has_its_final_receipt(self) -> None:
        if not hasattr(self, "book"):
            return
        settled = self.book.settle(_at(self.now_us + 10**10)).book
        assert all(entry.state.final for entry in settled.entries.values())

    @invariant()
    def one_word_of_one_issuer_stands_about_one_matter(self) -> None:
        if not hasattr(self, "book"):
            return
        now = _at(self.now_us)
        standing = self.book.settle(now).book.candidates(now)
        matters = [(order.issuer_key, order.command.mode) for order in standing]
        assert len(matters) == len(set(matters))


BookMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBookMachine = BookMachine.TestCase


@given(st.lists(st.integers(-(10**12), 10**12), min_size=2, max_size=20))
def test_delivered_energy_is_the_register_difference_towards_zero(shown: list[int]) -> None:
    order = _order("a", 1)
    book = _admitted(Book(), order)
    for value in shown:
        book = book.observe({order.hash: IN_FORCE}, {"battery": Register("m", value)}, NOW).book
    assert book.entries[order.hash].tally.delivered_wh() == int(
        abs(shown[-1] - shown[0]) // 1000 * (1 if shown[-1] >= shown[0] else -1)
    )


def test_the_energy_of_a_command_goes_on_over_every_meter_that_was_exchanged() -> None:
    tally = Tally()
    for meter, first, last in (("a", 5_000, 8_000), ("b", 0, 1_000), ("c", 70_000, 70_500)):
        for shown in (first, last):
            tally = tally.seen(True, ("battery",), {"battery": Register(meter, shown)}, START_US, "")
    assert tally.delivered_wh() == 4  # 3 + 1 + 0.5 Wh
