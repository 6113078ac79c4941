"""One WebSocket of one charger: moves frames between the socket and the RPC engine, and lets others call and wait."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from drivers.ocpp.discretion import action_name, label_of
from drivers.ocpp.errors import (
    CallError,
    CallRefusedError,
    CallTimeoutError,
    ErrorCode,
    InvalidAnswerError,
    NotConnectedError,
    OwnMistakeError,
    quoted,
)
from drivers.ocpp.pace import Pace
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.rpc import (
    AnswerRefused,
    CallAnswered,
    CallFailed,
    CallReceived,
    Event,
    Failure,
    LateAnswer,
    PeerFault,
    Priority,
    RepeatedCall,
    RpcEngine,
    SendReceived,
)
from drivers.ocpp.schemas import JsonObject, Version

ASKS_ELSEWHERE: Final = frozenset({"Get15118EVCertificate", "GetCertificateStatus", "GetCertificateChainStatus"})
"""What is answered when others have answered, seconds later."""
_CONTRACT: Final = frozenset({"certificate", "iso15118CertificateHashData"})
"""What an Authorize brings of a contract, whose revocation others are asked for too."""
LOGGED_FAULTS: Final = 3
"""Of one connection; a charger that sends nonsense sends much of it."""
MESSAGES_PER_S: Final = 50.0
"""In the long run, of one charger. An honest one sends a few a minute, and its queue after an outage one by one."""
MESSAGES_AT_ONCE: Final = 200.0
MESSAGE_CHARACTERS: Final = 4096
"""A longer message counts as so many more."""
SEND_WITHIN_S: Final = 10.0
"""A charger that takes nothing from us for so long is not there any more, whatever its socket says."""

_log = structlog.get_logger()


class Caller(Protocol):
    """Something that carries a call to a charger."""

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """The answer's payload, as its schema says. Raises CallError."""
        ...


