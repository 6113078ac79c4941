"""Modbus TCP frames (MBAP), sans-I/O: bytes in, frames out. Source: MODBUS Messaging on TCP/IP V1.0b, section 3.1.3.

Answers are told apart by their transaction. The number of a transaction that was never answered is not used again on
its connection, so a late answer can always be recognised, and is discarded.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct(">HHHB")
LEAST_LENGTH: Final = 2
MOST_LENGTH: Final = 254
"""Of the length field: unit and PDU."""
MOST_UNANSWERED: Final = 8_000
"""Of 65,535 numbers: a connection that lost more answers than this is opened anew, before they cost a megabyte."""


class ForeignBytesError(Exception):
    """What arrives is not Modbus TCP."""

    def __init__(self, seen: bytes) -> None:
        super().__init__("not Modbus TCP")
        self.seen = seen


class MbapFrame(NamedTuple):
    transaction: int
    unit: int
    pdu: bytes


class MbapFramer:
    """The frames in a stream of bytes, whatever the pieces in which they come."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def amid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[MbapFrame]:
        """The frames that `data` completes. Raises ForeignBytesError; the stream is of no use then."""
        rest = self._rest
        if not rest and len(data) >= 8:
            # As nearly always: exactly one whole frame, which need not be copied together.
            transaction, protocol, length, unit = _HEADER.unpack_from(data)
            if protocol == 0 and length == len(data) - 6 and length <= MOST_LENGTH:
                return [MbapFrame(transaction, unit, data[7:])]
        rest += data
        frames: list[MbapFrame] = []
        at = 0
        while len(rest) - at >= 6:
            transaction, protocol, length = struct.unpack_from(">HHH", rest, at)
            if protocol != 0 or not LEAST_LENGTH <= length <= MOST_LENGTH:
                raise ForeignBytesError(bytes(rest[at : at + 64]))
            end = at + 6 + length
            if len(rest) < end:
                break
            frames.append(MbapFrame(transaction, rest[at + 6], bytes(rest[at + 7 : end])))
            at = end
        if len(rest) - at >= 4 and rest[at + 2 : at + 4] != b"\0\0":
            raise ForeignBytesError(bytes(rest[at : at + 64]))
        del rest[:at]
        return frames


def frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    """One request as it goes over the wire."""
    return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


class Transactions:
    """The numbers of one connection's requests."""

    def __init__(self) -> None:
        self._last = 0
        self._asked = 0
        self._unanswered: set[int] = set()

    @property
    def used_up(self) -> bool:
        return len(self._unanswered) >= MOST_UNANSWERED

    def begin(self) -> int:
        """A number for a request: never 0, which some devices answer to anything, and none that is still open."""
        while True:
            self._last = self._last % 0xFFFF + 1
            if self._last not in self._unanswered:
                break
        self._unanswered.add(self._last)
        self._asked = max(self._asked, self._last)
        return self._last

    def answered(self, transaction: int) -> None:
        self._unanswered.discard(transaction)

    def was_asked(self, transaction: int) -> bool:
        """Whether this connection ever used the number: an answer to it is late or double, and not a fault."""
        return 1 <= transaction <= self._asked
