"""The files around the database: the lock, the incarnation that outlives it, what was set aside, the reserve.

All of this is done before the database is opened, in a thread: it blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent.durable import sync_folder, write_whole
from agent.store import converting, schema, secret
from agent.store.cipher import PLAIN, Content
from agent.store.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreInUseError,
    StoreUnreadableError,
    StoreVersionError,
)

DATABASE: Final = "evidence.db"
INCARNATION: Final = "incarnation"
LOCK: Final = "evidence.lock"
RESERVE: Final = "reserve"
RESTORING: Final = "evidence.db.restoring"
"""A backup on its way into the place of the database, whole: agent/store/backup.py."""
UNFINISHED: Final = "evidence.db.restoring.new"
"""One that is not whole yet."""
LEAST_FREE_BYTES: Final = 1 << 20
"""With less, a start takes the reserve: SQLite needs room for its log before it reads anything."""
UNREADABLE_TRIES: Final = 3
UNREADABLE_WAIT_S: Final = 2.0
"""A part that the disk gives back in none of so many tries, so far apart, is lost: it will not come by waiting."""
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
SUSPECT: Final = "evidence.suspect"
"""Left behind when damage was met while running: the next start checks the whole file."""
_SET_ASIDE: Final = re.compile(rf"{re.escape(DATABASE)}\.(?:damaged|replaced|former)-(\d+)-\d+")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database file that is good to open."""

    path: Path
    incarnation: int
    set_aside: Path | None
    """Where a damaged database went, when this start found one."""
    restored: bool = False
    """This start found a backup in the place of the database, or one that is older than the incarnation file."""
    put_back: bool = False
    """This incarnation began with a backup, which a person put there: at this start or an earlier one."""
    content: Content = PLAIN
    in_the_clear: str = ""
    """What is not encrypted here though a key is named, why, and what to do; empty when nothing is."""
    newly_encrypted: bool = False
    """It was in the clear until this start."""
    damaged_values: int = 0
    """Encrypted values that did not open, and were removed at this start."""
    key_mended: bool = False
    """One of the two places of its wrapped key was damaged, and was written anew at this start."""


