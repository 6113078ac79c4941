"""When a device is looked at next: on a grid of periods while it answers, after a growing pause while it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

RETRY_LEAST_S: Final = 1.0
RETRY_MOST_S: Final = 5.0


class Ticks:
    """Of one device. Begins at once."""

    def __init__(self, period_s: float, monotonic_s: Callable[[], float]) -> None:
        self._period_s = period_s
        self._monotonic_s = monotonic_s
        self._due_s = monotonic_s()
        self._retry_s = RETRY_LEAST_S

    def answered(self) -> None:
        """Ticks that were missed are left out, and the grid of ticks stays where it was."""
        self._retry_s = RETRY_LEAST_S
        missed = (self._monotonic_s() - self._due_s) // self._period_s
        self._due_s += self._period_s * (max(0.0, missed) + 1)

    def failed(self) -> None:
        """No look was possible."""
        self._due_s = self._monotonic_s() + max(self._retry_s, self._period_s)
        self._retry_s = min(RETRY_MOST_S, self._retry_s * 2)

    async def next(self) -> None:
        """Wait for the next one."""
        await asyncio.sleep(max(0.0, self._due_s - self._monotonic_s()))
