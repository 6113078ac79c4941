"""One GatewayLink connection without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.errors import PlatformFaultError
from agent.uplink.session import (
    LEAST_TIME_US,
    MOST_BATCHES_IN_FLIGHT,
    MOST_TIME_US,
    Acknowledged,
    ChannelArrived,
    CommandArrived,
    Refused,
    Session,
    State,
    Unknown,
    Welcomed,
)
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import BatchPosition, ChannelFrame, PlatformFrame, Welcome
from tests.agent.uplink.parts import FIRST_US, Evidence, Row, acknowledgement

STALL_S = 30.0
PLATFORM = SoftwareKey.generate()
EVIDENCE_KEY = SoftwareKey.generate()
ROWS = [row for evidence in [Evidence(key=EVIDENCE_KEY)] for row in (evidence.row("meter") for _ in range(70))]
GATEWAY = Evidence(key=EVIDENCE_KEY)


def session(*, ready: bool = True, next_batch_number: int = 1, latest_platform_time_us: int = 0) -> Session:
    made = Session(
        GATEWAY.identity("meter", "pv"),
        PLATFORM.verify_key,
        next_batch_number=next_batch_number,
        now_s=100.0,
        stall_s=STALL_S,
        latest_platform_time_us=latest_platform_time_us,
    )
    if ready:
        made.receive(PlatformFrame(welcome=Welcome(platform_id="p")), 100.0)
    return made


def ack(
    row: Row, *, gateway_id: str = GATEWAY.gateway_id, key: SoftwareKey = PLATFORM, **changes: object
) -> PlatformFrame:
    return PlatformFrame(acknowledgement=acknowledgement(key, gateway_id, row, **changes))  # type: ignore[arg-type]


def test_hello_names_gateway_devices_and_first_unacknowledged_batch() -> None:
    hello = session(ready=False, next_batch_number=8).hello().hello
    assert (hello.gateway_id, hello.incarnation, hello.next_batch_number) == (GATEWAY.gateway_id, 1, 8)
    assert list(hello.device_ids) == ["meter", "pv"]


def test_welcome_that_says_what_the_platform_holds_is_no_acknowledgement() -> None:
    open_ = session(ready=False, next_batch_number=8)
    frame = PlatformFrame(welcome=Welcome(held=BatchPosition(incarnation=1, batch_number=70)))
    welcomed = open_.receive(frame, 100.0)
    assert isinstance(welcomed, Welcomed)
    assert welcomed.held == (1, 70)
    assert open_.sent_number(1) == 7


def test_welcome_of_a_platform_that_does_not_say_is_told_from_one_that_holds_nothing() -> None:
    silent = session(ready=False).receive(PlatformFrame(welcome=Welcome()), 100.0)
    empty = session(ready=False).receive(PlatformFrame(welcome=Welcome(held=BatchPosition())), 100.0)
    assert isinstance(silent, Welcomed)
    assert isinstance(empty, Welcomed)
    assert (silent.held, empty.held) == (None, (0, 0))


def test_what_the_platform_has_lost_is_sent_and_acknowledged_again() -> None:
    open_ = session(next_batch_number=4)
    open_.send_again(1, 1, 3)
    assert (open_.sent_number(1), open_.again_up_to(1)) == (1, 3)
    for row in ROWS[1:4]:
        open_.send_batch(row, 101.0)
    seen = open_.receive(ack(ROWS[2]), 102.0)
    assert isinstance(seen, Acknowledged)
    assert (seen.up_to_number, open_.batches_in_flight) == (3, 1)


def test_nothing_is_sent_before_the_welcome() -> None:
    opening = session(ready=False)
    assert not opening.has_room(1)
    with pytest.raises(ValueError, match="room"):
        opening.send_batch(ROWS[0], 100.0)


def test_welcome_opens_the_link_and_its_wait_is_capped() -> None:
    opening = session(ready=False)
    frame = PlatformFrame(welcome=Welcome(platform_id="p", platform_time_us=5, reconnect_after_ms=4_000_000_000))
    assert opening.receive(frame, 100.0) == Welcomed("p", 5, 3600.0)
    assert opening.state is State.READY


@pytest.mark.parametrize(
    ("ready", "frame"),
    [
        (False, PlatformFrame(acknowledgement=b"x")),
        (False, PlatformFrame(command=GridCommand(command_id="c"))),
        (False, PlatformFrame(channel=ChannelFrame())),
        (True, PlatformFrame(welcome=Welcome())),
    ],
)
def test_frame_out_of_its_place_is_the_platforms_fault(ready: bool, frame: PlatformFrame) -> None:
    with pytest.raises(PlatformFaultError):
        session(ready=ready).receive(frame, 100.0)


def test_frame_of_a_later_contract_changes_nothing() -> None:
    for ready in (True, False):
        assert session(ready=ready).receive(PlatformFrame(), 100.0) is None


def test_commands_and_channel_frames_come_through_unchanged() -> None:
    open_ = session()
    command, channel = GridCommand(command_id="c"), ChannelFrame(device_id="pv")
    assert open_.receive(PlatformFrame(command=command), 100.0) == CommandArrived(command)
    assert open_.receive(PlatformFrame(channel=channel), 100.0) == ChannelArrived(channel)


def test_acknowledgement_is_cumulative_and_frees_room() -> None:
    open_ = session()
    for row in ROWS[:3]:
        open_.send_batch(row, 100.0)
    assert open_.receive(ack(ROWS[1]), 100.5) == Acknowledged(1, 2, FIRST_US, 0.5)
    assert open_.batches_in_flight == 1


def test_window_of_batches_is_never_exceeded() -> None:
    open_ = session()
    for row in ROWS[:MOST_BATCHES_IN_FLIGHT]:
        open_.send_batch(row, 100.0)
    assert not open_.has_room(1)
    open_.receive(ack(ROWS[0]), 100.0)
    assert open_.has_room(1)


def test_window_of_bytes_is_never_exceeded_by_more_than_one_batch() -> None:
    open_ = session()
    mebibyte = bytes(1 << 20)
    for number in range(1, 5):
        assert open_.has_room(1)
        open_.send_batch(Row(1, number, bytes(32), mebibyte), 100.0)
    assert not open_.has_room(1)


def test_batches_leave_in_order_only() -> None:
    open_ = session()
    open_.send_batch(ROWS[1], 100.0)
    for wrong in (ROWS[0], ROWS[1]):
        with pytest.raises(ValueError, match="out of order"):
            open_.send_batch(wrong, 100.0)


def test_batches_of_an_older_incarnation_go_first_and_are_acknowledged_by_themselves() -> None:
    open_ = session()
    old = Row(0, 9, bytes(32), b"old")
    open_.send_batch(old, 100.0)
    open_.send_batch(ROWS[0], 100.0)
    assert open_.receive(ack(ROWS[0]), 100.0) == Acknowledged(1, 1, FIRST_US, 0.0)
    assert open_.batches_in_flight == 1
    assert open_.sent_number(0) == 9


def refused(frames: list[PlatformFrame]) -> list[Refused]:
    open_ = session()
    for row in ROWS[:2]:
        open_.send_batch(row, 100.0)
    found = []
    for frame in frames:
        event = open_.receive(frame, 100.0)
        assert isinstance(event, Refused), frame
        found.append(event)
    assert open_.batches_in_flight == 2
    return found


def test_acknowledgement_by_another_key_is_refused() -> None:
    refused([ack(ROWS[0], key=SoftwareKey.generate())])


def test_acknowledgement_for_another_gateway_is_refused() -> None:
    assert "not for this one" in refused([ack(ROWS[0], gateway_id=Evidence().gateway_id)])[0].text


def test_acknowledgement_with_another_root_is_refused_as_equivocation() -> None:
    assert refused([ack(ROWS[0], root=bytes(32))])[0].code == "uplink.acknowledgement_other_root"


@given(st.data())
def test_acknowledgement_with_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    encoded = bytearray(ack(ROWS[0]).acknowledgement)
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    refused([PlatformFrame(acknowledgement=bytes(encoded))])


@given(st.binary(max_size=300))
def test_garbage_as_acknowledgement_is_refused(octets: bytes) -> None:
    refused([PlatformFrame(acknowledgement=octets)])


def test_acknowledgement_of_a_batch_not_sent_here_is_looked_up() -> None:
    open_ = session()
    event = open_.receive(ack(ROWS[4]), 100.0)
    assert isinstance(event, Unknown)
    # The store holds it: an earlier run of the agent had sent it. No time is taken from it: its age is not known.
    assert open_.resolve(event.acknowledgement, ROWS[4].root, 100.0) == Acknowledged(1, 5, None, 0.0)
    assert open_.sent_number(1) == 5


def test_acknowledgement_of_a_batch_that_nobody_holds_is_refused() -> None:
    open_ = session()
    event = open_.receive(ack(Row(1, 99, bytes(32), b"")), 100.0)
    assert isinstance(event, Unknown)
    judged = open_.resolve(event.acknowledgement, None, 100.0)
    assert isinstance(judged, Refused)
    assert judged.code == "uplink.acknowledgement_unknown"
    assert open_.sent_number(1) == 0


def test_repeated_acknowledgement_changes_nothing() -> None:
    open_ = session()
    open_.send_batch(ROWS[0], 100.0)
    open_.receive(ack(ROWS[0]), 100.0)
    assert open_.receive(ack(ROWS[0]), 200.0) is None


def test_platform_time_never_goes_back_and_never_comes_from_a_slow_answer() -> None:
    open_ = session(latest_platform_time_us=FIRST_US + 1)
    open_.send_batch(ROWS[0], 100.0)
    open_.send_batch(ROWS[1], 100.0)
    open_.send_batch(ROWS[2], 100.0)
    earlier = open_.receive(ack(ROWS[0], platform_time_us=FIRST_US), 100.1)
    fresh = open_.receive(ack(ROWS[1], platform_time_us=FIRST_US + 2), 100.1)
    slow = open_.receive(ack(ROWS[2], platform_time_us=FIRST_US + 3), 105.1)
    times = [event.platform_time_us for event in (earlier, fresh, slow) if isinstance(event, Acknowledged)]
    assert times == [None, FIRST_US + 2, None]


def test_stall_counts_from_the_last_progress_and_only_while_something_is_owed() -> None:
    open_ = session(ready=False)
    assert open_.stalls_at_s() == 100.0 + STALL_S
    open_.receive(PlatformFrame(welcome=Welcome()), 105.0)
    assert open_.stalls_at_s() is None
    open_.send_batch(ROWS[0], 200.0)
    open_.send_batch(ROWS[1], 210.0)
    assert open_.stalls_at_s() == 200.0 + STALL_S
    open_.receive(ack(ROWS[0]), 220.0)
    assert open_.stalls_at_s() == 220.0 + STALL_S
    open_.receive(ack(ROWS[1]), 221.0)
    assert open_.stalls_at_s() is None


@given(st.lists(st.sampled_from(["send", "ack", "old"]), max_size=40), st.data())
def test_what_is_in_flight_is_what_was_sent_and_not_acknowledged(steps: list[str], data: st.DataObject) -> None:
    open_ = session()
    sent = acknowledged = 0
    for step in steps:
        if step == "send" and open_.has_room(1):
            open_.send_batch(ROWS[sent], 100.0)
            sent += 1
        elif step == "ack" and sent > acknowledged:
            acknowledged = data.draw(st.integers(acknowledged + 1, sent))
            assert isinstance(open_.receive(ack(ROWS[acknowledged - 1]), 100.0), Acknowledged)
        elif step == "old" and acknowledged:
            assert open_.receive(ack(ROWS[data.draw(st.integers(1, acknowledged)) - 1]), 100.0) is None
        assert open_.batches_in_flight == sent - acknowledged
        assert open_.sent_number(1) == sent


@pytest.mark.parametrize("time_us", [0, 1, LEAST_TIME_US - 1, MOST_TIME_US, 2**63 - 1])
def test_a_time_that_cannot_be_is_no_witness_and_spoils_no_later_one(time_us: int) -> None:
    """It would move our clock beyond what a reading can hold, and the floor of time would keep it there."""
    open_ = session()
    open_.send_batch(ROWS[0], 100.0)
    open_.send_batch(ROWS[1], 100.0)
    refused = open_.receive(ack(ROWS[0], platform_time_us=time_us), 100.1)
    assert isinstance(refused, Acknowledged)
    assert refused.platform_time_us is None
    taken = open_.receive(ack(ROWS[1]), 100.1)
    assert isinstance(taken, Acknowledged)
    assert taken.platform_time_us == FIRST_US
