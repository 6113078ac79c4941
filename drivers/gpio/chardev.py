"""One input line of a GPIO chip by the kernel's character device, version 2 of its interface.

Source: include/uapi/linux/gpio.h (Linux 5.10 and later): GPIO_V2_GET_LINE_IOCTL and GPIO_V2_LINE_GET_VALUES_IOCTL. The
structures are written out here with `struct`, native alignment; their sizes are part of the numbers of the calls.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from drivers.gpio.line import Bias, LineError

LINES_MAX: Final = 64
ATTRIBUTES_MAX: Final = 10
CONSUMER: Final = b"v2g-gateway"
FLAG_INPUT: Final = 1 << 2
FLAG_BIAS: Final = {Bias.PULL_UP: 1 << 8, Bias.PULL_DOWN: 1 << 9, Bias.DISABLED: 1 << 10, Bias.AS_IS: 0}

_CONFIG: Final = "QI5I" + "IIQQ" * ATTRIBUTES_MAX
"""gpio_v2_line_config: flags, num_attrs, padding; attributes (id, padding, value, mask)."""
REQUEST: Final = struct.Struct(f"={LINES_MAX}I32s{_CONFIG}II5Ii")
"""gpio_v2_line_request: offsets, consumer, config, num_lines, event_buffer_size, padding, fd; without gaps."""
VALUES: Final = struct.Struct("=QQ")
"""gpio_v2_line_values: bits, mask."""

Ioctl = Callable[[int, int, bytearray], int]


def _read_write(number: int, size: int) -> int:
    """_IOWR(0xB4, number, size): Documentation/userspace-api/ioctl/ioctl-number.rst."""
    return 3 << 30 | size << 16 | 0xB4 << 8 | number


GET_LINE: Final = _read_write(0x07, REQUEST.size)
GET_VALUES: Final = _read_write(0x0E, VALUES.size)


def _ioctl(descriptor: int, call: int, argument: bytearray) -> int:
    return int(fcntl.ioctl(descriptor, call, argument, True))


def request_of(offset: int, bias: Bias) -> bytearray:
    """The kernel's structure that asks for one input line."""
    offsets = [offset] + [0] * (LINES_MAX - 1)
    flags = FLAG_INPUT | FLAG_BIAS[bias]
    attributes = [0] * (4 * ATTRIBUTES_MAX)
    consumer = CONSUMER.ljust(32, b"\0")
    return bytearray(REQUEST.pack(*offsets, consumer, flags, 0, *[0] * 5, *attributes, 1, 0, *[0] * 5, -1))


class ChipLine:
    """A line that is ours while it is open. Made by `open_chip_line`."""

    def __init__(self, descriptor: int, where: str, ioctl: Ioctl) -> None:
        self._descriptor, self._where, self._ioctl = descriptor, where, ioctl

    def read(self) -> bool:
        """Whether it is high. Raises LineError."""
        values = bytearray(VALUES.pack(0, 1))
        try:
            self._ioctl(self._descriptor, GET_VALUES, values)
        except OSError as error:
            raise LineError(f"{self._where}: cannot be read: {error.strerror or error}") from error
        bits, _ = VALUES.unpack(values)
        return bool(bits & 1)

    def close(self) -> None:
        os.close(self._descriptor)


def open_chip_line(chip: Path, offset: int, bias: Bias, ioctl: Ioctl = _ioctl) -> ChipLine:
    """Ask the kernel for one line as an input. Raises LineError: no such chip or line, or somebody else has it."""
    where = f"line {offset} of {chip}"
    request = request_of(offset, bias)
    try:
        descriptor = os.open(chip, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LineError(f"{where}: {error.strerror}; is the chip there, and may the gateway's user open it?") from error
    try:
        ioctl(descriptor, GET_LINE, request)
    except OSError as error:
        why = error.strerror or str(error)
        raise LineError(f"{where}: the kernel does not give it: {why}; has somebody else got it?") from error
    finally:
        os.close(descriptor)
    return ChipLine(REQUEST.unpack(request)[-1], where, ioctl)
