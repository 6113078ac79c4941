"""Processes that open a store with a key, so that it is encrypted, and kill themselves at one of its steps.

python -m hil_tests.converting_victim FOLDER KEY_FILE STEP... A step is a file that is synced, renamed or removed, a
commit, or (STEP negative) so many rows that were encrypted. One ends by itself, with 0, where there are fewer steps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.store import Store, converting
from agent.store.cipher import Cipher
from agent.token.store_key import store_key


def counted(work: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """The same; when `left` is used up the process is gone, before the work or (odd) after it."""

    def step(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        done = work(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return step


def encrypt(folder: Path, key_file: str, step: int) -> None:
    """Until killed, or to the end."""
    if step < 0:
        Cipher.seal = counted(Cipher.seal, [-step])  # type: ignore[method-assign]
    else:
        left = [step]
        os.fsync = counted(os.fsync, left)
        for name in ("rename", "unlink"):
            setattr(Path, name, counted(getattr(Path, name), left))
        for name in ("convert", "_alone"):
            setattr(converting, name, counted(getattr(converting, name), left))
    store = asyncio.run(Store.open(folder, key=store_key(f"file:{key_file}"), reserve_bytes=4096))
    assert not store.in_the_clear
    os._exit(0)


def main(folder: Path, key_file: str, steps: list[int]) -> None:
    """Each step in a process of its own, over a copy of the store: FOLDER/STEP. Says how each ended, a line each."""
    for step in steps:
        child = os.fork()
        if child == 0:
            encrypt(folder / str(step), key_file, step)
        _, status = os.waitpid(child, 0)
        print("ended", step, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(step) for step in sys.argv[3:]])
