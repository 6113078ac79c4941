"""How long to wait before the next try: exponential, with jitter, and forgotten only after a connection that held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

GROWTH: Final = 2.0
STEADY_AFTER_S: Final = 10.0
"""A connection that lived this long was a good one. A shorter one counts as a failure, so that a platform which
accepts and drops at once is not hammered."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between `least_s` and `most_s`. `failures` in a row so far."""

    least_s: float
    most_s: float
    failures: int = 0

    def wait_s(self, draw: float) -> float:
        """Seconds to wait now; `draw` is a random number in [0, 1).

        Between half and all of the present ceiling: thousands of gateways that lost one platform together do not
        come back together.
        """
        if self.failures == 0:
            return 0.0
        # The exponent is capped: a float overflows after a thousand doublings.
        ceiling = min(self.most_s, self.least_s * GROWTH ** min(self.failures - 1, 64))
        return ceiling * (0.5 + draw / 2)

    def failed(self) -> Backoff:
        """After one more connection that did not come about or did not hold."""
        return replace(self, failures=self.failures + 1)

    def ended(self, lived_s: float, *, useful: bool) -> Backoff:
        """After a connection that lived `lived_s`; `useful` when the platform acknowledged something on it."""
        if useful or lived_s >= STEADY_AFTER_S:
            # One failure and not none: the first retry is quick, but never at once.
            return replace(self, failures=1)
        return self.failed()


def hinted_s(wait_s: float, hint_s: float, draw: float) -> float:
    """Seconds to wait where the platform gave a hint (0: none), which counts where it is longer.

    Up to a quarter more: it gives one number to all, and they shall not come back together.
    """
    return max(wait_s, hint_s * (1 + draw / 4))
