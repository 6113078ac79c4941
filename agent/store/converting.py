"""Encrypting a store that was in the clear, or the other way: every row into a new file, which then takes its place.

A kill at any moment leaves the old file or the new one, whole; `finish` does at the next start what was left to do.
The old file is overwritten before it is removed; what a disk or SD card keeps of it elsewhere is out of reach.
All of this blocks, and the caller holds the lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from agent.durable import sync_file, sync_folder
from agent.store import chunks, schema, secret
from agent.store.cipher import PLAIN, Content, of_body, of_channel, of_chunk, of_kept, of_note
from agent.store.errors import StoreCorruptError, StoreError, StoreFullError, translated

CONVERTING: Final = ".converting"
WIPING: Final = ".wiping"
_ROWS: Final = 2048
_BLOCK: Final = 1 << 20
_ROOM_BYTES: Final = 8 << 20
_AS_THEY_ARE: Final = {
    "property": "*",
    "series": "*",
    "batch": "*",
    "span": "place, first_sequence, last_sequence, leaves",
    "block": "*",
    "acknowledged": "*",
    "thinned": "*",
}
_RECODED: Final = (
    "INSERT INTO main.body SELECT batch, recoded_body(encoded, batch) FROM source.body ORDER BY batch",
    "INSERT INTO main.kept SELECT batch, incarnation, number, first_timestamp_us, last_timestamp_us, "
    "recoded_kept(encoded, batch) FROM source.kept ORDER BY batch",
    "INSERT INTO main.note SELECT key, recoded_note(value, key) FROM source.note ORDER BY key",
    "INSERT INTO main.channel_state SELECT channel_id, incarnation, version, stage, "
    "recoded_channel(encoded, channel_id, incarnation, version, stage) FROM source.channel_state ORDER BY 1, 2, 3, 4",
)

Progress = Callable[[int, int], None]
_log = structlog.get_logger()


def convert(source: Path, out: Path, opens: Content, site_key: bytes | None, progress: Progress) -> int:
    """Make a new file of mode 0600 with all that `source` holds, encrypted under a key of its own, or (None) not.

    `progress` is told batches done and in all. Returns how many values were damaged: they are empty in the copy.
    Raises StoreError; then nothing is left of it.
    """
    out.unlink(missing_ok=True)
    os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        schema.migrate(out)
        connection = sqlite3.connect(f"file:{quote(str(out.absolute()))}?mode=rw", uri=True, isolation_level=None)
        try:
            # Nobody sees the file before it is whole and on the disk.
            for setting in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF", "temp_store = MEMORY"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute("ATTACH ? AS source", (f"file:{quote(str(source.absolute()))}?mode=ro",))
            connection.execute("BEGIN")
            damaged = _copy(connection, opens, site_key, progress)
            connection.execute("COMMIT")
        finally:
            connection.close()
        sync_file(out)
    except BaseException as error:
        out.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise translated(error, f"converting {source}") from error
        raise
    return damaged


def _copy(connection: sqlite3.Connection, opens: Content, site_key: bytes | None, progress: Progress) -> int:
    content: Content = PLAIN
    if site_key is not None:
        secret.make(connection, site_key)
        made = secret.master(connection, lambda: site_key, Path())
        assert made is not None
        content = secret.under(connection, made, writes=True)
    for table, columns in _AS_THEY_ARE.items():
        named = "" if columns == "*" else f" ({columns})"
        connection.execute(f"INSERT INTO main.{table}{named} SELECT {columns} FROM source.{table} ORDER BY 1")  # noqa: S608  # fixed names
    ((total,),) = connection.execute("SELECT count(*) FROM source.body").fetchall()
    done = damaged = 0

    def recoded(place: bytes, kept: bytes) -> bytes:
        nonlocal damaged
        try:
            return content.seal(place, opens.open(place, kept))
        except StoreCorruptError:
            damaged += 1
            return content.seal(place, b"")

    def of_one_body(kept: bytes, batch: int) -> bytes:
        nonlocal done
        done += 1
        if done % 256 == 0 or done == total:
            progress(done, total)
        return recoded(of_body(batch), kept)

    connection.create_function("recoded_body", 2, of_one_body)
    connection.create_function("recoded_kept", 2, lambda kept, batch: recoded(of_kept(batch), kept))
    connection.create_function("recoded_note", 2, lambda value, key: recoded(of_note(key), value))
    connection.create_function("recoded_channel", 5, lambda kept, *row: recoded(of_channel(*row), kept))
    for statement in _RECODED:
        connection.execute(statement)
    return damaged + _copy_queue(connection, opens, content)


def _copy_queue(connection: sqlite3.Connection, opens: Content, content: Content) -> int:
    after = damaged = 0
    while rows := connection.execute(
        "SELECT place, series, sequence, timestamp_us, urgent, encoded FROM source.queue WHERE place > ? "
        "ORDER BY place LIMIT ?",
        (after, _ROWS),
    ).fetchall():
        statements = {row[0]: row[5] for row in rows}
        if not opens.is_plain:
            statements = {}
            for chunk in connection.execute(
                chunks.OF_PLACES.replace("FROM chunk", "FROM source.chunk"), (rows[0][0], rows[-1][0], -1)
            ).fetchall():
                with contextlib.suppress(StoreCorruptError):
                    statements |= chunks.opened(opens, [chunk])
        good = [row for row in rows if row[0] in statements]
        damaged += len(rows) - len(good)
        run: list[tuple[int, ...]] = []
        for row in good:
            # A chunk is of places without gaps between them.
            if run and row[0] != run[-1][0] + 1:
                _append(connection, content, run, statements)
                run = []
            run.append(row)
        _append(connection, content, run, statements)
        after = rows[-1][0]
    return damaged


def _append(
    connection: sqlite3.Connection, content: Content, run: list[tuple[int, ...]], statements: dict[int, bytes]
) -> None:
    if not run:
        return
    whole = [statements[row[0]] for row in run]
    connection.executemany(
        "INSERT INTO main.queue VALUES (?, ?, ?, ?, ?, ?)",
        [
            (*row[:5], statement if content.is_plain else len(statement))
            for row, statement in zip(run, whole, strict=True)
        ],
    )
    if not content.is_plain:
        chunks.insert(connection, content, run[-1][0], whole)


def in_place(database: Path, opens: Content, site_key: bytes | None, progress: Progress = lambda *_: None) -> int:
    """Encrypt a database, or put it in the clear, where it is. Returns how many values were damaged before.

    Raises StoreFullError where there is no room for both files, StoreError where another process reads it; then it is
    as it was.
    """
    new = database.with_name(database.name + CONVERTING)
    _alone(database)
    disk, size = os.statvfs(database.parent), database.stat().st_size
    if disk.f_bavail * disk.f_frsize < size + _ROOM_BYTES:
        raise StoreFullError(f"{size + _ROOM_BYTES >> 20} MiB must be free beside {database} to convert it")
    damaged = convert(database, new, opens, site_key, progress)
    if os.geteuid() == 0:
        owner = database.stat()
        os.chown(new, owner.st_uid, owner.st_gid, follow_symlinks=False)
    database.rename(database.with_name(database.name + WIPING))
    finish(database)
    return damaged


def finish(database: Path) -> None:
    """What a conversion that was killed had left to do. Raises OSError."""
    new, old = (database.with_name(database.name + ending) for ending in (CONVERTING, WIPING))
    if old.exists() and not database.exists():
        # The old one is moved away only when the new one is whole and on the disk.
        (new if new.exists() else old).rename(database)
        sync_folder(database.parent)
    for ending in ("", "-journal", "-wal", "-shm"):
        new.with_name(new.name + ending).unlink(missing_ok=True)
    if old.exists():
        wipe(old)


def wipe(path: Path) -> None:
    """Overwrite a file, then remove it. Raises OSError."""
    with path.open("r+b") as file:
        left = file.seek(0, os.SEEK_END)
        file.seek(0)
        while left > 0:
            left -= file.write(bytes(min(left, _BLOCK)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def _alone(database: Path) -> None:
    """Everything in the one file, without a log that a new file beside it would be read with. Raises StoreError."""
    try:
        connection = sqlite3.connect(database, isolation_level=None)
        try:
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
                raise StoreError(f"{database}: another process reads it; end it, and start again")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"preparing {database} to be converted") from error


def drop_damaged(path: Path, content: Content) -> int:
    """Remove notes and queued statements that do not open, durably; returns how many.

    They would stop every start, or all sealing, for ever. Raises StoreError.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            dropped = _drop_notes(connection, content) + _drop_queued(connection, content)
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"checking {path}") from error
    if dropped:
        _log.error("store.damaged_values", path=str(path), dropped=dropped)
    return dropped


