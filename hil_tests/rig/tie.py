"""Processes that do not outlive the one that started them, however it ended: killed, it could end nothing itself."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final

_KEEPER: Final = ThreadPoolExecutor(1, "keeper")


def tied(*command: str) -> tuple[str, ...]:
    """The command line of a program that the kernel kills when the thread that starts it ends (prctl(2), PDEATHSIG).

    It keeps its process id. For what the main thread starts, as asyncio does; other threads call `start_tied`.
    """
    return ("setpriv", "--pdeathsig", "KILL", *command)


def start_tied(*command: str, output: IO[bytes] | int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that lives as long as this process, whichever thread asks for it."""
    return _KEEPER.submit(
        subprocess.Popen[bytes],
        tied(*command),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ).result()
