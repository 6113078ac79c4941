"""What to try when a token stops answering: a ladder, and the waits between two whole climbs.

python-pkcs11 logs in only while it opens a session, so "log in again" is part of reopening. Every rung ends with
finding the key again and comparing its public half with the pinned one: a handle can come to name another key.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import pkcs11.exceptions as p11
from cryptography.exceptions import InvalidSignature

from agent.token.errors import KeyMissingError

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
"""A token that was pulled is usually put back by a person, who should not wait long to see it work."""

LOCKED_WAIT_S: Final = 300.0
"""A locked token judges no PIN, so that asking costs nothing; a TPM forgives within minutes to hours."""


class Rung(IntEnum):
    """Each costs more than the one before, and loses more: reinitialising drops every handle of the module."""

    FIND_KEY = 0
    REOPEN_SESSION = 1
    REINITIALISE = 2


# Where the climb begins, by what the module said. Everything else begins, and ends, at the top.
_FIRST: Final[dict[type[Exception], Rung]] = {
    p11.ObjectHandleInvalid: Rung.FIND_KEY,
    p11.KeyHandleInvalid: Rung.FIND_KEY,
    InvalidSignature: Rung.FIND_KEY,
    p11.SessionHandleInvalid: Rung.REOPEN_SESSION,
    p11.SessionClosed: Rung.REOPEN_SESSION,
    p11.UserNotLoggedIn: Rung.REOPEN_SESSION,
    p11.OperationActive: Rung.REOPEN_SESSION,
    p11.OperationNotInitialized: Rung.REOPEN_SESSION,
    # Without a login private keys are not refused, they are simply not there.
    KeyMissingError: Rung.REOPEN_SESSION,
}

CLIMBED_FOR: Final = (p11.PKCS11Error, InvalidSignature, KeyMissingError)
"""Errors that the ladder may mend."""


def next_rung(error: Exception, tried: Rung | None) -> Rung | None:
    """The rung to try now that `error` came, `tried` being the last one. None: the ladder ends here."""
    begin = _FIRST.get(type(error), Rung.REINITIALISE)
    lowest = begin if tried is None else max(begin, tried + 1)
    return Rung(lowest) if lowest <= Rung.REINITIALISE else None


def wait_after(failures: int) -> float:
    """Seconds to wait after so many whole climbs in a row have failed (from 1)."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 10))
