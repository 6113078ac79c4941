"""The local STOP button: a flag in memory, and a file that holds it over restarts (SAFETY 1).

Pressing works with store, token, clock and link dead, and with a full disk: then the flag alone holds. Somebody may
also press it by making the file (the command line does) and clear it by removing the file.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Final

import structlog

from agent.control.errors import ControlError, quoted
from agent.control.frequency_watch import Say
from agent.durable import sync_folder
from agent.evidence.statements import Severity

MOST_BYTES: Final = 200
STOP_FILE_RETRY_S: Final = 5.0

log = structlog.get_logger()


class StopNotClearedError(ControlError):
    """The STOP file could not be removed, so STOP still holds."""


class StopButton:
    """Pressed or not, and by whom."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pressed_by: str | None = None
        self._in_file = False
        self._kept = False
        """The file is on the disk."""
        self._in_trouble = False
        self._lock = threading.Lock()
        """Between `keep` in its thread and `clear`: what was cleared is not written after all."""

    def press(self, by: str) -> None:
        """STOP, in memory: at once, whatever the disk does. `keep` makes it last."""
        self._pressed_by = by
        log.warning("control.stop", by=by)

    def keep(self) -> bool:
        """Write the file, so that a power cut does not end STOP. Blocks as long as the disk does; for a thread.

        Returns False while STOP holds in memory only.
        """
        with self._lock:
            if self._pressed_by is None or self._kept:
                return True
            try:
                # A file that is there is left as it is: were it removed meanwhile, that would be the end of STOP.
                with self._file.open("r" if self._in_file else "w", encoding="utf-8") as file:
                    if not self._in_file:
                        file.write(self._pressed_by[:MOST_BYTES] + "\n")
                        file.flush()
                    os.fsync(file.fileno())
                sync_folder(self._file.parent)
            except OSError as error:
                if self._in_file and isinstance(error, FileNotFoundError):
                    return True  # Just removed; the next look sees it.
                if not self._in_trouble:
                    log.error("control.stop_file", file=str(self._file), error=str(error))
                self._in_trouble = True
                return False
            self._in_trouble, self._kept = False, True
            self._in_file = True
            return True

    def clear(self, by: str) -> None:
        """End of STOP. Raises StopNotClearedError while the file cannot be removed."""
        with self._lock:
            try:
                self._file.unlink(missing_ok=True)
            except OSError as error:
                text = f"{self._file}: cannot be removed, so STOP holds: {error.strerror}"
                raise StopNotClearedError(text) from error
            self._pressed_by, self._in_file, self._kept = None, False, False
        log.warning("control.stop_cleared", by=by)

    def pressed_by(self) -> str | None:
        """Who pressed it; None when it is not pressed. Looks at the file: cheap, and never raises."""
        try:
            words = self._file.read_bytes()[:MOST_BYTES].decode("utf-8", "replace").strip()
        except FileNotFoundError:
            if self._in_file:
                # It was there: somebody has cleared STOP by removing it.
                self._pressed_by, self._in_file, self._kept = None, False, False
            return self._pressed_by
        except OSError:
            return self._pressed_by or f"the unreadable file {self._file}"
        # A file that was made by somebody else, or half by us, is not kept until `keep` says so.
        self._in_file = True
        self._pressed_by = self._pressed_by or (quoted(words) if words else f"the file {self._file}")
        return self._pressed_by


class StopWatch:
    """The button from plan to plan: kept on the disk without anybody waiting for it, each change an alarm."""

    def __init__(self, button: StopButton, say: Say) -> None:
        self._button = button
        self._say = say
        self._to_keep = asyncio.Event()
        self.stopped_by: str | None = None
        """As the newest look saw it."""

    def press(self, by: str) -> None:
        """STOP, at once."""
        self._button.press(by)
        self._to_keep.set()

    def clear(self, by: str) -> None:
        """End of STOP. Raises StopNotClearedError while its file cannot be removed."""
        self._button.clear(by)

    def pressed_by(self) -> str | None:
        """Who pressed it; None when it is not pressed. Cheap, and never raises."""
        return self._button.pressed_by()

    def look(self) -> None:
        """Whether it is pressed now."""
        pressed_by = self._button.pressed_by()
        if pressed_by is not None and self.stopped_by is None:
            self._to_keep.set()
            self._say(Severity.CRITICAL, "site.stop", "site", f"local STOP by {pressed_by}")
        elif pressed_by is None and self.stopped_by is not None:
            self._say(Severity.INFO, "site.stop_cleared", "site", f"the local STOP by {self.stopped_by} was cleared")
        self.stopped_by = pressed_by

    async def run(self) -> None:
        """Make a local STOP outlast a power cut."""
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            while not await asyncio.to_thread(self._button.keep):  # noqa: ASYNC110 - no event tells of a disk with room
                await asyncio.sleep(STOP_FILE_RETRY_S)
