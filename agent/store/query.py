"""Connections: a query is one snapshot, and damage that it meets is noted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from agent.store import bodies
from agent.store.cipher import PLAIN, Content, of_body
from agent.store.errors import StoreCorruptError, StoreError, translated
from agent.store.schema import ALONE, PAGE_BYTES

LOG_PAGES: Final = (4 << 20) // PAGE_BYTES
"""The log is written into the database when it is 4 MiB long: what changed often by then is written once."""

T = TypeVar("T")
E = TypeVar("E")
Parameter: TypeAlias = "int | str | bytes | None"


CHUNK_ROWS: Final = 64
"""Fetched at a time by whoever iterates; aiosqlite's own number."""


class Connection(aiosqlite.Connection):
    """One that also does a whole piece of work at once."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work` in the connection's thread. Raises what it raises.

        One way there and back for all of a transaction: on a busy machine each waits for its turn, and each time the
        thread waits for the interpreter too. Cancelled, the work goes on to its end.
        """
        return cast(T, await self._execute(work, self._conn))  # type: ignore[no-untyped-call]  # none is public


class Query:
    """What everything that reads is made of."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        incarnation: int,
        damaged: Callable[[], None],
        content: Content = PLAIN,
    ) -> None:
        self._read = connection
        self._damaged = damaged
        self.content: Content = content
        """How content is kept in this store; what belongs to it and lies beside it (the record of decisions) too."""
        self.incarnation = incarnation
        """One unbroken life of the store, from 1; see `agent.store.files.prepare`."""

    async def _all(self, sql: str, *parameters: Parameter) -> list[tuple[Any, ...]]:
        """All rows of one query: one snapshot. Raises StoreError."""
        try:
            return [tuple(row) for row in await self._read.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            raise self._noticed(translated(error, "reading")) from error
        except ValueError as error:  # aiosqlite's word for a closed connection
            raise StoreError("the store is closed") from error

    def _open(self, context: bytes, kept: bytes) -> bytes:
        """Content from its place. Raises StoreCorruptError."""
        try:
            return self.content.open(context, kept)
        except StoreCorruptError as error:
            raise self._noticed(error) from error

    def _batch_of(self, place: int, body: bytes) -> bytes:
        """A batch as it was encoded, from the row of its body. Raises StoreCorruptError."""
        return self._checked(bodies.unpack, self._open(of_body(place), body))

    def _checked(self, decode: Callable[[E], T], encoded: E) -> T:
        try:
            return decode(encoded)
        except StoreCorruptError as error:
            raise self._noticed(error) from error

    def _noticed(self, error: StoreError) -> StoreError:
        if isinstance(error, StoreCorruptError):
            self._damaged()
        return error


async def connect(path: Path, *, writing: bool, alone: bool = False) -> Connection:
    """A connection with the settings that durability rests on. Raises StoreError.

    `alone`: no other connection may read or write (`schema.ALONE`).
    """
    # Read-only connections still need the shared-memory file of the log, which the writer has made.
    uri = f"file:{quote(str(path))}?mode={'rw' if writing else 'ro'}"
    try:
        connection = Connection(partial(sqlite3.connect, uri, uri=True, isolation_level=None), CHUNK_ROWS)
        await connection
    except sqlite3.Error as error:
        raise translated(error, f"opening {path}") from error
    settings = ["busy_timeout = 5000", "temp_store = MEMORY", "cache_size = -8000"]
    if writing:
        # FULL: NORMAL may lose commits at a power cut in WAL mode. A long log is cut back to 16 MiB.
        settings += ["synchronous = FULL", "journal_size_limit = 16777216", f"wal_autocheckpoint = {LOG_PAGES}"]
    else:
        settings += ["query_only = ON"]
    try:
        if alone:
            await connection.execute(ALONE)
        for setting in settings:
            await connection.execute(f"PRAGMA {setting}")
    except sqlite3.Error as error:
        await connection.close()
        raise translated(error, f"opening {path}") from error
    return connection


def as_number(value: object) -> int:
    """A column that is one."""
    assert isinstance(value, int)
    return value
