"""The tables, how they came to be, and how a file is judged before it is used.

A migration is a script that is never changed once released; `PRAGMA user_version` says how many a file has had.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.store.errors import StoreCorruptError, StoreError, StoreUnreadableError, StoreVersionError, translated

APPLICATION_ID: Final = 0x56324757  # "V2GW"
WHOLE_CHECK_BYTES: Final = 512 << 20
"""A file above this is checked at start without the bodies of its batches: at 40 MB/s that is 13 s of SD card, and a
damaged body shows by its signature when it is read."""

PAGE_BYTES: Final = 1024
"""Of a new file. A second of a site touches a few rows in each of a dozen trees, twice: with pages of 4096 bytes twice
as much went to the flash for it. The kernel writes blocks of 4096 whatever the page is."""
BLOCK_BITS: Final = 8
"""For ever: the second migration has written it into files."""
SERIES_BITS: Final = 20
"""For ever too: the place of a span is its batch's, shifted by this, and its series. Queries have it as 20."""

ALONE: Final = "PRAGMA locking_mode = EXCLUSIVE"
"""The first thing that a connection is told: it then needs no room to read, for it shares no memory with others."""

_NOT_HAD: Final = re.compile(r"unable to get the page\. error code=([0-9]+)")

_FIRST: Final = """
CREATE TABLE property (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- A device and a kind of statement, so that rows carry one small number for both. '' is no device.
CREATE TABLE series (
    series INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    UNIQUE (device_id, kind)
);

CREATE TABLE queue (
    place INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    sequence INTEGER,
    timestamp_us INTEGER NOT NULL,
    urgent INTEGER NOT NULL,
    encoded BLOB NOT NULL
);
CREATE INDEX queue_by_series ON queue (series, sequence);

-- `batch` ascends in the order of sealing, over all incarnations. Bodies are apart, so that headers can be walked
-- without reading gigabytes.
CREATE TABLE batch (
    batch INTEGER PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    root BLOB NOT NULL,
    previous_root BLOB NOT NULL,
    sealed_at_us INTEGER NOT NULL,
    leaf_count INTEGER NOT NULL,
    size INTEGER NOT NULL,
    first_timestamp_us INTEGER NOT NULL,
    last_timestamp_us INTEGER NOT NULL,
    UNIQUE (incarnation, number)
);
CREATE INDEX batch_by_time ON batch (last_timestamp_us, first_timestamp_us);
CREATE TABLE body (batch INTEGER PRIMARY KEY, encoded BLOB NOT NULL);

-- Which leaves of a batch belong to a series: agent/store/spans.py.
CREATE TABLE span (
    series INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    first_sequence INTEGER,
    last_sequence INTEGER,
    leaves BLOB NOT NULL,
    PRIMARY KEY (series, batch)
) WITHOUT ROWID;

-- Acknowledgements are cumulative: the highest of each minute is enough to know when a batch was acknowledged. They are
-- not in `batch`, where every one would rewrite a row.
CREATE TABLE acknowledged (
    incarnation INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    up_to_number INTEGER NOT NULL,
    PRIMARY KEY (incarnation, minute)
) WITHOUT ROWID;

CREATE TABLE note (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE channel_state (
    channel_id BLOB NOT NULL,
    incarnation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    encoded BLOB NOT NULL,
    PRIMARY KEY (channel_id, incarnation, version, stage)
) WITHOUT ROWID;
CREATE TRIGGER channel_state_is_never_changed BEFORE UPDATE ON channel_state
BEGIN SELECT RAISE (ABORT, 'a channel state is never changed'); END;
CREATE TRIGGER channel_state_is_never_deleted BEFORE DELETE ON channel_state
BEGIN SELECT RAISE (ABORT, 'a channel state is never deleted'); END;
"""

# The spans of a batch lie together: kept by series they were written into as many pages as the batch has devices, and
# every page is 4 KiB of flash. `block` finds the batches of a series again: 2^BLOCK_BITS of them to a row.
_SPANS_BY_BATCH: Final = f"""
CREATE TABLE span_by_batch (
    batch INTEGER NOT NULL,
    series INTEGER NOT NULL,
    first_sequence INTEGER,
    last_sequence INTEGER,
    leaves BLOB NOT NULL,
    PRIMARY KEY (batch, series)
) WITHOUT ROWID;
INSERT INTO span_by_batch SELECT batch, series, first_sequence, last_sequence, leaves FROM span ORDER BY 1, 2;
CREATE TABLE block (
    series INTEGER NOT NULL,
    block INTEGER NOT NULL,
    first_sequence INTEGER,
    PRIMARY KEY (series, block)
) WITHOUT ROWID;
INSERT INTO block SELECT series, batch >> {BLOCK_BITS}, min(first_sequence) FROM span GROUP BY 1, 2;
DROP TABLE span;
ALTER TABLE span_by_batch RENAME TO span;
"""  # noqa: S608  # a number of ours

# Batches that lost leaves (`absent` of them) though their headers stay; and what is left of batches that were deleted.
_THINNING: Final = """
CREATE TABLE thinned (batch INTEGER PRIMARY KEY, absent INTEGER NOT NULL);
CREATE TABLE kept (
    batch INTEGER PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first_timestamp_us INTEGER NOT NULL,
    last_timestamp_us INTEGER NOT NULL,
    encoded BLOB NOT NULL
);
"""

