"""Devices' streams while nobody knows yet whether the platform acknowledges: nothing is lost, and nothing is stuck."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence.batch import decode_batch
from agent.evidence.kinds import Alarm, Severity
from agent.uplink.ahead import Ahead
from agent.uplink.carrying import BATCHES_LOADED, Carrying
from agent.uplink.delivery import StreamOf, readings_of
from agent.uplink.errors import LinkDownError
from agent.uplink.flow import Arrived
from agent.uplink.heard import Heard
from agent.uplink.lane import Word
from agent.uplink.origins import Origins
from agent.uplink.telemetry import Stand
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from tests.agent.uplink.parts import FIRST_US, Evidence, MemoryOutbox, row_of


def alarm(subject: str = "pv") -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=Severity.WARNING, code="test.code", subject=subject, text="It is so.")


class Connection:
    """One connection over an outbox. By default whether the platform acknowledges is not known yet."""

    def __init__(
        self,
        outbox: MemoryOutbox,
        *,
        stream_of: StreamOf | None = None,
        word: Word = Word.NONE,
        undecided: bool = True,
    ) -> None:
        self.outbox = outbox
        self.arrived: list[Arrived] = []
        self.carrying = Carrying(
            outbox,
            self.arrived.append,
            incarnation=outbox.incarnation,
            ahead=Ahead(outbox),
            stream_of=stream_of,
            heard=Heard(word),
            undecided=undecided,
        )

    async def settle(self) -> None:
        """As the task that loads does, until there is nothing to do."""
        for _ in range(1000):
            if not await self.carrying.advance(FIRST_US):
                return
        pytest.fail("it never comes to rest")

    def send(self, device_id: str) -> list[DeviceTelemetry]:
        """Everything that may go on the device's stream now."""
        sent = []
        while (telemetry := self.carrying.delivery.next(device_id)) is not None:
            sent.append(telemetry)
        return sent


async def test_a_run_of_batches_without_a_reading_does_not_hold_up_the_readings_behind_it() -> None:
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows += [row_of(evidence.seal(alarm())) for _ in range(3 * BATCHES_LOADED)]
    outbox.rows.append(evidence.row("pv"))
    connection = Connection(outbox)
    await connection.settle()
    assert len(connection.send("pv")) == 1
    assert outbox.acknowledged == {}, "who reads on the other side is not known yet"
    connection.carrying.ended_well("pv")
    await connection.settle()
    assert outbox.all_acknowledged()
    assert connection.arrived[-1].confirmed is False


async def test_a_run_of_batches_without_a_reading_takes_no_memory() -> None:
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows += [row_of(evidence.seal(alarm())) for _ in range(10 * BATCHES_LOADED)]
    connection = Connection(outbox)
    await connection.settle()
    assert connection.carrying.delivery.held_batches == 1


async def test_a_stream_that_carried_nothing_and_ended_well_decides_nothing() -> None:
    """Such as the one on which live readings went out before those of an older incarnation were loaded."""
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows.append(row_of(evidence.seal(evidence.reading("pv"), alarm())))
    connection = Connection(outbox)
    await connection.settle()
    connection.carrying.ended_well("pv")
    await connection.settle()
    assert outbox.acknowledged == {}
    connection.send("pv")
    connection.carrying.acknowledged("pv", GridCommand(acknowledged_sequence=1))
    with pytest.raises(LinkDownError):
        await connection.settle()
    assert outbox.acknowledged == {}


async def test_who_acknowledges_late_gets_from_then_on_what_is_no_reading() -> None:
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows.append(evidence.row("pv"))
    connection = Connection(outbox)
    await connection.settle()
    connection.send("pv")
    connection.carrying.ended_well("pv")
    await connection.settle()
    assert outbox.all_acknowledged()
    outbox.rows.append(row_of(evidence.seal(evidence.reading("pv"), alarm())))
    await connection.settle()
    connection.send("pv")
    connection.carrying.acknowledged("pv", GridCommand(acknowledged_sequence=2))
    with pytest.raises(LinkDownError):
        await connection.settle()
    assert outbox.acknowledged == {1: 1}, "the alarm of the second batch has not gone"

    after = Connection(outbox, stream_of=lambda _: "pv", word=connection.carrying.word, undecided=False)
    await after.settle()
    assert len(after.send("pv")) == 2
    after.carrying.acknowledged("pv", GridCommand(acknowledged_sequence=2, acknowledged_statements=1))
    await after.settle()
    assert outbox.all_acknowledged()


async def test_who_stays_with_readings_by_configuration_is_not_left_for_an_acknowledgement() -> None:
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows.append(row_of(evidence.seal(evidence.reading("pv"), alarm())))
    connection = Connection(outbox, undecided=False)
    await connection.settle()
    connection.send("pv")
    connection.carrying.acknowledged("pv", GridCommand(acknowledged_sequence=1))
    await connection.settle()
    assert outbox.all_acknowledged()


async def test_runs_without_a_reading_are_counted_for_their_own_incarnation() -> None:
    outbox = MemoryOutbox(incarnation=2)
    key = Evidence().key
    older, own = Evidence(incarnation=1, key=key), Evidence(incarnation=2, key=key)
    outbox.rows += [row_of(older.seal(alarm())) for _ in range(9)]
    outbox.rows += [row_of(own.seal(alarm())) for _ in range(9)]
    outbox.rows.append(own.row("pv"))
    connection = Connection(outbox)
    await connection.settle()
    assert len(connection.send("pv")) == 1
    connection.carrying.ended_well("pv")
    await connection.settle()
    assert outbox.acknowledged == {1: 9, 2: 10}


