"""Few connections at a time, and none that stays without asking: silent or slow clients must not use up the process.

aiohttp alone waits without end for the first request of a connection, and for the rest of one that trickles in. Each
connection costs a descriptor, and the gateway's own work (devices, platform, store) needs them more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

MOST_CONNECTIONS: Final = 64
QUIET_S: Final = 30.0
"""A connection without a complete request for this long is ended. The status page asks each second."""


class Connections:
    """The connections of one listener: call it for the protocol of a new one, as `create_server` does."""

    def __init__(self, *, most: int = MOST_CONNECTIONS, quiet_s: float = QUIET_S) -> None:
        self._most = most
        self._quiet_s = quiet_s
        self._ends: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self.server: Callable[[], asyncio.Protocol] | None = None
        """Makes the protocol that speaks HTTP; set before the first connection."""

    def __call__(self) -> asyncio.Protocol:
        assert self.server is not None
        return _Counted(self, self.server())

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """A complete request came in over this transport: it may stay for another while."""
        if transport is not None and transport in self._ends:
            self._ends[transport].cancel()
            self._arm(transport)

    def let_in(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a new connection may stay."""
        if len(self._ends) >= self._most:
            return False
        self._arm(transport)
        return True

    def _arm(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._ends[transport] = asyncio.get_running_loop().call_later(self._quiet_s, transport.abort)

    def gone(self, transport: asyncio.BaseTransport) -> None:
        """A connection that was let in has ended."""
        end = self._ends.pop(transport, None)
        if end is not None:
            end.cancel()


class _Counted(asyncio.Protocol):
    """Passes everything on to the protocol inside, once it has been let in."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.BaseTransport | None = None
        """None: turned away, or over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._connections.let_in(transport):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self._transport = transport
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._connections.gone(self._transport)
            self._transport = None
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else False

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()
