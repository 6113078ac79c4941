"""Tasks that live and end together, where `asyncio.TaskGroup` would lose a cancellation.

Before Python 3.13 a TaskGroup whose child fails in the moment in which its own task is cancelled raises the child's
error and the cancellation is gone (python/cpython#116720). Whoever goes on after an error, as everything here does that
connects again, must not stand on that: a lost cancellation is a task that never ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from agent.uplink.errors import LinkDownError


class Together:
    """`start` some, then `run`: until all have returned, or one raises, which ends the others and is raised.

    A cancellation from outside ends them all and always wins.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order of their start
        self._ended = asyncio.Event()

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """May be called before `run` and, by the tasks themselves, while it runs."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda _: self._ended.set())
        return task

    async def run(self) -> None:
        """Raises what the first task that failed raised. LinkDownError for one that was cancelled from elsewhere."""
        try:
            while self._tasks:
                self._ended.clear()
                for task in [task for task in self._tasks if task.done()]:
                    del self._tasks[task]
                    if task.cancelled():
                        raise LinkDownError("the call was cancelled")
                    task.result()
                if self._tasks:
                    await self._ended.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def together(*work: Coroutine[None, None, None]) -> None:
    """Run these and no others: see `Together.run`."""
    tasks = Together()
    for each in work:
        tasks.start(each)
    await tasks.run()
