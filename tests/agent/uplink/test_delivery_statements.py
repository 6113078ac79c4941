"""What is no reading on devices' streams: where it goes, that it moves no reader of readings, when it has arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence.batch import SealedBatch
from agent.evidence.kinds import (
    Alarm,
    Attestation,
    CommandReceipt,
    CommandState,
    SettlementWindow,
    Severity,
    SignedMeterValue,
    Statement,
)
from agent.evidence.statements import decode
from agent.evidence.verify import TrustedKey, Verifier
from agent.measure.reading import Quality, Reading
from agent.uplink.ahead import urgent_of
from agent.uplink.delivery import Delivery
from agent.uplink.errors import PlatformFaultError
from agent.uplink.flow import Arrived
from agent.uplink.lane import Word
from agent.uplink.origins import MOST_COMMANDS, Origins
from agent.uplink.telemetry import STEP_US, Stand, opening_of, stand_of
from drivers.device import SignatureVerdict
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from tests.agent.uplink.parts import FIRST_US, Evidence, Row, row_of

KEY = SoftwareKey.generate()
DEVICES = ("meter", "pv")


def receipt(command_id: str) -> CommandReceipt:
    return CommandReceipt(
        command_hash=bytes(32),
        command_id=command_id,
        state=CommandState.ACCEPTED,
        timestamp_us=FIRST_US,
        reason="",
        delivered_energy_wh=None,
    )


def alarm(subject: str, severity: Severity = Severity.INFO) -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=severity, code="c", subject=subject, text="t")


def window(device_id: str) -> SettlementWindow:
    return SettlementWindow(
        device_id=device_id,
        incarnation=1,
        window_start_us=FIRST_US,
        window_end_us=FIRST_US + 900_000_000,
        revision=0,
        import_wh=0,
        export_wh=0,
        net_energy_wh=0,
        first_sequence=None,
        last_sequence=None,
        reading_count=0,
        readings_root=bytes(32),
        meter_epoch=1,
        quality=Quality.GOOD,
        command_hashes=(),
    )


class Bench:
    """A gateway's evidence, and a Delivery that carries all of it."""

    def __init__(self) -> None:
        self.evidence = Evidence(key=KEY)
        self.origins = Origins(DEVICES)
        self.delivery = Delivery(1, self.origins.stream_of)
        self._verifier = Verifier([TrustedKey(self.evidence.gateway_id, KEY.verify_key)])

    def seal(self, *statements: Statement | str) -> Row:
        """A batch of statements; a device stands for its next reading."""
        return row_of(self.sealed(*statements))

    def sealed(self, *statements: Statement | str) -> SealedBatch:
        return self.evidence.seal(
            *(self.evidence.reading(each) if isinstance(each, str) else each for each in statements)
        )

    def load(self, *statements: Statement | str) -> Row:
        row = self.seal(*statements)
        self.delivery.load(row)
        return row

    def sent(self, device_id: str) -> list[DeviceTelemetry]:
        """Everything that is there for a device."""
        found = []
        while (telemetry := self.delivery.next(device_id)) is not None:
            found.append(telemetry)
        return found

    def proven(self, telemetries: Sequence[DeviceTelemetry]) -> list[Statement]:
        return [self._verifier.verify_receipt(each.signature, each.statement).statement for each in telemetries]


def test_a_receipt_is_a_point_of_no_energy_behind_the_reading_before_it_and_proves_itself() -> None:
    bench = Bench()
    bench.load("meter", receipt("c1"))
    reading, point = bench.sent("meter")
    assert bench.proven([point]) == [receipt("c1")]
    assert (point.device_id, point.net_energy_wh, point.sequence) == ("meter", 0, 0)
    assert point.timestamp_us == reading.timestamp_us + STEP_US
    assert point.state_of_charge_percent == reading.state_of_charge_percent == 50


def test_each_goes_on_the_stream_of_what_it_is_about_and_the_gateways_own_on_the_first() -> None:
    bench = Bench()
    bench.origins.came("c1", "pv")
    value = SignedMeterValue(
        device_id="pv",
        timestamp_us=FIRST_US,
        verdict=SignatureVerdict.UNVERIFIABLE,
        reason="",
        encoding_method="OCMF",
        record=b"r",
        key_der=None,
        transaction_id=None,
        context="",
    )
    attestation = Attestation(
        timestamp_us=FIRST_US,
        valid_until_us=FIRST_US + 1,
        software_version="1",
        software_digest=bytes(32),
        metrology_digest=bytes(32),
    )
    bench.load("pv", "meter", receipt("c1"), receipt("c2"), window("pv"), value, alarm("pv"), alarm("tpm"), attestation)
    bench.load(window("removed"))
    bench.delivery.stand("removed", Stand(FIRST_US))
    pv, meter = bench.proven(bench.sent("pv")), bench.proven(bench.sent("meter"))
    assert pv[1:] == [receipt("c1"), window("pv"), value, alarm("pv")]
    assert meter[1:] == [receipt("c2"), alarm("tpm"), attestation]
    assert bench.proven(bench.sent("removed")) == [window("removed")]


