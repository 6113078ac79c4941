"""Delivery over the published contract alone, without a socket."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence.partial import cut, decode_any
from agent.evidence.statements import Alarm, Severity
from agent.uplink.delivery import Delivery, readings_of
from agent.uplink.errors import PlatformFaultError
from agent.uplink.flow import Arrived
from agent.uplink.lane import Word
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from tests.agent.uplink.parts import FIRST_US, Evidence, row_of

KEY = SoftwareKey.generate()


def live(device_id: str, sequence: int) -> DeviceTelemetry:
    return DeviceTelemetry(device_id=device_id, sequence=sequence, timestamp_us=FIRST_US + sequence * 1_000_000)


def delivery(*batches: tuple[str, ...], incarnation: int = 1) -> Delivery:
    made, evidence = Delivery(incarnation), Evidence(key=KEY)
    for devices in batches:
        made.load(evidence.row(*devices))
    return made


def sent(made: Delivery, device_id: str) -> list[int]:
    """Send everything that is there for a device."""
    found = []
    while (telemetry := made.next(device_id)) is not None:
        found.append(telemetry.sequence)
    return found


def test_each_devices_readings_go_in_order_on_its_own_stream() -> None:
    made = delivery(("meter", "pv"), ("meter", "meter"))
    assert sent(made, "meter") == [1, 2, 3]
    assert sent(made, "pv") == [1]
    assert sent(made, "unknown") == []


def test_every_reading_carries_its_statement_and_receipt() -> None:
    batch = Evidence(key=KEY).seal(*(Evidence(key=KEY).reading(each) for each in ("meter", "pv")))
    for telemetry in readings_of(batch):
        assert telemetry.statement in batch.leaves
        assert telemetry.signature
        assert telemetry.state_of_charge_percent == 50


def test_of_a_batch_that_was_thinned_only_what_is_left_goes_and_it_leaves_in_its_turn() -> None:
    evidence, made = Evidence(key=KEY), Delivery(1)
    for keep in ({0, 2}, {0}):
        row = evidence.row("meter", "pv")
        made.load(replace(row, encoded=cut(decode_any(row.encoded), keep).encode()))
    assert (sent(made, "meter"), sent(made, "pv")) == ([], [1])
    assert made.collect() is None
    made.acknowledged("pv", 1)
    assert made.collect() == Arrived(1, 2, confirmed=True)


def test_batch_leaves_when_every_reading_in_it_is_acknowledged() -> None:
    made = delivery(("meter", "pv"), ("meter",))
    sent(made, "meter"), sent(made, "pv")
    made.acknowledged("meter", 2)
    assert made.collect() is None
    made.acknowledged("pv", 1)
    assert made.collect() == Arrived(1, 2, confirmed=True)
    assert made.collect() is None


def test_where_statements_stay_here_a_batch_without_readings_leaves_in_its_turn() -> None:
    evidence, made = Evidence(key=KEY), Delivery(1)
    alarm = Alarm(timestamp_us=FIRST_US, severity=Severity.INFO, code="c", subject="s", text="t")
    made.load(evidence.row("meter"))
    made.load(row_of(evidence.seal(alarm)))
    assert made.collect() is None
    sent(made, "meter")
    made.acknowledged("meter", 1)
    assert made.collect() == Arrived(1, 2, confirmed=True)


def test_stream_that_ended_well_counts_what_was_sent_as_delivered_unconfirmed() -> None:
    made = delivery(("meter",), ("meter",))
    made.next("meter")
    made.ended_well("meter")
    assert made.collect() == Arrived(1, 1, confirmed=False)
    assert sent(made, "meter") == [2]


def test_stream_that_ended_otherwise_is_sent_again() -> None:
    made = delivery(("meter", "meter"))
    sent(made, "meter")
    made.lost("meter")
    assert made.in_flight("meter", Word.READINGS) == 0
    assert made.collect() is None
    assert sent(made, "meter") == [1, 2]


def test_acknowledgement_of_what_this_stream_has_not_carried_is_the_platforms_fault() -> None:
    made = delivery(("meter", "meter"))
    made.next("meter")
    with pytest.raises(PlatformFaultError, match="sequence 2"):
        made.acknowledged("meter", 2)
    with pytest.raises(PlatformFaultError):
        made.acknowledged("stranger", 1)


def test_live_reading_goes_ahead_and_is_not_sent_twice_on_the_stream() -> None:
    made = delivery(("meter", "meter", "meter"))
    assert made.sent_ahead(live("meter", 3))
    assert not made.sent_ahead(live("meter", 3))
    assert sent(made, "meter") == [1, 2]
    made.acknowledged("meter", 3)
    assert made.collect() == Arrived(1, 1, confirmed=True)


def test_live_reading_that_was_acknowledged_before_its_batch_was_loaded_counts() -> None:
    made, evidence = Delivery(1), Evidence(key=KEY)
    row = evidence.row("meter")
    assert made.sent_ahead(live("meter", 1))
    made.acknowledged("meter", 1)
    made.load(row)
    assert sent(made, "meter") == []
    assert made.collect() == Arrived(1, 1, confirmed=True)


def test_one_stream_never_carries_two_incarnations() -> None:
    made = Delivery(2)
    for incarnation in (1, 2):
        made.load(Evidence(incarnation=incarnation, key=KEY).row("meter"))
    assert not made.sent_ahead(live("meter", 7))  # while older readings wait
    assert sent(made, "meter") == [1]
    assert not made.needs_new_stream("meter")
    made.acknowledged("meter", 1)
    assert made.needs_new_stream("meter")
    assert made.collect() == Arrived(1, 1, confirmed=True)
    made.ended_well("meter")
    assert sent(made, "meter") == [1]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["meter", "pv"]), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5),
    st.data(),
)
def test_whatever_streams_do_every_reading_arrives_and_nothing_is_counted_before_it_was_sent(
    batches: list[tuple[str, ...]], data: st.DataObject
) -> None:
    made = delivery(*batches)
    total = {device: sum(batch.count(device) for batch in batches) for device in ("meter", "pv")}
    written = {"meter": 0, "pv": 0}
    arrived = {"meter": 0, "pv": 0}
    collected = 0
    for _ in range(200):
        device = data.draw(st.sampled_from(["meter", "pv"]))
        match data.draw(st.sampled_from(["send", "send", "send", "acknowledge", "end", "lose"])):
            case "send":
                telemetry = made.next(device)
                written[device] = telemetry.sequence if telemetry else written[device]
            case "acknowledge" if written[device] > arrived[device]:
                arrived[device] = data.draw(st.integers(arrived[device] + 1, written[device]))
                made.acknowledged(device, arrived[device])
            case "end":
                made.ended_well(device)
                arrived[device] = written[device]
            case "lose":
                made.lost(device)
                written[device] = arrived[device]
            case _:
                pass
        step = made.collect()
        if step is not None:
            assert step.up_to_number > collected
            collected = step.up_to_number
            need = {d: sum(batch.count(d) for batch in batches[:collected]) for d in ("meter", "pv")}
            assert all(arrived[d] >= need[d] for d in need)
        if arrived == total:
            break
    else:
        for device in ("meter", "pv"):
            sent(made, device)
            made.ended_well(device)
        collected = (made.collect() or Arrived(1, collected, confirmed=True)).up_to_number
    assert collected == len(batches)
