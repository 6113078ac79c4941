"""What a platform was seen to acknowledge on devices' streams, until it has stalled without that a few times. Pure.

A platform that was set back to a version which cannot acknowledge would else be left at every stall, for ever.
"""

from __future__ import annotations

from typing import Final

from agent.uplink.lane import Word

STALLS: Final = 3
"""In a row, none of what stalled was acknowledged between them."""


class Heard:
    """Of one endpoint, over all its connections."""

    def __init__(self, word: Word = Word.NONE) -> None:
        self.word = word
        self._stalls: dict[Word, tuple[int, float]] = {}
        """How many, and when the last one was."""

    def said(self, word: Word) -> None:
        """It has acknowledged these, or nothing."""
        self.word |= word
        for what in word:
            self._stalls.pop(what, None)

    def stalled(self, what: Word, now_s: float, *, apart_s: float) -> bool:
        """It has stopped to acknowledge these on a stream; whether that was once too often, and is believed.

        What comes within `apart_s` is one stall: many streams have it together.
        """
        times, last_s = self._stalls.get(what, (0, float("-inf")))
        if what not in self.word or now_s - last_s < apart_s:
            return False
        self._stalls[what] = (times + 1, now_s)
        if times + 1 < STALLS:
            return False
        self.word &= ~what
        del self._stalls[what]
        return True
