"""What a platform was seen to acknowledge is believed until it has stalled without it for long, and not longer."""

from __future__ import annotations

import pytest

from agent.uplink.heard import LAPSE_AFTER_S, STALLS, Heard, decode_word, encode_word
from agent.uplink.lane import Word

APART_S = 5.0
BETWEEN_S = LAPSE_AFTER_S / (STALLS - 1)
"""Stalls that are as few as can be."""


def stalls(heard: Heard, *, times: int, from_s: float = 0.0, what: Word = Word.READINGS) -> list[bool]:
    return [heard.stalled(what, from_s + each * BETWEEN_S, apart_s=APART_S) for each in range(times)]


def test_it_is_believed_until_a_few_stalls_in_a_row() -> None:
    heard = Heard(Word.READINGS | Word.STATEMENTS)
    assert stalls(heard, times=STALLS) == [False] * (STALLS - 1) + [True]
    assert heard.word is Word.STATEMENTS


def test_a_platform_that_is_sick_for_less_than_an_hour_is_believed_however_often_it_stalls() -> None:
    heard = Heard(Word.READINGS)
    stalled = [heard.stalled(Word.READINGS, at_s, apart_s=APART_S) for at_s in range(0, int(LAPSE_AFTER_S), 30)]
    assert len(stalled) > STALLS
    assert not any(stalled)
    assert heard.stalled(Word.READINGS, LAPSE_AFTER_S, apart_s=APART_S)


@pytest.mark.parametrize("word", [Word.NONE, Word.READINGS, Word.STATEMENTS, Word.READINGS | Word.STATEMENTS])
def test_it_is_noted_and_read_again(word: Word) -> None:
    assert decode_word(encode_word(word)) == word


@pytest.mark.parametrize("note", [b"", b"x", b"64", b"-9", b"\xff"])
def test_a_note_that_is_none_is_refused(note: bytes) -> None:
    with pytest.raises(ValueError, match=r"word|invalid literal"):
        decode_word(note)


def test_an_acknowledgement_between_stalls_has_them_counted_anew() -> None:
    heard = Heard(Word.READINGS)
    stalls(heard, times=STALLS - 1)
    heard.said(Word.READINGS)
    assert not any(stalls(heard, times=STALLS - 1, from_s=10 * LAPSE_AFTER_S))
    assert heard.word is Word.READINGS


def test_an_acknowledgement_of_something_else_does_not() -> None:
    heard = Heard(Word.READINGS | Word.STATEMENTS)
    stalls(heard, times=STALLS - 1)
    heard.said(Word.STATEMENTS)
    assert stalls(heard, times=1, from_s=10 * LAPSE_AFTER_S) == [True]


def test_many_streams_that_stall_together_are_one_stall() -> None:
    heard = Heard(Word.READINGS)
    assert not any(heard.stalled(Word.READINGS, each / 10, apart_s=APART_S) for each in range(10 * STALLS))
    assert heard.word is Word.READINGS


def test_who_acknowledges_again_is_believed_again() -> None:
    heard = Heard(Word.READINGS)
    stalls(heard, times=STALLS)
    assert not heard.word
    heard.said(Word.READINGS)
    assert Word.READINGS in heard.word
    assert not any(stalls(heard, times=STALLS - 1, from_s=10 * LAPSE_AFTER_S))
