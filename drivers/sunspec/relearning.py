"""When registers that a device refused are asked for again: soon at first, rarely when it goes on refusing. Pure.

Some are never there, some hide at night, and a device that wakes or restarts refuses everything for a moment: one rule
for all three, that costs the first few requests and the last seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RELEARN_LEAST_S: Final = 5.0
RELEARN_S: Final = 600.0
"""And no more often than this for what has been refused again and again."""


@dataclass(slots=True)
class Relearning:
    """Of one set of registers."""

    since_s: float | None = None
    """When something was refused last; None: nothing is missing."""
    wait_s: float = RELEARN_LEAST_S

    @classmethod
    def known(cls, since_s: float) -> Relearning:
        """Of registers that are known to be refused from before."""
        return cls(since_s, RELEARN_S)

    def is_due(self, now_s: float) -> bool:
        """Whether to ask for everything again."""
        return self.since_s is not None and now_s - self.since_s >= self.wait_s

    def asked(self, now_s: float, *, again: bool, refused: bool) -> None:
        """What came of a poll: `again`, everything was asked for again; `refused`, something was refused just now."""
        if refused:
            self.wait_s = min(RELEARN_S, 2 * self.wait_s) if again else RELEARN_LEAST_S
            self.since_s = now_s
        elif again:
            self.since_s, self.wait_s = None, RELEARN_LEAST_S
