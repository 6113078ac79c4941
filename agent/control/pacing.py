"""When the next plan is made: each interval, sooner for a meter sample, at once for what cannot wait."""

from __future__ import annotations

import asyncio
from typing import Final

LEAST_BETWEEN_PLANS_S: Final = 0.2
"""Meter samples do not bring a plan more often; commands and STOP do."""
AFTER_CHANGE_S: Final = 0.001
"""A plan for the moment at which something starts or ends is made so long after it, and not just before."""


class Pacing:
    """One for the controller, whose task alone waits here; `soon` and `hurry` are for everybody on the loop."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        """Something came: another plan soon."""
        self._urgent = asyncio.Event()
        """A command or STOP came: another plan now."""

    def begin(self) -> None:
        """A plan is made: what comes from now on brings the next one."""
        self._wake.clear()
        self._urgent.clear()

    def soon(self) -> None:
        """Something came that a plan should know."""
        self._wake.set()

    def hurry(self) -> None:
        """Something came that does not wait."""
        self._urgent.set()
        self._wake.set()

    async def rest(self, timeout_s: float) -> None:
        """Until it is time for another plan."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        if await _set_within(self._wake, timeout_s):
            await self.calm(LEAST_BETWEEN_PLANS_S - (loop.time() - begun_s))

    async def calm(self, timeout_s: float) -> None:
        """So long, or until something cannot wait."""
        await _set_within(self._urgent, timeout_s)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event is set, waiting for it at most so long."""
    if event.is_set() or timeout_s <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
