"""How soon after an answer a line takes the next request: some devices do not hear one that comes at once. Pure.

The fastest pace that is safe is found from below: a request that came hastily and was lost, from a unit that answered
just before and answers right after, speaks against haste; two of them among a few, and the pause grows by a step.
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


class Pace:
    """Of one line, over its units."""

    def __init__(self, configured_s: float) -> None:
        """`configured_s`: the installer's pause between an answer and the next request, which is never undercut."""
        self.gap_s = configured_s
        self._is_learned = False
        self._steady: set[int] = set()
        """Units whose last request was answered."""
        self._suspects: set[int] = set()
        """Units whose last request was hasty and lost, and the one before answered."""
        self._losses: deque[int] = deque(maxlen=LOSSES)
        """Numbers of the requests that were lost to haste."""
        self._requests = 0

    @property
    def learned_s(self) -> float | None:
        """A pause that was found necessary here; None: none was."""
        return self.gap_s if self._is_learned else None

    def known(self, gap_s: float | None) -> None:
        """A pause that an earlier run found necessary."""
        if gap_s in STEPS_S and gap_s > self.gap_s:
            self.gap_s, self._is_learned = gap_s, True

    def answered(self, unit: int) -> bool:
        """Returns whether the pause has grown by that."""
        self._requests += 1
        was_haste = unit in self._suspects
        self._suspects.discard(unit)
        self._steady.add(unit)
        if not was_haste:
            return False
        self._losses.append(self._requests)
        if len(self._losses) < LOSSES or self._losses[-1] - self._losses[0] > WITHIN:
            return False
        longer_s = next((step for step in STEPS_S if step > self.gap_s), None)
        if longer_s is None:
            return False
        self.gap_s, self._is_learned = longer_s, True
        self._losses.clear()
        return True

    def lost(self, unit: int, after_s: float) -> None:
        """No answer, or "busy", to a request made `after_s` after the line's last answer."""
        self._requests += 1
        if unit in self._steady and after_s <= self.gap_s + HASTY_S:
            self._suspects.add(unit)
        else:
            self._suspects.discard(unit)
        self._steady.discard(unit)
