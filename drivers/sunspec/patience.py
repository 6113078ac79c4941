"""How long, and how often, a unit that falls silent is still asked: a dead one must not slow its neighbours. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHORT_S: Final = 0.3
"""A unit that did not answer is waited for this long, or twice its slowest answer, until it answers again."""
FULL_EVERY: Final = 8
"""Of so many attempts one has the whole time-out: a unit that was never heard may just be slow."""
BURST: Final = 3
"""Attempts between two pauses: a map may begin at three places, and a wrong one may hang the unit."""
PAUSE_LEAST_S: Final = 0.5
PAUSE_MOST_S: Final = 5.0


@dataclass(slots=True)
class Patience:
    """With one unit, since its line was opened."""

    silences: int = 0
    """Attempts without an answer since the last one."""
    slowest_s: float = 0.0
    not_before_s: float = float("-inf")

    def timeout_s(self, full_s: float) -> float:
        """How long to wait for the next answer, when `full_s` is what the installer allows."""
        if self.silences % FULL_EVERY == 0:
            return full_s
        return min(full_s, max(SHORT_S, 2 * self.slowest_s))

    def pause_s(self, now_s: float) -> float:
        """How long not to ask it at all; 0 or less: ask."""
        return self.not_before_s - now_s

    def answered(self, took_s: float) -> None:
        self.silences = 0
        self.slowest_s = max(self.slowest_s, took_s)
        self.not_before_s = float("-inf")

    def was_silent(self, now_s: float) -> None:
        self.silences += 1
        bursts, within = divmod(self.silences, BURST)
        if within == 0:
            self.not_before_s = now_s + min(PAUSE_MOST_S, PAUSE_LEAST_S * 2 ** min(bursts - 1, 10))
