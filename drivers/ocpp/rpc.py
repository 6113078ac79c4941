"""The RPC engine of one connection, without I/O: frames and moments in, events and frames out (OCPP-J section 4).

    engine.receive(message, now_s)       -> events; answers that the peer deserves are queued by themselves
    engine.ask(...), .answer(...), .send(...)  -> frames are queued
    engine.expire(now_s)                 -> events for calls that nobody answered in time
    engine.frames_to_send()              -> what to put on the wire, in order

The rules it keeps: one call of ours is under way at a time, the others wait by priority; a deadline counts from when a
call was asked for, not from when it went out; every call that was asked comes to exactly one end (CallAnswered or
CallFailed), unless it was abandoned; every CALL of the peer gets exactly one answer, and a repeated one the same
answer again; nothing that the peer sends raises, and nothing grows without bound.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, TypeAlias

from drivers.ocpp import frames
from drivers.ocpp.discretion import action_name, without_secrets
from drivers.ocpp.errors import ErrorCode, NotInVersionError, OwnMistakeError, QueueFullError, quoted
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas

MOST_WAITING: Final = 32
"""Calls of ours that wait for one charger; more is a sign that it is dead."""
URGENT_RESERVE: Final = 8
"""Places beyond that which only URGENT calls may take."""
URGENT_PATIENCE_S: Final = 2.0
"""How long an URGENT call waits for the one under way, where that is less urgent: it then counts as timed out. The line
may be free only after a time-out, and a stop must not wait for a report that nobody answers."""
REMEMBERED_ANSWERS: Final = 64
REMEMBERED_LATE: Final = 32
MOST_UNANSWERED: Final = 32
"""Calls of the peer that we have not answered yet. The specification lets it have one."""
LONGEST_ACTION: Final = 64
"""Characters that are kept of the name of an action."""
HOPELESS_FAULTS: Final = 20
"""Bad frames in a row after which the connection is not worth keeping."""


_TELLS_TIME: Final = frozenset({"Heartbeat", "BootNotification"})
"""Actions whose answer sets the charger's clock: never answered from memory. Some chargers use a message id again."""


class Priority(IntEnum):
    """Which call goes first when the line is free; a lower number overtakes."""

    URGENT = 0
    """Stop, or less power than before."""
    CONTROL = 1
    ROUTINE = 2


class Failure(Enum):
    """How a call of ours came to nothing."""

    NEVER_SENT = "its deadline passed while others were under way"
    TIMED_OUT = "no answer before the deadline"
    REFUSED = "answered with CALLERROR"
    INVALID_ANSWER = "the answer is not what the specification allows"


@dataclass(frozen=True, slots=True)
class CallReceived:
    """The peer asks; `engine.answer` or `engine.refuse` must follow. The payload fits its schema."""

    message_id: str
    action: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class SendReceived:
    """The peer tells something that nobody answers (OCPP 2.1). The payload fits its schema."""

    message_id: str
    action: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """The answer to a call of ours. It fits its schema."""

    message_id: str
    action: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call of ours has ended without a usable answer."""

    message_id: str
    action: str
    failure: Failure
    code: str
    """The peer's CALLERROR code where it sent one."""
    description: str


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """The answer to a call that had timed out or was abandoned: too late to be used, good to know."""

    message_id: str
    action: str


@dataclass(frozen=True, slots=True)
class RepeatedCall:
    """The peer sent a CALL again that is answered already (or is about to be)."""

    message_id: str
    action: str


@dataclass(frozen=True, slots=True)
class AnswerRefused:
    """The peer cannot use an answer of ours (CALLRESULTERROR, OCPP 2.1)."""

    message_id: str
    action: str
    code: str
    description: str


@dataclass(frozen=True, slots=True)
class PeerFault:
    """The peer sent something wrong. It has been answered where the specification wants an answer."""

    code: ErrorCode
    description: str
    hopeless: bool
    """So many in a row that the connection should be closed."""


Event: TypeAlias = (
    CallReceived | SendReceived | CallAnswered | CallFailed | LateAnswer | RepeatedCall | AnswerRefused | PeerFault
)


@dataclass(slots=True)
class _Asked:
    action: str
    priority: Priority
    text: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class _Answered:
    action: str
    digest: int
    """Of the call's whole text; Python's own, whose key no peer knows."""
    text: str
    """Our answer."""


