"""The local STOP button: a flag in memory, and a file that holds it over restarts (SAFETY 1).

Pressing works with store, token, clock and link dead, and with a full disk: then the flag alone holds. Somebody may
also press it by making the file (the command line does) and clear it by removing the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from agent.control.errors import ControlError, quoted

MOST_BYTES: Final = 200

log = structlog.get_logger()


class StopNotClearedError(ControlError):
    """The STOP file could not be removed, so STOP still holds."""


class StopButton:
    """Pressed or not, and by whom."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pressed_by: str | None = None
        self._in_file = False

    def press(self, by: str) -> None:
        """STOP. Never fails: without a disk the flag in memory holds."""
        self._pressed_by = by
        log.warning("control.stop", by=by)
        try:
            self._file.write_text(by[:MOST_BYTES] + "\n", encoding="utf-8")
            self._in_file = True
        except OSError as error:
            self._in_file = False
            log.error("control.stop_file", file=str(self._file), error=str(error))

    def clear(self, by: str) -> None:
        """End of STOP. Raises StopNotClearedError while the file cannot be removed."""
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            raise StopNotClearedError(f"{self._file}: cannot be removed, so STOP holds: {error.strerror}") from error
        self._pressed_by, self._in_file = None, False
        log.warning("control.stop_cleared", by=by)

    def pressed_by(self) -> str | None:
        """Who pressed it; None when it is not pressed. Looks at the file: cheap, and never raises."""
        try:
            words = self._file.read_bytes()[:MOST_BYTES].decode("utf-8", "replace").strip()
        except FileNotFoundError:
            if self._in_file:
                # It was there: somebody has cleared STOP by removing it.
                self._pressed_by, self._in_file = None, False
            return self._pressed_by
        except OSError:
            return self._pressed_by or f"the unreadable file {self._file}"
        self._in_file = True
        self._pressed_by = self._pressed_by or (quoted(words) if words else f"the file {self._file}")
        return self._pressed_by