def _drop_notes(connection: sqlite3.Connection, content: Content) -> int:
    bad = []
    for key, value in connection.execute("SELECT key, value FROM note"):
        try:
            content.open(of_note(key), value)
        except StoreError:
            bad.append((key,))
    connection.executemany("DELETE FROM note WHERE key = ?", bad)
    return len(bad)


def _drop_queued(connection: sqlite3.Connection, content: Content) -> int:
    bad, rows = [], 0
    for first, last, encoded in connection.execute("SELECT first, last, encoded FROM chunk ORDER BY first"):
        rows += last - first + 1
        try:
            content.open(of_chunk(first, last), encoded)
        except StoreError:
            bad.append((first,))
    connection.executemany("DELETE FROM chunk WHERE first = ?", bad)
    ((queued, sealed),) = connection.execute(
        "SELECT count(*), coalesce(min(place) - (SELECT min(first) FROM chunk), 0) FROM queue"
    ).fetchall()
    if not bad and queued == rows - sealed:
        return 0
    # Those of chunks that are not there, for whatever reason.
    return connection.execute(
        "DELETE FROM queue WHERE NOT EXISTS (SELECT 1 FROM chunk c WHERE c.first = "
        "(SELECT max(first) FROM chunk WHERE first <= queue.place) AND c.last >= queue.place)"
    ).rowcount
