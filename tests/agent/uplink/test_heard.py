"""What a platform was seen to acknowledge is believed until it has stalled a few times without it, and not longer."""

from __future__ import annotations

from agent.uplink.heard import STALLS, Heard
from agent.uplink.lane import Word

APART_S = 5.0


def stalls(heard: Heard, *, times: int, from_s: float = 0.0, what: Word = Word.READINGS) -> list[bool]:
    return [heard.stalled(what, from_s + each * 10.0, apart_s=APART_S) for each in range(times)]


def test_it_is_believed_until_a_few_stalls_in_a_row() -> None:
    heard = Heard(Word.READINGS | Word.STATEMENTS)
    assert stalls(heard, times=STALLS) == [False] * (STALLS - 1) + [True]
    assert heard.word is Word.STATEMENTS


def test_an_acknowledgement_between_stalls_has_them_counted_anew() -> None:
    heard = Heard(Word.READINGS)
    stalls(heard, times=STALLS - 1)
    heard.said(Word.READINGS)
    assert not any(stalls(heard, times=STALLS - 1, from_s=1000.0))
    assert heard.word is Word.READINGS


def test_an_acknowledgement_of_something_else_does_not() -> None:
    heard = Heard(Word.READINGS | Word.STATEMENTS)
    stalls(heard, times=STALLS - 1)
    heard.said(Word.STATEMENTS)
    assert stalls(heard, times=1, from_s=1000.0) == [True]


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
    assert not any(stalls(heard, times=STALLS - 1, from_s=1000.0))
