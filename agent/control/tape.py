"""Notes what the core of control is given and what it says, event by event, for the record of decisions.

Never in anybody's way: it keeps references to values that do not change; the log encodes and writes them later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.control.admission import Policy
from agent.control.decision_log import SEGMENT_S, DecisionLog
from agent.control.decisions import Cause
from agent.control.errors import ControlError
from agent.control.events import Given, Kind, Look, Memory, Noted
from agent.control.inputs import InputClamp
from agent.control.onlooker import Onlooker
from agent.control.order import Now
from agent.control.plan import Plan
from agent.control.site import Held
from agent.evidence.statements import Statement
from agent.identity.trust import TrustList


class Tape:
    """One for the gateway. Everything that the core is told comes within `event`."""

    def __init__(
        self,
        log: DecisionLog,
        *,
        memory: Callable[[bool], Memory],
        before: Callable[[], None],
        midway: Callable[[], bool],
        backlog: Callable[[], int],
        moment: Callable[[], tuple[Now, float]],
        monotonic_s: Callable[[], float],
    ) -> None:
        """`memory`: all that the core goes by now, told whether it continues what is noted already.

        `before`: what the core has put off comes before the next event. `midway`: the core is between a plan and the
        books about it, which no memory holds.
        """
        self._log = log
        self._memory, self._before, self._midway, self._backlog = memory, before, midway, backlog
        self._moment, self._clock_s = moment, monotonic_s
        self._open: Noted | None = None
        self._held: dict[str, Held | None] = {}
        self._broken = True
        """Something is not noted: a memory comes first."""
        self._memory_s = float("-inf")
        self._now_s: float | None = None

    def monotonic_s(self) -> float:
        """The moment of the event: all that the core does upon one happens at one moment."""
        return self._clock_s() if self._now_s is None else self._now_s

    @contextmanager
    def event(self, kind: Kind, given: Given, at: tuple[Now, float] | None = None) -> Iterator[None]:
        """The core is given something."""
        self._before()
        now, self._now_s = at or self._moment()
        try:
            if not self._log.takes(self._now_s):
                self._broken = True
                yield
                return
            self._begin(kind, given, now, self._now_s)
            try:
                yield
            except ControlError as error:
                self.answer(str(error))
                self._end()
                raise
            except BaseException:
                self._broken, self._open = True, None  # Half of it may have happened.
                raise
            self._end()
        finally:
            self._now_s = None

    def _begin(self, kind: Kind, given: Given, now: Now, now_s: float) -> None:
        self._broken |= self._log.taken_loss()
        if (self._broken or now_s - self._memory_s >= SEGMENT_S) and not self._midway():
            self._broken, self._memory_s = not self._log.note(self._memory(not self._broken)), now_s
        if self._broken:
            return
        self._open = Noted(kind=kind, given=given, now=now, monotonic_s=now_s, backlog=self._backlog())

    def _end(self) -> None:
        noted, self._open = self._open, None
        if noted is not None and not self._log.note(noted):
            self._broken = True

    def anew(self) -> None:
        """The core has come to know something otherwise: what follows does not follow from what is noted."""
        self._broken = True

    # -- during an event

    def held(self, held: Callable[[str], Held | None]) -> Callable[[str], Held | None]:
        """The same, listened to."""

        def listened(name: str) -> Held | None:
            holds = held(name)
            if self._open is not None:
                self._held[name] = holds
            return holds

        return listened

    def policy(self, policy: Callable[[], Policy]) -> Callable[[], Policy]:
        """The same, listened to."""

        def listened() -> Policy:
            told = policy()
            if self._open is not None:
                self._open.policy = told
            return told

        return listened

    def trust(self, trust: Callable[[], TrustList | None]) -> Callable[[], TrustList | None]:
        """The same, listened to."""

        def listened() -> TrustList | None:
            told = trust()
            if self._open is not None:
                self._open.trust = told
            return told

        return listened

    def draw(self, draw: Callable[[], float]) -> Callable[[], float]:
        """The same, listened to."""

        def listened() -> float:
            drawn = draw()
            if self._open is not None:
                self._open.drawn.append(drawn)
            return drawn

        return listened

    def looked(self, looks: Onlooker, stop: str | None, clamps: tuple[InputClamp, ...]) -> None:
        """The site was looked at."""
        if self._open is not None:
            held, self._held = self._held, {}
            self._open.looks.append(Look(statuses=tuple(looks.newest.values()), held=held, stop=stop, clamps=clamps))

    def note(self, cause: Cause, plan: Plan) -> None:
        """A plan was made."""
        if self._open is not None:
            self._open.decisions.append((cause, plan))

    def heard(self, said: Sequence[Statement]) -> None:
        """Something was said."""
        if self._open is not None:
            self._open.said += said

    def answer(self, answer: str) -> None:
        """To whoever asked."""
        if self._open is not None:
            self._open.answer = answer
