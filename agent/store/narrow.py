"""A start on a disk without any room, where the reserve is spent too: the store is read, and writes as soon as it can.

SQLite wants room for the memory that its connections share before it reads a word. One connection that shares with
nobody needs none: what was ordered, measured and signed before is known, and whoever wants to write gets the answer of
a full disk. Other processes (`export`, `backup`) wait meanwhile. Once there is room the usual connections take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

import structlog

from agent.store import files, schema, secret
from agent.store.cipher import PLAIN, Cipher
from agent.store.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreUnreadableError,
    translated,
)
from agent.store.query import Connection, Parameter, connect
from agent.store.secret import KeySource, begin_epoch
from agent.store.store import RESERVE_BYTES, Store

READY_BYTES: Final = 5 << 20
"""A store is made ready with so much: the reserve, and what SQLite needs beside it."""
PROBE: Final = "evidence.db.probe"
PROBE_BYTES: Final = 64 << 10
LOOK_EVERY_S: Final = 1.0
"""How often the disk is asked for room."""

_log = structlog.get_logger()


async def open_store(
    state_dir: Path,
    *,
    key: KeySource | None = None,
    most_bytes: int | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    usual: type[Store] = Store,
    narrow: type[NarrowStore] | None = None,
) -> Store:
    """As `Store.open`, on a full disk too: then it is a `narrow` one.

    Raises StoreFullError only where nothing is ready that could be read.
    """
    try:
        return await usual.open(state_dir, key=key, most_bytes=most_bytes, reserve_bytes=reserve_bytes)
    except StoreFullError as error:
        _log.error("store.no_room", folder=str(state_dir), why=str(error))
    lock = await asyncio.to_thread(files.Lock, state_dir)
    try:
        prepared = await asyncio.to_thread(prepare_alone, state_dir, key=key)
        connection = await connect(prepared.path, writing=True, alone=True)
    except BaseException:
        lock.release()
        raise
    store = (narrow or NarrowStore)(connection, connection, prepared)
    store._lock = lock
    try:
        await store._start(most_bytes, reserve_bytes)
    except BaseException:
        await connection.close()
        lock.release()
        raise
    return store


def prepare_alone(folder: Path, *, key: KeySource | None = None) -> files.Prepared:
    """The database of a folder on a disk without any room, as it is: nothing is written, nor encrypted.

    Raises StoreKeyError, and StoreFullError where it cannot be used so: it is to be made, migrated, set aside, or given
    an incarnation.
    """
    path = folder / files.DATABASE
    unfit = StoreFullError(_no_room(folder))
    try:
        held = schema.read_alone(path, whole=(folder / files.SUSPECT).exists()) if path.exists() else None
        content = PLAIN if held is None else secret.content_of(path, key, alone=True)
    except StoreCorruptError as error:
        raise unfit from error
    if held is None or "copy" in held or held.get("incarnation", 0) < max(1, files.read_incarnation_file(folder)):
        raise unfit
    incarnation = held["incarnation"]
    in_the_clear = ""
    if key is not None and content.is_plain:
        in_the_clear = "the store is not encrypted yet: there is no room on the disk; tried again at the next start"
    put_back = held.get("put_back") == incarnation
    return files.Prepared(path, incarnation, None, put_back=put_back, content=content, in_the_clear=in_the_clear)


def room_problem(folder: Path) -> str:
    """Why the store of a folder cannot be made ready on its disk now; empty when it can, and is of the newest format.

    The caller holds the lock. Blocks.
    """
    path = folder / files.DATABASE
    try:
        files.make_room(folder)
        there = os.statvfs(folder)
        if there.f_bavail * there.f_frsize < READY_BYTES:
            return _no_room(folder)
        # A quota, or a card that only reads, shows in no count of blocks.
        files.write_durably(folder / PROBE, bytes(PROBE_BYTES))
        (folder / PROBE).unlink()
        if path.exists():
            schema.check(path, whole=False)
            schema.migrate(path)
    except StoreFullError as error:
        if not isinstance(error, StoreUnreadableError):
            return f"{_no_room(folder)} ({error})"
    except StoreError:
        pass  # The start that follows sees to it.
    except OSError as error:
        return f"{folder}: {error.strerror} ({error.filename})"
    return ""


def _no_room(folder: Path) -> str:
    """In words, with what is to be freed: a store that is there may have to be copied within itself once."""
    path = folder / files.DATABASE
    size = path.stat().st_size if path.exists() else 0
    there = os.statvfs(folder)
    return (
        f"{folder}: {(there.f_bavail * there.f_frsize) >> 20} MiB are free on its disk, too little to make its store "
        f"ready: free {(size + READY_BYTES) >> 20} MiB"
    )


class NarrowStore(Store):
    """Made by `open_store`. Reads and writes over one connection until there is room."""

    def __init__(self, reading: Connection, writing: Connection, prepared: files.Prepared) -> None:
        """Use `open_store`."""
        super().__init__(reading, writing, prepared)
        self._path = prepared.path
        self._reading = asyncio.Lock()

    async def _start(self, most_bytes: int | None, reserve_bytes: int) -> None:
        await super()._start(most_bytes, reserve_bytes)
        self.trouble = (
            "there is no room on the disk: new evidence waits, and so do export and backup; free "
            f"{(reserve_bytes + files.LEAST_FREE_BYTES) >> 20} MiB at least, the gateway then goes on by itself"
        )
        reserve = files.Reserve(self._folder, reserve_bytes)
        self._widening = asyncio.create_task(self._widen(reserve), name="store-room")

    async def close(self) -> None:
        """As of every store."""
        self._widening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._widening
        await super().close()

    async def _all(self, sql: str, *parameters: Parameter) -> list[tuple[Any, ...]]:
        async with self._reading:
            return await super()._all(sql, *parameters)

    async def _widen(self, reserve: files.Reserve) -> None:
        """Wait for room, then go on as every store does."""
        while self._read is self._write:
            await asyncio.sleep(LOOK_EVERY_S)
            if await asyncio.to_thread(reserve.hold) and await asyncio.to_thread(files.has_room, self._folder):
                async with self._reading:
                    await self._writer.change(self._connect_anew)
        self.trouble = ""
        _log.warning("store.has_room", folder=str(self._folder))

    async def _begin_to_encrypt(self) -> None:
        if not isinstance(self.content, Cipher) or self.content.has_begun:
            return
        try:
            self.content.begin(*await self._write.run(begin_epoch))
        except sqlite3.Error as error:
            raise translated(error, "beginning to encrypt") from error

    async def _connect_anew(self) -> Connection:
        """The usual two connections; the one again where the room was gone already. Nobody reads or writes."""
        await self._write.close()
        while True:
            try:
                self._write = await connect(self._path, writing=True)
                try:
                    self._read = await connect(self._path, writing=False)
                    await super()._all("SELECT 1 FROM property")
                    await self._begin_to_encrypt()
                except StoreError:
                    await self._read.close()
                    await self._write.close()
                    raise
                return self._write
            except StoreError as error:
                _log.warning("store.room_lost", why=str(error))
            try:
                self._read = self._write = await connect(self._path, writing=True, alone=True)
                return self._write
            except StoreError as error:
                _log.error("store.away", why=str(error))
                await asyncio.sleep(LOOK_EVERY_S)
