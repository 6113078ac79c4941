"""One thread that owns the module: a bounded queue in front of it, a deadline on every request.

PKCS#11 modules are initialised without locking, and two threads inside one crash the process; more threads would gain
nothing anyway. Knows nothing of PKCS#11: what it runs is given to it.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

from agent.token.errors import TokenBusyError, TokenUnavailableError

_log = structlog.get_logger()

T = TypeVar("T")

IDLE_FAULT_WAIT_S: Final = 5.0


@dataclass(slots=True)
class _Request(Generic[T]):
    work: Callable[[], T]
    deadline_s: float
    """On the monotonic clock: afterwards nobody waits for it any more."""
    future: Future[T]

    def given_up(self) -> bool:
        """Whether it was cancelled; tells those who wait for the future so."""
        return self.future.cancelled() and not self.future.set_running_or_notify_cancel()

    def run(self, now_s: float) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if now_s > self.deadline_s:
            self.future.set_exception(TokenBusyError("the request waited for the token beyond its deadline"))
            return
        try:
            result = self.work()
        except BaseException as error:
            # Whatever it was, it belongs to the one who asked; this thread serves the next.
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Owner:
    """Runs requests one after the other, and `idle` in between. `submit` is for any thread and never blocks."""

    def __init__(
        self,
        *,
        idle: Callable[[], float],
        end: Callable[[], None],
        queue_limit: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """idle: upkeep, gives the seconds until it wants to be called again. end: the thread's last act."""
        self._idle = idle
        self._end = end
        self._queue_limit = queue_limit
        self._monotonic_s = monotonic_s
        self._waiting: deque[_Request[object]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._nudged = False
        self._busy_since_s: float | None = None
        # A daemon: a module that hangs inside a call must not keep the process from ending.
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="token-owner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], T], within_s: float) -> Future[T]:
        """Queue a request.

        Raises TokenBusyError when the queue is full, TokenUnavailableError after `stop`, and in a fork of the process.
        """
        if os.getpid() != self._process:
            # Before the lock, which a thread that is not here may hold for ever. The module's state is half a copy.
            raise TokenUnavailableError("the token belongs to the process that opened it, and this is a fork of it")
        request = _Request(work, self._monotonic_s() + within_s, Future())
        with self._changed:
            if self._stopping:
                raise TokenUnavailableError("the token has been closed")
            if len(self._waiting) >= self._queue_limit:
                # Whoever has given up must not keep the place of somebody who waits.
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.given_up())
            if len(self._waiting) >= self._queue_limit:
                raise TokenBusyError(f"the token is busy: {self._queue_limit} requests are waiting; ask again later")
            self._waiting.append(request)  # type: ignore[arg-type]  # each request keeps its own type to itself
            self._changed.notify()
        return request.future

    def nudge(self) -> None:
        """Have `idle` called soon."""
        with self._changed:
            self._nudged = True
            self._changed.notify()

    def busy_for_s(self) -> float:
        """How long the request that runs now has been running; 0 when none is."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else self._monotonic_s() - since_s

    def stop(self) -> None:
        """End after the request that runs now; the others fail. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; False when it has not come (the module hangs in a call)."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            wait_s = self._upkeep()
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping or self._nudged, wait_s)
                self._nudged = False
            if self._stopping:
                break
            self._serve()
        with self._changed:
            left, self._waiting = self._waiting, deque()
        for request in left:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(TokenUnavailableError("the token has been closed"))
        self._end()

    def _serve(self) -> None:
        """Everything that waits now; upkeep comes after each round, so a full queue cannot starve it for ever."""
        for _ in range(len(self._waiting)):
            if self._stopping:
                return
            with self._changed:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            self._busy_since_s = self._monotonic_s()
            try:
                request.run(self._busy_since_s)
            finally:
                self._busy_since_s = None

    def _upkeep(self) -> float:
        self._busy_since_s = self._monotonic_s()
        try:
            return self._idle()
        except Exception:
            # As text: a pretty traceback shows local variables, and one of those may be a PIN.
            _log.error("token.upkeep_failed", traceback=traceback.format_exc())
            return IDLE_FAULT_WAIT_S
        finally:
            self._busy_since_s = None
