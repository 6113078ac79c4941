"""How fast a peer may come: a token bucket, without a clock of its own."""

from __future__ import annotations


class Pace:
    """Lets `burst` pass at once and `per_s` in the long run. Costs are tokens; what a token is, the owner says."""

    __slots__ = ("_burst", "_left", "_per_s", "_seen_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left = burst
        self._seen_s = float("-inf")

    def take(self, cost: float, now_s: float) -> float:
        """Spend `cost`, in debt if need be. Returns how many seconds to wait before going on; 0 while all is well."""
        self._refill(now_s)
        self._left -= cost
        return 0.0 if self._left >= 0 else -self._left / self._per_s

    def allows(self, cost: float, now_s: float) -> bool:
        """Spend `cost` if it is there; whoever is refused spends nothing."""
        self._refill(now_s)
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def _refill(self, now_s: float) -> None:
        if now_s > self._seen_s:
            grown = self._burst if self._seen_s == float("-inf") else (now_s - self._seen_s) * self._per_s
            self._left = min(self._burst, self._left + grown)
            self._seen_s = now_s
