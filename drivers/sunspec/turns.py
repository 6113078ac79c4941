"""Whose turn it is on a line: one at a time, in order of asking, and orders before polls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

from drivers.sunspec.errors import NoAnswerError

MOST_WAITING: Final = 256
"""Of each kind, on one line: more than its units can have. Beyond it a request fails at once."""

_urgent: ContextVar[bool] = ContextVar("sunspec_urgent", default=False)


@asynccontextmanager
async def urgently() -> AsyncIterator[None]:
    """Inside, every request of this task overtakes the polls that wait on its line. Writes do so anyway."""
    token = _urgent.set(True)
    try:
        yield
    finally:
        _urgent.reset(token)


def is_urgent() -> bool:
    """Whether this task asks `urgently`."""
    return _urgent.get()


class Turns:
    """A lock with two queues, bounded. `take` is followed by `give_back` in every case but its own failure."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._taken = False
        self._orders: deque[asyncio.Future[None]] = deque()
        self._polls: deque[asyncio.Future[None]] = deque()

    def take_at_once(self) -> bool:
        """Whether nobody has it: it is ours then."""
        if self._taken:
            return False
        self._taken = True
        return True

    async def take(self, *, urgent: bool) -> None:
        """Wait for our turn. Raises NoAnswerError when too many wait."""
        if not self.take_at_once():
            await self._wait(urgent)

    async def _wait(self, urgent: bool) -> None:
        queue = self._orders if urgent else self._polls
        if len(queue) >= MOST_WAITING:
            raise NoAnswerError(f"{self._where}: {len(queue)} requests wait already; is it slow, or polled too often?")
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # Whoever gave a turn back meanwhile may have passed it over already.
                if turn in queue:
                    queue.remove(turn)
            else:
                # The turn was ours already when we were cancelled.
                self.give_back()
            raise

    def give_back(self) -> None:
        """The next one's turn."""
        for queue in (self._orders, self._polls):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._taken = False
