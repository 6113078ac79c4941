"""A GPIO chip for a process that asks the kernel for one: `gpio_chip.c`, and the page that is shared with it."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hil_tests.faults.disk import DiskError, compiler

SOURCE: Final = Path(__file__).with_name("gpio_chip.c")
LINES: Final = 32
FIELDS: Final = ("gone", "busy", "levels", "opened", "given", "read", "wrong", "bouncing", "bounces")
"""`struct chip` of gpio_chip.c, an int64 each; then one for each line."""
SIZE: Final = 8 * (len(FIELDS) + LINES)


class GpioChip:
    """One chip. Its device is a link to a character device that is there everywhere, and whose calls are played."""

    def __init__(self, folder: Path) -> None:
        """Raises DiskError where it cannot be compiled."""
        self._library = folder / "gpio_chip.so"
        self._control = folder / "gpio_chip.control"
        self.device = folder / "gpiochip0"
        self.plug()
        program = compiler()
        if program is None:
            raise DiskError("no C compiler: install gcc and libc6-dev (./install.sh test does)")
        done = subprocess.run(
            [program, "-O2", "-Wall", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE), "-ldl"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DiskError(f"{program} {SOURCE.name}: {done.stderr[:600]}")
        self._control.write_bytes(bytes(SIZE))
        with self._control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), SIZE)

    @property
    def environment(self) -> Mapping[str, str]:
        """For the process."""
        return {
            "LD_PRELOAD": str(self._library),
            "V2G_CHIP_CONTROL": str(self._control),
            "V2G_CHIP_DEVICE": str(self.device),
        }

    def __getitem__(self, field: str) -> int:
        return int(struct.unpack_from("q", self._page, 8 * FIELDS.index(field))[0])

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("q", self._page, 8 * FIELDS.index(field), value)

    def flags(self, line: int) -> int:
        """As the line was asked for last."""
        return int(struct.unpack_from("q", self._page, 8 * (len(FIELDS) + line))[0])

    def set(self, line: int, *, high: bool) -> None:
        """What the contact does."""
        self["levels"] = self["levels"] | 1 << line if high else self["levels"] & ~(1 << line)

    def bounce(self, line: int, reads: int) -> None:
        """The contact shows the other level at every second read: however slow the reader is, it never stays there."""
        self["bouncing"], self["bounces"] = line, reads

    def plug(self) -> None:
        """The device node is there."""
        self.device.symlink_to("/dev/full")

    def unplug(self) -> None:
        """Off its bus: the node goes, and what is open answers no more."""
        self["gone"] = 1
        self.device.unlink()

    def plug_again(self) -> None:
        self["gone"] = 0
        self.plug()
