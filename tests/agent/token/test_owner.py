"""The owner thread: one at a time, a bounded queue, deadlines, an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

import pytest

from agent.token.errors import TokenBusyError, TokenUnavailableError
from agent.token.owner import Owner

PATIENCE_S = 10.0
FOREVER_S = 3600.0


@dataclass
class Bench:
    """An owner whose thread can be held inside a request, on a clock that stands until it is moved."""

    queue_limit: int = 4
    now_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    may_leave: threading.Event = field(default_factory=threading.Event)
    upkeeps: int = 0

    def __post_init__(self) -> None:
        self.owner = Owner(
            idle=self._upkeep, end=self.ended.set, queue_limit=self.queue_limit, monotonic_s=lambda: self.now_s
        )
        self.owner.start()

    def _upkeep(self) -> float:
        self.upkeeps += 1
        return FOREVER_S

    def hang(self) -> Future[None]:
        """A request that keeps the thread inside until `may_leave`."""

        def work() -> None:
            self.entered.set()
            assert self.may_leave.wait(PATIENCE_S)

        future = self.owner.submit(work, FOREVER_S)
        assert self.entered.wait(PATIENCE_S)
        return future


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.may_leave.set()
    made.owner.stop()
    assert made.owner.join(PATIENCE_S)


def test_requests_run_one_at_a_time_in_order_on_one_thread(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    first = bench.hang()
    futures = [bench.owner.submit(lambda n=n: seen.append((n, threading.get_ident())), FOREVER_S) for n in range(4)]  # type: ignore[misc]
    assert seen == []
    bench.may_leave.set()
    for future in [first, *futures]:
        future.result(PATIENCE_S)
    assert [n for n, _ in seen] == [0, 1, 2, 3]
    assert len({thread for _, thread in seen}) == 1
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_a_full_queue_refuses_at_once(bench: Bench) -> None:
    bench.hang()
    for _ in range(bench.queue_limit):
        bench.owner.submit(lambda: None, FOREVER_S)
    with pytest.raises(TokenBusyError, match="4 requests are waiting"):
        bench.owner.submit(lambda: None, FOREVER_S)


def test_a_request_that_was_given_up_leaves_its_place_to_others(bench: Bench) -> None:
    bench.hang()
    waiting = [bench.owner.submit(lambda: None, FOREVER_S) for _ in range(bench.queue_limit)]
    assert waiting[1].cancel()
    in_its_place = bench.owner.submit(lambda: 7, FOREVER_S)
    with pytest.raises(TokenBusyError):
        bench.owner.submit(lambda: None, FOREVER_S)
    bench.may_leave.set()
    assert in_its_place.result(PATIENCE_S) == 7


def test_a_request_past_its_deadline_is_never_run(bench: Bench) -> None:
    ran: list[str] = []
    bench.hang()
    late = bench.owner.submit(lambda: ran.append("late"), 5.0)
    in_time = bench.owner.submit(lambda: ran.append("in time"), 7.0)
    bench.now_s = 6.0
    bench.may_leave.set()
    in_time.result(PATIENCE_S)
    with pytest.raises(TokenBusyError, match="deadline"):
        late.result(PATIENCE_S)
    assert ran == ["in time"]


def test_a_cancelled_request_is_never_run(bench: Bench) -> None:
    ran: list[str] = []
    bench.hang()
    cancelled = bench.owner.submit(lambda: ran.append("cancelled"), FOREVER_S)
    after = bench.owner.submit(lambda: ran.append("after"), FOREVER_S)
    assert cancelled.cancel()
    bench.may_leave.set()
    after.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE_S)
    assert ran == ["after"]


def test_an_error_goes_to_the_one_who_asked_and_the_thread_goes_on(bench: Bench) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.owner.submit(fail, FOREVER_S).result(PATIENCE_S)
    assert bench.owner.submit(lambda: 7, FOREVER_S).result(PATIENCE_S) == 7


def test_stopping_fails_what_waits_and_refuses_what_comes(bench: Bench) -> None:
    running = bench.hang()
    waiting = bench.owner.submit(lambda: None, FOREVER_S)
    bench.owner.stop()
    bench.may_leave.set()
    running.result(PATIENCE_S)
    with pytest.raises(TokenUnavailableError, match="closed"):
        waiting.result(PATIENCE_S)
    assert bench.ended.wait(PATIENCE_S)
    with pytest.raises(TokenUnavailableError, match="closed"):
        bench.owner.submit(lambda: None, FOREVER_S)


def test_a_hanging_module_is_seen_from_outside(bench: Bench) -> None:
    hanging = bench.hang()
    bench.now_s = 40.0
    assert bench.owner.busy_for_s() == 40.0
    assert not bench.owner.join(0.0)
    bench.may_leave.set()
    hanging.result(PATIENCE_S)
    bench.owner.submit(lambda: None, FOREVER_S).result(PATIENCE_S)


def test_upkeep_that_fails_does_not_end_the_thread() -> None:
    calls = threading.Semaphore(0)

    def upkeep() -> float:
        calls.release()
        raise ZeroDivisionError

    owner = Owner(idle=upkeep, end=lambda: None, queue_limit=1)
    owner.start()
    try:
        assert calls.acquire(timeout=PATIENCE_S)
        assert owner.submit(lambda: 1, FOREVER_S).result(PATIENCE_S) == 1
        owner.nudge()
        assert calls.acquire(timeout=PATIENCE_S)
    finally:
        owner.stop()
        assert owner.join(PATIENCE_S)


def test_an_owner_that_was_never_started_can_be_closed() -> None:
    owner = Owner(idle=lambda: FOREVER_S, end=lambda: None, queue_limit=1)
    owner.stop()
    assert owner.join(0.0)
