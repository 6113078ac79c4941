"""Hard-wired inputs: lines of a GPIO chip, read through the kernel's character device, or files that say 0 and 1.

`chardev.py` speaks the kernel's own interface (what libgpiod wraps), so that no library has to be there on a box that
has no such inputs; `line.py` is the small protocol that both kinds of source fulfil. Nothing here writes to a line.
"""

from drivers.gpio.line import Bias, Line, LineError, open_line

__all__ = ["Bias", "Line", "LineError", "open_line"]
