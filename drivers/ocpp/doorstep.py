"""The sockets of the server below OCPP: how many may wait without a word, and what those get who do not read.

So many may wait that have not asked for anything yet, and the oldest goes for the newest: an honest charger asks within
milliseconds, and whoever opens sockets and says nothing takes neither the file descriptors of the rest of the gateway
nor, for long, the place of a charger. (Before a TLS handshake only its time-out bounds them.)
"""

from __future__ import annotations

import asyncio
from typing import Final

from websockets.asyncio.server import ServerConnection

STUCK_S: Final = 20.0
"""A socket that takes nothing from us for so long is closed."""


class Doorstep:
    """Where sockets wait until their request is read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ServerConnection, None] = {}  # in order of coming
        waiting_here = self

        class Visitor(ServerConnection):
            """A socket of this server, which is not read while it does not take what we send: the library answers pings
            by itself, whether anybody reads the answers or not."""

            stuck: asyncio.TimerHandle | None = None

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                waiting_here._came(self)

            def connection_lost(self, exc: Exception | None) -> None:
                waiting_here.enter(self)
                self.calm()
                super().connection_lost(exc)

            def pause_writing(self) -> None:
                super().pause_writing()
                self.transport.pause_reading()
                self.stuck = self.loop.call_later(STUCK_S, self.transport.abort)

            def resume_writing(self) -> None:
                super().resume_writing()
                self.calm()
                if not self.recv_messages.paused:  # else the library reads on when its queue has room
                    self.transport.resume_reading()

            def calm(self) -> None:
                if self.stuck is not None:
                    self.stuck.cancel()
                    self.stuck = None

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
