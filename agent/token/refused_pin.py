"""The PIN that a token refused last: never tried again, by no process and after no restart, until the secret changes.

A few wrong tries lock a token, and each start, and each command beside the agent, would be one more.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Final

import structlog

from agent.durable import write_whole

_log = structlog.get_logger()

FILE: Final = "token-pin.refused"
"""In the state directory."""
_SALT_BYTES: Final = 16
_MARK: Final = re.compile(r"1 ([0-9a-f]{32}) ([0-9a-f]{64})\n")


class RefusedPin:
    """Kept in memory, and in a file over restarts. One that cannot be written costs a try for each start."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._mark: tuple[bytes, bytes] | None = None
        """Salt and hash."""
        self._is_kept = False
        """It is in the file too: whoever removes that has the PIN tried again, also by who runs."""

    def is_it(self, token: bytes, pin: str) -> bool:
        """Whether the token of this name has refused this very PIN."""
        if self._is_kept and self._was_deleted():
            self._mark, self._is_kept = None, False
        marks = {mark for mark in (self._mark, self._kept()) if mark is not None}
        return any(hmac.compare_digest(_hash(salt, token, pin), hashed) for salt, hashed in marks)

    def note(self, token: bytes, pin: str) -> None:
        """The token has refused it."""
        salt = os.urandom(_SALT_BYTES)
        self._mark, self._is_kept = (salt, _hash(salt, token, pin)), False
        if self.file is None:
            return
        try:
            line = f"1 {salt.hex()} {self._mark[1].hex()}\n"
            write_whole(self.file, line.encode("ascii"), mode=0o600, owner_of=self.file.parent)
            self._is_kept = True
        except OSError as error:
            _log.warning("token.refused_pin_not_kept", file=str(self.file), reason=error.strerror)

    def forget(self) -> None:
        """The token has taken a PIN."""
        self._mark = None
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

    def _was_deleted(self) -> bool:
        """By a person, or with a PIN that was taken. A disk that does not answer is no reason to try again."""
        try:
            return self.file is not None and not self.file.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _kept(self) -> tuple[bytes, bytes] | None:
        if self.file is None:
            return None
        try:
            found = _MARK.fullmatch(self.file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return None if found is None else (bytes.fromhex(found[1]), bytes.fromhex(found[2]))


def _hash(salt: bytes, token: bytes, pin: str) -> bytes:
    """Slow on purpose: the PIN of one token, given to another by mistake, is right somewhere."""
    return hashlib.scrypt(token + b"\0" + pin.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32)
