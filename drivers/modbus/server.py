"""The other side: a Modbus TCP server for one played device, written from the protocol's specification.

Source: MODBUS Application Protocol V1.1b3 and MODBUS Messaging on TCP/IP V1.0b. Functions 3, 4, 6 and 16. `serve` plays
a recorded device with it, and the rig its simulated ones; it shares nothing with our client but this page.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from enum import IntEnum
from typing import Final, Protocol

READ_HOLDING: Final = 3
READ_INPUT: Final = 4
WRITE_SINGLE: Final = 6
WRITE_MULTIPLE: Final = 16
MOST_READ: Final = 125
MOST_WRITTEN: Final = 123

ILLEGAL_FUNCTION: Final = 1
NO_SUCH_UNIT: Final = 11
"""Gateway target device failed to respond: what a TCP device says to a unit id that is not its own."""


class Refusal(IntEnum):
    """Modbus exception codes that registers can give."""

    ILLEGAL_ADDRESS = 2
    ILLEGAL_VALUE = 3


class RegisterRefusedError(Exception):
    """A request that the registers answer with a Modbus exception."""

    def __init__(self, code: Refusal, text: str) -> None:
        super().__init__(text)
        self.code = code


class Registers(Protocol):
    """What a server gives access to. Both methods raise RegisterRefusedError."""

    def read(self, address: int, count: int) -> list[int]: ...

    def write(self, address: int, words: list[int]) -> None: ...


class InputRegisters(Protocol):
    """What function 4 reads. Raises RegisterRefusedError."""

    def read(self, address: int, count: int) -> list[int]: ...


def answer(
    registers: Registers,
    request: bytes,
    inputs: InputRegisters | None = None,
    refuses: frozenset[int] = frozenset(),
) -> bytes:
    """The response PDU to a request PDU. Pure but for what the registers do; any bytes are allowed.

    Without `inputs` the device does not know function 4; nor does it those that it `refuses`.
    """
    function = request[0] if request else 0
    if function in refuses:
        return bytes([function | 0x80, ILLEGAL_FUNCTION])
    try:
        if function == READ_HOLDING:
            return _read(registers, request)
        if function == READ_INPUT and inputs is not None:
            return _read(inputs, request)
        if function == WRITE_SINGLE:
            return _write_single(registers, request)
        if function == WRITE_MULTIPLE:
            return _write_multiple(registers, request)
    except RegisterRefusedError as refusal:
        return bytes([function | 0x80, refusal.code])
    except _MalformedError:
        return bytes([function | 0x80, Refusal.ILLEGAL_VALUE])
    return bytes([(function | 0x80) & 0xFF, ILLEGAL_FUNCTION])


class _MalformedError(Exception):
    """Lengths and counts of a request contradict one another or the specification."""


def _read(registers: InputRegisters, request: bytes) -> bytes:
    if len(request) != 5:
        raise _MalformedError
    address, count = struct.unpack(">HH", request[1:])
    if not 1 <= count <= MOST_READ:
        raise _MalformedError
    words = registers.read(address, count)
    return struct.pack(f">BB{count}H", request[0], 2 * count, *words)


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
    """Serves one unit id on one port; other unit ids are answered as a gateway does whose unit is missing."""

    def __init__(
        self,
        registers: Registers,
        *,
        unit: int,
        inputs: InputRegisters | None = None,
        refuses: frozenset[int] = frozenset(),
    ) -> None:
        """`refuses`: functions that this device does not know."""
        self._registers = registers
        self._inputs = inputs
        self._refuses = refuses
        self._unit = unit
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
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

    @property
    def accepts(self) -> bool:
        """Whether it converses with whoever connects."""
        return True

    @property
    def is_silent(self) -> bool:
        """Whether it hears requests and says nothing."""
        return False

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while self.accepts and await self._one_exchange(reader, writer):
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
        if self.is_silent:
            return True
        if unit == self._unit:
            response = answer(self._registers, request, self._inputs, self._refuses)
        else:
            response = bytes([(request[0] | 0x80) & 0xFF, NO_SUCH_UNIT])
        writer.write(struct.pack(">HHHB", transaction, 0, len(response) + 1, unit) + response)
        await writer.drain()
        self.requests += 1
        return True
