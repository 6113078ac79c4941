"""The key of a database: random, made with it, and kept in it wrapped under the key that the site has for it.

So another site key (another TPM, a replacement box) is one row that is written anew, and not the whole database. The
row lies twice in the file, in two tables far from one another: one bad sector does not close all that it opens. The
site's key comes from outside, as a function that is asked when it is needed. All of this blocks.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.config import SecretError
from agent.store.cipher import KEY_BYTES, PLAIN, SALT_BYTES, Cipher, Content, derived
from agent.store.errors import StoreCorruptError, StoreKeyError, StoreUnreadableError, translated
from agent.store.schema import ALONE

Row: TypeAlias = tuple[bytes, bytes, bytes]
"""(key id, store id, wrapped key)."""
KeySource: TypeAlias = Callable[[], bytes]
"""The site's key of 32 bytes. Raises SecretError. Blocks, on a TPM for up to seconds."""

STORE_ID_BYTES: Final = 16
APART_BYTES: Final = 64 << 10
"""So far from one another the two rows lie at least, where the file allows it: no block of a disk holds both."""
_TABLES: Final = ("secret", "secret_copy")
"""The second one is none of a format: versions of before know nothing of it, and lose nothing by it."""
_COPY: Final = """
CREATE TABLE secret_copy (
    format INTEGER PRIMARY KEY CHECK (format = 1),
    key_id BLOB NOT NULL,
    store_id BLOB NOT NULL,
    wrapped BLOB NOT NULL
)"""
_UNREADABLE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR)
_NONCE_BYTES: Final = 12
_ID_BYTES: Final = 8
_WRAP_INFO: Final = b"v2g-gateway store wrap 1"
_ID_INFO: Final = b"v2g-gateway store key id 1"


def key_id(site_key: bytes) -> bytes:
    """8 bytes that tell keys apart and say nothing of them."""
    return derived(site_key, b"", _ID_INFO)[:_ID_BYTES]


def make(connection: sqlite3.Connection, site_key: bytes) -> None:
    """Give a database that has none its key, within the current transaction."""
    write(connection, secrets.token_bytes(KEY_BYTES), site_key)


def write(connection: sqlite3.Connection, master: bytes, site_key: bytes) -> None:
    """Wrap a database's key anew under a site's key, within the current transaction."""
    store_id, nonce = secrets.token_bytes(STORE_ID_BYTES), secrets.token_bytes(_NONCE_BYTES)
    wrapped = nonce + AESGCM(derived(site_key, store_id, _WRAP_INFO)).encrypt(nonce, master, store_id)
    _write_rows(connection, (key_id(site_key), store_id, wrapped))


def _write_rows(connection: sqlite3.Connection, row: Row) -> None:
    _lay_out_copy(connection)
    for table in _TABLES:
        connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (1, ?, ?, ?)", row)  # noqa: S608  # fixed names


def _lay_out_copy(connection: sqlite3.Connection) -> None:
    """Make the second table, where there is none, far from the first one."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'secret_copy'").fetchone() is not None:
        return
    page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
    between = APART_BYTES
    for last in (False, False, True):
        # What lies between is given back, and used for other rows.
        connection.execute("CREATE TABLE secret_apart (filler BLOB)")
        connection.execute("INSERT INTO secret_apart VALUES (zeroblob(?))", (between + page_bytes,))
        connection.execute(_COPY)
        connection.execute("DROP TABLE secret_apart")
        ((distance,),) = connection.execute(
            "SELECT abs(max(rootpage) - min(rootpage)) FROM sqlite_schema WHERE name IN ('secret', 'secret_copy')"
        ).fetchall()
        if last or distance * page_bytes >= APART_BYTES:
            return
        connection.execute("DROP TABLE secret_copy")
        between *= 4


def held(connection: sqlite3.Connection) -> list[Row]:
    """What there is of the row and its copy; nothing: the database is in the clear, or older than encryption.

    Raises StoreCorruptError where there was a key and is none: what is in it is not plain, and would be taken for that.
    """
    rows, unreadable = [], None
    for table in _TABLES:
        try:
            rows += connection.execute(f"SELECT key_id, store_id, wrapped FROM {table}").fetchall()  # noqa: S608  # fixed names
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNREADABLE:
                unreadable = error
            elif "no such table" not in str(error):
                raise
    if rows:
        return rows
    if unreadable is not None:
        raise unreadable
    try:
        if connection.execute("SELECT 1 FROM epoch").fetchone() is not None:
            raise StoreCorruptError("an encrypted database has lost its wrapped key: nothing opens what it holds")
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
    return []


def master(connection: sqlite3.Connection, source: KeySource | None, path: Path) -> bytes | None:
    """A database's key; None where it is in the clear. Raises StoreKeyError, StoreCorruptError."""
    opened = _opened(connection, source, path)
    return None if opened is None else opened[1]


