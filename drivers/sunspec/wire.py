"""The bytes of one open line: what arrives goes to whoever listens; a lost line is noticed at once."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from drivers.sunspec.endpoint import Endpoint
from drivers.sunspec.errors import NoAnswerError
from drivers.sunspec.names import Lookup
from drivers.sunspec.serial_port import open_serial
from drivers.sunspec.tls import TlsFiles

_BUFFER_SIZE: Final = 4096
"""Many answers: the longest has 260 bytes."""


class Wire(asyncio.BufferedProtocol):
    """An open way for bytes. Nobody listening, they are counted as noise and dropped.

    Buffered, because asyncio takes 256 KiB anew for whatever comes to a Protocol that is not.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_SIZE)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.received: Callable[[bytes], None] | None = None
        """Called with what arrives; may raise nothing."""
        self.lost: Callable[[str], None] | None = None
        """Called once, with the reason."""
        self.last_byte_s = float("-inf")
        """When something arrived last, by the event loop's clock."""
        self.reason = "the line was closed"

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self.last_byte_s = self._loop.time()
        if self.received is not None:
            self.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        by_peer = exc is None or isinstance(exc, ConnectionError)
        self.reason = "the device closed the connection" if by_peer else _in_words(exc)
        if self.lost is not None:
            self.lost(self.reason)

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """At once: what was not sent is not sent any more."""
        if self._transport is not None:
            self._transport.abort()


async def open_wire(endpoint: Endpoint, tls: TlsFiles | None, timeout_s: float, lookup: Lookup) -> Wire:
    """`lookup` is of the endpoint's host. Raises NoAnswerError that says what to look at."""
    wire = Wire()
    if endpoint.scheme == "rtu":
        open_serial(endpoint, wire)
        return wire
    context = server_name = None
    if endpoint.scheme == "tls":
        if tls is None:
            raise NoAnswerError(f"{endpoint}: a tls:// device needs `ca_file`, the certificate of who certifies it")
        context, server_name = tls.context(), tls.server_name or endpoint.host
    try:
        async with asyncio.timeout(timeout_s):
            *others, last = await lookup.addresses()
            for address in others:
                # Each has its share of the time: one that leads nowhere does not hide the next.
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(timeout_s / (len(others) + 1)):
                        await _connected(wire, address, endpoint.port, context, server_name)
                    return wire
            await _connected(wire, last, endpoint.port, context, server_name)
    except ssl.SSLCertVerificationError as error:
        wire.close()
        raise NoAnswerError(f"{endpoint}: its certificate is refused: {error.verify_message}") from error
    except ssl.SSLError as error:
        wire.close()
        raise NoAnswerError(f"{endpoint}: no TLS with it: {error.reason or error}") from error
    except (OSError, TimeoutError) as error:
        wire.close()
        why = "" if isinstance(error, TimeoutError) else f" ({_in_words(error)})"
        raise NoAnswerError(
            f"{endpoint}: no connection within {timeout_s:g} s{why}; is it on, is the address right?"
        ) from error
    return wire


async def _connected(
    wire: Wire, address: str, port: int, context: ssl.SSLContext | None, server_name: str | None
) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: wire, address, port, ssl=context, server_hostname=server_name)


def _in_words(error: Exception | None) -> str:
    """The system's own words for it, where it has some: asyncio's name the call that failed."""
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0).lower()
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
