"""The kernel's GPIO interface, by the layout in include/uapi/linux/gpio.h, against a played kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from drivers.gpio.chardev import GET_LINE, GET_VALUES, REQUEST, open_chip_line, request_of
from drivers.gpio.line import Bias, LineError


class Kernel:
    """Answers two calls as the kernel does."""

    def __init__(self) -> None:
        self.level = 0
        self.request = b""
        self.fails = False

    def __call__(self, descriptor: int, call: int, argument: bytearray) -> int:
        if self.fails:
            raise OSError(19, "No such device")
        if call == GET_LINE:
            self.request = bytes(argument)
            argument[-4:] = struct.pack("=i", os.open("/dev/null", os.O_RDONLY))
        elif call == GET_VALUES:
            bits, mask = struct.unpack("=QQ", argument)
            assert (bits, mask) == (0, 1)
            argument[:8] = struct.pack("=Q", self.level)
        return 0


def test_the_structures_and_calls_have_the_kernels_sizes_and_numbers() -> None:
    assert REQUEST.size == 592
    assert GET_LINE == 0xC250B407
    assert GET_VALUES == 0xC010B40E


def test_a_line_is_asked_for_as_an_input_with_its_bias_and_nothing_else() -> None:
    fields = REQUEST.unpack(bytes(request_of(17, Bias.PULL_UP)))
    assert fields[0] == 17
    assert fields[64].rstrip(b"\0") == b"v2g-gateway"
    assert fields[65] == 1 << 2 | 1 << 8
    assert fields[-8] == 1  # one line
    assert struct.unpack_from("=I", request_of(3, Bias.DISABLED), 560)[0] == 1


def test_a_level_is_read_as_it_is() -> None:
    kernel = Kernel()
    line = open_chip_line(Path("/dev/null"), 4, Bias.AS_IS, kernel)
    assert not line.read()
    kernel.level = 1
    assert line.read()
    line.close()


def test_a_chip_that_goes_away_is_said_with_what_to_do() -> None:
    kernel = Kernel()
    line = open_chip_line(Path("/dev/null"), 4, Bias.AS_IS, kernel)
    kernel.fails = True
    with pytest.raises(LineError, match="line 4 of /dev/null: cannot be read: No such device"):
        line.read()
    with pytest.raises(LineError, match="has somebody else got it"):
        open_chip_line(Path("/dev/null"), 4, Bias.AS_IS, kernel)
    with pytest.raises(LineError, match="may the gateway's user open it"):
        open_chip_line(Path("/dev/no-chip"), 4, Bias.AS_IS, kernel)


def test_the_real_kernel_refuses_what_is_no_chip() -> None:
    with pytest.raises(LineError, match="the kernel does not give it"):
        open_chip_line(Path("/dev/null"), 0, Bias.PULL_UP)
