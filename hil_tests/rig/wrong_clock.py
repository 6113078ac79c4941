"""The agent on a box whose system clock is wrong and held by no NTP: `python -m hil_tests.rig.wrong_clock SECONDS run`.

The arguments of `v2g-gateway` follow SECONDS, which are added to what the system clock says. Nobody can set the clock
of a test machine, so the two calls with which `agent.clock` asks the kernel are replaced; all else is the agent.
"""

from __future__ import annotations

import sys
import time

import agent.clock
from agent.cli.main import main


def falsify(seconds: float) -> None:
    """From now on this process's clock is off by so much, and the kernel says that it does not know better."""
    true_ns = time.time_ns
    time.time_ns = lambda: true_ns() + round(seconds * 1e9)
    agent.clock.kernel_clock_error_us = lambda: None


if __name__ == "__main__":
    falsify(float(sys.argv.pop(1)))
    main()
