"""A fault that lasts: begun with an end in mind, ended early on order, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Outage:
    """Active until a moment of the monotonic clock."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._until_s = 0.0
        self._changed = asyncio.Event()

    @property
    def active(self) -> bool:
        return self._monotonic_s() < self._until_s

    def begin(self, seconds: float) -> None:
        """Active for so long from now; 0 ends it."""
        self._until_s = self._monotonic_s() + seconds
        self._changed.set()

    def end(self) -> None:
        self.begin(0.0)

    async def over(self) -> None:
        """Returns once it is not active, at once when it never was."""
        while (left_s := self._until_s - self._monotonic_s()) > 0:
            self._changed.clear()
            await _either(self._changed, left_s)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
