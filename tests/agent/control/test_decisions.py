"""The record of decisions: the same bytes for the same value, nothing lost but a torn end, nothing altered unseen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.control import codec
from agent.control.audit import Audited, audit, statements_of
from agent.control.decision_log import CODE, DecisionLog, segments
from agent.control.decisions import (
    Cause,
    Header,
    SegmentWriter,
    again,
    decision_of,
    plan_bytes,
    plan_of,
    read_segment,
)
from agent.control.errors import RestoreError
from agent.control.plan import Plan, make_plan
from agent.control.site import SiteView
from agent.evidence.statements import Alarm, Severity
from tests.agent.control.strategies import sites
from tests.agent.control.support import NOW, SOME_COMMAND, START_US, order_of, site

SECOND_US = 1_000_000
HEADER = Header(version=1, software="1", previous=b"")


@given(sites())
def test_a_decision_comes_out_the_same_byte_for_byte(view: SiteView) -> None:
    plan = make_plan(view)
    decision = decision_of(Cause.TURN, view, plan)
    assert codec.decode(SiteView, decision.view) == view
    assert codec.encode(codec.decode(SiteView, decision.view)) == decision.view
    assert plan_bytes(again(decision)) == decision.plan
    assert plan_of(decision.plan) == plan


@given(st.floats(allow_nan=False), st.integers(), st.dictionaries(st.text(), st.binary()))
def test_floats_come_back_bit_for_bit_and_order_does_not_matter(a: float, b: int, c: dict[str, bytes]) -> None:
    assert codec.decode(float, codec.encode(a)) == a
    assert codec.decode(int, codec.encode(b)) == b
    assert codec.encode(c) == codec.encode(dict(reversed(c.items())))
    assert codec.decode(Mapping[str, bytes], codec.encode(c)) == c  # type: ignore[type-abstract]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_view_are_said_to_be_none(encoded: bytes) -> None:
    with pytest.raises(RestoreError):
        codec.decode(SiteView, encoded)


class Log:
    """A log in a folder, with its clock and what it stated."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 0.0
        self.alarms: list[Alarm] = []
        self.log = self.made()

    def made(self) -> DecisionLog:
        return DecisionLog(self.folder, software="1", days=7, say=self.say, monotonic_s=lambda: self.now_s)

    def say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.alarms.append(Alarm(timestamp_us=START_US, severity=severity, code=code, subject=subject, text=text))

    def record(self, *seconds: int) -> None:
        for second in seconds:
            now = replace(NOW, wall_us=START_US + second * SECOND_US)
            view = replace(site(orders=(order_of(replace(SOME_COMMAND, end_us=now.wall_us + 1)),)), now=now)
            self.log.note(Cause.TURN, view, make_plan(view))
        self.log.write()
        self.log._tell(due=True)

    def audited(self) -> Audited:
        return audit(segments(self.folder), statements_of(self.alarms), 0, 2**62)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "decisions")


def test_all_that_was_recorded_comes_out_again_and_is_vouched_for(log: Log) -> None:
    log.record(1, 2, 3)
    log.now_s = 4_000
    log.record(4_001, 4_002)
    log.log = log.made()  # a restart
    log.record(5_000)
    found = log.audited()
    assert (found.decisions, found.same, found.signed) == (6, 6, 6)
    assert found.holds
    assert len(segments(log.folder)) == 3
    assert [later - earlier for earlier, later in found.gaps] == [3_998 * SECOND_US, 998 * SECOND_US]
    some = audit(segments(log.folder), statements_of(log.alarms), START_US + 2 * SECOND_US, START_US + 3 * SECOND_US)
    assert (some.decisions, some.signed) == (2, 2)


def test_what_a_kill_left_unsigned_is_vouched_for_after_the_next_start(log: Log) -> None:
    log.record(1)
    log.alarms.clear()  # as if it had been killed before it said anything
    log.log = log.made()
    log.record(2)
    assert log.audited().signed == 2


def test_another_core_is_found_out_at_its_first_other_decision(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.record(1, 2, 3)

    def other(view: SiteView) -> Plan:
        return make_plan(replace(view, stop="a bug") if view.now.wall_us > START_US + SECOND_US else view)

    monkeypatch.setattr("agent.control.decisions.make_plan", other)
    found = log.audited()
    assert found.same == 1
    assert found.first_difference is not None
    assert found.first_difference.at_us == START_US + 2 * SECOND_US
    assert "battery: then -5000 to -5000 W" in found.first_difference.what
    assert "now 0 to 0 W (" in found.first_difference.what
    assert not found.holds


def test_a_record_that_was_rewritten_is_not_what_was_signed(log: Log) -> None:
    """Whoever changes an input and its output alike is caught by the signed digest."""
    log.record(1, 2)
    (path,) = segments(log.folder)
    view = replace(site(stop="me"), now=replace(NOW, wall_us=START_US + SECOND_US))
    path.write_bytes(SegmentWriter(HEADER).take([decision_of(Cause.TURN, view, make_plan(view))] * 2))
    found = log.audited()
    assert found.same == 2
    assert any("not those that were signed" in fault for fault in found.faults)
    path.write_bytes(SegmentWriter(HEADER).take([]))
    assert any("2 decisions were signed, 0 are there" in fault for fault in log.audited().faults)


def test_a_segment_that_is_missing_is_noticed(log: Log) -> None:
    for second in (1, 4_001, 8_001):
        log.now_s = second
        log.record(second)
    segments(log.folder)[1].unlink()
    assert any("does not follow the segment before it" in fault for fault in log.audited().faults)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(8, 400))
def test_a_torn_end_costs_the_last_decisions_and_nothing_else(tmp_path: Path, cut: int) -> None:
    writer, path = SegmentWriter(HEADER), tmp_path / "1.decisions"
    views = [replace(site(), now=replace(NOW, wall_us=START_US + n)) for n in range(3)]
    parts = [writer.take([decision_of(Cause.TURN, view, make_plan(view))]) for view in views]
    path.write_bytes(b"".join(parts)[: -min(cut, len(parts[-1]))])
    assert len(list(read_segment(path))) == 1 + 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_a_fault_and_no_crash(tmp_path: Path, place: int, by: int) -> None:
    writer, path = SegmentWriter(HEADER), tmp_path / "1.decisions"
    encoded = bytearray(writer.take([decision_of(Cause.TURN, site(), make_plan(site()))]))
    place %= len(encoded) - 5  # the last bytes are the flush's
    encoded[place] ^= by
    path.write_bytes(encoded)
    found = audit([path], {"1.decisions": {1: writer.digest.hex()}}, 0, 2**62)
    assert not found.holds or (place < 2 and found.same == 1)  # the stream's own head says nothing of its content


def test_a_disk_that_refuses_stops_nobody_and_is_said_once(log: Log) -> None:
    log.folder.write_text("in the way")
    log.record(1)
    log.record(2)
    assert [alarm.code for alarm in log.alarms] == ["control.not_recorded"]
    log.folder.unlink()
    log.now_s += 100
    log.record(3)
    assert [alarm.code for alarm in log.alarms] == ["control.not_recorded", CODE]


def test_what_is_older_than_the_installer_wants_is_removed(log: Log) -> None:
    log.record(1)
    log.now_s = 4_000
    log.record(8 * 86_400)
    assert len(segments(log.folder)) == 1


def test_where_nothing_shall_be_recorded_nothing_is(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "none", software="", days=0, say=lambda *_: None, monotonic_s=lambda: 0.0)
    log.note(Cause.TURN, site(), make_plan(site()))
    log.write()
    assert not (tmp_path / "none").exists()