def test_the_newest_commands_are_remembered_by_the_stream_that_they_came_on() -> None:
    origins = Origins(DEVICES)
    for number in range(MOST_COMMANDS + 1):
        origins.came(f"c{number}", "pv")
    assert origins.stream_of(receipt("c0")) == "meter"
    assert origins.stream_of(receipt("c1")) == "pv"
    origins.came("x" * 300, "pv")
    assert origins.stream_of(receipt("x" * 255)) == "pv"
    assert Origins(()).stream_of(receipt("c1")) is None


def test_without_any_device_what_is_no_reading_waits() -> None:
    bench = Bench()
    made = Delivery(1, Origins(()).stream_of)
    made.load(bench.seal(alarm("tpm")))
    assert made.collect() is None


def test_a_batch_leaves_only_when_what_is_no_reading_has_arrived_too() -> None:
    bench = Bench()
    bench.load("pv", receipt("c1"))
    bench.delivery.stand("meter", Stand(FIRST_US))
    bench.sent("pv"), bench.sent("meter")
    bench.delivery.acknowledged("pv", 1)
    assert bench.delivery.collect() is None
    bench.delivery.acknowledged_statements("meter", 1)
    assert bench.delivery.collect() == Arrived(1, 1, confirmed=True)


def test_statements_go_before_the_readings_that_wait() -> None:
    bench = Bench()
    bench.delivery.stand("meter", Stand(FIRST_US, 70))
    bench.load("meter", "meter", "meter")
    bench.load(receipt("c1"))
    assert [each.sequence for each in bench.sent("meter")] == [0, 1, 2, 3]


def test_before_anything_is_known_of_its_device_a_statement_waits_for_a_reading() -> None:
    bench = Bench()
    bench.load(receipt("c1"))
    assert bench.sent("meter") == []
    assert bench.delivery.without_a_stand == {"meter"}
    assert bench.delivery.sent_ahead(DeviceTelemetry(device_id="meter", sequence=9, timestamp_us=FIRST_US))
    (point,) = bench.sent("meter")
    assert (point.timestamp_us, point.HasField("state_of_charge_percent")) == (FIRST_US + STEP_US, False)
    assert bench.delivery.without_a_stand == set()


def test_ahead_of_its_batch_a_receipt_goes_once_and_counts_when_the_batch_comes() -> None:
    bench = Bench()
    rows = [bench.seal(*["meter"] * 5), bench.seal(receipt("c1"), "meter")]
    bench.delivery.stand("meter", Stand(FIRST_US))
    for _ in range(2):
        for found in urgent_of(rows[1]):
            bench.delivery.put_ahead(found)
    bench.delivery.load(rows[0])
    first = bench.sent("meter")
    assert bench.proven(first[:1]) == [receipt("c1")]
    assert [each.sequence for each in first[1:]] == [1, 2, 3, 4, 5]
    bench.delivery.acknowledged_statements("meter", 1)
    bench.delivery.load(rows[1])
    for found in urgent_of(rows[1]):
        bench.delivery.put_ahead(found)  # too late: its batch is here
    assert [each.sequence for each in bench.sent("meter")] == [6]
    bench.delivery.acknowledged("meter", 6)
    assert bench.delivery.collect() == Arrived(1, 2, confirmed=True)


def test_ahead_of_its_batch_and_not_arrived_it_holds_the_batch_back() -> None:
    bench = Bench()
    row = bench.seal(receipt("c1"))
    for found in urgent_of(row):
        bench.delivery.put_ahead(found)
    bench.delivery.load(row)
    assert bench.delivery.collect() is None
    bench.delivery.stand("meter", Stand(FIRST_US))
    assert len(bench.sent("meter")) == 1
    bench.delivery.ended_well("meter")
    assert bench.delivery.collect() == Arrived(1, 1, confirmed=False)


@pytest.mark.parametrize(
    ("word", "again"),
    [
        (Word.NONE, []),
        (Word.READINGS, [1]),
        (Word.STATEMENTS, [0]),
        (Word.READINGS | Word.STATEMENTS, [0, 1]),
    ],
)
def test_a_good_end_counts_for_what_the_platform_does_not_acknowledge_and_for_nothing_else(
    word: Word, again: list[int]
) -> None:
    bench = Bench()
    bench.load("meter", receipt("c1"))
    assert [each.sequence for each in bench.sent("meter")] == [1, 0]
    bench.delivery.ended_well("meter", word)
    assert [each.sequence for each in bench.sent("meter")] == again
    assert bench.delivery.collect() == (None if again else Arrived(1, 1, confirmed=False))


def test_acknowledgement_of_more_statements_than_the_stream_brought_is_the_platforms_fault() -> None:
    bench = Bench()
    bench.load("meter", receipt("c1"), receipt("c2"))
    bench.delivery.next("meter"), bench.delivery.next("meter")
    with pytest.raises(PlatformFaultError, match="2 statements"):
        bench.delivery.acknowledged_statements("meter", 2)
    bench.delivery.acknowledged_statements("meter", 1)
    bench.delivery.next("meter")
    bench.delivery.acknowledged_statements("meter", 2)
    with pytest.raises(PlatformFaultError):
        bench.delivery.acknowledged_statements("pv", 1)
    bench.delivery.acknowledged("meter", 1)
    assert bench.delivery.collect() == Arrived(1, 1, confirmed=True)


