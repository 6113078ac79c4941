"""A charger's WebSocket: connects, boots, reconnects, and carries the messages of `charger.Charger` both ways.

OCPP-J part 4, 2.1 or 2.0.1 as both sides can, built on the `ocpp` package's client side and on raw frames where that
loses names (`wire.py`). One request of ours in flight at a time.
"""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from ocpp import v21, v201
from ocpp.exceptions import OCPPError
from ocpp.v201 import call
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from .charger import OCPP_21, OCPP_201, Charger, Message
from .outage import Outage
from .profiles import rfc3339
from .requests import CsmsRequests
from .smart_charging import SmartChargingRequests
from .smart_words import Raw
from .wire import Wire

_PEERS: Final[dict[str, tuple[Any, str]]] = {
    OCPP_21: (v21.ChargePoint, "2.1"),
    OCPP_201: (v201.ChargePoint, "2.0.1"),
}
"""By subprotocol: the package's client, and how the package spells the version."""
FIRST_BACK_OFF_S: Final = 0.3
LONGEST_BACK_OFF_S: Final = 5.0
"""Short: a rig is to be back soon after its CSMS is. OCPP lets a station wait minutes."""
BOOT_S: Final = 1.0
"""Time that a reset takes."""
ANSWER_S: Final = 20.0
"""No answer in this time: the connection is given up, and what was asked is asked again on the next."""

_log = structlog.get_logger()


class _SessionEndedError(Exception):
    """Why this connection is given up."""


