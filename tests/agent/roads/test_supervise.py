"""A part that fails is started again, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.roads import supervise
from agent.roads.supervise import AGAIN_LEAST_S, AGAIN_MOST_S, STEADY_S, Supervisor

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the supervisor waits between two starts, s. Here the waits pass at once."""
    waited: list[float] = []
    turn = asyncio.sleep

    async def pass_at_once(delay: float) -> None:
        waited.append(delay)
        await turn(0)

    monkeypatch.setattr(supervise.asyncio, "sleep", pass_at_once)  # type: ignore[attr-defined]
    return waited


class Part:
    """Fails in these ways one after the other (None: ends), then works until it is cancelled."""

    def __init__(self, *failures: Exception | None) -> None:
        self._failures = list(failures)
        self.starts = 0
        self.working = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        self.starts += 1
        if self._failures:
            failure = self._failures.pop(0)
            if failure is None:
                return
            raise failure
        self.working.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@contextlib.asynccontextmanager
async def kept(supervisor: Supervisor, **parts: Part) -> AsyncIterator[None]:
    """The parts under supervision, once all of them work; cancelled at the end."""
    async with asyncio.TaskGroup() as group:
        tasks = [supervisor.keep(group, name, part.run) for name, part in parts.items()]
        async with asyncio.timeout(PATIENCE_S):
            for part in parts.values():
                await part.working.wait()
        yield
        for task in tasks:
            task.cancel()


async def test_a_part_that_fails_is_started_again_and_the_others_go_on() -> None:
    failing, steady = Part(RuntimeError("first"), RuntimeError("second")), Part()
    supervisor = Supervisor(lambda: 0.0)
    async with kept(supervisor, failing=failing, steady=steady):
        assert (failing.starts, steady.starts) == (3, 1)
        assert not steady.cancelled
        assert supervisor.down == {}


async def test_a_part_that_ends_by_itself_is_started_again() -> None:
    part = Part(None)
    async with kept(Supervisor(lambda: 0.0), part=part):
        assert part.starts == 2


async def test_what_is_down_is_named_until_it_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(lambda: 0.0)
    seen: list[dict[str, str]] = []

    async def look(_: float) -> None:
        seen.append(dict(supervisor.down))

    monkeypatch.setattr(supervise.asyncio, "sleep", look)  # type: ignore[attr-defined]
    inner = ExceptionGroup("tasks", [ExceptionGroup("more", [OSError("no such port")])])
    async with kept(supervisor, part=Part(ValueError("a bad value"), None, inner)):
        assert supervisor.down == {}
    assert seen == [
        {"part": "ValueError: a bad value"},
        {"part": "ended by itself"},
        {"part": "OSError: no such port"},
    ]


async def test_starts_come_further_and_further_apart_up_to_a_limit(waits: list[float]) -> None:
    async with kept(Supervisor(lambda: 0.0), part=Part(*[RuntimeError("again")] * 8)):
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        assert (waits[0], waits[-1]) == (AGAIN_LEAST_S, AGAIN_MOST_S)


async def test_a_part_that_was_steady_begins_with_the_shortest_wait_again(waits: list[float]) -> None:
    # Read at each start and each end: the third run is a long one.
    times = iter([0.0, 0.0, 0.0, 0.0, 0.0, STEADY_S, 0.0, 0.0, 0.0])
    async with kept(Supervisor(lambda: next(times)), part=Part(*[RuntimeError("again")] * 4)):
        assert waits == [1.0, 2.0, 1.0, 2.0]


async def test_cancelling_ends_a_part_and_is_no_failure() -> None:
    part = Part()
    supervisor = Supervisor(lambda: 0.0)
    async with kept(supervisor, part=part):
        pass
    assert part.cancelled
    assert (part.starts, supervisor.down) == (1, {})


async def test_a_step_that_is_done_once_is_tried_until_it_returns_and_not_again() -> None:
    supervisor = Supervisor(lambda: 0.0)
    step = Part(RuntimeError("not yet"), RuntimeError("nor now"), None)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        await supervisor.once(group, "step", step.run)
    assert step.starts == 3
    assert supervisor.down == {}
