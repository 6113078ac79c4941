"""A copy of the whole store, made while it is in use, and putting one back.

A copy of an encrypted store is encrypted as it is: whoever has the site's key opens it, on any machine.

Every copy carries a mark. A database with that mark is another life of the store wherever it is put: its numbers may
have been given out since, so whoever opens it begins a new incarnation (`files.prepare`), also when a person copied the
file by hand. All of this blocks.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from agent.durable import sync_file, sync_folder
from agent.store import converting, files, schema, secret
from agent.store.cipher import PLAIN, Content, of_note
from agent.store.errors import StoreCorruptError, StoreError, StoreKeyError, translated

BEGUN: Final = ".begun"
"""Ends the name of a backup that is not whole yet."""
PAGES_AT_ONCE: Final = 2_048
"""8 MiB between two words of progress."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A backup, as it says of itself."""

    incarnation: int
    batches: int
    bytes: int
    encrypted: bool


def back_up(
    state_dir: Path,
    out: Path,
    progress: Callable[[int, int], None],
    notes: Mapping[str, bytes] | None = None,
    *,
    key: secret.KeySource | None = None,
    in_the_clear: bool = False,
) -> Copy:
    """Copy the store of a folder, in use or not, into a new file of mode 0600. `notes` go into the copy beside its own.

    One moment of it, whatever is written meanwhile. `progress` is told pages done and in all. `key`: of a store that is
    encrypted; the copy is too, unless `in_the_clear`. Raises StoreKeyError; StoreError, also where `out` exists;
    OSError. What was begun and failed is removed.
    """
    path = state_dir / files.DATABASE
    if not path.exists():
        raise StoreError(f"{path}: there is no store; the agent makes it when it first runs")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(out, flags, 0o600))
    # A kill leaves no whole copy without its mark: put in place by hand, that would be taken for the store itself.
    begun = out.with_name(out.name + BEGUN)
    try:
        files.remove(begun)
        os.close(os.open(begun, flags, 0o600))
        _copy(path, begun, progress)
        schema.mark_copy(begun)
        content = secret.content_of(begun, key, writes=True)
        if in_the_clear and not content.is_plain:
            _put_in_the_clear(begun, content, progress)
            content = PLAIN
        _add_notes(begun, notes or {}, content)
        copy = look_at(begun)
        sync_file(begun)
        begun.replace(out)
        sync_folder(out.absolute().parent)
    except BaseException:
        files.remove(begun)
        out.unlink(missing_ok=True)
        raise
    return copy


def _put_in_the_clear(path: Path, content: Content, progress: Callable[[int, int], None]) -> None:
    # A name that nobody has: it is somebody else's folder.
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.clear")
    try:
        if converting.convert(path, beside, content, None, progress):
            raise StoreCorruptError(f"{path}: some of what it holds does not open; back it up encrypted")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _without_log(path)


def look_at(path: Path) -> Copy:
    """Check a backup whole. Raises StoreVersionError, StoreCorruptError, StoreError."""
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file")
    try:
        schema.check(path, whole=True)
    except StoreCorruptError as error:
        raise StoreCorruptError(f"{path}: is no backup, or a damaged one; take another") from error
    incarnation = schema.read_incarnation(path)
    if incarnation is None:
        raise StoreCorruptError(f"{path}: is the beginning of a store that was never finished")
    connection = _open(path, writing=False)
    try:
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreCorruptError(f"{path}: {str(verdict)[:200]}")
        batches = int(connection.execute("SELECT count(*) FROM batch").fetchone()[0])
    except sqlite3.Error as error:
        raise translated(error, f"checking {path}") from error
    finally:
        connection.close()
    return Copy(incarnation, batches, path.stat().st_size, secret.is_encrypted(path))


def note_in(path: Path, name: str, key: secret.KeySource | None = None) -> bytes | None:
    """The value that a database holds under a name; `key` is asked where it is encrypted.

    Raises StoreKeyError, StoreError.
    """
    content = secret.content_of(path, key)
    connection = _open(path, writing=False)
    try:
        row = connection.execute("SELECT value FROM note WHERE key = ?", (name,)).fetchone()
    except sqlite3.Error as error:
        raise translated(error, f"reading {path}") from error
    finally:
        connection.close()
    return None if row is None else content.open(of_note(name), row[0])


