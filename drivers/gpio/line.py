"""What an input line is to whoever reads it, and where one comes from."""

from __future__ import annotations

import stat
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

MOST_BYTES: Final = 16
_LEVELS: Final = {b"0": False, b"1": True}


class LineError(Exception):
    """A line cannot be opened or read. Says which, and what to do. Its level is then not known."""


class Bias(Enum):
    """The chip's own resistor on the line."""

    PULL_UP = "pull_up"
    PULL_DOWN = "pull_down"
    DISABLED = "none"
    AS_IS = "as_is"


class Line(Protocol):
    """One input. Both methods are quick: they wait for nothing."""

    def read(self) -> bool:
        """Whether it is high. Raises LineError."""
        ...

    def close(self) -> None: ...


class FileLine:
    """A line whose level stands in a file as 0 or 1, as some modules' drivers show theirs (a bridge's folder)."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> bool:
        try:
            with self._file.open("rb") as opened:
                said = opened.read(MOST_BYTES)
        except OSError as error:
            raise LineError(f"{self._file}: {error.strerror}") from error
        level = _LEVELS.get(said.strip())
        if level is None:
            raise LineError(f"{self._file}: says {said!r}, which is neither 0 nor 1")
        return level

    def close(self) -> None:
        """Nothing is open between two looks."""


def open_line(chip: Path, number: int, bias: Bias) -> Line:
    """Line `number` of a chip (a character device), or of a folder with a file for each. Raises LineError."""
    from drivers.gpio.chardev import open_chip_line

    try:
        mode = chip.stat().st_mode
    except OSError as error:
        raise LineError(f"{chip}: {error.strerror}; gpiodetect lists the chips of a box") from error
    if stat.S_ISDIR(mode):
        return FileLine(chip / str(number))
    if stat.S_ISCHR(mode):
        return open_chip_line(chip, number, bias)
    raise LineError(f"{chip}: is neither a GPIO chip (/dev/gpiochip0) nor a folder of files that say 0 or 1")
