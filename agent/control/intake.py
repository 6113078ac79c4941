"""What comes from the platform is judged, and each message is answered: admitted, refused, or as it was before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agent.control.admission import Admitted, Duplicate, Nothing, Policy, Refused, Undecided, judge
from agent.control.answers import Answers
from agent.control.bookkeeping import Bookkeeping
from agent.control.bounds import NO_BOUNDS
from agent.control.bounds_ahead import Ahead
from agent.control.decisions import Cause
from agent.control.first_look import unseen
from agent.control.foresight import foresee
from agent.control.frequency_watch import Say
from agent.control.intake_memory import IntakeMemory, WaitingMemory
from agent.control.order import Now, Order
from agent.control.ordered import DAY_US
from agent.control.plain import plain_hash
from agent.control.plan import Plan, make_plan
from agent.control.recorder import Recorder
from agent.control.schedule_admission import ScheduleKnown, ScheduleRefused
from agent.control.schedule_keeper import ScheduleKeeper, Taken
from agent.control.site import SiteView
from agent.control.undecided import UndecidedMessages, Waiting
from agent.evidence.statements import CommandReceipt, CommandState, Severity
from agent.identity.trust import TrustList
from proto.energysettlement.v1 import device_pb2

RESTORE_PATIENCE_S: Final = 5.0
"""Commands wait so long for the stored ones to be read; then what restricts goes ahead."""
LOOK_PATIENCE_S: Final = 5.0
"""After the start what allows power waits so long for its devices and the grid meter to be seen: what cannot be done
is to be said from the start, and nobody knows it yet."""
MOST_UNRECORDED: Final = 5_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What judging needs to know of everything else."""

    policy: Callable[[], Policy]
    trust: Callable[[], TrustList | None]
    look: Callable[[Now, tuple[Order, ...]], SiteView]
    """The site as it is now, with these orders in force."""
    ahead: Callable[[], Ahead]
    """What is known of the time to come."""
    restored: Callable[[], bool]
    """Whether the stored commands have been read."""
    stored: Callable[[bytes], None]
    """A command or schedule is committed; by its hash."""
    changed: Callable[[], None]
    """Another plan is due: a command acts before it is committed."""
    metered: Callable[[], bool]
    """Whether the site has a grid meter."""
    looks_first: bool
    """Whether what allows power waits for the first look at its devices; not by the rule of earlier releases."""
    monotonic_s: Callable[[], float]
    say: Say


