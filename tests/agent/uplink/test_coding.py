"""gzip over MQTT: what was packed comes out again, and nothing larger than a frame ever does."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.coding import CodingError, packed, plain_payload, takes_gzip, unpacked

LIMIT = 4096
MARKED = [("content-encoding", "gzip")]


@given(st.binary(max_size=LIMIT))
def test_what_is_packed_is_gzip_to_anybody_and_comes_out_as_it_was(payload: bytes) -> None:
    assert gzip.decompress(packed(payload)) == payload
    assert unpacked(packed(payload), LIMIT) == payload
    assert unpacked(gzip.compress(payload), LIMIT) == payload


@given(st.binary(max_size=200), st.data())
def test_gzip_that_breaks_off_or_has_something_behind_it_is_refused(payload: bytes, data: st.DataObject) -> None:
    whole = packed(payload)
    with pytest.raises(CodingError):
        unpacked(whole[: data.draw(st.integers(0, len(whole) - 1))], LIMIT)
    with pytest.raises(CodingError, match="behind it"):
        unpacked(whole + data.draw(st.binary(min_size=1, max_size=40)), LIMIT)
    with pytest.raises(CodingError, match="behind it"):
        unpacked(whole + whole, LIMIT)


@given(st.binary(min_size=1, max_size=300))
def test_any_other_bytes_are_refused_as_such(payload: bytes) -> None:
    try:
        assert gzip.decompress(payload) == unpacked(payload, LIMIT)
    except (OSError, EOFError, zlib.error):
        with pytest.raises(CodingError):
            unpacked(payload, LIMIT)


def test_a_frame_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    assert len(unpacked(packed(bytes(LIMIT)), LIMIT)) == LIMIT
    with pytest.raises(CodingError, match="more than the 4096"):
        unpacked(packed(bytes(LIMIT + 1)), LIMIT)


def test_a_bomb_is_refused_before_it_is_unpacked_past_the_limit() -> None:
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packing.compress(bytes(1 << 20)) for _ in range(256)) + packing.flush()
    assert len(bomb) < 256 << 10  # as a packet that the gateway takes; 256 MiB unpacked
    tracemalloc.start()
    try:
        with pytest.raises(CodingError, match="unpack to more"):
            unpacked(bomb, 256 << 10)
        # What is left of the input once more, and what came out.
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_only_a_payload_that_says_so_is_unpacked_and_an_unknown_coding_is_refused() -> None:
    assert plain_payload(b"plain", [("another", "property")], LIMIT) == b"plain"
    assert plain_payload(packed(b"plain"), [], LIMIT) == packed(b"plain")
    assert plain_payload(packed(b"plain"), MARKED, LIMIT) == b"plain"
    for codings in ([("content-encoding", "br")], MARKED * 2, [("content-encoding", "gzip, gzip")]):
        with pytest.raises(CodingError, match="coded as"):
            plain_payload(packed(b"plain"), codings, LIMIT)


@pytest.mark.parametrize(
    ("properties", "takes"),
    [
        ([], False),
        ([("accept-encoding", "gzip")], True),
        ([("accept-encoding", "zstd, gzip")], True),
        ([("accept-encoding", "zstd"), ("accept-encoding", "gzip")], True),
        ([("accept-encoding", "gzipped")], False),
        ([("content-encoding", "gzip")], False),
    ],
)
def test_gzip_is_taken_by_who_says_so(properties: list[tuple[str, str]], takes: bool) -> None:
    assert takes_gzip(properties) is takes
