"""Lines: what carries Modbus requests to one endpoint. A new kind of line is one more class here and one scheme below.

A line does one request at a time (its Connection sees to that), checks every answer, never retries and never
reconnects by itself: those are decisions, and `connection.py` makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from drivers.sunspec.errors import AddressError, BadAnswerError, ModbusExceptionError, NoAnswerError, quoted

MOST_READ: Final = 125
"""Registers in one read. Modbus application protocol V1.1b3, section 6.3."""
MOST_WRITTEN: Final = 123
"""Registers in one write, section 6.12."""
DEFAULT_PORT: Final = 502


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a line leads: one TCP host and port, or one serial port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(address: str) -> Endpoint:
    """The endpoint of "tcp://host[:port]" (port 502 when absent). Raises AddressError."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        raise AddressError(f"{quoted(address)}: the port must be a number from 1 to 65535") from None
    if parts.scheme != "tcp":
        raise AddressError(f'{quoted(address)}: this driver speaks Modbus TCP; write "tcp://host:port"')
    if not parts.hostname or parts.path.strip("/") or port == 0:
        raise AddressError(f'{quoted(address)}: write "tcp://host:port", such as "tcp://192.0.2.10:502"')
    return Endpoint(parts.scheme, parts.hostname, port or DEFAULT_PORT)


class Line(Protocol):
    """One open way to an endpoint. Every method raises NoAnswerError, BadAnswerError or ModbusExceptionError."""

    async def connect(self, timeout_s: float) -> None: ...

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
        """Exactly `count` holding registers (function 3)."""
        ...

    async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
        """All of `words` in one request (function 16)."""
        ...

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float) -> None:
        """One register (function 6), for devices that refuse function 16."""
        ...

    @property
    def connected(self) -> bool: ...

    def close(self) -> None: ...


class TcpLine:
    """Modbus TCP on pymodbus, with what pymodbus lets pass checked: function, unit, count, transaction."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: AsyncModbusTcpClient | None = None
        self._foreign = b""

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.connected

    async def connect(self, timeout_s: float) -> None:
        self.close()
        # Its own reconnecting (up to 300 s) and retrying (writes too) are off; its time-out only bounds the connect.
        client = AsyncModbusTcpClient(
            self._endpoint.host,
            port=self._endpoint.port,
            name=str(self._endpoint),
            timeout=timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._look_at_packet,
        )
        try:
            connected = await client.connect()
        except BaseException:
            client.close()
            raise
        if not connected:
            client.close()
            raise NoAnswerError(
                f"{self._endpoint}: no connection within {timeout_s:g} s; is it on, is the address right?"
            )
        self._client = client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> list[int]:
        where = f"{self._endpoint} unit {unit}, reading {count} at {address}"
        answer = await self._ask(
            where, ReadHoldingRegistersRequest(address=address, count=count, dev_id=unit), timeout_s
        )
        words = [int(word) for word in answer.registers]
        if len(words) != count:
            raise BadAnswerError(f"{where}: the answer holds {len(words)} registers")
        return words

    async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
        where = f"{self._endpoint} unit {unit}, writing {len(words)} at {address}"
        request = WriteMultipleRegistersRequest(address=address, registers=list(words), dev_id=unit)
        answer = await self._ask(where, request, timeout_s)
        if (answer.address, answer.count) != (address, len(words)):
            raise BadAnswerError(f"{where}: the answer is about {answer.count} registers at {answer.address}")

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float) -> None:
        where = f"{self._endpoint} unit {unit}, writing one at {address}"
        request = WriteSingleRegisterRequest(address=address, registers=[word], dev_id=unit)
        answer = await self._ask(where, request, timeout_s)
        if (answer.address, list(answer.registers)) != (address, [word]):
            raise BadAnswerError(f"{where}: the answer is about {list(answer.registers)} at {answer.address}")

    async def _ask(self, where: str, request: ModbusPDU, timeout_s: float) -> ModbusPDU:
        client = self._client
        if client is None or not client.connected:
            raise NoAnswerError(f"{where}: the connection is lost")
        self._foreign = b""
        try:
            async with asyncio.timeout(timeout_s):
                answer: ModbusPDU = await client.execute(False, request)
        except (TimeoutError, OSError, ModbusException) as error:
            if self._foreign:
                # A web server, or some other protocol, on this port: say so instead of "no answer".
                raise BadAnswerError(f"{where}: what answers is not Modbus: {quoted(self._foreign)}") from error
            raise NoAnswerError(f"{where}: no answer within {timeout_s:g} s") from error
        if answer.transaction_id != request.transaction_id:
            # pymodbus lets transaction 0 pass as an answer to anything.
            raise BadAnswerError(f"{where}: the answer is to transaction {answer.transaction_id}, not to ours")
        if answer.dev_id != request.dev_id:
            raise BadAnswerError(f"{where}: unit {answer.dev_id} answered")
        if answer.function_code == request.function_code | 0x80:
            raise ModbusExceptionError(where, answer.exception_code)
        if answer.function_code != request.function_code:
            raise BadAnswerError(f"{where}: the answer is to function {answer.function_code}")
        return answer

    def _look_at_packet(self, sending: bool, data: bytes) -> bytes:
        # Bytes 2 and 3 of every Modbus TCP frame are 0 (protocol identifier).
        if not sending and len(data) >= 4 and data[2:4] != b"\0\0":
            self._foreign = bytes(data[:64])
        return data


def open_line(endpoint: Endpoint) -> Line:
    """A line, not yet connected, for an endpoint of `parse_address`."""
    return TcpLine(endpoint)
