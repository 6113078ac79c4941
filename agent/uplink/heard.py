"""What a platform was seen to acknowledge on devices' streams, until it has stalled without that for long. Pure.

A platform that was set back to a version which cannot acknowledge would else be left at every stall, for ever. One that
is only sick, and cannot store for a while, may well end streams with OK: what it has not stored must not count as
delivered. So it is known over restarts, and it is an hour before the one is taken for the other.
"""

from __future__ import annotations

from typing import Final

from agent.uplink.lane import Word

STALLS: Final = 3
"""In a row at least, none of what stalled was acknowledged between them."""
LAPSE_AFTER_S: Final = 3600.0
"""From the first of them to the last."""
WORD_NOTE: Final = "uplink-word/"
"""By endpoint: what it was seen to acknowledge."""


class Heard:
    """Of one endpoint, over all its connections."""

    def __init__(self, word: Word = Word.NONE, *, endpoint: str = "") -> None:
        self.word = word
        self.kept = word
        """As it is noted in the store."""
        self.note = WORD_NOTE + endpoint
        self._stalls: dict[Word, tuple[int, float, float]] = {}
        """How many, and when the first and the last one was."""

    def said(self, word: Word) -> None:
        """It has acknowledged these, or nothing."""
        self.word |= word
        for what in word:
            self._stalls.pop(what, None)

    def stalled(self, what: Word, now_s: float, *, apart_s: float) -> bool:
        """It has stopped to acknowledge these on a stream; whether that was for too long, and is believed.

        What comes within `apart_s` is one stall: many streams have it together.
        """
        times, first_s, last_s = self._stalls.get(what, (0, now_s, float("-inf")))
        if what not in self.word or now_s - last_s < apart_s:
            return False
        self._stalls[what] = (times + 1, first_s, now_s)
        if times + 1 < STALLS or now_s - first_s < LAPSE_AFTER_S:
            return False
        self.word &= ~what
        del self._stalls[what]
        return True


def encode_word(word: Word) -> bytes:
    """For a note."""
    return str(word.value).encode()


def decode_word(note: bytes) -> Word:
    """As `encode_word` was given it. Raises ValueError for a note that is none."""
    known = Word.READINGS | Word.STATEMENTS
    value = int(note)
    if not 0 <= value <= known.value:
        raise ValueError(f"{value} is no word of a platform")
    return Word(value)
