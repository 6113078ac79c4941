"""What is encrypted opens in its place and with its key alone, and no two lives of a writer share a key."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store.cipher import OVERHEAD_BYTES, Cipher, of_body, of_channel, of_chunk, of_kept, of_note
from agent.store.errors import StoreCorruptError, StoreError, StoreFullError
from agent.store.secret import key_id

MASTER = os.urandom(32)
SALTS = {1: os.urandom(16), 2: os.urandom(16)}


@given(plain=st.binary(max_size=300), context=st.binary(max_size=40))
def test_what_was_sealed_opens_to_the_same_bytes_for_writers_and_readers_of_later(plain: bytes, context: bytes) -> None:
    sealed = Cipher(MASTER, SALTS, 1).seal(context, plain)
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert Cipher(MASTER, SALTS, 2).open(context, sealed) == plain
    assert Cipher(MASTER, SALTS, None).open(context, sealed) == plain


@given(plain=st.binary(min_size=1, max_size=60), data=st.data())
def test_not_one_bit_of_it_or_of_its_place_can_be_another(plain: bytes, data: st.DataObject) -> None:
    cipher = Cipher(MASTER, SALTS, 1)
    sealed = bytearray(cipher.seal(of_note("a"), plain))
    with pytest.raises(StoreCorruptError):
        cipher.open(of_note("b"), bytes(sealed))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StoreError):
        cipher.open(of_note("a"), bytes(sealed))
    with pytest.raises(StoreCorruptError):
        cipher.open(of_note("a"), bytes(sealed[:10]))


def test_another_master_key_opens_nothing_and_what_a_later_life_wrote_is_said_to_be_that() -> None:
    sealed = Cipher(MASTER, SALTS, 2).seal(b"x", b"plain")
    with pytest.raises(StoreCorruptError):
        Cipher(os.urandom(32), SALTS, None).open(b"x", sealed)
    with pytest.raises(StoreError, match="begun anew"):
        Cipher(MASTER, {1: SALTS[1]}, None).open(b"x", sealed)


def test_a_nonce_is_used_once() -> None:
    cipher = Cipher(MASTER, SALTS, 1)
    assert len({cipher.seal(b"x", b"same")[:12] for _ in range(1000)}) == 1000


def test_nothing_is_written_before_an_epoch_has_begun() -> None:
    cipher = Cipher(MASTER, SALTS, None)
    with pytest.raises(StoreFullError, match="to begin to write"):
        cipher.seal(b"x", b"plain")
    cipher.begin(3, os.urandom(16))
    assert cipher.open(b"x", cipher.seal(b"x", b"plain")) == b"plain"


def test_no_two_places_have_one_name() -> None:
    places = [of_body(1), of_kept(1), of_note("1"), of_chunk(1, 1), of_chunk(11, 1), of_chunk(1, 11)]
    places += [of_channel(b"c", 1, 23, 4), of_channel(b"c", 12, 3, 4), of_channel(b"d", 1, 23, 4), of_body(11)]
    assert len(set(places)) == len(places)


def test_the_name_of_a_key_tells_keys_apart_and_is_no_part_of_one() -> None:
    one, two = os.urandom(32), os.urandom(32)
    assert key_id(one) == key_id(one) != key_id(two)
    assert key_id(one) not in one
    assert repr(Cipher(MASTER, SALTS, 1)) == "Cipher()"
