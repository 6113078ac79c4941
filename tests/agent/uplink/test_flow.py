"""A device that the platform does not take: the others go on past it, and nothing is lost or counted too early."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence.kinds import Alarm, Severity
from agent.evidence.partial import decode_any, numbered_leaves
from agent.evidence.statements import decode
from agent.measure.reading import Reading
from agent.uplink.ahead import Ahead
from agent.uplink.carrying import BATCHES_LOADED, PLACES_NOTE, Carrying
from agent.uplink.delivery import REFUSALS, Delivery
from agent.uplink.flow import BEGINNING, Arrived, Flow, Steps, decode_places, encode_places
from agent.uplink.heard import Heard
from agent.uplink.lane import Loaded, Word
from agent.uplink.left import LEFT_NOTE, decode_left, encode_left, left_incarnations
from agent.uplink.origins import Origins
from agent.uplink.telemetry import Stand
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.uplink.parts import FIRST_US, Evidence, MemoryOutbox, row_of

KEY = SoftwareKey.generate()
DEVICES = ("meter", "pv", "car")
ACKNOWLEDGES = Word.READINGS | Word.STATEMENTS


class Site:
    """An outbox that fills, and one connection after the other to a platform that acknowledges.

    `taken`: devices whose streams the platform takes.
    """

    def __init__(self) -> None:
        self.outbox = MemoryOutbox()
        self.evidence = Evidence(key=KEY)
        self.taken = set(DEVICES)
        self.at_platform: dict[tuple[str, int, int], int] = {}
        """How often each reading came, by device, incarnation and sequence."""
        self.statements: set[bytes] = set()
        self.connect()

    def connect(self) -> None:
        """Anew, as after a restart: all that is known is in the store."""
        self.carrying = Carrying(
            self.outbox,
            lambda _: None,
            incarnation=self.outbox.incarnation,
            ahead=Ahead(self.outbox),
            stream_of=Origins(DEVICES).stream_of,
            heard=Heard(ACKNOWLEDGES),
        )

    def seal(self, *device_ids: str, alarm: bool = False) -> None:
        told = [alarm_of("meter")] if alarm else []
        self.outbox.rows.append(row_of(self.evidence.seal(*map(self.evidence.reading, device_ids), *told)))

    def live_anew(self) -> None:
        """A backup was put back: another incarnation."""
        self.outbox.incarnation += 1
        self.evidence = Evidence(incarnation=self.outbox.incarnation, key=KEY)
        self.connect()

    async def new_life(self) -> None:
        """The chains so far are left: nothing of them goes any more, whatever waits."""
        left = await left_incarnations(self.outbox) | set(await self.outbox.unacknowledged_incarnations())
        self.outbox.notes[LEFT_NOTE] = encode_left(left)
        self.live_anew()

    def by_the_link(self, most: int) -> None:
        """The platform offered GatewayLink for a while, and took batches in order there."""
        left = decode_left(self.outbox.notes.get(LEFT_NOTE, b"[]"))
        for row in self.outbox.rows:
            if row.incarnation in left or row.number <= self.outbox.acknowledged.get(row.incarnation, 0):
                continue
            if most == 0:
                break
            most -= 1
            self.outbox.acknowledged[row.incarnation] = row.number
            for _, leaf in numbered_leaves(decode_any(row.encoded)):
                statement = decode(leaf)
                if isinstance(statement, Reading):
                    key = (statement.device_id, statement.incarnation, statement.sequence)
                    self.at_platform[key] = self.at_platform.get(key, 0) + 1
        self.connect()

    async def settle(self) -> None:
        for _ in range(1000):
            if not await self.carrying.advance(FIRST_US):
                return
        pytest.fail("it never comes to rest")

    async def stream(self, device_id: str, most: int = 1000) -> None:
        """One stream of a device, from opening to end."""
        await self.settle()
        delivery, count = self.carrying.delivery, 0
        if device_id not in self.taken:
            delivery.next(device_id)
            delivery.refused(device_id)
            return
        delivery.stand(device_id, Stand(FIRST_US))
        for _ in range(most):
            telemetry = delivery.next(device_id)
            if telemetry is None:
                break
            if telemetry.sequence:
                key = (device_id, self._incarnation_of(telemetry.statement), telemetry.sequence)
                self.at_platform[key] = self.at_platform.get(key, 0) + 1
                self.carrying.acknowledged(device_id, GridCommand(acknowledged_sequence=telemetry.sequence))
            else:
                count += 1
                self.statements.add(telemetry.statement)
                self.carrying.acknowledged(device_id, GridCommand(acknowledged_statements=count))
        delivery.lost(device_id)

    def _incarnation_of(self, leaf: bytes) -> int:
        statement = decode(leaf)
        assert isinstance(statement, Reading)
        return statement.incarnation

    async def streams(self, rounds: int = REFUSALS + 1) -> None:
        for _ in range(rounds):
            for device_id in DEVICES:
                await self.stream(device_id)
        await self.settle()

    def require_nothing_lost(self) -> None:
        """What has left the outbox is at the platform, every single reading of it."""
        for row in self.outbox.rows:
            if row.number > self.outbox.acknowledged.get(row.incarnation, 0):
                continue
            for _, leaf in numbered_leaves(decode_any(row.encoded)):
                statement = decode(leaf)
                if isinstance(statement, Reading):
                    assert (statement.device_id, statement.incarnation, statement.sequence) in self.at_platform

    def sequences(self, device_id: str) -> list[int]:
        return sorted(sequence for name, _, sequence in self.at_platform if name == device_id)


def alarm_of(subject: str) -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=Severity.WARNING, code="test.code", subject=subject, text="It is so.")


async def test_one_device_that_is_refused_for_ever_holds_up_no_reading_of_the_others() -> None:
    site = Site()
    site.taken.discard("pv")
    for _ in range(5 * BATCHES_LOADED):
        site.seal(*DEVICES)
        await site.streams(1)
    await site.streams()
    assert site.sequences("meter") == site.sequences("car") == [*range(1, 5 * BATCHES_LOADED + 1)]
    assert site.sequences("pv") == []
    assert site.outbox.acknowledged == {}, "the batches of the one are kept, whole"
    assert set(site.carrying.delivery.apart) == {"pv"}


async def test_it_gets_everything_when_it_is_taken_again_and_nothing_is_left_of_its_being_behind() -> None:
    site = Site()
    site.taken.discard("pv")
    for _ in range(3 * BATCHES_LOADED):
        site.seal(*DEVICES, alarm=True)
    await site.streams()
    site.taken.add("pv")
    for _ in range(BATCHES_LOADED):
        site.seal(*DEVICES)
    await site.streams()
    assert site.outbox.all_acknowledged()
    assert site.sequences("pv") == [*range(1, 4 * BATCHES_LOADED + 1)]
    assert (site.carrying.delivery.apart, site.outbox.notes) == ({}, {})
    site.require_nothing_lost()


async def test_after_a_restart_the_others_do_not_get_again_what_they_have() -> None:
    site = Site()
    site.taken.discard("pv")
    for _ in range(3 * BATCHES_LOADED):
        site.seal(*DEVICES)
    await site.streams()
    site.connect()
    site.seal(*DEVICES)
    await site.streams()
    assert set(site.at_platform.values()) == {1}
    site.taken.add("pv")
    site.connect()
    await site.streams(2 * REFUSALS)
    assert set(site.at_platform.values()) == {1}
    assert site.outbox.all_acknowledged()


async def test_what_is_the_gateways_own_does_not_wait_for_the_device_that_is_refused() -> None:
    site = Site()
    site.taken.discard("meter")
    site.seal("meter", "pv", alarm=True)
    site.outbox.rows.append(row_of(site.evidence.seal(alarm_of("the gateway"))))
    await site.streams()
    assert len(site.statements) == 2


@pytest.mark.parametrize("devices", [("pv",), DEVICES])
async def test_where_all_are_refused_one_is_waited_for_as_one_alone_would_be(devices: tuple[str, ...]) -> None:
    site = Site()
    site.taken.clear()
    for _ in range(2 * BATCHES_LOADED):
        site.seal(*devices)
    await site.streams(10)
    assert len(site.carrying.delivery.apart) == len(devices) - 1
    site.taken.update(DEVICES)
    await site.streams()
    assert site.outbox.all_acknowledged()


async def test_a_damaged_note_has_all_sent_again_and_loses_nothing() -> None:
    site = Site()
    site.outbox.notes[PLACES_NOTE] = b'{"passed": 3}'
    site.seal(*DEVICES)
    await site.streams()
    assert site.outbox.all_acknowledged()
    assert site.outbox.notes == {}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("seal"), st.lists(st.sampled_from(DEVICES), min_size=1, max_size=4), st.booleans()),
            st.tuples(st.just("stream"), st.sampled_from(DEVICES), st.integers(0, 5)),
            st.tuples(st.just("turn"), st.sampled_from(DEVICES), st.just(0)),
            st.tuples(st.sampled_from(["connect", "live anew", "new life"]), st.just(""), st.just(0)),
            st.tuples(st.just("link"), st.just(""), st.integers(1, 30)),
        ),
        max_size=60,
    )
)
async def test_whatever_is_refused_and_when_nothing_leaves_too_early_and_all_arrives_in_the_end(
    steps: list[tuple[str, str | list[str], int]],
) -> None:
    site = Site()
    for what, which, number in steps:
        match what:
            case "seal":
                for _ in range(3):
                    site.seal(*which, alarm=bool(number))
            case "stream":
                await site.stream(str(which), number)
            case "turn":
                site.taken ^= {str(which)}
            case "connect":
                site.connect()
            case "link":
                site.by_the_link(number)
            case "new life":
                await site.new_life()
            case _:
                site.live_anew()
        await site.settle()
        site.require_nothing_lost()
    site.taken.update(DEVICES)
    site.seal(*DEVICES)
    await site.streams(len(site.outbox.rows) + 2)
    site.require_nothing_lost()
    left = await left_incarnations(site.outbox)
    assert set(await site.outbox.unacknowledged_incarnations()) <= left
    assert (site.carrying.delivery.apart, site.outbox.notes.keys() - {LEFT_NOTE}) == ({}, set())


def loaded(number: int, missing: int, incarnation: int = 1) -> Loaded:
    return Loaded(incarnation, number, missing)


def test_a_step_goes_as_far_as_the_flow_that_is_least_far_and_names_one_incarnation() -> None:
    steps, flow, behind = Steps(), Flow(), Flow()
    for each in (loaded(1, 0), loaded(2, 0), loaded(1, 0, incarnation=2)):
        steps.saw((each.incarnation, each.number))
        flow.load(each)
    behind.load(loaded(1, 0))
    flow.collect()
    behind.collect()
    assert steps.next([flow, behind]) == Arrived(1, 1, confirmed=True)
    assert steps.next([flow, behind]) is None
    behind.load(loaded(2, 0))
    behind.load(loaded(1, 0, incarnation=2))
    behind.collect()
    assert steps.next([flow, behind]) == Arrived(1, 2, confirmed=True)
    assert steps.next([flow, behind]) == Arrived(2, 1, confirmed=True)


def test_places_are_read_as_they_were_written() -> None:
    places = ((2, 7), {"pv": (1, 3), "ü/1": BEGINNING})
    assert decode_places(encode_places(*places)) == places


def test_a_device_that_is_set_apart_again_keeps_that_what_it_has_is_unconfirmed() -> None:
    evidence = Evidence(key=KEY)
    delivery = Delivery(1, passed=(1, 1), behind={"pv": (1, 0)})
    delivery.apart["pv"].joined, delivery.apart["pv"].confirmed = True, False
    evidence.seal(evidence.reading("meter"))
    delivery.load(row_of(evidence.seal(evidence.reading("meter"), evidence.reading("pv"))))
    for _ in range(REFUSALS):
        delivery.refused("pv")
    assert delivery.set_apart(held_up=False) == {"pv"}
    assert not delivery.apart["pv"].confirmed
