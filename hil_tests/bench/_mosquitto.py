"""A mosquitto on loopback without TLS or logins, for a peer whose delivery is measured."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from hil_tests.rig.broker import mosquitto
from hil_tests.rig.demo.child import StageError
from hil_tests.rig.demo.stage import free_ports
from hil_tests.rig.tie import tied

UP_WITHIN_S: Final = 10.0


@contextlib.asynccontextmanager
async def plain_broker(folder: Path) -> AsyncIterator[int]:
    """Its port, while the context is open. Raises StageError when mosquitto is not installed or does not come up."""
    program = mosquitto()
    if program is None:
        raise StageError("mosquitto is not installed: install the package mosquitto")
    (port,) = free_ports(1)
    settings = _configure(folder, port)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*tied(program, "-c", str(settings)), stdout=log, stderr=log)
    try:
        await _up(port, process, folder / "log")
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _configure(folder: Path, port: int) -> Path:
    folder.mkdir(parents=True)
    settings = folder / "mosquitto.conf"
    # As root it would become another user. Queues are as long as they need to be: nothing that arrived is dropped.
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser {getpass.getuser()}\n",
        encoding="utf-8",
    )
    return settings


async def _up(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UP_WITHIN_S):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                return
    raise StageError(f"mosquitto does not listen on port {port}: {_words(log)}")


def _words(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-300:]
