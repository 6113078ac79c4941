"""For tests of scan, read, record and serve: the commands as processes, strangers at the other end, a configuration."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from hil_tests.rig.tie import tied
from hil_tests.test_cli_commands import PATIENCE_S, ROOT

NO_CONFIG = ("--config", "/nonexistent/gateway.toml")


def started(
    *arguments: str | Path, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tied(sys.executable, "-m", "agent.cli.main", *map(str, arguments)),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@contextmanager
def playing(file: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`serve` as a process, and its address."""
    process = started("serve", file, "--port", "0", "--json", *more)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"], process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


@asynccontextmanager
async def stranger(says: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A TCP server that is no Modbus device; the event is set once somebody has asked."""
    asked = asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(100):
            asked.set()
            writer.write(says)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "gateway.toml"


def configured(config: Path, address: str, *more: str, device: str = "pv-1", driver: str = "sunspec") -> None:
    config.write_text(
        f'[gateway]\nstate_dir = "{config.parent / "state"}"\n[token]\nlabel = "t"\n'
        f'[[device]]\nid = "{device}"\nkind = "{device.partition("-")[0]}"\ndriver = "{driver}"\n'
        f'address = "{address}"\n' + "".join(f"{line}\n" for line in more)
    )
