"""Modbus TCP frames: found in any pieces, and every late answer recognised by its transaction."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.mbap import ForeignBytesError, MbapFrame, MbapFramer, Transactions, frame

FRAMES = st.builds(MbapFrame, st.integers(0, 0xFFFF), st.integers(0, 255), st.binary(min_size=1, max_size=253))


def outcome(stream: bytes, cuts: list[int]) -> tuple[list[MbapFrame], bool]:
    """(frames, whether it was found to be foreign) of a stream in pieces."""
    framer = MbapFramer()
    found: list[MbapFrame] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in pairwise(edges):
        try:
            found += framer.feed(stream[begin:end])
        except ForeignBytesError:
            return found, True
    return found, False


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 2000)))
def test_frames_are_found_in_any_pieces(frames: list[MbapFrame], cuts: list[int]) -> None:
    stream = b"".join(frame(one.transaction, one.unit, one.pdu) for one in frames)
    assert outcome(stream, cuts) == (frames, False)


@given(st.binary(max_size=80), st.lists(st.integers(0, 80)))
def test_any_bytes_are_frames_or_foreign(stream: bytes, cuts: list[int]) -> None:
    assert outcome(stream, cuts)[1] == outcome(stream, [])[1]


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400 Bad Request", b"SSH-2.0-x", b"\0\1\0\0\0\1\7", b"\0\1\0\0\0\xff\7"])
def test_what_is_not_modbus_is_shown(stream: bytes) -> None:
    with pytest.raises(ForeignBytesError) as fault:
        MbapFramer().feed(stream)
    assert fault.value.seen == stream


def test_a_frame_that_has_begun_is_known() -> None:
    framer = MbapFramer()
    framer.feed(frame(1, 1, b"\x03\x00")[:-1])
    assert framer.amid_frame
    framer.feed(b"\x00")
    assert not framer.amid_frame


def test_a_number_without_an_answer_is_not_used_again() -> None:
    transactions = Transactions()
    lost = transactions.begin()
    for _ in range(0x10000):
        number = transactions.begin()
        assert number not in (0, lost)
        transactions.answered(number)
    assert transactions.was_asked(lost)


def test_a_number_that_was_never_used_is_nobodys() -> None:
    transactions = Transactions()
    assert [transactions.begin() for _ in range(3)] == [1, 2, 3]
    assert [transactions.was_asked(number) for number in (0, 1, 3, 4)] == [False, True, True, False]


def test_a_connection_that_lost_most_numbers_is_used_up() -> None:
    transactions = Transactions()
    while not transactions.used_up:
        transactions.begin()
    assert transactions.begin() not in (0, 1)