class Lock:
    """Held by the one process that may write. The kernel drops it with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreInUseError, or StoreError when the folder cannot be used."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(folder / LOCK, flags, 0o640)
            if os.geteuid() == 0 and os.fstat(self._descriptor).st_nlink == 1:
                # Root restores before the agent first ran: a file of root's would lock the service's user out.
                owner = folder.stat()
                os.fchown(self._descriptor, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be used as state directory: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise StoreInUseError(f"{folder}: another v2g-gateway is using this state directory; stop it") from error

    def release(self) -> None:
        """Let another process in."""
        os.close(self._descriptor)

    close = release
    """For `contextlib.closing`."""


def prepare(folder: Path, now_s: Callable[[], float] = time.time, *, key: secret.KeySource | None = None) -> Prepared:
    """Find or make the database of a folder, migrate it, and say which incarnation it is.

    An incarnation is one unbroken life of the store. A new one begins with a new database, with a backup, and with one
    that is older than the incarnation file: numbers that it would give out may have been given out before. After a
    backup it is not just the next one, which a life that the backup does not know may have had: it is `now_s`. So it
    is where both the database and the incarnation file are damaged.
    With a `key` the database is encrypted from now on. Raises StoreVersionError, StoreKeyError (nothing was changed
    then), StoreError. Damage is no error: the file is set aside and a new one made.
    """
    path, suspect = folder / DATABASE, folder / SUSPECT
    aside = None
    copied = False
    in_the_clear, newly_encrypted = "", False
    site_key = None if key is None else secret.asked(key)
    source = None if site_key is None else lambda: site_key
    try:
        make_room(folder)
        # First: a store that was being converted is one, for all that follows.
        converting.finish(path)
        _finish_restore(folder)
        if path.exists():
            try:
                _judge(path, whole=suspect.exists())
                schema.migrate(path)
                # Before anything else of it is believed or changed.
                content = secret.content_of(path, source)
                held = schema.read_incarnation(path)
                copied = schema.is_copy(path)
                if held is not None and content.is_plain and site_key is not None:
                    in_the_clear = _encrypt(path, site_key)
                    newly_encrypted = not in_the_clear
                    schema.migrate(path)  # with a log again
            except StoreCorruptError as error:
                aside = set_aside(folder, "damaged")
                _log.error("store.set_aside", path=str(aside), why=str(error))
                held = None
            suspect.unlink(missing_ok=True)
        else:
            held = None
        noted = read_incarnation_file(folder)
        if held is None and aside is None:
            aside = _set_aside_before(folder, noted)
        incarnation = held or 0
        restored = held is not None and (copied or held < noted)
        if held is None or restored:
            incarnation = max(noted, held or 0, _highest_set_aside(folder)) + 1
        if copied or (aside is not None and noted == 0):
            # The second: neither the file nor the database tells any more which number was the last.
            incarnation = max(incarnation, int(now_s()))
        if incarnation != noted:
            # Before the database carries it: a crash in between skips an incarnation, the other order could repeat one.
            write_durably(folder / INCARNATION, f"{incarnation}\n".encode())
        if held != incarnation:
            schema.migrate(path)
            if held is None and site_key is not None and not secret.is_encrypted(path):
                secret.make_in(path, site_key)
            schema.write_incarnation(path, incarnation)
            sync_folder(folder)
            _log.warning("store.new_incarnation", incarnation=incarnation, before=held or noted)
        put_back = schema.began_as_copy(path)
        key_mended = source is not None and secret.mend(path, source)
        if key_mended:
            _log.error("store.key_mended", path=str(path))
        content = secret.content_of(path, source, writes=True)
        damaged = 0 if content.is_plain else converting.drop_damaged(path, content)
    except OSError as error:
        kind = StoreFullError if error.errno in NO_ROOM else StoreError
        raise kind(f"{folder}: {error.strerror} ({error.filename})") from error
    if site_key is not None:
        in_the_clear = in_the_clear or _set_aside_in_the_clear(folder)
    return Prepared(
        path, incarnation, aside, restored, put_back, content, in_the_clear, newly_encrypted, damaged, key_mended
    )


def _judge(path: Path, *, whole: bool) -> None:
    """As `schema.check`; what the disk does not give back is damage, once it has been tried again."""
    for left in reversed(range(UNREADABLE_TRIES)):
        try:
            schema.check(path, whole=whole)
        except StoreUnreadableError as error:
            if not left:
                raise StoreCorruptError(f"{path}: a part of it cannot be read: {error}") from error
            _log.warning("store.unreadable", path=str(path), why=str(error), tries_left=left)
            time.sleep(UNREADABLE_WAIT_S)
        else:
            return


def key_problem(folder: Path, key: secret.KeySource | None) -> str:
    """Why the store of a folder cannot be opened with a key now; empty when it can. Blocks. Raises StoreError."""
    return secret.problem(folder / DATABASE, key)


def decrypt(
    folder: Path,
    key: secret.KeySource | None,
    progress: converting.Progress,
    beside: Callable[[Content], list[str]],
) -> tuple[int, list[str]]:
    """Put an encrypted store in the clear, with the agent stopped: how many values were damaged, what `beside` says.

    `beside` is told how the content was kept before that is forgotten: for what lies encrypted beside the store. Raises
    StoreInUseError, StoreKeyError, StoreError, OSError.
    """
    path = folder / DATABASE
    lock = Lock(folder)
    try:
        converting.finish(path)
        if not path.exists():
            raise StoreError(f"{path}: there is no store")
        schema.check(path, whole=False)
        schema.migrate(path)
        content = secret.content_of(path, key)
        if content.is_plain:
            raise StoreError(f"{path}: is in the clear already")
        said = beside(content)
        return converting.in_place(path, content, None, progress), said
    finally:
        lock.release()


def _encrypt(path: Path, site_key: bytes) -> str:
    """Encrypt a database that was in the clear; empty, or why that was not possible: then it goes on as it is."""
    _log.warning("store.encrypting", path=str(path), bytes=path.stat().st_size)
    try:
        converting.in_place(path, PLAIN, site_key)
    except (StoreCorruptError, StoreVersionError):
        raise
    except StoreError as error:
        return f"the store is not encrypted yet: {error}; tried again at the next start"
    return ""


def _set_aside_in_the_clear(folder: Path) -> str:
    """Which databases that were set aside anybody can read; empty: none."""
    open_ones = []
    for path in sorted(folder.iterdir()):
        if _SET_ASIDE.fullmatch(path.name):
            try:
                encrypted = secret.is_encrypted(path)
            except StoreError:
                encrypted = False
            if not encrypted:
                open_ones.append(path.name)
    return f"set aside before and in the clear: {', '.join(open_ones)}; remove what nobody needs" if open_ones else ""


def make_room(folder: Path) -> None:
    """On a disk that is full the reserve is what a start has: `Store` takes it back where it can."""
    if not has_room(folder):
        (folder / RESERVE).unlink(missing_ok=True)


def has_room(folder: Path) -> bool:
    """Whether SQLite can work beside the reserve."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize >= LEAST_FREE_BYTES