def _opened(connection: sqlite3.Connection, source: KeySource | None, path: Path) -> tuple[Row, bytes] | None:
    """The row that is good, and the key in it. Raises as `master`."""
    rows = held(connection)
    if not rows:
        return None
    made_for = rows[0][0]
    if source is None:
        raise StoreKeyError(
            f"{path}: is encrypted (key {made_for.hex()}), and no key is named: set store_key_secret of [evidence]"
        )
    site_key = asked(source)
    for _, store_id, wrapped in rows:
        try:
            nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
            key = AESGCM(derived(site_key, store_id, _WRAP_INFO)).decrypt(nonce, sealed, store_id)
        except (InvalidTag, ValueError, TypeError):
            continue
        # The name of the key may be what is damaged.
        return (key_id(site_key), store_id, wrapped), key
    if all(named != key_id(site_key) for named, _, _ in rows):
        raise StoreKeyError(
            f"{path}: is encrypted under key {made_for.hex()}, and store_key_secret of [evidence] is key "
            f"{key_id(site_key).hex()}: name the right one, or seal its copy here (store-key FILE --from COPY)"
        )
    raise StoreCorruptError(f"{path}: its wrapped key is damaged: nothing opens what it holds")


def mend(path: Path, source: KeySource | None) -> bool:
    """Have the key of an encrypted database lie there twice, durably. Whether one of the two was damaged or gone.

    Raises StoreKeyError, StoreError.
    """
    damaged = False

    def work(connection: sqlite3.Connection) -> None:
        nonlocal damaged
        opened = _opened(connection, source, path)
        if opened is None or held(connection) == [opened[0]] * len(_TABLES):
            return
        lone = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'secret_copy'").fetchone() is None
        # A file of before there were two has one.
        damaged = not (lone and held(connection) == [opened[0]])
        _write_rows(connection, opened[0])

    _in(path, work)
    return damaged


def asked(source: KeySource) -> bytes:
    """The site's key. Raises StoreKeyError, which never contains it."""
    try:
        return source()
    except SecretError as error:
        raise StoreKeyError(f"the store's key cannot be had: {error}") from error


def content(connection: sqlite3.Connection, source: KeySource | None, path: Path, *, writes: bool) -> Content:
    """How a database's content is kept. `writes`: in an epoch of its own, which is begun durably.

    Raises StoreKeyError, StoreCorruptError.
    """
    key = master(connection, source, path)
    return PLAIN if key is None else under(connection, key, writes=writes)


def under(connection: sqlite3.Connection, key: bytes, *, writes: bool) -> Cipher:
    """Content under a database's key."""
    epoch = begin_epoch(connection)[0] if writes else None
    return Cipher(key, dict(connection.execute("SELECT epoch, salt FROM epoch")), epoch)


def begin_epoch(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """(epoch, salt) of a new life of a writer; durable once the statement or its transaction is."""
    salt = secrets.token_bytes(SALT_BYTES)
    epoch = connection.execute("INSERT INTO epoch (salt) VALUES (?)", (salt,)).lastrowid
    assert epoch is not None, "INSERT tells the row that it made"
    return epoch, salt


def content_of(path: Path, source: KeySource | None, *, writes: bool = False, alone: bool = False) -> Content:
    """As `content`, of a file. `alone`: see `schema.ALONE`. Raises StoreError too."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            if alone:
                connection.execute(ALONE)
            connection.execute("PRAGMA synchronous = FULL")
            return content(connection, source, path, writes=writes)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"opening {path}") from error


def is_encrypted(path: Path) -> bool:
    """Whether a database's content is encrypted. Raises StoreError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            return bool(held(connection))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"reading {path}") from error


def problem(path: Path, source: KeySource | None) -> str:
    """Why a database, or one that is to be made, cannot be opened with a key now; empty when it can.

    Raises StoreError for what has nothing to do with the key.
    """
    try:
        if source is not None:
            asked(source)
        if path.exists():
            content_of(path, source)
    except StoreKeyError as error:
        return str(error)
    except (StoreCorruptError, StoreUnreadableError):
        pass  # The start that follows sees to it.
    return ""


def make_in(path: Path, site_key: bytes) -> None:
    """Give a new, empty database its key, durably. Raises StoreError."""
    _in(path, lambda connection: make(connection, site_key))


def rewrap(path: Path, source: KeySource, site_key: bytes) -> None:
    """Have a database open with another site's key from now on. Raises StoreKeyError, StoreError."""

    def work(connection: sqlite3.Connection) -> None:
        key = master(connection, source, path)
        if key is not None:
            connection.execute("DELETE FROM secret")
            connection.execute("DROP TABLE IF EXISTS secret_copy")
            write(connection, key, site_key)

    _in(path, work)


def _in(path: Path, work: Callable[[sqlite3.Connection], None]) -> None:
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, f"preparing {path}") from error