class RpcEngine:
    """One connection's engine. All times are seconds on one monotonic clock that the caller reads."""

    def __init__(self, version: Version) -> None:
        self._schemas = schemas(version)
        self._outgoing: deque[str] = deque()
        self._asked: dict[str, _Asked] = {}
        self._queue: list[tuple[int, int, str]] = []  # heap: priority, order of asking, message id
        self._order = 0
        self._under_way: str | None = None
        self._abandoned = False
        self._late: OrderedDict[str, str] = OrderedDict()  # message id -> action
        self._unanswered: dict[str, tuple[str, int]] = {}  # message id -> action, digest of the frame
        self._answered: OrderedDict[str, _Answered] = OrderedDict()
        self._faults_in_a_row = 0

    @property
    def version(self) -> Version:
        """What this connection speaks."""
        return self._schemas.version

    # --- our calls

    def ask(
        self, message_id: str, action: str, payload: JsonObject, *, priority: Priority, timeout_s: float, now_s: float
    ) -> None:
        """Queue a call. `message_id` is new and at most 36 characters.

        Raises OwnMistakeError for a payload that its schema forbids, NotInVersionError for an action that this
        connection's version lacks, QueueFullError when too many wait.
        """
        if not 1 <= len(message_id) <= frames.LONGEST_MESSAGE_ID or message_id in self._asked:
            raise OwnMistakeError(f"message id {quoted(message_id)} is not new or not of 1 to 36 characters")
        if not self._schemas.knows(action):
            versions = [version.value for version in Version if schemas(version).knows(action)]
            if versions:
                raise NotInVersionError(f"{action} is of {', '.join(versions)}; this charger speaks {self.version}")
            raise OwnMistakeError(f"{quoted(action)} is no action of any version")
        text = self._checked(action, Direction.REQUEST, payload, lambda: frames.call_text(message_id, action, payload))
        if len(self._asked) >= MOST_WAITING + (URGENT_RESERVE if priority is Priority.URGENT else 0):
            raise QueueFullError(f"{len(self._asked)} calls wait for this charger already; {action} was not sent")
        self._asked[message_id] = _Asked(action, priority, text, now_s + timeout_s)
        heapq.heappush(self._queue, (priority, self._order, message_id))
        self._order += 1
        if len(self._queue) > 2 * (MOST_WAITING + URGENT_RESERVE):  # mostly abandoned calls
            self._queue = [entry for entry in self._queue if entry[2] in self._asked]
            heapq.heapify(self._queue)
        if priority is Priority.URGENT and self._under_way is not None:
            under_way = self._asked[self._under_way]
            if under_way.priority > priority:
                under_way.deadline_s = min(under_way.deadline_s, now_s + URGENT_PATIENCE_S)
        self._send_next()

    def send(self, message_id: str, action: str, payload: JsonObject) -> None:
        """Queue a message that nobody answers. Raises OwnMistakeError for what this version forbids."""
        if not self._schemas.knows_send(action):
            raise OwnMistakeError(f"{quoted(action)} cannot be sent without an answer in {self.version}")
        text = self._checked(action, Direction.SEND, payload, lambda: frames.send_text(message_id, action, payload))
        self._outgoing.append(text)

    def abandon(self, message_id: str) -> None:
        """Nobody waits for this call any more. One that was sent keeps the line until it is answered or times out."""
        if message_id == self._under_way:
            self._abandoned = True
        else:
            self._asked.pop(message_id, None)

    def expire(self, now_s: float) -> list[Event]:
        """End the calls whose deadline has come."""
        events: list[Event] = []
        for message_id, asked in list(self._asked.items()):
            if asked.deadline_s > now_s:
                continue
            sent = message_id == self._under_way
            if sent:
                self._remember_late(message_id, asked.action)
            failure = Failure.TIMED_OUT if sent else Failure.NEVER_SENT
            self._end(message_id, CallFailed(message_id, asked.action, failure, "", failure.value), events)
        self._send_next()
        return events

    def next_deadline_s(self) -> float | None:
        """When `expire` has something to do next; None while no call waits."""
        return min((asked.deadline_s for asked in self._asked.values()), default=None)

    # --- the peer's calls

    def receive(self, message: str | bytes, now_s: float) -> list[Event]:
        """Take one WebSocket message."""
        events = self.expire(now_s) if self._asked else []
        frame = frames.parse_frame(message, self.version)
        match frame:
            case frames.Call():
                assert isinstance(message, str)
                self._receive_call(frame, hash(message), events)
            case frames.CallResult():
                self._receive_result(frame, events)
            case frames.CallErrorFrame():
                self._receive_error(frame, events)
            case frames.Send():
                self._receive_send(frame, events)
            case frames.CallResultErrorFrame():
                self._receive_result_error(frame, events)
            case frames.BadFrame():
                if frame.reply_to is not None:
                    self._outgoing.append(frames.error_text(frame.reply_to, frame.code, frame.description))
                self._fault(frame.code, frame.description, events)
        self._send_next()
        return events

    def answer(self, message_id: str, payload: JsonObject) -> None:
        """Answer a CallReceived. Raises OwnMistakeError for an answer that its schema forbids, or a second one."""
        action, digest = self._take_unanswered(message_id)
        try:
            text = self._checked(action, Direction.RESPONSE, payload, lambda: frames.result_text(message_id, payload))
        except OwnMistakeError:
            self._reply(message_id, action, digest, frames.error_text(message_id, ErrorCode.INTERNAL_ERROR, ""))
            raise
        self._reply(message_id, action, digest, text)

    def refuse(self, message_id: str, code: ErrorCode, description: str) -> None:
        """Answer a CallReceived with CALLERROR."""
        action, digest = self._take_unanswered(message_id)
        self._reply(message_id, action, digest, frames.error_text(message_id, code, description))

    def frames_to_send(self) -> list[str]:
        """The frames that have been queued since the last look, in order."""
        sending = list(self._outgoing)
        self._outgoing.clear()
        return sending

    # --- inside

    def _checked(self, action: str, direction: Direction, payload: JsonObject, text: Callable[[], str]) -> str:
        """What goes on the wire. Raises OwnMistakeError for what may not, or cannot."""
        try:
            violation = self._schemas.violation(action, direction, payload)
            if violation is None:
                return text()
        except (TypeError, ValueError) as error:  # integers beyond 64 bits, half characters: no JSON for them
            raise OwnMistakeError(f"our own {action} cannot be written: {error}") from error
        raise OwnMistakeError(f"our own message is not as specified: {violation.description}")

    def _receive_call(self, call: frames.Call, digest: int, events: list[Event]) -> None:
        message_id = call.message_id
        held = self._unanswered.get(message_id)
        if held is not None and held[1] == digest:
            events.append(RepeatedCall(message_id, held[0]))
            return
        answered = self._answered.get(message_id)
        if answered is not None and answered.digest == digest and call.action not in _TELLS_TIME:
            self._outgoing.append(answered.text)
            events.append(RepeatedCall(message_id, call.action))
            return
        # An old id with other content is a charger that numbers badly, not a repetition: it is taken as new, and what
        # must not count twice is recognised by its content (transaction events).
        refusal = self._refusal(call, held is not None)
        if refusal is not None:
            code, description = refusal
            self._reply(message_id, call.action, digest, frames.error_text(message_id, code, description))
            self._fault(code, description, events)
            return
        self._faults_in_a_row = 0
        self._unanswered[message_id] = (call.action, digest)
        events.append(CallReceived(message_id, call.action, call.payload))

    def _refusal(self, call: frames.Call, id_in_use: bool) -> tuple[ErrorCode, str] | None:
        if not self._schemas.knows(call.action):
            return ErrorCode.NOT_IMPLEMENTED, f"no action {action_name(call.action)} in {self.version}"
        if id_in_use:
            return ErrorCode.RPC_FRAMEWORK_ERROR, "another call with this message id is being answered"
        if len(self._unanswered) >= MOST_UNANSWERED:
            return ErrorCode.GENERIC_ERROR, f"{MOST_UNANSWERED} calls of yours are being answered; send one at a time"
        if violation := self._schemas.violation(call.action, Direction.REQUEST, call.payload):
            return violation.code, violation.description
        self._schemas.make_whole(call.action, Direction.REQUEST, call.payload)
        return None

    def _receive_result(self, result: frames.CallResult, events: list[Event]) -> None:
        asked = self._asked.get(result.message_id)
        if asked is None or result.message_id != self._under_way:
            self._unexpected(result.message_id, events)
            return
        violation = self._schemas.violation(asked.action, Direction.RESPONSE, result.payload)
        if violation is None:
            self._schemas.make_whole(asked.action, Direction.RESPONSE, result.payload)
            self._faults_in_a_row = 0
            self._end(result.message_id, CallAnswered(result.message_id, asked.action, result.payload), events)
            return
        failed = CallFailed(
            result.message_id, asked.action, Failure.INVALID_ANSWER, violation.code, violation.description
        )
        self._end(result.message_id, failed, events)
        if self.version is Version.V21:  # before, nothing could be said about an answer
            refusal = frames.result_error_text(result.message_id, violation.code, violation.description)
            self._outgoing.append(refusal)
        self._fault(violation.code, violation.description, events)

    def _receive_error(self, error: frames.CallErrorFrame, events: list[Event]) -> None:
        asked = self._asked.get(error.message_id)
        if asked is None or error.message_id != self._under_way:
            self._unexpected(error.message_id, events)
            return
        self._faults_in_a_row = 0
        code, text = (without_secrets(part, asked.text) for part in (error.code, error.description))
        description = f"{quoted(code, 50)}: {quoted(text, 120)}"
        failed = CallFailed(error.message_id, asked.action, Failure.REFUSED, error.code[:50], description)
        self._end(error.message_id, failed, events)

    def _receive_send(self, told: frames.Send, events: list[Event]) -> None:
        if not self._schemas.knows_send(told.action):
            self._fault(ErrorCode.NOT_IMPLEMENTED, f"nobody may SEND {action_name(told.action)}", events)
        elif violation := self._schemas.violation(told.action, Direction.SEND, told.payload):
            self._fault(violation.code, violation.description, events)
        else:
            self._schemas.make_whole(told.action, Direction.SEND, told.payload)
            self._faults_in_a_row = 0
            events.append(SendReceived(told.message_id, told.action, told.payload))

    def _receive_result_error(self, error: frames.CallResultErrorFrame, events: list[Event]) -> None:
        answered = self._answered.get(error.message_id)
        if answered is None:
            self._unexpected(error.message_id, events)
            return
        self._faults_in_a_row = 0
        code, text = (without_secrets(part, answered.text) for part in (error.code, error.description))
        events.append(AnswerRefused(error.message_id, answered.action, code[:50], quoted(text, 120)))

    def _unexpected(self, message_id: str, events: list[Event]) -> None:
        action = self._late.pop(message_id, None)
        if action is not None:
            events.append(LateAnswer(message_id, action))
            return
        self._fault(ErrorCode.RPC_FRAMEWORK_ERROR, "an answer to nothing that was asked", events)

    def _fault(self, code: ErrorCode, description: str, events: list[Event]) -> None:
        self._faults_in_a_row += 1
        events.append(PeerFault(code, description, self._faults_in_a_row >= HOPELESS_FAULTS))

    def _end(self, message_id: str, outcome: CallAnswered | CallFailed, events: list[Event]) -> None:
        asked = self._asked.pop(message_id)
        if message_id == self._under_way:
            self._under_way = None
            if self._abandoned:
                self._abandoned = False
                if isinstance(outcome, CallAnswered):
                    events.append(LateAnswer(message_id, asked.action))
                return
        events.append(outcome)

    def _send_next(self) -> None:
        while self._under_way is None and self._queue:
            _, _, message_id = heapq.heappop(self._queue)
            asked = self._asked.get(message_id)
            if asked is not None:  # else it expired or was abandoned while it waited
                self._under_way = message_id
                self._outgoing.append(asked.text)

    def _remember_late(self, message_id: str, action: str) -> None:
        self._late[message_id] = action
        if len(self._late) > REMEMBERED_LATE:
            self._late.popitem(last=False)

    def _take_unanswered(self, message_id: str) -> tuple[str, int]:
        try:
            return self._unanswered.pop(message_id)
        except KeyError:
            raise OwnMistakeError(f"no call {quoted(message_id)} waits for an answer") from None

    def _reply(self, message_id: str, action: str, digest: int, text: str) -> None:
        self._outgoing.append(text)
        self._answered[message_id] = _Answered(action[:LONGEST_ACTION], digest, text)
        self._answered.move_to_end(message_id)
        if len(self._answered) > REMEMBERED_ANSWERS:
            self._answered.popitem(last=False)
