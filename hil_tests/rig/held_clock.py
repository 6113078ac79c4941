"""The agent on a box whose clock NTP holds: `python -m hil_tests.rig.held_clock run`, with `v2g-gateway`'s arguments.

A platform of the published contract alone tells no time, so there NTP has to; test machines often have none. As in
`wrong_clock.py` the call with which `agent.clock` asks the kernel is replaced; all else is the agent.
"""

from __future__ import annotations

from typing import Final

import agent.clock
from agent.cli.main import main

ERROR_US: Final = 2_000
"""What a box with NTP commonly says."""


if __name__ == "__main__":
    agent.clock.kernel_clock_error_us = lambda: ERROR_US
    main()
