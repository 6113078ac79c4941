"""Bodies of batches: what is packed comes back, what was never packed too, and damage is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store import StoreCorruptError
from agent.store.bodies import pack, unpack


@given(st.binary(max_size=2000))
def test_what_is_packed_comes_back(encoded: bytes) -> None:
    assert unpack(pack(encoded)) == encoded


@given(st.binary(max_size=200))
def test_what_looks_like_a_stream_comes_back(rest: bytes) -> None:
    assert unpack(pack(b"x" + rest)) == b"x" + rest


def test_readings_of_one_second_take_much_less_and_noise_takes_no_more() -> None:
    alike = b"\x83" + b"".join(b"the same device and boot id, %d" % n for n in range(100))
    noise = b"\x83" + bytes((n * n * 7 + n) % 251 for n in range(40))
    assert len(pack(alike)) * 3 < len(alike)
    assert pack(noise) == noise


def test_a_body_of_before_is_read_as_it_is() -> None:
    assert unpack(b"\x83\x01\x41\x00\x80") == b"\x83\x01\x41\x00\x80"


def test_a_damaged_body_is_said() -> None:
    body = bytearray(pack(b"\x83" + bytes(1000)))
    body[5] ^= 0xFF
    with pytest.raises(StoreCorruptError, match="damaged"):
        unpack(bytes(body))