class Intake:
    """One for the gateway. Never raises for what a peer sent; receipts go the way of all evidence."""

    def __init__(
        self,
        around: Around,
        *,
        books: Bookkeeping,
        schedules: ScheduleKeeper,
        recorder: Recorder,
        note: Callable[[Cause, Plan], None],
    ) -> None:
        self._around = around
        self._books = books
        self._schedules = schedules
        self._recorder = recorder
        self._note = note
        self._started_s = around.monotonic_s()
        self._undecided = UndecidedMessages()
        self._answers = Answers(self._started_s)
        self._flooded = False
        self._at_once = False
        """Whether no command waits for what has not been seen yet."""
        self.refused = 0

    def memory(self) -> IntakeMemory:
        """All that the next answers go by."""
        return IntakeMemory(
            started_s=self._started_s,
            flooded=self._flooded,
            answers=self._answers.memory(),
            undecided=tuple(
                WaitingMemory(message=w.message.SerializeToString(), device_id=w.device_id, since_s=w.since_s)
                for w in self._undecided.waiting()
            ),
        )

    def recall(self, memory: IntakeMemory) -> None:
        """Go on from there."""
        self._started_s, self._flooded = memory.started_s, memory.flooded
        self._answers.recall(memory.answers)
        self._undecided.recall(
            Waiting(device_pb2.GridCommand.FromString(w.message), w.device_id, w.since_s) for w in memory.undecided
        )

    def take(self, taken: Waiting, now: Now) -> None:
        """Judge a message and do what follows; one that cannot be judged waits."""
        message, device_id = taken.message, taken.device_id
        policy = self._around.policy()
        decision = judge(
            message,
            device_id,
            policy,
            self._around.trust(),
            self._books.book,
            now,
            lambda issuer: self._schedules.ordered(issuer, now),
        )
        restrictive = isinstance(decision, Admitted) and decision.order.command.restrictive
        if isinstance(decision, Admitted) and self._recorder.backlog > MOST_UNRECORDED * (1 + restrictive):
            decision = Undecided("nothing can be recorded at present, and too much waits for it", restrictive)
        if not self._around.restored() and not (restrictive and self._waited_for_store()):
            decision = Undecided("the stored commands have not been read yet", restrictive=restrictive)
        elif not policy.gateway_id and message.authorization:
            decision = Undecided("the gateway's own key has not been seen yet", restrictive=restrictive)
        elif isinstance(decision, Admitted) and (awaited := self._awaited(decision.order, now)):
            decision = Undecided(awaited, restrictive=False)
        match decision:
            case Undecided(reason) if not self._undecided.keep(taken, self._around.monotonic_s()):
                self._refuse(Refused(plain_hash(message, device_id), message.command_id[:255], reason), now)
            case Nothing() | Undecided():
                pass
            case Refused():
                self._refuse(decision, now)
            case Duplicate(entry):
                if entry.durable:
                    self._answer_again(entry.order.hash, entry.receipts)
            case Admitted(order):
                if order.command.cancels:
                    self._judge_those_that_wait(now)  # It may speak of one of them.
                self._admit(order, now)

    def take_undecided(self, now: Now) -> None:
        """Those that waited, once more."""
        for waiting in self._undecided.take():
            self.take(waiting, now)

    def take_schedule(self, signed: bytes, now: Now) -> None:
        """A schedule that was sent ahead."""
        if self._recorder.backlog > MOST_UNRECORDED:
            self.refused += 1  # It is not judged, so its number stays free, and its issuer sends it again.
            return
        since_us = now.wall_us - DAY_US
        policy, trust = self._around.policy(), self._around.trust()
        match self._schedules.receive(signed, policy, trust, now, lambda who: self._books.book.ordered(who, since_us)):
            case ScheduleRefused(hash_, reason, alarm):
                self._refuse(Refused(hash_, "schedule", reason, alarm=alarm), now)
            case ScheduleKnown(agreed):
                self._answer_again(agreed.hash, agreed.receipts)
            case Taken() as taken:
                notes = self._schedules.take_notes()
                self._recorder.submit(taken.receipts, notes, lambda: self._around.stored(taken.hash))

    def forget(self, order_hash: bytes) -> None:
        """That it was answered."""
        self._answers.forget(order_hash)

    def _waited_for_store(self) -> bool:
        return self._around.monotonic_s() - self._started_s >= RESTORE_PATIENCE_S

    def _awaited(self, order: Order, now: Now) -> str:
        """What is to be seen before anybody can say what a command will come to; empty: it is answered now."""
        left_s = self._started_s + LOOK_PATIENCE_S - self._around.monotonic_s()
        if self._at_once or not self._around.looks_first or left_s <= 0:
            return ""
        if order.command.end_us <= now.wall_us + round(left_s * 1e6):
            return ""  # It would only wait for its own end.
        return unseen(order.command, self._around.look(now, (order,)), metered=self._around.metered())

    def _judge_those_that_wait(self, now: Now) -> None:
        """Without waiting for what is not seen yet."""
        before, self._at_once = self._at_once, True
        self.take_undecided(now)
        self._at_once = before

    def _admit(self, order: Order, now: Now) -> None:
        # What the plan could make of it, were it alone and its time now, decides between ACCEPTED and PARTIAL; what
        # the local bounds leave to it is gone through with its whole time.
        view = replace(self._around.look(now, (order,)), bounds=NO_BOUNDS)
        plan = make_plan(view)
        self._note(Cause.ADMISSION, plan)
        state, reason = foresee(order, plan, view, self._around.ahead())
        if state is CommandState.PARTIAL and (not_seen := unseen(order.command, view, metered=self._around.metered())):
            reason = f"{not_seen}: {reason}"[:500]
        log.info("control.command", command=order.command_id, hash=order.hash.hex()[:16], state=state.name)
        self._answers.note(order.hash, self._around.monotonic_s())
        self._books.adopt(self._books.book.admitted(order, state, reason, now), lambda: self._around.stored(order.hash))
        if order.command.restrictive:
            self._around.changed()  # The others are in no plan before they are committed.

    def _refuse(self, refusal: Refused, now: Now) -> None:
        self.refused += 1
        answered = self._answers.refusal(refusal.hash)
        if answered is not None:
            self._answer_again(refusal.hash, (answered,))
            return
        monotonic_s = self._around.monotonic_s()
        if self._recorder.backlog > MOST_UNRECORDED or not self._answers.may_refuse(monotonic_s):
            if not self._flooded:
                self._flooded = True
                text = "more messages are refused than can be answered; they are counted only"
                self._around.say(Severity.WARNING, "command.flood", refusal.command_id, text)
            return
        self._flooded = False
        log.warning("control.refused", command=refusal.command_id, reason=refusal.reason)
        if refusal.alarm:
            self._around.say(Severity.CRITICAL, "command.equivocation", refusal.command_id, refusal.reason)
        change = self._books.book.refused(refusal.hash, refusal.command_id, refusal.order, refusal.reason, now)
        self._books.adopt(change)
        self._answers.note(refusal.hash, monotonic_s)
        if refusal.order is None:
            self._answers.keep_refusal(refusal.hash, change.receipts[0])

    def _answer_again(self, key: bytes, receipts: tuple[CommandReceipt, ...]) -> None:
        """The same receipts for the same message, and not more often than they can be of use."""
        if self._answers.is_due(key, self._around.monotonic_s()):
            self._answers.note(key, self._around.monotonic_s())
            self._recorder.submit(receipts, {})
