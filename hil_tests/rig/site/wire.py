"""One socket shared by the `ocpp` package and by raw frames, for what the package loses on the way.

Its conversion of names to Python and back drops 45 of OCPP 2.1's (`setpoint_L2`, `limitAtSoC`): those messages pass
here with the wire's own names, checked against the package's schemas all the same.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from ocpp.exceptions import OCPPError
from ocpp.messages import Call, CallError, CallResult, validate_payload
from websockets.asyncio.client import ClientConnection

from .outage import Outage

RawHandler = Callable[[dict[str, Any]], dict[str, Any]]
"""A request's payload to its answer's, both with the wire's names."""
_CALL: Final = 2


class Wire:
    """The package reads and writes through `recv` and `send`; everything waits while a silence was ordered."""

    def __init__(
        self, socket: ClientConnection, silent: Outage, version: str, handlers: Mapping[str, RawHandler]
    ) -> None:
        """`version` as the package spells it: 2.0.1 or 2.1."""
        self._socket = socket
        self._silent = silent
        self._version = version
        self._handlers = handlers
        self._waiting: dict[str, asyncio.Future[list[Any]]] = {}

    async def recv(self) -> str:
        """The next message that is not for the raw side."""
        while True:
            message = await self._socket.recv(decode=True)
            await self._silent.over()
            if not await self._taken(message):
                return message

    async def send(self, message: str) -> None:
        await self._silent.over()
        await self._socket.send(message)

    async def ask(self, action: str, payload: dict[str, Any], answer_s: float) -> dict[str, Any]:
        """A request of ours. Raises OCPPError when it is answered with an error, TimeoutError when it is not."""
        call = Call(str(uuid.uuid4()), action, payload)
        await validate_payload(call, self._version)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[call.unique_id] = future
        try:
            await self.send(call.to_json())
            async with asyncio.timeout(answer_s):
                frame = await future
        finally:
            del self._waiting[call.unique_id]
        if frame[0] == CallError.message_type_id:
            error: OCPPError = CallError(*frame[1:]).to_exception()
            raise error
        answer: dict[str, Any] = frame[2]
        return answer

    async def _taken(self, message: str) -> bool:
        try:
            frame = json.loads(message)
            kind, message_id = frame[0], frame[1]
        except (ValueError, LookupError, TypeError):
            return False  # the package knows what to do with it
        if kind == _CALL and len(frame) == 4 and frame[2] in self._handlers:
            await self._answer(Call(message_id, frame[2], frame[3]))
            return True
        future = self._waiting.get(message_id) if isinstance(message_id, str) else None
        if kind == _CALL or future is None:
            return False
        if not future.done():
            future.set_result(frame)
        return True

    async def _answer(self, call: Call) -> None:
        try:
            await validate_payload(call, self._version)
            answer: CallResult = call.create_call_result(self._handlers[call.action](call.payload))
            await validate_payload(answer, self._version)
        except OCPPError as error:
            await self.send(call.create_call_error(error).to_json())
            return
        await self.send(answer.to_json())