async def test_where_no_device_is_configured_the_gateways_own_go_with_the_first_that_is_measured() -> None:
    """Such as a charger that is approved while the agent runs."""
    evidence, outbox = Evidence(), MemoryOutbox()
    outbox.rows += [row_of(evidence.seal(alarm("tpm"))) for _ in range(2)]
    outbox.rows.append(row_of(evidence.seal(alarm("tpm"), evidence.reading("approved"), alarm("tpm"))))
    connection = Connection(outbox, stream_of=Origins(()).stream_of, word=Word.STATEMENTS, undecided=False)
    await connection.settle()
    assert connection.carrying.delivery.device_ids == {"approved"}
    assert len(connection.send("approved")) == 5
    connection.carrying.acknowledged("approved", GridCommand(acknowledged_sequence=1, acknowledged_statements=4))
    await connection.settle()
    assert outbox.all_acknowledged()


class Site:
    """A gateway and a platform of which nobody knows whether it acknowledges; connections come and go."""

    def __init__(self) -> None:
        self.outbox = MemoryOutbox()
        self.evidence = Evidence()
        self.word = Word.NONE
        self.seems_published = False
        """A stream with readings has ended well without an acknowledgement."""
        self.held: dict[str, int] = {}
        """By device: readings up to this sequence have reached the platform for good."""
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(
            self.outbox,
            stream_of=Origins(("pv",)).stream_of if self.word else None,
            word=self.word,
            undecided=not self.word,
        )
        self.sent: dict[str, list[DeviceTelemetry]] = {}

    async def settle(self) -> None:
        try:
            await self.connection.settle()
        except LinkDownError:
            assert not self.word, "left a second time for the same reason"
            self.word = self.connection.carrying.word
            self.connect()
            await self.connection.settle()

    def send(self, device_id: str, most: int) -> None:
        for _ in range(most):
            if (telemetry := self.connection.carrying.delivery.next(device_id)) is None:
                return
            self.sent.setdefault(device_id, []).append(telemetry)

    def acknowledge(self, device_id: str) -> None:
        sent = self.sent.get(device_id, [])
        sequence = max((each.sequence for each in sent), default=0)
        statements = sum(1 for each in sent if not each.sequence)
        self.connection.carrying.acknowledged(
            device_id, GridCommand(acknowledged_sequence=sequence, acknowledged_statements=statements)
        )
        self.held[device_id] = max(self.held.get(device_id, 0), sequence)

    def end_well(self, device_id: str) -> None:
        word = self.connection.carrying.word
        self.connection.carrying.ended_well(device_id)
        sent = self.sent.pop(device_id, [])
        if Word.READINGS not in word:
            sequence = max((each.sequence for each in sent), default=0)
            self.held[device_id] = max(self.held.get(device_id, 0), sequence)
            self.seems_published = self.seems_published or (not word and sequence > 0)

    def lose(self, device_id: str) -> None:
        self.connection.carrying.delivery.lost(device_id)
        self.sent.pop(device_id, None)

    def require_nothing_too_early(self) -> None:
        up_to = self.outbox.acknowledged.get(1, 0)
        assert not up_to or self.word or self.seems_published, "counted before anybody knew who reads"
        for row in self.outbox.rows[:up_to]:
            for each in readings_of(decode_batch(row.encoded)):
                assert each.sequence <= self.held.get(each.device_id, 0), "counted as delivered, and was not"


DEVICE = st.sampled_from(("pv", "car"))
STEP = st.one_of(
    st.tuples(st.just("seal"), st.lists(st.sampled_from(("pv", "car", "alarm")), min_size=1, max_size=3)),
    st.tuples(st.just("send"), DEVICE, st.integers(1, 9)),
    st.tuples(st.sampled_from(("acknowledge", "end", "lose")), DEVICE),
    st.tuples(st.just("connect")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=40))
async def test_whatever_a_platform_does_nothing_counts_too_early_and_everything_leaves_in_the_end(
    steps: list[tuple[object, ...]],
) -> None:
    site = Site()
    for step in steps:
        match step:
            case ("seal", list(what)):
                made = [alarm() if each == "alarm" else site.evidence.reading(str(each)) for each in what]
                site.outbox.rows.append(row_of(site.evidence.seal(*made)))
            case ("send", str(device_id), int(most)):
                site.send(device_id, most)
            case ("acknowledge", str(device_id)):
                site.acknowledge(device_id)
            case ("end", str(device_id)):
                site.end_well(device_id)
            case ("lose", str(device_id)):
                site.lose(device_id)
            case _:
                site.connect()
        await site.settle()
        site.require_nothing_too_early()
    site.outbox.rows.append(site.evidence.row("pv"))
    for _ in range(len(site.outbox.rows) + 2):
        await site.settle()
        for device_id in site.connection.carrying.delivery.device_ids:
            site.connection.carrying.delivery.stand(device_id, Stand(FIRST_US))
            site.send(device_id, 1000)
            if site.word:
                site.acknowledge(device_id)
            else:
                site.end_well(device_id)
    await site.settle()
    site.require_nothing_too_early()
    assert site.outbox.all_acknowledged()
