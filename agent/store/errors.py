"""Errors of the store, and what SQLite's own mean."""

from __future__ import annotations

import sqlite3
from typing import Final


class StoreError(Exception):
    """The store did not do what was asked, and nothing of it was kept. Says what, where, and what to do."""


class StoreFullError(StoreError):
    """The disk is full or fails to write. What was asked is not kept; reading goes on. Control goes on without us."""


class StoreUnreadableError(StoreFullError):
    """The disk does not give a part of the database back. At a start it is tried again, then the file is set aside."""


class ConflictError(StoreError):
    """What was asked contradicts what is kept: a number used twice, a chain broken. Asking again changes nothing."""


class StoreVersionError(StoreError):
    """The database was made by a newer version of this program. Nothing was touched."""


class StoreInUseError(StoreError):
    """Another process has this store open for writing."""


class StoreKeyError(StoreError):
    """The store is encrypted, and its key cannot be had now, or is another one. Nothing was touched: ask again."""


class StoreCorruptError(StoreError):
    """The database file is damaged. The next start checks it whole and, if so, sets it aside."""


# Primary result codes (https://sqlite.org/rescode.html); the low byte of an extended code.
_BUSY: Final = 5
_IOERR: Final = 10
_CORRUPT: Final = 11
_FULL: Final = 13
_NOTADB: Final = 26
_READING: Final = ("SQLITE_IOERR_READ", "SQLITE_IOERR_CORRUPTFS")


def translated(error: sqlite3.Error, doing: str) -> StoreError:
    """The store's error for one of SQLite's. `doing` completes "while ...": "writing 12 statements"."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == _FULL:
        return StoreFullError(f"no space left while {doing}: free disk space, or let acknowledged evidence be pruned")
    if code == _IOERR:
        name = getattr(error, "sqlite_errorname", "SQLITE_IOERR")
        kind = StoreUnreadableError if name in _READING else StoreFullError
        return kind(f"the disk failed ({name}) while {doing}: check the medium with `dmesg`")
    if code in (_CORRUPT, _NOTADB):
        return StoreCorruptError(
            f"the database is damaged ({error}), found while {doing}: restart the agent, which sets it aside"
        )
    if code == _BUSY:
        return StoreError(
            f"{error} while {doing}: another process holds it alone, as an agent does that has no room on its disk; "
            "`v2g-gateway status` tells, then try again"
        )
    return StoreError(f"{error} while {doing}")