# A row that is appended to a table with an integer key fills the last page. In a table without one the last three pages
# are written anew whenever one is full: that was a fifth of all that a day of seconds writes.
_SPANS_IN_ORDER: Final = f"""
CREATE TABLE span_in_order (
    place INTEGER PRIMARY KEY,
    first_sequence INTEGER,
    last_sequence INTEGER,
    leaves BLOB NOT NULL,
    batch INTEGER AS (place >> {SERIES_BITS}) VIRTUAL,
    series INTEGER AS (place & {(1 << SERIES_BITS) - 1}) VIRTUAL
);
INSERT INTO span_in_order SELECT batch << {SERIES_BITS} | series, first_sequence, last_sequence, leaves
FROM span ORDER BY batch, series;
DROP TABLE span;
ALTER TABLE span_in_order RENAME TO span;
"""  # noqa: S608  # numbers of ours

# Of an encrypted store (agent/store/cipher.py): the row of `secret` says that it is one, and then no content is plain.
# `chunk` holds what the queue's rows only tell the length of.
_ENCRYPTION: Final = """
CREATE TABLE secret (
    format INTEGER PRIMARY KEY CHECK (format = 1),
    key_id BLOB NOT NULL,
    store_id BLOB NOT NULL,
    wrapped BLOB NOT NULL
);
CREATE TABLE epoch (epoch INTEGER PRIMARY KEY, salt BLOB NOT NULL);
CREATE TABLE chunk (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, encoded BLOB NOT NULL);
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _SPANS_BY_BATCH, _THINNING, _SPANS_IN_ORDER, _ENCRYPTION)


def check(path: Path, *, whole: bool) -> None:
    """Judge an existing file, writing nothing. `whole` reads all of it however long it is.

    Raises StoreVersionError; StoreCorruptError, also for a file that is not ours; StoreError when it cannot be read.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            _judge(connection, path, whole=whole)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"checking {path}") from error


def read_alone(path: Path, *, whole: bool) -> Mapping[str, int] | None:
    """Judge a file as `check` does, and give its properties: of the newest format; None: it must be migrated first.

    For a disk without any room, where SQLite cannot have the memory that connections share: nobody else may read.
    Raises as `check` does.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(ALONE)
            if _judge(connection, path, whole=whole) < len(MIGRATIONS):
                return None
            return {str(name): int(value) for name, value in connection.execute("SELECT name, value FROM property")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"checking {path}") from error


def _judge(connection: sqlite3.Connection, path: Path, *, whole: bool) -> int:
    """The version of a file that is good. Raises StoreVersionError, StoreCorruptError, sqlite3.Error."""
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if application_id not in (0, APPLICATION_ID) or (application_id == 0 and version):
        raise StoreCorruptError(f"{path}: is not a store of v2g-gateway (application id {application_id})")
    if version > len(MIGRATIONS):
        raise StoreVersionError(
            f"{path}: was made by a newer version of v2g-gateway (format {version}, this one knows "
            f"{len(MIGRATIONS)}); install that version again, nothing was changed"
        )
    targets = [""]
    if not whole and path.stat().st_size > WHOLE_CHECK_BYTES:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'body'")
        targets = [f"({name})" for (name,) in tables]
    for target in targets:
        verdict = connection.execute(f"PRAGMA quick_check{target}").fetchone()[0]
        if verdict != "ok":
            raise _error_of(str(verdict), path)
    return version


def _error_of(verdict: str, path: Path) -> StoreError:
    """quick_check goes on where a page could not be had, and tells that beside the damage that it met."""
    said = f"{path}: {verdict[:200]}"
    codes = {int(code) & 0xFF for code in _NOT_HAD.findall(verdict)}
    if sqlite3.SQLITE_IOERR in codes:
        return StoreUnreadableError(f"{said}: check the medium with `dmesg`")
    if codes - {sqlite3.SQLITE_CORRUPT}:
        return StoreError(f"{said}: it cannot be checked now")  # no memory, for one
    return StoreCorruptError(said)


def migrate(path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring a file, new or old, to the newest format; each step is one transaction. Raises StoreError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            # Of a new file. One that has pages of another size keeps them.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            for version in range(_pragma(connection, "user_version"), len(migrations)):
                connection.executescript(
                    f"BEGIN IMMEDIATE; {migrations[version]} PRAGMA application_id = {APPLICATION_ID}; "
                    f"PRAGMA user_version = {version + 1}; COMMIT;"
                )
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"preparing {path}") from error


def read_incarnation(path: Path) -> int | None:
    """The incarnation that a file belongs to; None when it has not been given one."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            row = connection.execute("SELECT value FROM property WHERE name = 'incarnation'").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"reading {path}") from error
    return None if row is None else int(row[0])


MARK_COPY: Final = "INSERT OR REPLACE INTO property VALUES ('copy', 1)"


def mark_copy(path: Path) -> None:
    """Have a file say that it is a copy: whoever opens it as a store begins a new incarnation."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(MARK_COPY)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"marking {path}") from error


def is_copy(path: Path) -> bool:
    """Whether a file is a copy that no agent has opened yet."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            return connection.execute("SELECT 1 FROM property WHERE name = 'copy'").fetchone() is not None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"reading {path}") from error


def began_as_copy(path: Path) -> bool:
    """Whether the incarnation of a file began with a backup that was put back, at this start or an earlier one."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            values = dict(connection.execute("SELECT name, value FROM property"))
            return "incarnation" in values and values.get("put_back") == values["incarnation"]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"reading {path}") from error


def write_incarnation(path: Path, incarnation: int) -> None:
    """Give a file its incarnation, durably. From then on it is no copy any more, and tells that it was one."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR REPLACE INTO property VALUES ('incarnation', ?)", (incarnation,))
            connection.execute(
                "INSERT OR REPLACE INTO property SELECT 'put_back', ? FROM property WHERE name = 'copy'",
                (incarnation,),
            )
            connection.execute("DELETE FROM property WHERE name = 'copy'")
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"preparing {path}") from error


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
