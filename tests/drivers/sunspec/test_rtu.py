"""RTU frames: found in any pieces and any noise; late answers are known to be possible, and ruled out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer.rtu import FramerRTU

from drivers.sunspec.pdu import READ_INPUT, read_request, write_one_request, write_request
from drivers.sunspec.rtu import LATEST_ANSWER_S, RtuFramer, Unanswered, crc16, frame

READ_TWO = read_request(7, 40000, 2)
ANSWER = b"\x03\x04SunS"


def fed(framer: RtuFramer, data: bytes, cuts: list[int]) -> bytes | None:
    """The answer when `data` comes in pieces."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(edges):
        pdu = framer.feed(data[begin:end])
        if pdu is not None:
            return pdu
    return None


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_an_independent_implementation(data: bytes) -> None:
    assert crc16(data) == FramerRTU.compute_CRC(data).to_bytes(2, "big")


def test_the_checksum_is_that_of_the_specification() -> None:
    assert crc16(b"\x02\x07") == b"\x41\x12"  # MODBUS over Serial Line V1.02, section 6.2.2


@given(data=st.binary(max_size=64), cuts=st.lists(st.integers(0, 64)))
def test_any_bytes_give_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    assert fed(RtuFramer(READ_TWO), data, cuts) == fed(RtuFramer(READ_TWO), data, [])


@given(
    before=st.binary(max_size=20),
    inside=st.sampled_from([b"\x07", b"\x07\x03", b"\x07\x03\x04", b"\x07\x83", b""]),
    after=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 99)),
)
def test_noise_before_and_after_an_answer_does_not_hide_it(
    before: bytes, inside: bytes, after: bytes, cuts: list[int]
) -> None:
    # Noise that would be a whole answer by chance is another matter: a checksum has 16 bits.
    stream = before + inside + frame(7, ANSWER) + after
    whole = RtuFramer(READ_TWO).feed(before + inside)
    assert fed(RtuFramer(READ_TWO), stream, cuts) == (ANSWER if whole is None else whole)


@given(st.integers(0, 8 * 9 - 1))
def test_one_wrong_bit_costs_the_answer(bit: int) -> None:
    spoiled = bytearray(frame(7, ANSWER))
    spoiled[bit // 8] ^= 1 << bit % 8
    assert RtuFramer(READ_TWO).feed(bytes(spoiled)) is None


@pytest.mark.parametrize(
    ("unit", "pdu"),
    [(8, ANSWER), (7, b"\x10\x9c\x40\x00\x02"), (7, b"\x90\x02"), (7, b"\x06\x9c\x40\x00\x02")],
    ids=["other-unit", "other-function", "other-exception", "write"],
)
def test_another_frame_is_left_aside_and_the_answer_after_it_is_taken(unit: int, pdu: bytes) -> None:
    framer = RtuFramer(READ_TWO)
    assert framer.feed(frame(unit, pdu)) is None
    assert framer.feed(frame(7, ANSWER)) == ANSWER


def test_our_own_echo_is_not_an_answer_to_a_read() -> None:
    framer = RtuFramer(READ_TWO)
    assert framer.feed(frame(7, READ_TWO.pdu)) is None
    assert framer.feed(frame(7, ANSWER)) == ANSWER


@pytest.mark.parametrize("code", range(1, 12))
def test_an_exception_is_an_answer(code: int) -> None:
    assert RtuFramer(READ_TWO).feed(frame(7, bytes((0x83, code)))) == bytes((0x83, code))


def test_writes_are_answered_with_their_echo() -> None:
    for request in (write_request(7, 5, [1, 2, 3]), write_one_request(7, 5, 1)):
        assert RtuFramer(request).feed(frame(7, request.answer_head)) == request.answer_head


def test_a_babbling_line_does_not_fill_the_memory() -> None:
    framer = RtuFramer(READ_TWO)
    for _ in range(100):
        framer.feed(b"\x07\x03\x04" * 1000)
    assert len(framer.seen) <= 4096


def test_a_probe_takes_nothing_but_its_own_answer() -> None:
    framer = RtuFramer(read_request(7, 40000, 1), exactly=True)
    assert framer.feed(frame(7, ANSWER) + frame(7, b"\x83\x02")) is None
    assert framer.feed(frame(7, b"\x03\x02Su")) == b"\x03\x02Su"


def test_without_a_missing_answer_nothing_is_probed() -> None:
    unanswered = Unanswered()
    assert unanswered.probe(READ_TWO, 0.0) is None
    unanswered.asked(READ_TWO, 0.0)
    assert unanswered.probe(read_request(8, 0, 2), 0.0) is None, "another unit's answer names its unit"


def test_a_late_answer_of_input_registers_is_not_taken_for_one_of_holding_registers() -> None:
    unanswered = Unanswered()
    input_two = read_request(7, 52, 2, READ_INPUT)
    unanswered.answered(input_two)
    unanswered.asked(READ_TWO, 0.0)
    probe = unanswered.probe(READ_TWO, 0.0)
    assert probe == input_two, "its answer has another function"
    assert RtuFramer(probe, exactly=True).feed(frame(7, b"\x03\x04SunS")) is None
    assert RtuFramer(probe, exactly=True).feed(frame(7, b"\x04\x04SunS")) == b"\x04\x04SunS"


def test_the_probe_of_a_unit_that_never_answered_is_of_the_requests_own_function() -> None:
    unanswered = Unanswered()
    unanswered.asked(read_request(7, 52, 1, READ_INPUT), 0.0)
    probe = unanswered.probe(read_request(7, 52, 2, READ_INPUT), 0.0)
    assert probe is not None
    assert (probe.function, probe.answer_size) == (READ_INPUT, 6)


@given(st.lists(st.tuples(st.integers(1, 125), st.integers(0, 65000)), max_size=40))
def test_no_late_answer_has_the_shape_of_the_probe(asked: list[tuple[int, int]]) -> None:
    unanswered = Unanswered()
    for count, address in asked:
        unanswered.asked(read_request(7, address, count), 0.0)
    probe = unanswered.probe(READ_TWO, 0.0)
    assert (probe is None) == (not asked)
    if probe is not None:
        assert probe.answer_size not in {read_request(7, 0, count).answer_size for count, _ in asked}


def test_a_probe_is_a_read_that_the_unit_has_answered_before() -> None:
    unanswered = Unanswered()
    unanswered.answered(read_request(7, 40070, 50))
    unanswered.answered(read_request(7, 100, 2))
    unanswered.answered(read_request(7, 200, 9), refused=True)
    unanswered.asked(write_request(7, 40300, [1]), 0.0)
    unanswered.asked(READ_TWO, 0.0)
    probe = unanswered.probe(READ_TWO, 0.0)
    assert probe is not None
    assert (probe.address, probe.answer_size) == (40070, 102)


def test_an_answered_probe_ends_the_waiting_and_so_does_time() -> None:
    unanswered = Unanswered()
    unanswered.asked(READ_TWO, 0.0)
    probe = unanswered.probe(READ_TWO, 0.0)
    assert probe is not None
    unanswered.answered(probe)
    assert unanswered.probe(READ_TWO, 0.0) is None
    unanswered.asked(READ_TWO, 10.0)
    unanswered.asked(probe, 20.0, is_probe=True)
    assert unanswered.probe(READ_TWO, 10.0 + LATEST_ANSWER_S) is not None
    assert unanswered.probe(READ_TWO, 10.1 + LATEST_ANSWER_S) is None
