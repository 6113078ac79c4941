"""A Modbus TCP server for one simulated device, written from the protocol's specification, with faults on order.

Source: MODBUS Application Protocol V1.1b3 and MODBUS Messaging on TCP/IP V1.0b. Functions 3, 6 and 16.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from .outage import Outage
from .registers import RegisterRefusedError

READ_HOLDING: Final = 3
WRITE_SINGLE: Final = 6
WRITE_MULTIPLE: Final = 16
MOST_READ: Final = 125
MOST_WRITTEN: Final = 123

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_VALUE: Final = 3
NO_SUCH_UNIT: Final = 11
"""Gateway target device failed to respond: what a TCP device says to a unit id that is not its own."""


class Registers(Protocol):
    """What a server gives access to. Both methods raise RegisterRefusedError."""

    def read(self, address: int, count: int) -> list[int]: ...

    def write(self, address: int, words: list[int]) -> None: ...


def answer(registers: Registers, request: bytes) -> bytes:
    """The response PDU to a request PDU. Pure but for what the registers do; any bytes are allowed."""
    function = request[0] if request else 0
    try:
        if function == READ_HOLDING:
            return _read(registers, request)
        if function == WRITE_SINGLE:
            return _write_single(registers, request)
        if function == WRITE_MULTIPLE:
            return _write_multiple(registers, request)
    except RegisterRefusedError as refusal:
        return bytes([function | 0x80, refusal.code])
    except _MalformedError:
        return bytes([function | 0x80, ILLEGAL_VALUE])
    return bytes([(function | 0x80) & 0xFF, ILLEGAL_FUNCTION])


class _MalformedError(Exception):
    """Lengths and counts of a request contradict one another or the specification."""


def _read(registers: Registers, request: bytes) -> bytes:
    if len(request) != 5:
        raise _MalformedError
    address, count = struct.unpack(">HH", request[1:])
    if not 1 <= count <= MOST_READ:
        raise _MalformedError
    words = registers.read(address, count)
    return struct.pack(f">BB{count}H", READ_HOLDING, 2 * count, *words)


def _write_single(registers: Registers, request: bytes) -> bytes:
    if len(request) != 5:
        raise _MalformedError
    address, word = struct.unpack(">HH", request[1:])
    registers.write(address, [word])
    return request


def _write_multiple(registers: Registers, request: bytes) -> bytes:
    if len(request) < 6:
        raise _MalformedError
    address, count, length = struct.unpack(">HHB", request[1:6])
    if not 1 <= count <= MOST_WRITTEN or length != 2 * count or len(request) != 6 + length:
        raise _MalformedError
    registers.write(address, list(struct.unpack(f">{count}H", request[6:])))
    return request[:5]


class ModbusTcpServer:
    """Serves one unit id on one port. Faults: `drop` closes every connection, `silent` accepts and never answers.

    A port that has been bound stays bound while dropped, so that nobody else gets it: a client sees its connection
    reset at once, on every attempt.
    """

    def __init__(self, registers: Registers, *, unit: int, monotonic_s: Callable[[], float]) -> None:
        self._registers = registers
        self._unit = unit
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.dropped = Outage(monotonic_s)
        self.silent = Outage(monotonic_s)
        self.port = 0
        self.requests = 0
        """Requests answered, for tests that count them."""

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen; `port` 0 lets the system choose, and `self.port` says what it chose. Raises OSError."""
        self._server = await asyncio.start_server(self._converse, host, port, ssl=tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._abort_all()
            await self._server.wait_closed()

    def drop(self, seconds: float) -> None:
        """Reset all connections, now and for so long."""
        self.dropped.begin(seconds)
        self._abort_all()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while not self.dropped.active and await self._one_exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _one_exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. False when the peer speaks something that is not Modbus TCP."""
        transaction, protocol, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
        if protocol != 0 or not 2 <= length <= 254:
            return False
        request = await reader.readexactly(length - 1)
        if self.silent.active:
            return True
        if unit == self._unit:
            response = answer(self._registers, request)
        else:
            response = bytes([(request[0] | 0x80) & 0xFF, NO_SUCH_UNIT])
        writer.write(struct.pack(">HHHB", transaction, 0, len(response) + 1, unit) + response)
        await writer.drain()
        self.requests += 1
        return True
