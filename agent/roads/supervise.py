"""Keeps the parts of the agent running beside one another: a part that fails is started again, the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

CANCEL_AGAIN_S: Final = 0.5
AGAIN_LEAST_S: Final = 1.0
AGAIN_MOST_S: Final = 30.0
STEADY_S: Final = 60.0
"""A part that ran this long begins with the shortest wait again."""

log = structlog.get_logger()


class Supervisor:
    """Starts parts in a TaskGroup, and knows which of them is down and why."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self.down: dict[str, str] = {}
        """Parts that failed and wait for their next start, with the reason."""

    def keep(self, group: asyncio.TaskGroup, name: str, part: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `part` in the group until it is cancelled; a part that ends or raises is started again."""
        return group.create_task(self._run(name, part), name=name)

    def once(self, group: asyncio.TaskGroup, name: str, part: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `part` in the group until it has returned; one that raises is started again."""
        return group.create_task(self._run(name, part, may_end=True), name=name)

    async def _run(self, name: str, part: Callable[[], Awaitable[None]], *, may_end: bool = False) -> None:
        wait_s = AGAIN_LEAST_S
        while True:
            started_s = self._monotonic_s()
            try:
                self.down.pop(name, None)
                await part()
                if may_end:
                    return
                reason = "ended by itself"
            except Exception as error:
                # One part's fault must stop no other; CancelledError and KeyboardInterrupt pass.
                reason = _reason(error)
                log.exception("part.failed", part=name)
            self.down[name] = reason
            if self._monotonic_s() - started_s >= STEADY_S:
                wait_s = AGAIN_LEAST_S
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, AGAIN_MOST_S)


def _reason(error: Exception) -> str:
    """What failed, for a person: of a group of tasks the first that did."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def cancel_all(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until they have ended: before Python 3.13 a TaskGroup can lose a cancellation (python/cpython#116720)."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    tasks.clear()
