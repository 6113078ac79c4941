"""Sockets that were opened and have not asked for anything yet: so many, and the oldest goes for the newest.

An honest charger asks within milliseconds. Whoever opens sockets and says nothing takes neither the file descriptors of
the rest of the gateway nor, for long, the place of a charger. (Before a TLS handshake only its time-out bounds them.)
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection


class Doorstep:
    """Where sockets wait until their request is read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ServerConnection, None] = {}  # in order of coming
        waiting_here = self

        class Visitor(ServerConnection):
            """A socket of this server."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                waiting_here._came(self)

            def connection_lost(self, exc: Exception | None) -> None:
                waiting_here.enter(self)
                super().connection_lost(exc)

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
