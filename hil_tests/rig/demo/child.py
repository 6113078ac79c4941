"""A process of the stage: started with its words in a file, spoken to in JSON lines, ended in order or killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hil_tests.rig.tie import tied

READY_S: Final = 60.0
ENDED_S: Final = 20.0
ROOT: Final = Path(__file__).resolve().parents[3]


class StageError(Exception):
    """Something did not start, or ended by itself. Says what, and where its words are."""


class Child:
    """A process that speaks JSON lines; its standard error goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self.said: list[dict[str, object]] = []
        self._heard = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @staticmethod
    async def start(name: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Child:
        """Start `python ARGUMENTS`; what it writes on standard error is added to FOLDER/NAME.log."""
        log = folder / f"{name}.log"
        with log.open("ab") as words:
            process = await asyncio.create_subprocess_exec(
                *tied(sys.executable, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=words,
                cwd=ROOT,
                env={**os.environ, **environment},
                # Ctrl-C is for us: the processes end in order.
                start_new_session=True,
            )
        return Child(name, process, log)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self.said.append(said)
                    self._heard.set()
                    self._heard = asyncio.Event()
        self._heard.set()

    async def hear(self, key: str, since: int = 0) -> dict[str, object]:
        """The first line from number `since` that has this key. Raises StageError when it does not come."""
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    for said in self.said[since:]:
                        if key in said:
                            return said
                    if self._listening.done():
                        raise StageError(
                            f"{self.name} ended with exit code {await self._process.wait()}: {self.words()}"
                        )
                    await self._heard.wait()
        except TimeoutError:
            raise StageError(f"{self.name} did not say {key!r} within {READY_S:g} s: {self.words()}") from None

    async def order(self, **order: object) -> None:
        """One order on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> int:
        """SIGTERM, and SIGKILL when that does not help; the exit code (negative: the signal that ended it)."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            return await self.ended(ENDED_S)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """SIGKILL, as a power cut would: it gets no chance to say or write anything. The exit code."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        return await self.ended(ENDED_S)

    async def ended(self, within_s: float) -> int:
        """The exit code, once it has ended. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            code = await self._process.wait()
            await asyncio.shield(self._listening)
        return code

    def words(self) -> str:
        """The end of what it wrote, for an error."""
        return f"{self.log}: …{self.log.read_text(errors='replace')[-600:]}"


async def run_to_end(module: str, arguments: Sequence[str], *, environment: Mapping[str, str]) -> dict[str, object]:
    """Run `python -m MODULE ARGUMENTS` to its end; its JSON. Raises StageError when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    words, complaints = await process.communicate()
    if process.returncode != 0:
        raise StageError(
            f"{module} {' '.join(arguments)}: {complaints.decode(errors='replace')[-600:]}{words.decode()[-300:]}"
        )
    answer = json.loads(words)
    assert isinstance(answer, dict)
    return answer
