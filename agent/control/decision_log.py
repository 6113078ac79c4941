"""Writes the record of decisions beside the store: off the path of orders, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from agent.control.errors import RestoreError
from agent.control.events import Encoder, Memory, Noted
from agent.control.frequency_watch import Say
from agent.control.sealed_file import SealedFileError, Sealing, is_sealed, piece, recode
from agent.control.segments import SUFFIX, VERSION, Header, SegmentWriter, read_segment
from agent.evidence.statements import Severity

RECORD: Final = "decisions"
"""The folder of the record, in the state directory."""
WRITE_EVERY_S: Final = 5.0
REST: Final = 4
"""The writing thread rests so many times as long as it worked: it shares the interpreter with those who order."""
STATE_EVERY_S: Final = 900.0
SEGMENT_S: Final = 3600.0
RETRY_S: Final = 60.0
MOST_WAITING: Final = 1_000
"""Each is the whole site: a disk that hangs must not cost the memory."""
MOST_FOLDER_BYTES: Final = 512 * 1024 * 1024
LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
"""Below this the disk is for evidence and commands."""
CODE: Final = "control.record"

log = structlog.get_logger()


def stated(name: str, count: int, digest: bytes) -> str:
    """The text of the signed statement about a segment so far."""
    return f"segment {name}: {count} records, SHA-256 {digest.hex()}"


class DecisionLog:
    """One for the gateway. `note` with each event; `run` in a task of its own."""

    def __init__(
        self,
        folder: Path | None,
        *,
        software: str,
        days: int,
        say: Say,
        monotonic_s: Callable[[], float],
        sealing: Sealing | None = None,
    ) -> None:
        """`folder` None, or 0 days: nothing is recorded. `sealing`: of the store, where it is encrypted."""
        self._sealing = sealing
        self._pieces = 0
        self._folder = folder if days else None
        self._software, self._days = software, days
        self._say, self._monotonic_s = say, monotonic_s
        self._waiting: list[Memory | Noted] = []
        self._lost = False
        self._encoder = Encoder()
        self._segment: SegmentWriter | None = None
        self._path = Path()
        self._began_s = self._stated_s = float("-inf")
        self._retry_s = float("-inf")
        self._trouble = ""
        self._to_say: list[tuple[Severity, str, str, str]] = []

    def takes(self, now_s: float) -> bool:
        """Whether anything is recorded now; it is not while the disk refuses."""
        return self._folder is not None and now_s >= self._retry_s

    def note(self, item: Memory | Noted) -> bool:
        """To be recorded, if there is room. Never blocks; what it holds does not change, and is encoded later."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(item)
        return True

    def taken_loss(self) -> bool:
        """Whether something that was noted is lost, since this was last asked: then a memory is to come first."""
        lost, self._lost = self._lost, False
        return lost

    async def run(self) -> None:
        """Write until cancelled, and what is left then."""
        if self._folder is None:
            await asyncio.Event().wait()
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                await asyncio.to_thread(self.write, gently=True)
                self._tell(due=self._monotonic_s() - self._stated_s >= STATE_EVERY_S)
        finally:
            self.write()
            self._tell(due=True)

    def _tell(self, *, due: bool) -> None:
        """Say what the writing thread has to say: only the loop may."""
        if due:
            self._state()
        told, self._to_say = self._to_say, []
        for words in told:
            self._say(*words)

    def _state(self) -> None:
        if self._segment is not None and self._segment.count:
            self._stated_s = self._monotonic_s()
            name = self._path.name
            text = stated(name, self._segment.count, self._segment.digest)
            self._to_say.append((Severity.INFO, CODE, name, text))

    def write(self, *, gently: bool = False) -> None:
        """What waits, into the segment. Never raises; blocks as long as the disk does, and says nothing itself."""
        taken, self._waiting = self._waiting, []
        now_s = self._monotonic_s()
        if not taken or self._folder is None:
            return
        if now_s < self._retry_s:
            self._lost = True
            return
        try:
            frames: list[bytes] = []
            for item in taken:
                begun_s = self._monotonic_s()
                if isinstance(item, Memory):
                    self._encoder = Encoder()
                    if self._segment is None or item.continues or now_s - self._began_s >= SEGMENT_S:
                        self._append(frames)
                        frames = []
                        self._state()
                        self._begin(self._folder, item.at_us, now_s)
                if self._segment is None:
                    self._lost = True  # Without the memory before it nobody could let it happen again.
                    continue
                frames += self._encoder.frames(item)
                if gently:
                    time.sleep(REST * (self._monotonic_s() - begun_s))
            self._append(frames)
            self._trouble = ""
        except Exception as error:  # A record that cannot be written stops nobody from being controlled.
            if not self._trouble:
                log.warning("control.not_recorded", error=repr(error), events=len(taken))
                text = f"decisions are not recorded: {error}"
                self._to_say.append((Severity.WARNING, "control.not_recorded", "control", text[:1000]))
            self._trouble = str(error) or repr(error)
            self._segment, self._retry_s, self._lost = None, now_s + RETRY_S, True

    def _append(self, frames: list[bytes]) -> None:
        if self._segment is not None and frames:
            with self._path.open("ab") as file:
                file.write(piece(self._sealing, self._path.name, self._pieces, self._segment.take(frames)))
                file.flush()
                os.fsync(file.fileno())
            self._pieces += 1

    def _begin(self, folder: Path, at_us: int, now_s: float) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
            raise OSError(f"less than {LEAST_FREE_BYTES >> 20} MiB are free in {folder}")
        self._tidy(folder, at_us)
        previous = segments(folder)
        digest = b""
        if previous:
            with suppress(RestoreError, OSError):  # A damaged one is the auditor's to find.
                read = [so_far for _, so_far in read_segment(previous[-1], self._sealing)]
                digest = read[-1]
                # What was written after its last statement is vouched for now: whoever is killed says nothing.
                text = stated(previous[-1].name, len(read) - 1, digest)
                self._to_say.append((Severity.INFO, CODE, previous[-1].name, text))
        # Never before the last one: a clock that was set back must not change their order.
        start_us = max(at_us, int(previous[-1].name.partition(".")[0]) + 1 if previous else 0)
        self._path = folder / f"{start_us:020d}{SUFFIX}"
        self._path.touch(mode=0o600, exist_ok=False)
        self._pieces = 0
        self._segment = SegmentWriter(Header(version=VERSION, software=self._software, previous=digest))
        self._began_s = self._stated_s = now_s

    def _tidy(self, folder: Path, now_us: int) -> None:
        """Remove what is older than the installer wants, and the oldest where there is too much."""
        found = segments(folder)
        sizes = {path: path.stat().st_size for path in found}
        for path in found:
            old = int(path.name.partition(".")[0]) < now_us - self._days * 86_400_000_000
            if old or sum(sizes.values()) > MOST_FOLDER_BYTES:
                path.unlink(missing_ok=True)
                del sizes[path]


def segments(folder: Path) -> list[Path]:
    """In the order in which they were begun. Raises OSError."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.name.partition(".")[0].isdigit())


def recode_all(folder: Path, opens: Sealing | None, seals: Sealing | None) -> list[str]:
    """Encrypt the record, or put it in the clear, as far as it is not so; a sentence for each segment that stays."""
    left = []
    wanted = seals is not None and not seals.is_plain
    for path in segments(folder):
        try:
            if is_sealed(path) != wanted:
                recode(path, opens, seals)
        except (SealedFileError, OSError) as error:
            left.append(f"{path.name}: {error}")
    for path in folder.glob(f"*{SUFFIX}.new"):
        path.unlink(missing_ok=True)
    return left
