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

    def is_it(self, token: bytes, pin: str) -> bool:
        """Whether the token of this name has refused this very PIN."""
        mark = self._mark or self._kept()
        return mark is not None and hmac.compare_digest(_hash(mark[0], token, pin), mark[1])

    def note(self, token: bytes, pin: str) -> None:
        """The token has refused it."""
        salt = os.urandom(_SALT_BYTES)
        self._mark = salt, _hash(salt, token, pin)
        if self.file is None:
            return
        try:
            line = f"1 {salt.hex()} {self._mark[1].hex()}\n"
            write_whole(self.file, line.encode("ascii"), mode=0o600, owner_of=self.file.parent)
        except OSError as error:
            _log.warning("token.refused_pin_not_kept", file=str(self.file), reason=error.strerror)

    def forget(self) -> None:
        """The token has taken a PIN."""
        self._mark = None
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

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
