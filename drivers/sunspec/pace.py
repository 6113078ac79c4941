"""How soon after an answer a line takes the next request: some devices do not hear one that comes at once. Pure.

The fastest pace that is safe is found from below: a request that came hastily and was lost, from a unit that answered
just before and answers right after, speaks against haste; two of them among a few, and the pause grows by a step.

What was in the way may go (another gateway, a firmware): after a long run without a loss the next shorter pause is
tried. The first loss ends the trial at once, and the next one comes after twice as long a run. Orders never take part.
"""

from __future__ import annotations

from collections import deque
from typing import Final

STEPS_S: Final = (0.02, 0.05, 0.1, 0.2)
"""Pauses to try in turn. 0.2 s is for the slowest gateways; more would be no device to control."""
HASTY_S: Final = 0.03
"""A request this soon after the pause was one in haste."""
LOSSES: Final = 2
WITHIN: Final = 50
"""So many losses among so many requests are no accident."""
LONG_RUN: Final = 3_000
"""Answers without a loss before a shorter pause is tried: a quarter of an hour of three requests a second."""
TRIAL: Final = 300
"""Answers without a loss by which a shorter pause has proven itself."""
MOST_DOUBLINGS: Final = 7
"""Of the long run, by trials that failed: a loss in one and a half days."""


class Pace:
    """Of one line, over its units."""

    def __init__(self, configured_s: float) -> None:
        """`configured_s`: the installer's pause between an answer and the next request, which is never undercut."""
        self._configured_s = configured_s
        self.safe_s = configured_s
        """The pause for what must arrive."""
        self.gap_s = configured_s
        """The pause for the rest: shorter than the safe one while that is tried."""
        self._steady: set[int] = set()
        """Units whose last request was answered."""
        self._suspects: set[int] = set()
        """Units whose last request was hasty and lost, and the one before answered."""
        self._losses: deque[int] = deque(maxlen=LOSSES)
        """Numbers of the requests that were lost to haste."""
        self._requests = 0
        self._run = 0
        """Answers since the last loss of a steady unit, or since the pause changed."""
        self._failed_trials = 0
        """Since the pause last proved itself or grew."""

    @property
    def learned_s(self) -> float | None:
        """A pause that was found necessary here; None: none was."""
        return self.safe_s if self.safe_s > self._configured_s else None

    @property
    def is_on_trial(self) -> bool:
        return self.gap_s < self.safe_s

    def known(self, gap_s: float | None) -> None:
        """A pause that an earlier run found necessary."""
        if gap_s in STEPS_S and gap_s > self.safe_s:
            self._hold(gap_s)

    def answered(self, unit: int) -> bool:
        """Returns whether the pause has changed by that."""
        self._requests += 1
        self._run += 1
        was_haste = unit in self._suspects
        self._suspects.discard(unit)
        self._steady.add(unit)
        if not was_haste:
            return self.safe_s > self._configured_s and self._shortened()
        self._losses.append(self._requests)
        if len(self._losses) < LOSSES or self._losses[-1] - self._losses[0] > WITHIN:
            return False
        longer_s = next((step for step in STEPS_S if step > self.safe_s), None)
        if longer_s is None:
            return False
        self._hold(longer_s)
        return True

    def lost(self, unit: int, after_s: float) -> bool:
        """No answer, or "busy", to a request made `after_s` after the line's last answer. Returns as `answered`."""
        self._requests += 1
        was_steady = unit in self._steady
        self._steady.discard(unit)
        self._suspects.discard(unit)
        if not was_steady:
            return False  # it is dead, or away: that says nothing about the line
        self._run = 0
        if self.is_on_trial:
            # Whatever the reason was: a shorter pause is a gain only where nothing is lost.
            self.gap_s = self.safe_s
            self._failed_trials += 1
            return True
        if after_s <= self.gap_s + HASTY_S:
            self._suspects.add(unit)
        return False

    def _shortened(self) -> bool:
        if self.is_on_trial:
            if self._run < TRIAL:
                return False
            self._hold(self.gap_s)
            return True
        if self._run < LONG_RUN * 2 ** min(self._failed_trials, MOST_DOUBLINGS):
            return False
        self.gap_s = max(step for step in (self._configured_s, *STEPS_S) if step < self.safe_s)
        self._run = 0
        return True

    def _hold(self, gap_s: float) -> None:
        self.safe_s = self.gap_s = gap_s
        self._run = self._failed_trials = 0
        self._losses.clear()
