"""A serial port as an asyncio transport: pyserial opens and sets it, the event loop waits for it.

pyserial itself only blocks, and its asyncio companion is another package. The port is taken for us alone (flock), so a
second program, or a second gateway, gets "busy" and not every other byte.
"""

from __future__ import annotations

import asyncio
import errno
import os

import serial

from drivers.sunspec.endpoint import Endpoint
from drivers.sunspec.errors import NoAnswerError


class SerialTransport(asyncio.Transport):
    """Bytes to and from an open port. Reports to an asyncio.BufferedProtocol as every transport does."""

    def __init__(self, port: serial.Serial, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._port = port
        self._fd: int = port.fileno()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._closing = False
        self._loop.add_reader(self._fd, self._readable)
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        idle = not self._unsent
        self._unsent += data
        if idle:
            self._writable()

    def abort(self) -> None:
        self._end(None)

    def close(self) -> None:
        self._end(None)

    def _readable(self) -> None:
        try:
            received = os.readv(self._fd, [self._protocol.get_buffer(-1)])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if received:
            self._protocol.buffer_updated(received)
        else:
            # Readable and empty: the adapter was pulled out.
            self._end(OSError(errno.EIO, "the port has gone"))

    def _writable(self) -> None:
        try:
            sent = os.write(self._fd, self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(error)
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._fd, self._writable)
        else:
            self._loop.remove_writer(self._fd)

    def _end(self, error: OSError | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._port.close()
        self._loop.call_soon(self._protocol.connection_lost, error)


def open_serial(endpoint: Endpoint, protocol: asyncio.BufferedProtocol) -> SerialTransport:
    """Open the port of an rtu endpoint. Raises NoAnswerError that says what is wrong with it."""
    settings = endpoint.serial
    assert settings is not None
    try:
        port = serial.Serial(
            endpoint.host,
            baudrate=settings.baudrate,
            parity=settings.parity,
            stopbits=settings.stopbits,
            timeout=0,
            write_timeout=0,
            exclusive=True,
        )
    except (OSError, ValueError) as error:  # SerialException is an OSError
        raise NoAnswerError(f"{endpoint}: {_why(endpoint.host, error)}") from error
    return SerialTransport(port, protocol)


def _why(path: str, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "there is no such port; is the adapter plugged in, is the path right?"
    if number in (errno.EACCES, errno.EPERM):
        return "this user may not open the port; add it to the group that owns it (dialout)"
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in str(error):
        return "another program has the port open; stop it, one master is all that a line can have"
    # pyserial wraps what termios says in words.
    if number in (errno.ENOTTY, errno.EISDIR) or "Inappropriate ioctl" in str(error):
        return f"{path} is no serial port"
    return f"the port cannot be opened: {error}"