class Connection:
    """Serves one socket from handshake to close. `react` decides; it is awaited before the answer leaves.

    What is kept of a peer that does as it likes: four frames that were not read yet, what the socket holds back of our
    answers before we stop reading, and the engine's own bounds. `on_trouble(code, text)` must not block; codes:
    charger.bad_frame, charger.flood, charger.slow_reader, charger.answer_refused.
    """

    def __init__(
        self,
        socket: ServerConnection,
        engine: RpcEngine,
        *,
        charger_id: str,
        react: Callable[[str, JsonObject], Awaitable[Reaction]],
        on_trouble: Callable[[str, str], None],
        call_timeout_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._socket = socket
        self._engine = engine
        self._react = react
        self._on_trouble = on_trouble
        self._call_timeout_s = call_timeout_s
        self._monotonic_s = monotonic_s
        self._waiting: dict[str, asyncio.Future[CallAnswered | CallFailed]] = {}
        self._pace = Pace(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._flooding = False
        self._group: asyncio.TaskGroup | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._asked = asyncio.Event()
        self._sooner = asyncio.Event()
        self._ended = False
        self._sends = 0
        self._sending_since_s = 0.0
        self._faults = 0
        self._log = _log.bind(charger=charger_id)

    @property
    def version(self) -> Version:
        """What was agreed upon in the handshake; what may be sent here, and in which shape."""
        return self._engine.version

    async def run(self) -> None:
        """Returns when the socket is closed, by whomever."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                beside = [group.create_task(each) for each in (self._write(), self._expire(), self._watch_sends())]
                await self._read()
                for task in (*beside, *self._answering):
                    task.cancel()
        finally:
            self._ended = True
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(NotConnectedError("the connection ended before the charger answered"))

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Ask the charger and wait for its answer. Raises CallError; cancelling it takes a call that waits off the
        queue."""
        if self._ended:
            raise NotConnectedError("the connection to the charger has ended")
        message_id = str(uuid.uuid4())
        future: asyncio.Future[CallAnswered | CallFailed] = asyncio.get_running_loop().create_future()
        self._engine.ask(
            message_id,
            action,
            payload,
            priority=priority,
            timeout_s=self._call_timeout_s,
            now_s=self._monotonic_s(),
        )
        self._waiting[message_id] = future
        self._asked.set()
        self._sooner.set()
        try:
            outcome = await future
        finally:
            del self._waiting[message_id]
            if not future.done() or future.cancelled():
                self._engine.abandon(message_id)
        if isinstance(outcome, CallFailed):
            raise _error(outcome)
        return outcome.payload

    async def alive(self, timeout_s: float) -> bool:
        """Whether the other end answers a ping: a half-open socket looks open for minutes."""
        try:
            async with asyncio.timeout(timeout_s):
                await (await self._socket.ping())
        except (TimeoutError, ConnectionClosed):
            return False
        return True

    def drop(self) -> None:
        """End it at once, without the closing handshake that a dead peer would never finish."""
        self._socket.transport.abort()

    # --- tasks

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                await self._keep_pace(len(message))
                for event in self._engine.receive(message, self._monotonic_s()):
                    await self._take(event)
                # Awaited here, so that a charger that does not read its answers is not read from either.
                await self._flush()
        except ConnectionClosed:
            return

    async def _write(self) -> None:
        """Sends calls. Answers leave through `_read`."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._flush()
        except ConnectionClosed:
            return

    async def _expire(self) -> None:
        while True:
            deadline_s = self._engine.next_deadline_s()
            nap_s = None if deadline_s is None else max(0.01, deadline_s - self._monotonic_s())
            try:
                async with asyncio.timeout(nap_s):
                    await self._sooner.wait()  # another call may end earlier, or make this one end earlier
            except TimeoutError:
                pass
            self._sooner.clear()
            for event in self._engine.expire(self._monotonic_s()):
                await self._take(event)
            self._asked.set()

    async def _keep_pace(self, characters: int) -> None:
        """A charger that sends too much is read slowly; the rest waits in its own socket."""
        wait_s = self._pace.take(1 + characters / MESSAGE_CHARACTERS, self._monotonic_s())
        if wait_s == 0:
            return
        if not self._flooding:
            self._flooding = True
            text = f"sends more than {MESSAGES_PER_S:.0f} messages a second; it is read slowly"
            self._log.warning("ocpp_flood", problem=text)
            self._on_trouble("charger.flood", text)
        await asyncio.sleep(wait_s)

    async def _flush(self) -> None:
        texts = self._engine.frames_to_send()
        if not texts:
            return
        if not self._sends:
            self._sending_since_s = self._monotonic_s()
        self._sends += 1
        try:
            for text in texts:
                # No more: what follows may hold a password. To read along: `ocpp tap`.
                self._log.debug("ocpp_sent", frame=label_of(text))
                await self._socket.send(text)
        finally:
            self._sends -= 1
            self._sending_since_s = self._monotonic_s()  # one that has gone through: the others do, too

    async def _watch_sends(self) -> None:
        """Ends a send that is stuck, by ending the connection. One look now and then for all of them: a timer for each
        costs as much as the answer that it watches."""
        while True:
            await asyncio.sleep(SEND_WITHIN_S / 4)
            if self._sends and self._monotonic_s() - self._sending_since_s >= SEND_WITHIN_S:
                self._on_trouble("charger.slow_reader", f"took nothing from us for {SEND_WITHIN_S:.0f} s; closed")
                self.drop()
                return

    async def _take(self, event: Event) -> None:
        match event:
            case CallReceived() if _asks_elsewhere(event):
                self._later(event)
            case CallReceived():
                await self._answer(event)
            case CallAnswered() | CallFailed():
                future = self._waiting.get(event.message_id)
                if future is not None and not future.done():
                    future.set_result(event)
            case SendReceived():
                self._log.debug("ocpp_received", action=event.action)
                reaction = await self._reaction(event.action, event.payload)
                if reaction.refusal is not None:
                    self._log.info("ocpp_not_taken", action=event.action, problem=reaction.refusal[1])
            case AnswerRefused():
                self._log.warning(
                    "ocpp_answer_refused", action=event.action, code=quoted(event.code), problem=event.description
                )
                text = f"cannot use our answer to {event.action}: {quoted(event.code)}, {event.description}"
                self._on_trouble("charger.answer_refused", text)
            case LateAnswer():
                self._log.info("ocpp_late_answer", action=event.action)
            case RepeatedCall():
                self._log.info("ocpp_repeated_call", action=action_name(event.action))
            case PeerFault():
                await self._fault(event)

    def _later(self, call: CallReceived) -> None:
        """Others are asked first: meanwhile answers to our own calls are read, a stop's among them."""
        assert self._group is not None
        task = self._group.create_task(self._answer(call))
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._asked.set()

    async def _answer(self, call: CallReceived) -> None:
        self._log.debug("ocpp_received", action=call.action)
        reaction = await self._reaction(call.action, call.payload)
        if reaction.refusal is not None:
            self._engine.refuse(call.message_id, *reaction.refusal)
            return
        try:
            self._engine.answer(call.message_id, reaction.answer or {})
        except OwnMistakeError as mistake:  # answered with InternalError; the charger goes on
            self._log.error("ocpp_own_mistake", action=call.action, problem=str(mistake))

    async def _reaction(self, action: str, payload: JsonObject) -> Reaction:
        try:
            return await self._react(action, payload)
        except Exception:  # a fault of ours; without an answer the charger would send the same again for ever
            self._log.exception("ocpp_own_fault", action=action)
            return Reaction(refusal=(ErrorCode.INTERNAL_ERROR, f"the gateway failed at this {action}"))

    async def _fault(self, fault: PeerFault) -> None:
        self._faults += 1
        if self._faults <= LOGGED_FAULTS:
            self._log.warning("ocpp_bad_frame", code=fault.code.value, problem=fault.description)
        self._on_trouble("charger.bad_frame", f"sent what OCPP does not allow: {fault.code}, {fault.description}")
        if fault.hopeless:
            await self._socket.close(CloseCode.PROTOCOL_ERROR, "too many bad frames in a row")


def _asks_elsewhere(call: CallReceived) -> bool:
    return call.action in ASKS_ELSEWHERE or (call.action == "Authorize" and not _CONTRACT.isdisjoint(call.payload))


def _error(failed: CallFailed) -> CallError:
    match failed.failure:
        case Failure.REFUSED:
            return CallRefusedError(f"{failed.action} was answered with {failed.description}", code=failed.code)
        case Failure.INVALID_ANSWER:
            return InvalidAnswerError(f"the answer to {failed.action} is not as specified: {failed.description}")
        case Failure.TIMED_OUT | Failure.NEVER_SENT:
            sent = failed.failure is Failure.TIMED_OUT
            return CallTimeoutError(f"{failed.action}: {failed.failure.value}", sent=sent)