def test_a_reading_between_a_stand_and_its_point_goes_first() -> None:
    bench = Bench()
    near = replace(bench.evidence.reading("meter"), timestamp_us=FIRST_US + STEP_US // 2)
    bench.delivery.stand("meter", Stand(FIRST_US))
    bench.load(receipt("c1"), near)
    reading, point = bench.sent("meter")
    assert (reading.sequence, point.timestamp_us) == (1, near.timestamp_us + STEP_US)


@given(st.integers(0, 2**62), st.integers(1, 90_000))
def test_points_behind_one_reading_rise_and_all_lie_before_the_next(at_us: int, place: int) -> None:
    stand = Stand(at_us)
    assert at_us < stand.after_us(place) < stand.after_us(place + 1) < at_us + 200_000


def test_a_stream_opens_with_what_was_known_last() -> None:
    assert opening_of("pv", None, timed=True) == DeviceTelemetry(device_id="pv")
    reading = Evidence(key=KEY).reading("pv")
    assert opening_of("pv", stand_of(reading), timed=True) == DeviceTelemetry(
        device_id="pv", timestamp_us=reading.timestamp_us + STEP_US, state_of_charge_percent=50
    )
    untimed = DeviceTelemetry(device_id="pv", state_of_charge_percent=50)
    assert opening_of("pv", stand_of(reading), timed=False) == untimed


class PublishedReader:
    """Knows fields 1 to 4: adds energy up by device and millisecond, and believes the last state of charge it got."""

    def __init__(self) -> None:
        self.energy: dict[tuple[str, int], int] = {}
        self.percent: dict[str, int] = {}

    def take(self, telemetry: DeviceTelemetry) -> None:
        self.energy[telemetry.device_id, telemetry.timestamp_us // 1000] = telemetry.net_energy_wh
        self.percent[telemetry.device_id] = telemetry.state_of_charge_percent


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(
                st.sampled_from(DEVICES),
                st.sampled_from([receipt("c"), alarm("pv"), alarm("x", Severity.CRITICAL), window("pv")]),
            ),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_whatever_happens_all_of_it_arrives_and_a_reader_of_readings_has_the_same_sums_and_charge(
    batches: list[list[Statement | str]], data: st.DataObject
) -> None:
    bench, reader, complete = Bench(), PublishedReader(), set[bytes]()
    sealed = [bench.sealed("meter", "pv")] + [bench.sealed(*each) for each in batches]
    rows = [row_of(each) for each in sealed]
    loaded = collected = 0
    written = dict.fromkeys(DEVICES, 0)
    last: dict[str, DeviceTelemetry] = {}

    def send(device_id: str) -> None:
        telemetry = bench.delivery.next(device_id)
        if telemetry is None:
            return
        if telemetry.sequence:
            last[device_id] = telemetry
        else:
            written[device_id] += 1
            assert telemetry.net_energy_wh == 0
            assert telemetry.timestamp_us > last[device_id].timestamp_us
            assert telemetry.state_of_charge_percent == last[device_id].state_of_charge_percent
        reader.take(telemetry)
        complete.add(telemetry.statement)

    def collect() -> None:
        nonlocal collected
        step = bench.delivery.collect()
        if step is not None:
            collected = step.up_to_number
            for batch in sealed[:collected]:
                assert set(batch.leaves[1:]) <= complete

    for _ in range(150):
        device_id = data.draw(st.sampled_from(DEVICES))
        match data.draw(st.sampled_from(["load", "ahead", "send", "send", "send", "acknowledge", "end", "lose"])):
            case "load" if loaded < len(rows):
                bench.delivery.load(rows[loaded])
                loaded += 1
            case "ahead":
                for found in urgent_of(data.draw(st.sampled_from(rows))):
                    bench.delivery.put_ahead(found)
            case "send":
                send(device_id)
            case "acknowledge" if written[device_id]:
                bench.delivery.acknowledged_statements(device_id, written[device_id])
            case "end":
                bench.delivery.ended_well(device_id)
                written[device_id] = 0
            case "lose":
                bench.delivery.lost(device_id)
                written[device_id] = 0
            case _:
                pass
        collect()
    while loaded < len(rows):
        bench.delivery.load(rows[loaded])
        loaded += 1
    for device_id in DEVICES:
        while bench.delivery.device_ids & {device_id}:
            for _ in range(100):
                send(device_id)
            bench.delivery.ended_well(device_id)
    collect()
    assert collected == len(rows)
    readings = [each for batch in sealed for each in map(decode, batch.leaves) if isinstance(each, Reading)]
    assert sum(reader.energy.values()) == sum(each.net_energy_wh for each in readings)
    assert set(reader.percent.values()) == {50}