class ChargerSession:
    """Keeps one charger connected until cancelled."""

    def __init__(
        self,
        charger: Charger,
        *,
        seed: int,
        monotonic_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self.charger = charger
        self.connections = 0
        """Connections that were made, for tests and the curious."""
        self.trouble = ""
        """Why the last connection was lost or not made."""
        self._random = random.Random(f"{charger.settings.charger_id} {seed}")
        self._wall_s = wall_s
        self._wake = asyncio.Event()
        self._socket: ClientConnection | None = None
        self.dropped = Outage(monotonic_s)
        self.silent = Outage(monotonic_s)
        """A charger that hangs: its socket stays open and it says nothing."""
        self._boot_reason: str | None = "PowerUp"
        charger.wake = self._wake.set
        self._requests = CsmsRequests(charger, wall_s, self._boot_again)
        self._smart_charging = SmartChargingRequests(charger, wall_s)
        self._wire: Wire | None = None

    def drop(self, seconds: float) -> None:
        """Reset the connection and stay away for so long."""
        self.dropped.begin(seconds)
        if self._socket is not None:
            self._socket.transport.abort()

    async def run(self) -> None:
        """Connect, serve, connect again. Survives everything that the CSMS does; ends by cancellation only."""
        back_off_s = FIRST_BACK_OFF_S
        while True:
            await self.dropped.over()
            made = self.connections
            try:
                # A task of its own: before Python 3.13 a TaskGroup that fails leaves a cancellation count behind
                # (python/cpython#116720), which would turn the next time-out of this task into a cancellation.
                await asyncio.create_task(self._connect_and_serve())
            except* (OSError, WebSocketException, _SessionEndedError) as lost:
                causes = "; ".join(f"{type(error).__name__}: {error}"[:200] for error in lost.exceptions)
                self.trouble = causes
                _log.info("connection_lost", charger=self.charger.settings.charger_id, causes=causes)
            finally:
                self._socket = None
                self.charger.connection_lost()
            if self._ending():
                # The same fault loses the cancellation where the connection fails in the moment in which it comes.
                raise asyncio.CancelledError
            if self.charger.reboot_wanted:
                await asyncio.sleep(BOOT_S)
                self.charger.rebooted()
                self._boot_reason = "RemoteReset"
            back_off_s = FIRST_BACK_OFF_S if self.connections > made else min(LONGEST_BACK_OFF_S, 2 * back_off_s)
            await asyncio.sleep(back_off_s * self._random.uniform(0.5, 1.0))

    @staticmethod
    def _ending() -> bool:
        """Whether our own task was cancelled, whatever became of the CancelledError."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _connect_and_serve(self) -> None:
        settings = self.charger.settings
        headers = {}
        if settings.password is not None:
            credentials = base64.b64encode(f"{settings.charger_id}:{settings.password}".encode()).decode()
            headers["Authorization"] = f"Basic {credentials}"
        async with connect(
            f"{settings.csms_url.rstrip('/')}/{settings.charger_id}",
            additional_headers=headers,
            subprotocols=[Subprotocol(version) for version in settings.versions],
            ssl=_client_tls(settings.ca_file) if settings.csms_url.startswith("wss:") else None,
            proxy=None,
            compression=None,
            open_timeout=5,
            close_timeout=1,
        ) as socket:
            version = socket.subprotocol
            if version not in settings.versions:
                raise _SessionEndedError(f"the CSMS chose subprotocol {version!r}, none of {settings.versions}")
            self.connections += 1
            self._socket = socket
            self.charger.connected(version)
            client, spelled = _PEERS[version]
            handlers = self._smart_charging.handlers(extended=self.charger.extended)
            self._wire = Wire(socket, self.silent, spelled, handlers)
            peer = client(settings.charger_id, self._wire, response_timeout=ANSWER_S)
            peer.route_map = self._requests.routes()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(peer))
                tasks.create_task(self._speak(peer))

    async def _listen(self, peer: Any) -> None:
        try:
            await peer.start()
        except (OSError, WebSocketException):
            raise
        except Exception as error:
            # The package's receiver dies of some malformed frames (not of all); a station would drop the link too.
            raise _SessionEndedError(f"cannot read what the CSMS sent: {error!r}") from error

    async def _speak(self, peer: Any) -> None:
        if self._boot_reason is not None or self.charger.settings.boot_on_reconnect:
            await self._boot(peer, self._boot_reason or "Unknown")
        self.charger.booted()
        while True:
            message, from_events = self._next()
            if message is not None:
                await self._deliver(peer, message)
                if from_events and self.charger.events and self.charger.events[0] is message:
                    self.charger.events.popleft()
                if self._ending():
                    # The package waits for answers by `asyncio.wait_for`, which before Python 3.12 loses a
                    # cancellation that comes in the moment of the answer (python/cpython#86296).
                    raise asyncio.CancelledError
            elif self.charger.reboot_wanted:
                raise _SessionEndedError("reset on the CSMS's order")
            else:
                await self._rest(peer)

    def _next(self) -> tuple[Message | None, bool]:
        """What to say next: short messages before the queue of transaction events. True: it is of that queue."""
        if self.charger.messages:
            return self.charger.messages.popleft(), False
        return (self.charger.events[0], True) if self.charger.events else (None, False)

    async def _rest(self, peer: Any) -> None:
        """Wait for something to say; a Heartbeat when there is nothing for the interval that the CSMS set."""
        heartbeat_s = self.charger.variables.whole("OCPPCommCtrlr", "HeartbeatInterval")
        try:
            async with asyncio.timeout(heartbeat_s):
                await self._wake.wait()
        except TimeoutError:
            await self._deliver(peer, Message(call.Heartbeat()))
        self._wake.clear()

    async def _deliver(self, peer: Any, message: Message) -> None:
        """Ask and hand the answer on. Raises _SessionEndedError when none comes."""
        answer = None
        try:
            if isinstance(message.request, Raw):
                assert self._wire is not None
                answer = await self._wire.ask(message.request.action, message.request.payload, ANSWER_S)
            else:
                answer = await peer.call(message.request, suppress=False)
        except TimeoutError:
            raise _SessionEndedError(f"no answer to {message.action} in {ANSWER_S} s") from None
        except OCPPError as error:
            _log.warning("refused_by_csms", action=message.action, error=repr(error)[:300])
        if message.on_answer is not None:
            message.on_answer(answer)

    async def _boot(self, peer: Any, reason: str) -> None:
        """BootNotification until accepted (B01 to B03)."""
        request = self._boot_request(reason)
        while True:
            answers: list[Any] = []
            await self._deliver(peer, Message(request, answers.append))
            answer = answers[0]
            if answer is not None and answer.status == "Accepted":
                break
            await asyncio.sleep(max(1, answer.interval if answer is not None else 10))
        if answer.interval > 0:
            self.charger.variables.set("OCPPCommCtrlr", "HeartbeatInterval", str(answer.interval))
        self._boot_reason = None
        _log.info("booted", charger=self.charger.settings.charger_id, at=rfc3339(self._wall_s()))

    def _boot_again(self) -> None:
        """TriggerMessage asked for a BootNotification; sent like any other message."""
        self.charger.say(self._boot_request("Triggered"))

    def _boot_request(self, reason: str) -> Any:
        return call.BootNotification(
            charging_station={
                "model": "Bidi 11" if self.charger.evse.bidirectional else "Plain 11",
                "vendorName": "Rig Works",
                "serialNumber": self.charger.settings.serial,
                "firmwareVersion": "1.0",
            },
            reason=reason,
        )


def _client_tls(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the given CA, or those of the system. Raises OSError."""
    return ssl.create_default_context(cafile=ca_file)