def _finish_restore(folder: Path) -> None:
    """Of a restore that was killed between setting the old database aside and putting the backup in its place.

    Where the old database was not touched yet, what was copied goes: it may be in the clear, and large.
    """
    whole, path = folder / RESTORING, folder / DATABASE
    remove(folder / UNFINISHED)
    if not path.exists() and whole.exists():
        try:
            is_copy = schema.is_copy(whole)
        except StoreFullError:
            raise
        except StoreError:
            is_copy = False  # half of one, which an older version left
        if is_copy:
            whole.rename(path)
            sync_folder(folder)
    remove(whole)


def remove(path: Path) -> None:
    """Remove a database with what SQLite has beside it, where there is any. Raises OSError."""
    for ending in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def begin_after(folder: Path, incarnation: int) -> None:
    """Have the next opening of a store begin a later incarnation than this one. The caller holds the lock."""
    if read_incarnation_file(folder) <= incarnation:
        # One more than needed: `prepare` begins a new life when the file is ahead of the database.
        write_durably(folder / INCARNATION, f"{incarnation + 1}\n".encode())


def read_incarnation_file(folder: Path) -> int:
    """0 when there is none, or it is damaged: then the database, or what was set aside, knows."""
    try:
        text = (folder / INCARNATION).read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return 0
    return int(text) if re.fullmatch(rb"[0-9]{1,18}\n", text) else 0


def begin_anew(folder: Path) -> Path | None:
    """Have the next opening begin an empty store, and say where the present one went; None when there is none.

    The caller holds the lock. Raises OSError.
    """
    converting.finish(folder / DATABASE)
    return set_aside(folder, "former") if (folder / DATABASE).exists() else None


def set_aside(folder: Path, why: str) -> Path:
    """Move the database away, never deleting it, with its log: the log may hold the newest commits.

    `why`: "damaged", "replaced" or "former". Raises OSError.
    """
    noted = read_incarnation_file(folder)
    serial = 1
    while (target := folder / f"{DATABASE}.{why}-{noted}-{serial}").exists():
        serial += 1
    for suffix in ("-wal", "-shm", ""):
        source = folder / (DATABASE + suffix)
        if source.exists():
            source.rename(folder / (target.name + suffix))
    sync_folder(folder)
    return target


def _set_aside_before(folder: Path, noted: int) -> Path | None:
    """The damaged database in whose place an earlier start, which did not come to its end, was to make a new one."""
    found: list[Path] = []
    # The incarnation file may have been written by that start already.
    for incarnation in (noted - 1, noted):
        found += sorted(folder.glob(f"{DATABASE}.damaged-{incarnation}-*[0-9]"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _highest_set_aside(folder: Path) -> int:
    found = (_SET_ASIDE.fullmatch(p.name) for p in folder.iterdir())
    return max((int(match.group(1)) for match in found if match), default=0)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file so that after a power cut it holds the old or the new content, and once returned the new.

    Through no link: root may run this in a folder of the service's user. Everybody may read it, as far as the umask
    lets them.
    """
    write_whole(path, content, mode=0o666)


class Reserve:
    """Disk space kept back for what must be written even when the disk is full: commands, receipts, sealing.

    A file with real blocks. Releasing it gives the blocks back to the file system for the urgent writes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._path = folder / RESERVE
        self._size = size

    @property
    def held(self) -> bool:
        """Whether the space is kept back at the moment."""
        try:
            return self._path.stat().st_size >= self._size
        except OSError:
            return False

    def hold(self) -> bool:
        """Take the space. False when the disk has not that much left; nothing is taken then."""
        if self.held:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the space to whoever writes next."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.error("store.reserve_stuck", why=str(error.strerror))
