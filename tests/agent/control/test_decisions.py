"""The record of decisions as files: nothing lost but a torn end, nothing altered unseen; and records of version 1."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.control import codec
from agent.control.admission import Policy
from agent.control.audit import audit, statements_of
from agent.control.decision_log import CODE, DecisionLog, segments
from agent.control.decisions import Cause, Decision, again, plan_bytes, plan_of
from agent.control.errors import RestoreError
from agent.control.plan import Plan, make_plan
from agent.control.segments import VERSION, Header, SegmentWriter, read_segment
from agent.control.site import SiteView
from tests.agent.control.boxes import Box
from tests.agent.control.record_of_version_2 import DIGEST as OF_VERSION_2_DIGEST
from tests.agent.control.record_of_version_2 import OF_VERSION_2
from tests.agent.control.strategies import sites
from tests.agent.control.support import NOW, SOME_COMMAND, START_US, order_of, policy, site

SECOND_US = 1_000_000
HEADER = Header(version=1, software="1", previous=b"")
OF_VERSION_1 = base64.b64decode(
    "eJzsk89rE0EUx98mVRAPFXqIgwfnllhM2U1Rmz3IFtPWoqeq2HrK7O60DU13w2bTJJ422dqoINWLERHszasXycWDesgfI3ibHQ16"
    "cJaYEItEFKKFdng7P94OfN/Mdz4AcMKXqDylTMkaQPTpNpyB4zSWePVBW4lce+z3VwE00AsNlWQ08zzK0cT94B5jp00Gfn1NJ65L"
    "nWqzN+mNwS6KnxIRBEFl0qFb1HGL2LUxwaskn9eJsYHddeLiMiniQsnFOUv8zLkA0NHAlyJRxsCDDgCKLHPRwlQ4csaY6OuGQZxm"
    "2K0Z66KjjhCc/CLijwXRMXOfJO8swkPdVahdtqjDUORtWMfHLOddiV41aHyvX49e2GqKT0SwC+isxgL29+dOTzTCMn517vT4S6/W"
    "WMYGDG/EeFJBZs5UN2hVvZuxCL1Ji+4CcWmZVJW+b+ENgiShWIF37X7m9V/BLDfXnJwJEnCPZcKp1N+j1erd29nuDkg6D8bcrSUu"
    "imzwzrewBC/reb7HPb4iqXV/pyeZPtkSUbmenJZlGd/G9irOLN64cnV2aWEOX+zm9CoO9XDJcnN5nJJTl5KyklQuYHlGlWVVVu7g"
    "hGFvbhLLxHEjfs77evl1+/Pem0+PdsITjVhCmMx5JWHZum1W8Y9NRVXYiAuObZYMWsTl0GSRMIjl8dqD3xsWpGO2CMiyn8zJDpLZ"
    "GvMGyBSrIzIPIZmtsdrBJTM1ejKHSPw3Mtvz7wbIFKsjMg8hme359weXzOnRkzlE4p+S+R0AAP//"
)
"""Three plans as commit c4b58d8 wrote them, when capabilities, mandates and orders had fewer fields."""
OF_VERSION_1_DIGEST = "1643f6936a9ff5824b02d2ac4b37f72721cb8eeb1db17b743e6908470bb30bfe"


def decision_of(view: SiteView, plan: Plan) -> Decision:
    """As version 1 recorded it."""
    return Decision(cause=Cause.TURN, at_us=view.now.wall_us, view=codec.encode(view), plan=plan_bytes(plan))


def written(path: Path, *decisions: Decision, header: Header = HEADER) -> SegmentWriter:
    writer = SegmentWriter(header)
    path.write_bytes(writer.take([codec.encode(decision) for decision in decisions]))
    return writer


def viewed(second: int) -> SiteView:
    now = replace(NOW, wall_us=START_US + second * SECOND_US)
    return replace(site(orders=(order_of(replace(SOME_COMMAND, end_us=now.wall_us + 1)),)), now=now)


# -- version 1


@given(sites())
def test_a_decision_comes_out_the_same_byte_for_byte(view: SiteView) -> None:
    plan = make_plan(view)
    decision = decision_of(view, plan)
    assert codec.decode(SiteView, decision.view) == view
    assert codec.encode(codec.decode(SiteView, decision.view)) == decision.view
    assert plan_bytes(again(decision)) == decision.plan
    assert plan_of(decision.plan) == plan


def test_a_record_of_the_release_before_is_still_decided_again(tmp_path: Path) -> None:
    writer = written(tmp_path / "1.decisions", *(decision_of(v, make_plan(v)) for v in map(viewed, (1, 2, 3))))
    found = audit([tmp_path / "1.decisions"], {"1.decisions": {3: writer.digest.hex()}}, 0, 2**62)
    assert found.holds
    assert (found.decisions, found.same, found.alone, found.signed) == (3, 3, 3, 3)


def test_a_record_that_an_older_release_wrote_with_fewer_fields_is_still_decided_again(tmp_path: Path) -> None:
    path = tmp_path / "1.decisions"
    path.write_bytes(OF_VERSION_1)
    found = audit([path], {path.name: {3: OF_VERSION_1_DIGEST}}, 0, 2**62)
    assert not found.faults
    assert (found.decisions, found.signed) == (3, 3)
    assert found.same == 3, found.first_difference


def test_the_rules_of_the_first_records_of_version_2_are_read() -> None:
    """They were written before devices had classes."""
    written_then = cbor2.dumps(cbor2.loads(codec.encode(policy()))[:-1], canonical=True)
    assert codec.decode(Policy, written_then) == policy()


def test_a_record_of_version_2_is_decided_again_by_the_rule_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "1.decisions"
    path.write_bytes(OF_VERSION_2)
    found = audit([path], {path.name: {10: OF_VERSION_2_DIGEST}}, 0, 2**62)
    assert found.holds
    assert (found.decisions, found.same, found.signed, found.answers, found.not_again) == (4, 4, 4, 2, 0)
    monkeypatch.setattr("agent.control.audit.BY_QUARTER", 0)
    assert audit([path], {}, 0, 2**62).first_difference is not None


def test_another_core_is_found_out_at_its_first_other_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "1.decisions", *(decision_of(v, make_plan(v)) for v in map(viewed, (1, 2, 3))))

    def other(view: SiteView) -> Plan:
        return make_plan(replace(view, stop="a bug") if view.now.wall_us > START_US + SECOND_US else view)

    monkeypatch.setattr("agent.control.decisions.make_plan", other)
    found = audit([tmp_path / "1.decisions"], {}, 0, 2**62)
    assert found.same == 1
    assert found.first_difference is not None
    assert found.first_difference.at_us == START_US + 2 * SECOND_US
    assert "battery: then -5000 to -5000 W" in found.first_difference.what
    assert "now 0 to 0 W (" in found.first_difference.what
    assert not found.holds


def test_a_record_of_a_release_to_come_is_not_guessed(tmp_path: Path) -> None:
    written(tmp_path / "1.decisions", header=replace(HEADER, version=VERSION + 1))
    assert any("a newer release wrote it" in fault for fault in audit([tmp_path / "1.decisions"], {}, 0, 2**62).faults)


# -- the files


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


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "decisions")


def turned(box: Box, *seconds: float) -> None:
    for each in seconds:
        box.turn(each)
    box.write()


def test_all_that_was_recorded_comes_out_again_and_is_vouched_for(box: Box) -> None:
    turned(box, 1, 1, 1)
    turned(box, 4_000, 1)
    box.start()
    turned(box, 1_000)
    found = box.audited()
    assert (found.decisions, found.same, found.signed) == (6, 6, 6)
    assert found.holds
    assert len(segments(box.folder)) == 3
    assert [later - earlier for earlier, later in found.gaps] == [4_000 * SECOND_US, 1_000 * SECOND_US]
    some = box.audited(START_US + 2 * SECOND_US, START_US + 3 * SECOND_US)
    assert (some.decisions, some.signed) == (2, 2)


def test_what_a_kill_left_unsigned_is_vouched_for_after_the_next_start(box: Box) -> None:
    turned(box, 1)
    box.alarms.clear()  # as if it had been killed before it said anything
    box.start()
    turned(box, 1)
    assert box.audited().signed == 2


def test_a_record_that_was_rewritten_is_not_what_was_signed(box: Box) -> None:
    """Whoever changes an input and its output alike is caught by the signed digest."""
    turned(box, 1, 1)
    (path,) = segments(box.folder)
    other = Box(box.folder.parent / "other")
    other.powers_w["grid"] = 7_000
    turned(other, 1, 1)
    path.write_bytes(segments(other.folder)[0].read_bytes())
    found = box.audited()
    assert found.same == 2
    assert any("not those that were signed" in fault for fault in found.faults)
    path.write_bytes(SegmentWriter(Header(version=VERSION, software="1", previous=b"")).take([]))
    assert any("5 records were signed, 0 are there" in fault for fault in box.audited().faults)


def test_a_segment_that_is_missing_is_noticed(box: Box) -> None:
    for _ in range(3):
        turned(box, 4_000)
    segments(box.folder)[1].unlink()
    assert any("does not follow the segment before it" in fault for fault in box.audited().faults)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(8, 400))
def test_a_torn_end_costs_the_last_events_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    box = Box(tmp_path_factory.mktemp("box"))
    turned(box, 1, 1)
    (path,) = segments(box.folder)
    size = path.stat().st_size
    turned(box, 1)
    path.write_bytes(path.read_bytes()[: -min(cut, path.stat().st_size - size)])
    assert 1 + 1 + 4 <= len(list(read_segment(path))) < 1 + 1 + 6
    assert box.audited().first_difference is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_a_fault_and_no_crash(tmp_path_factory: pytest.TempPathFactory, place: int, by: int) -> None:
    box = Box(tmp_path_factory.mktemp("box"))
    turned(box, 1)
    (path,) = segments(box.folder)
    encoded = bytearray(path.read_bytes())
    place %= len(encoded) - 5  # the last bytes are the flush's
    encoded[place] ^= by
    path.write_bytes(encoded)
    found = box.audited()
    assert not found.holds or (place < 2 and found.same == 1)  # the stream's own head says nothing of its content


def test_a_disk_that_refuses_stops_nobody_is_said_once_and_costs_no_more_than_its_time(box: Box) -> None:
    box.folder.write_text("in the way")
    turned(box, 1)
    turned(box, 1)
    assert [alarm.code for alarm in box.alarms] == ["control.not_recorded"]
    box.folder.unlink()
    turned(box, 100, 1)
    assert [alarm.code for alarm in box.alarms] == ["control.not_recorded", CODE]
    found = box.audited()
    assert found.holds
    assert (found.decisions, found.not_again) == (2, 0)


def test_what_is_older_than_the_installer_wants_is_removed(box: Box) -> None:
    turned(box, 1)
    turned(box, 8 * 86_400)
    assert len(segments(box.folder)) == 1


def test_where_nothing_shall_be_recorded_nothing_is(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "none", software="", days=0, say=lambda *_: None, monotonic_s=lambda: 0.0)
    assert not log.takes(0.0)
    log.write()
    assert not (tmp_path / "none").exists()


def test_statements_of_both_versions_are_understood(box: Box) -> None:
    turned(box, 1)
    (alarm,) = box.alarms
    old = replace(alarm, text=f"segment 1.decisions: 7 decisions, SHA-256 {'ab' * 32}")
    assert statements_of([old]) == {"1.decisions": {7: "ab" * 32}}
    assert statements_of([alarm]).keys() == {segments(box.folder)[0].name}
