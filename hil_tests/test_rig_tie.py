"""What a test or the demo has started ends with it, also when it is killed and can end nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from hil_tests.rig.tie import start_tied

PATIENCE_S = 20.0
ROOT = Path(__file__).parent.parent
KEEPS = """
import os, subprocess, sys, time
from hil_tests.rig.tie import start_tied, tied
command = ("sleep", "600")
if sys.argv[1] == "start_tied":
    program = start_tied(*command, output=subprocess.DEVNULL, environment=os.environ)
else:
    program = subprocess.Popen(tied(*command))
print(program.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["tied", "start_tied"])
def test_what_a_process_has_started_ends_when_it_is_killed(way: str) -> None:
    keeper = subprocess.Popen([sys.executable, "-c", KEEPS, way], stdout=subprocess.PIPE, cwd=ROOT)
    assert keeper.stdout is not None
    with keeper.stdout as said:
        program = int(said.readline())
        watched = os.pidfd_open(program)
        # Until then setpriv has not asked the kernel for it yet.
        until(lambda: Path(f"/proc/{program}/comm").read_text() == "sleep\n", "the program does not start")
        keeper.kill()
        keeper.wait()
    try:
        assert select.select([watched], [], [], PATIENCE_S)[0], "it runs on"
    finally:
        os.close(watched)


def test_what_a_thread_has_started_lives_on_when_the_thread_ends() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(start_tied("sleep", "600", output=subprocess.DEVNULL, environment=os.environ))

    thread = Thread(target=start)
    thread.start()
    thread.join()
    (program,) = started
    assert thread.native_id is not None
    # The kernel's word comes with the end of the thread, which is a little after its last line of Python.
    until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists(), "the thread does not end")
    program.terminate()
    assert program.wait() == -signal.SIGTERM, "it was killed before"


def until(condition: Callable[[], bool], otherwise: str) -> None:
    for _ in range(2000):
        if condition():
            return
        select.select([], [], [], 0.01)
    pytest.fail(otherwise)
