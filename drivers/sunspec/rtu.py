"""Modbus RTU frames, sans-I/O: bytes in, the answer out, noise and other units' frames left aside.

Source: MODBUS over Serial Line V1.02, section 2.5. An RTU answer names neither its request nor its address, so a late
one looks like the answer to the next request of the same shape. `Unanswered` says when that is possible; what is done
about it is in `transport.py`: a read of a shape that no late answer can have goes first.

Our own, because pymodbus's framer gives up a whole buffer at the first wrong checksum (noise before an answer costs
the answer), and knows nothing of late ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from drivers.sunspec.pdu import EXCEPTION, MOST_READ, READ, READS, Request, read_request

SILENT_CHARACTERS: Final = 3.5
"""Between frames."""
LEAST_SILENCE_S: Final = 0.00175
"""Above 19200 baud the silence no longer shrinks. Section 2.5.1.1."""
LATEST_ANSWER_S: Final = 15.0
"""No device is expected to answer later than this: the longest time-out that can be configured is 10 s."""
_MOST_BYTES: Final = 4096
"""Kept of what arrives during one request."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc16(data: bytes) -> bytes:
    """The checksum of `data` as it follows on the wire, low byte first. Section 6.2.2."""
    crc, table = 0xFFFF, _CRC_TABLE
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


def frame(unit: int, pdu: bytes) -> bytes:
    """One request as it goes over the wire."""
    body = bytes((unit,)) + pdu
    return body + crc16(body)


class RtuFramer:
    """Finds the answer to one request. The same bytes give the same answer, whatever the pieces they come in.

    Of several readings of the bytes the one that ends first is taken, so that noise that looks like the beginning of
    an answer does not hide the real one.
    """

    def __init__(self, request: Request, *, exactly: bool = False) -> None:
        """`exactly`: only what `request` says of a fitting answer is one, no exception and no other length."""
        self._request = request
        self._exactly = exactly
        self._bytes = bytearray()
        self._looked_at = 0
        self._ends: dict[int, list[int]] = {}
        """End of a possible frame -> where it would begin."""

    @property
    def seen(self) -> bytes:
        """What came so far, for a message."""
        return bytes(self._bytes)

    def feed(self, data: bytes) -> bytes | None:
        """The answer's PDU once it is complete. Bytes after it are not looked at."""
        for byte in data:
            if len(self._bytes) >= _MOST_BYTES:
                return None
            self._bytes.append(byte)
            pdu = self._at_byte(len(self._bytes))
            if pdu is not None:
                return pdu
        return None

    def _at_byte(self, end: int) -> bytes | None:
        start = end - 3
        if start >= 0 and self._bytes[start] == self._request.unit:
            size = self._size(self._bytes[start + 1], self._bytes[start + 2])
            if size is not None:
                self._ends.setdefault(start + size, []).append(start)
        for begin in self._ends.pop(end, ()):
            body = bytes(self._bytes[begin : end - 2])
            if crc16(body) == self._bytes[end - 2 : end]:
                pdu = body[1:]
                if not self._exactly or pdu.startswith(self._request.answer_head):
                    return pdu
        return None

    def _size(self, function: int, third: int) -> int | None:
        """Bytes of a frame that begins like this, or None when none does that could answer us."""
        if function == self._request.function:
            return 5 + third if function in READS else 8
        if function == self._request.function | EXCEPTION and not self._exactly:
            return 5
        return None


class Unanswered:
    """Per unit of one line, the requests whose answers may still come, and the read that tells when none can any more.

    A device answers its requests one after the other: once it has answered a read of `probe`, whose shape no late
    answer can have, it has nothing left to say about earlier ones.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._good: dict[int, dict[_Shape, Request]] = {}

    def asked(self, request: Request, now_s: float, *, is_probe: bool = False) -> None:
        """No answer came to it, or was not waited for. A probe does not make us wait longer, but its shape is spent."""
        left = self._open.setdefault(request.unit, _Open(now_s))
        if not is_probe:
            left.since_s = now_s
        if request.function in READS:
            left.shapes.add(_shape(request))

    def answered(self, request: Request, *, refused: bool = False) -> None:
        """The request's own answer came, which no earlier one can be taken for."""
        self._open.pop(request.unit, None)
        if request.function in READS and not refused:
            self._good.setdefault(request.unit, {})[_shape(request)] = request

    def probe(self, request: Request, now_s: float) -> Request | None:
        """What to read before `request` is made; None: nothing, no late answer is to be expected."""
        left = self._open.get(request.unit)
        if left is None:
            return None
        if now_s - left.since_s > LATEST_ANSWER_S:
            del self._open[request.unit]
            return None
        # Best is what this unit has answered before; else as little as possible where we want to go anyway.
        for shape, good in self._good.get(request.unit, {}).items():
            if shape not in left.shapes:
                return good
        function = request.function if request.function in READS else READ
        free = (count for count in range(1, MOST_READ + 1) if (function, count) not in left.shapes)
        count = next(free, MOST_READ)
        return read_request(request.unit, min(request.address, 0x10000 - count), count, function)


_Shape = tuple[int, int]
"""Function and registers of a read: what an answer to it shows of it."""


@dataclass(slots=True)
class _Open:
    since_s: float
    shapes: set[_Shape] = field(default_factory=set)
    """What a late answer may look like."""


def _shape(request: Request) -> _Shape:
    return request.function, (request.answer_size - 2) // 2
