"""A Modbus RTU line with several simulated devices, on a pseudo-terminal or behind TCP, with faults on order.

Source: MODBUS over Serial Line V1.02, written from the specification and not from the driver. A pseudo-terminal is
unplugged by closing it: whoever has it open finds it gone, as with a USB adapter.
"""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from .modbus import READ_HOLDING, WRITE_MULTIPLE, WRITE_SINGLE, Registers, answer
from .outage import Outage

MOST_BYTES: Final = 256
Spoil = Callable[[int, bytes, bytes], Awaitable[list[bytes]]]
"""(unit, request PDU, right answer as a frame) -> what goes over the wire, piece by piece."""


def checksum(frame: bytes | bytearray) -> bytes:
    """CRC-16 of a frame as it follows it. Appendix B."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


class RtuUnit:
    """One device on the line. Dropped and silent are the same here: it says nothing."""

    def __init__(
        self,
        registers: Registers,
        *,
        unit: int,
        monotonic_s: Callable[[], float],
        refuses: frozenset[int] = frozenset(),
    ) -> None:
        """`refuses`: functions that this device does not know."""
        self.registers = registers
        self.refuses = refuses
        self.unit = unit
        self.dropped = Outage(monotonic_s)
        self.silent = Outage(monotonic_s)
        self.requests: list[bytes] = []
        """Request PDUs that reached it, also those it did not answer."""

    def drop(self, seconds: float) -> None:
        self.dropped.begin(seconds)


class RtuBus:
    """What all devices of a line hear and say, sans-I/O but for `spoil`."""

    def __init__(self, units: Mapping[int, RtuUnit]) -> None:
        self.units = units
        self.spoil: Spoil | None = None
        self.heard: list[int] = []
        """Unit of each request, in order."""

    def requests(self, buffer: bytearray) -> list[tuple[int, bytes]]:
        """(unit, PDU) of the whole requests at the front of `buffer`, which are taken out; noise is skipped."""
        found = []
        while len(buffer) >= 4:
            size = _size(buffer)
            if size is not None and len(buffer) < size:
                break
            if size is None or checksum(buffer[: size - 2]) != buffer[size - 2 : size]:
                del buffer[0]
                continue
            found.append((buffer[0], bytes(buffer[1 : size - 2])))
            del buffer[:size]
        return found

    async def pieces(self, unit: int, request: bytes) -> list[bytes]:
        """What goes over the wire in answer to a request."""
        self.heard.append(unit)
        device = self.units.get(unit)
        if device is None:
            return []
        device.requests.append(request)
        if device.silent.active or device.dropped.active:
            return []
        frame = bytes([unit]) + answer(device.registers, request, refuses=device.refuses)
        frame += checksum(frame)
        return [frame] if self.spoil is None else await self.spoil(unit, request, frame)


def _size(buffer: bytearray) -> int | None:
    """Bytes of the request that begins like this; None: no request does."""
    if buffer[1] in (READ_HOLDING, WRITE_SINGLE):
        return 8
    if buffer[1] == WRITE_MULTIPLE:
        return 9 + buffer[6] if len(buffer) > 6 else 9
    return None


class RtuTcpServer:
    """A serial line behind a TCP converter."""

    def __init__(self, bus: RtuBus) -> None:
        self.bus = bus
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen; `port` 0 lets the system choose. Raises OSError."""
        self._server = await asyncio.start_server(self._converse, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        buffer = bytearray()
        try:
            with suppress(ConnectionError):
                while data := await reader.read(MOST_BYTES):
                    buffer += data
                    for unit, request in self.bus.requests(buffer):
                        for piece in await self.bus.pieces(unit, request):
                            writer.write(piece)
                            await writer.drain()
                            await asyncio.sleep(0)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class PtyLine:
    """A serial line on a pseudo-terminal, under a path that stays the same when it is unplugged and plugged again."""

    def __init__(self, bus: RtuBus, path: Path) -> None:
        self.bus = bus
        self.path = path
        self._ends: tuple[int, int] | None = None
        self._buffer = bytearray()
        self._speaking: asyncio.Task[None] | None = None
        self._requests: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    @property
    def plugged(self) -> bool:
        return self._ends is not None

    async def start(self) -> None:
        """Raises OSError."""
        self.plug()
        self._speaking = asyncio.create_task(self._speak())

    async def stop(self) -> None:
        self.unplug()
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            speaking.cancel()
            await asyncio.wait({speaking})

    def plug(self) -> None:
        """Raises OSError."""
        near, far = os.openpty()
        # The far end stays open here: otherwise the near one reports an error between two clients.
        tty.setraw(far)
        os.set_blocking(near, False)
        self._ends = near, far
        self._buffer.clear()
        asyncio.get_running_loop().add_reader(near, self._readable)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(far))

    def unplug(self) -> None:
        """Whoever has the port open finds it gone; until `plug` there is no such port."""
        if self._ends is None:
            return
        ends, self._ends = self._ends, None
        asyncio.get_running_loop().remove_reader(ends[0])
        for end in ends:
            os.close(end)
        self.path.unlink(missing_ok=True)

    def say(self, data: bytes) -> None:
        """Something on the line that nobody asked for."""
        if self._ends is not None:
            os.write(self._ends[0], data)

    def _readable(self) -> None:
        assert self._ends is not None
        with suppress(BlockingIOError):
            self._buffer += os.read(self._ends[0], 4096)
        for heard in self.bus.requests(self._buffer):
            self._requests.put_nowait(heard)

    async def _speak(self) -> None:
        """One answer after the other, as on a real line."""
        while True:
            unit, request = await self._requests.get()
            for piece in await self.bus.pieces(unit, request):
                self.say(piece)
                await asyncio.sleep(0)
