"""The sockets of the server below OCPP: how many may wait without a word, and what those get who do not read.

So many may wait that have not asked for anything yet, and the oldest goes for the newest: an honest charger asks within
milliseconds, and whoever opens sockets and says nothing takes neither the file descriptors of the rest of the gateway
nor, for long, the place of a charger. (Before a TLS handshake only its time-out bounds them.)
"""

from __future__ import annotations

import asyncio
from typing import Final

from websockets.asyncio.server import ServerConnection

from drivers.ocpp.pace import Pace

STUCK_S: Final = 20.0
"""A socket that takes nothing from us for so long is closed."""

BYTES_PER_S, BYTES_AT_ONCE = 128 * 1024.0, 2 * 1024 * 1024.0
"""Of everything that a socket sends. A whole device model is some hundred kilobytes."""


class Doorstep:
    """Where sockets wait until their request is read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ServerConnection, None] = {}  # in order of coming
        waiting_here = self

        class Visitor(ServerConnection):
            """A socket of this server. It is not read while it does not take what we send, and slowly when too much
            comes: the library answers pings by itself, however many, and whether anybody reads the answers or not."""

            stuck: asyncio.TimerHandle | None = None
            resting: asyncio.TimerHandle | None = None
            pace: Pace

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.pace = Pace(BYTES_PER_S, BYTES_AT_ONCE)
                super().connection_made(transport)
                waiting_here._came(self)

            def connection_lost(self, exc: Exception | None) -> None:
                waiting_here.enter(self)
                for timer in (self.stuck, self.resting):
                    if timer is not None:
                        timer.cancel()
                super().connection_lost(exc)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                wait_s = self.pace.take(len(data), self.loop.time())
                if wait_s > 0 and self.resting is None:
                    self.transport.pause_reading()
                    self.resting = self.loop.call_later(wait_s, self.rested)

            def pause_writing(self) -> None:
                super().pause_writing()
                self.transport.pause_reading()
                self.stuck = self.loop.call_later(STUCK_S, self.transport.abort)

            def resume_writing(self) -> None:
                super().resume_writing()
                if self.stuck is not None:
                    self.stuck.cancel()
                    self.stuck = None
                self.read_on()

            def rested(self) -> None:
                self.resting = None
                self.read_on()

            def read_on(self) -> None:
                """Unless something else speaks against it: the library itself reads on when its queue has room."""
                if self.stuck is None and self.resting is None and not self.recv_messages.paused:
                    self.transport.resume_reading()

        self.connection: type[ServerConnection] = Visitor
        """For `websockets.serve`."""

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, socket: ServerConnection) -> None:
        """It has said what it wants, or is gone."""
        self._waiting.pop(socket, None)

    def _came(self, socket: ServerConnection) -> None:
        self._waiting[socket] = None
        if len(self._waiting) > self._most:
            oldest = next(iter(self._waiting))
            self.enter(oldest)
            oldest.transport.abort()