def put_back(
    state_dir: Path,
    source: Path,
    progress: Callable[[int, int], None],
    *,
    key: secret.KeySource | None = None,
    opens: secret.KeySource | None = None,
) -> Path | None:
    """Make a backup the store of a folder; where the one that was there is now, None when there was none.

    `key`: of this box; `opens`: of the backup, where that is another: it then opens with this box's. The next opening
    begins a new incarnation. Nothing is deleted. Raises StoreInUseError while an agent runs; StoreVersionError,
    StoreCorruptError, StoreKeyError, StoreError, and then the store is as it was.
    """
    look_at(source)
    lock = files.Lock(state_dir)
    try:
        # What a conversion that was killed left is the store that was here.
        converting.finish(state_dir / files.DATABASE)
        copied = state_dir / files.RESTORING
        files.remove(copied)
        _bring(source, copied, progress, key=key, opens=opens or key)
        aside = files.set_aside(state_dir, "replaced") if (state_dir / files.DATABASE).exists() else None
        copied.rename(state_dir / files.DATABASE)
        sync_folder(state_dir)
    except OSError as error:
        raise StoreError(f"{error.filename or state_dir}: {error.strerror}") from error
    finally:
        lock.release()
    return aside


def begin_another_life(state_dir: Path, notes: Mapping[str, bytes], *, key: secret.KeySource | None = None) -> int:
    """Mark the store of a folder as a copy, where it is; the incarnation that ends with that.

    The next opening begins a new one, as behind a backup. `notes` go in with the mark; `key`: of a store that is
    encrypted. Raises StoreInUseError while an agent runs; StoreCorruptError, StoreKeyError, StoreError.
    """
    path = state_dir / files.DATABASE
    if not path.exists():
        raise StoreError(f"{path}: there is no store; the agent makes it when it first runs")
    lock = files.Lock(state_dir)
    try:
        converting.finish(path)
        incarnation = look_at(path).incarnation
        # Both or none: an order that was cut short must not wait here for the next backup that is put back.
        _add_notes(path, notes, secret.content_of(path, key, writes=True), marks=True)
    finally:
        lock.release()
    return incarnation


def _bring(
    source: Path,
    copied: Path,
    progress: Callable[[int, int], None],
    *,
    key: secret.KeySource | None,
    opens: secret.KeySource | None,
) -> None:
    """Copy a backup to the place from which a start takes it: only whole, as this box's own, and durably."""
    unfinished = copied.with_name(files.UNFINISHED)
    files.remove(unfinished)
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(source, unfinished, progress)
        schema.mark_copy(unfinished)
        if secret.is_encrypted(unfinished):
            _make_ours(unfinished, source, key, opens)
        if os.geteuid() == 0:
            owner = copied.parent.stat()
            os.chown(unfinished, owner.st_uid, owner.st_gid, follow_symlinks=False)
        sync_file(unfinished)
        unfinished.replace(copied)
    except BaseException:
        files.remove(unfinished)
        raise


def _make_ours(copied: Path, source: Path, key: secret.KeySource | None, opens: secret.KeySource | None) -> None:
    """Have an encrypted backup open with this box's key. Raises StoreKeyError, StoreError."""
    schema.migrate(copied)
    if key is None:
        raise StoreKeyError(
            f"{source}: is encrypted, and this gateway has no key: store-key makes one, or seals the backup's "
            "(--from COPY); then store_key_secret of [evidence]"
        )
    secret.content_of(copied, opens)
    if opens is not key:
        assert opens is not None
        secret.rewrap(copied, opens, secret.asked(key))
    _without_log(copied)


def _without_log(path: Path) -> None:
    connection = _open(path, writing=True)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise translated(error, f"writing {path}") from error
    finally:
        connection.close()


def _copy(source: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    reading = _open(source, writing=False)
    writing = _open(out, writing=True)
    try:
        # A transaction of its own around all of it: else each commit of the agent has the copy begin anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        reading.backup(
            writing, pages=PAGES_AT_ONCE, progress=lambda _, left, total: progress(total - left, total), sleep=0.0
        )
        # One file, without a log beside it.
        writing.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise translated(error, f"copying {source} to {out}") from error
    finally:
        writing.close()
        reading.close()


def _add_notes(path: Path, notes: Mapping[str, bytes], content: Content, *, marks: bool = False) -> None:
    """`marks`: with the mark of a copy."""
    connection = _open(path, writing=True)
    try:
        connection.execute("BEGIN")
        kept = [(name, content.seal(of_note(name), value)) for name, value in notes.items()]
        connection.executemany("INSERT OR REPLACE INTO note VALUES (?, ?)", kept)
        if marks:
            connection.execute(schema.MARK_COPY)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translated(error, f"writing {path}") from error
    finally:
        connection.close()


def _open(path: Path, *, writing: bool) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode={'rw' if writing else 'ro'}", uri=True, isolation_level=None
        )
    except sqlite3.Error as error:
        raise translated(error, f"opening {path}") from error
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection
