"""Requests as bytes, and what an answer to them must look like; the same on every kind of line.

pymodbus builds the requests and checks their bounds. The answers are read here: its decoder takes an answer with an
odd byte count, with fewer registers than were asked for, or with bytes left over, and takes 20 us for what one
`struct.unpack` does. Registers stay octets, as they came, until somebody wants numbers of them: most are decoded into
values in one go (`codec.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError

MOST_READ: Final = 125
"""Registers in one read. Modbus application protocol V1.1b3, section 6.3."""
MOST_WRITTEN: Final = 123
"""Registers in one write, section 6.12."""
READ: Final = 3
READ_INPUT: Final = 4
READS: Final = (READ, READ_INPUT)
WRITE_ONE: Final = 6
WRITE: Final = 16
EXCEPTION: Final = 0x80
"""Set in the function code of an answer that says no."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and the answer that fits it."""

    unit: int
    pdu: bytes
    answer_head: bytes
    """What a fitting answer begins with: for a write it is the whole answer."""
    answer_size: int
    """Bytes of a fitting answer."""
    what: str
    """For a sentence about it."""

    @property
    def function(self) -> int:
        return self.pdu[0]

    @property
    def address(self) -> int:
        return int.from_bytes(self.pdu[1:3], "big")


@lru_cache(maxsize=4096)  # a poll asks for the same registers every second
def read_request(unit: int, address: int, count: int, function: int = READ) -> Request:
    """`count` registers from `address`: holding registers by function 3, input registers by function 4."""
    kind = ReadInputRegistersRequest if function == READ_INPUT else ReadHoldingRegistersRequest
    body = kind(address=address, count=count, dev_id=unit).encode()
    what = f"unit {unit}, reading {count}{' input registers' if function == READ_INPUT else ''} at {address}"
    return Request(unit, bytes((function,)) + body, bytes((function, 2 * count)), 2 + 2 * count, what)


def write_request(unit: int, address: int, words: Sequence[int]) -> Request:
    """All of `words` in one request (function 16)."""
    body = WriteMultipleRegistersRequest(address=address, registers=list(words), dev_id=unit).encode()
    pdu = bytes((WRITE,)) + body
    return Request(unit, pdu, pdu[:5], 5, f"unit {unit}, writing {len(words)} at {address}")


def write_one_request(unit: int, address: int, word: int) -> Request:
    """One register (function 6)."""
    pdu = bytes((WRITE_ONE,)) + WriteSingleRegisterRequest(address=address, registers=[word], dev_id=unit).encode()
    return Request(unit, pdu, pdu, 5, f"unit {unit}, writing one at {address}")


def check(line: str, request: Request, unit: int, pdu: bytes) -> bytes:
    """The answer, when it fits its request. Raises ModbusExceptionError, or BadAnswerError that says how it differs."""
    if unit == request.unit and len(pdu) == request.answer_size and pdu.startswith(request.answer_head):
        return pdu
    where = f"{line} {request.what}"
    if unit != request.unit:
        raise BadAnswerError(f"{where}: unit {unit} answered")
    if pdu[:1] == bytes((request.function | EXCEPTION,)) and len(pdu) == 2:
        raise ModbusExceptionError(where, pdu[1])
    if pdu[0] != request.function:
        raise BadAnswerError(f"{where}: the answer is to function {pdu[0]}")
    if len(pdu) != request.answer_size:
        held = f"holds {max(0, len(pdu) - 2) // 2} registers" if request.function in READS else f"is {len(pdu)} bytes"
        raise BadAnswerError(f"{where}: the answer {held}")
    if request.function in READS:
        raise BadAnswerError(f"{where}: the answer says {pdu[1]} bytes and has {len(pdu) - 2}")
    at, second = struct.unpack(">HH", pdu[1:5])
    raise BadAnswerError(f"{where}: the answer is about {second} at {at}, which was not written")


def words_of(octets: bytes) -> list[int]:
    """Registers as numbers, from what goes over the wire."""
    return list(struct.unpack(f">{len(octets) // 2}H", octets))


def octets_of(words: Sequence[int]) -> bytes:
    """The other way."""
    return struct.pack(f">{len(words)}H", *words)
