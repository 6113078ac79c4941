"""The store: a writer and a reader over one SQLite file, and what may be asked of them.

Nothing is acknowledged to a caller before COMMIT, and a COMMIT survives a power cut. See `writer.py` for how.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson
import structlog

from agent.store import bodies, channels, chunks, files, spans
from agent.store.cipher import of_body
from agent.store.errors import ConflictError
from agent.store.query import Connection, connect
from agent.store.reader import Reader
from agent.store.room import PRUNE_BATCHES, Cut, Kept, cut_some, prune_some
from agent.store.rows import ChannelRow, Counts, Queued, Stage, StoredBatch
from agent.store.schema import BLOCK_BITS, SERIES_BITS
from agent.store.secret import KeySource
from agent.store.writer import Put, Series, Writer, insert_rows, insert_statements, write_notes

RESERVE_BYTES: Final = 4 << 20
"""Kept back for urgent writes: some 10,000 command receipts."""
MINUTE_US: Final = 60_000_000
DAY_MINUTES: Final = 24 * 60
KeepOf = Callable[[int, int], Awaitable[Sequence[Kept]]]
"""What shall outlive the batches from one place to another."""

_log = structlog.get_logger()


class StoreJournal:
    """The Journal protocol of drivers, over notes of one name space."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._prefix = f"journal/{namespace}/"

    async def remember(self, key: str, value: bytes) -> None:
        """Returns once the value survives a power cut. Raises StoreError."""
        await self._store.set_note(self._prefix + key, value)

    async def recall(self, key: str) -> bytes | None:
        """What was remembered last under the key."""
        return await self._store.note(self._prefix + key)


class Store(Reader):
    """Made by `Store.open`; ended by `close`, or as an async context."""

    def __init__(self, reading: Connection, writing: Connection, prepared: files.Prepared) -> None:
        """Use `open`."""
        super().__init__(reading, prepared.incarnation, self._mark_damaged, prepared.content)
        self._write = writing
        self._folder = prepared.path.parent
        self.set_aside = prepared.set_aside
        """Where a damaged database went, when this start found one: the gateway raises an alarm about it."""
        self.restored = prepared.restored
        """This start found a backup, or an older database, in the place of the one that was: an alarm too."""
        self.put_back = prepared.put_back
        """This incarnation began with a backup, which a person put there: at this start or an earlier one."""
        self.in_the_clear = prepared.in_the_clear
        """What is not encrypted here though a key is named, why, and what to do; empty when nothing is."""
        self.newly_encrypted = prepared.newly_encrypted
        """It was in the clear until this start: an alarm too, for who did not expect it."""
        self.damaged_values = prepared.damaged_values
        """Encrypted values that did not open, and were removed at this start: an alarm too."""
        self.key_mended = prepared.key_mended
        """One of the two places of its wrapped key was damaged, and was written anew: an alarm too."""
        self.trouble = ""
        """What is wrong with it since the start; empty when nothing is."""
        self._counts = Counts()
        self._series = Series(())
        self._lock: files.Lock
        self._writer: Writer
        self._running: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        *,
        key: KeySource | None = None,
        most_bytes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> Store:
        """Open or make the store of a folder, alone.

        `key`: with one the store is encrypted, from this start on where it was not; an encrypted one needs it.
        `most_bytes`: the database never grows beyond it; None: the disk is the limit. `reserve_bytes` are kept for
        urgent writes on either. Raises StoreInUseError, StoreVersionError, StoreKeyError, StoreError. A damaged file is
        set aside; one whose key is away is not.
        """
        lock = await asyncio.to_thread(files.Lock, state_dir)
        try:
            prepared = await asyncio.to_thread(files.prepare, state_dir, key=key)
            writing = await connect(prepared.path, writing=True)
            try:
                reading = await connect(prepared.path, writing=False)
            except BaseException:
                await writing.close()
                raise
        except BaseException:
            lock.release()
            raise
        store = cls(reading, writing, prepared)
        store._lock = lock
        try:
            await store._start(most_bytes, reserve_bytes)
        except BaseException:
            await reading.close()
            await writing.close()
            lock.release()
            raise
        return store

    async def _start(self, most_bytes: int | None, reserve_bytes: int) -> None:
        known = await self._all("SELECT series, device_id, kind FROM series")
        self._series = Series((row[0], row[1], row[2]) for row in known)
        self._counts = await super().counts()
        ((page_bytes,),) = await self._all("PRAGMA page_size")
        reserve = files.Reserve(self._folder, reserve_bytes)
        if not await asyncio.to_thread(reserve.hold):
            _log.warning("store.no_reserve", folder=str(self._folder), bytes=reserve_bytes)
        self._writer = Writer(
            self._write,
            self._series,
            reserve=reserve,
            put_committed=self._count_put,
            damaged=self._mark_damaged,
            most_pages=None if most_bytes is None else most_bytes // page_bytes,
            reserve_pages=reserve_bytes // page_bytes,
            content=self.content,
        )
        self._running = asyncio.create_task(self._writer.run(), name="store-writer")

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what was taken, then close. What comes later is refused."""
        self._writer.close()
        try:
            await asyncio.gather(self._running, return_exceptions=True)
        finally:
            await self._read.close()
            with contextlib.suppress(sqlite3.Error, ValueError):
                await self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await self._write.close()
            self._lock.release()

    async def put(
        self,
        statements: Sequence[Queued],
        notes: Mapping[str, bytes | None] | None = None,
        channel: Sequence[ChannelRow] = (),
    ) -> None:
        """Keep statements, notes (None deletes) and channel rows, all or nothing; returns after COMMIT.

        Raises ConflictError as `channel_append` does; StoreFullError; StoreError. A cancelled call may have been
        written. Notes of an urgent and another call under way at once have no order between them.
        """
        if not channel:
            await self._writer.put(statements, notes or {})
            return

        def work(connection: sqlite3.Connection) -> None:
            for row in channel:
                channels.append(connection, row, self.content)
            insert_statements(connection, self._series, statements, self.content)
            write_notes(connection, notes or {}, self.content)

        await self._writer.do(work, lambda _: self._count_statements(statements))

    async def seal(self, batch: StoredBatch, up_to_rowid: int) -> None:
        """Replace the queued rows up to a rowid by the batch that holds them as leaves 1 to n, in their order.

        Raises ConflictError, and changes nothing, unless the batch is of this incarnation, is the next number, names
        the last root as the previous one, and has exactly one leaf more than there are rows.
        """

        def work(connection: sqlite3.Connection) -> tuple[int, int, int]:
            if batch.incarnation != self.incarnation:
                raise ConflictError(f"batch of incarnation {batch.incarnation}, this is {self.incarnation}")
            rows = _rows(
                connection,
                "SELECT number, root FROM batch WHERE incarnation = ? ORDER BY number DESC LIMIT 1",
                (batch.incarnation,),
            )
            number, root = rows[0] if rows else (0, bytes(32))
            if (batch.number, batch.previous_root) != (number + 1, root):
                raise ConflictError(f"batch {batch.number} does not follow batch {number} of root {root.hex()[:16]}")
            # One row of JSON: the interpreter's lock is given up once, and not for every statement.
            ((listed,),) = _rows(
                connection,
                f"SELECT json_group_array(json_array(place, series, sequence, timestamp_us, {chunks.LENGTH}, urgent)) "  # noqa: S608  # a fixed text
                "FROM (SELECT * FROM queue WHERE place <= ? ORDER BY place)",
                (up_to_rowid,),
            )
            queued = [row[1:] for row in sorted(orjson.loads(listed), key=itemgetter(0))]
            if not queued or len(queued) != batch.leaf_count - 1:
                raise ConflictError(
                    f"batch {batch.number} of {batch.leaf_count} leaves would replace {len(queued)} queued statements"
                )
            times = [row[2] for row in queued]
            cursor = connection.execute(
                "INSERT INTO batch (incarnation, number, root, previous_root, sealed_at_us, leaf_count, size, "
                "first_timestamp_us, last_timestamp_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch.incarnation, batch.number, batch.root, batch.previous_root, batch.sealed_at_us,
                    batch.leaf_count, len(batch.encoded), min(times), max(times),
                ),
            )  # fmt: skip
            place = cursor.lastrowid
            assert place is not None
            kept = self.content.seal(of_body(place), body)
            connection.execute("INSERT INTO body VALUES (?, ?)", (place, kept))
            numbered = sorted(enumerate(queued, start=1), key=lambda item: item[1][0])
            rows_of_spans, firsts = [], []
            for series, group in groupby(numbered, key=lambda item: item[1][0]):
                leaves = [spans.Leaf(index, row[2], row[1]) for index, row in group]
                sequences = [leaf.sequence for leaf in leaves if leaf.sequence is not None]
                ends = min(sequences, default=None), max(sequences, default=None)
                rows_of_spans.append((place << SERIES_BITS | series, *ends, spans.encode(leaves)))
                firsts.append((series, place >> BLOCK_BITS, ends[0]))
            insert = "INSERT INTO span (place, first_sequence, last_sequence, leaves)"
            insert_rows(connection, insert, rows_of_spans)
            insert_rows(
                connection,
                "INSERT OR IGNORE INTO block",
                firsts,
            )
            connection.execute("DELETE FROM queue WHERE place <= ?", (up_to_rowid,))
            if not self.content.is_plain:
                chunks.forget(connection, up_to_rowid)
            return len(queued), sum(row[3] for row in queued), sum(row[4] for row in queued)

        def count(moved: tuple[int, int, int]) -> None:
            statements, size, urgent = moved
            c = self._counts
            self._counts = Counts(
                queued=c.queued - statements,
                queued_bytes=c.queued_bytes - size,
                queued_urgent=c.queued_urgent - urgent,
                sealed_batches=c.sealed_batches + 1,
                sealed_statements=c.sealed_statements + statements,
                unacknowledged_batches=c.unacknowledged_batches + 1,
                unacknowledged_statements=c.unacknowledged_statements + statements,
            )

        # Beside the loop: a large batch takes milliseconds, which the writer and all others go on with.
        body = await asyncio.to_thread(bodies.pack, batch.encoded)
        await self._writer.do(work, count)

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        """Note that the platform has the batches up to a number; returns how many that is anew.

        Raises ConflictError for a number that was never sealed. An older acknowledgement changes nothing.
        """

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            ((last,),) = _rows(
                connection, "SELECT coalesce(max(number), 0) FROM batch WHERE incarnation = ?", (incarnation,)
            )
            ((before, newest_minute),) = _rows(
                connection,
                "SELECT coalesce(max(up_to_number), 0), coalesce(max(minute), 0) FROM acknowledged "
                "WHERE incarnation = ?",
                (incarnation,),
            )
            if up_to_number <= before:
                return 0, 0
            if up_to_number > last:
                raise ConflictError(
                    f"batch {up_to_number} of incarnation {incarnation} is acknowledged, {last} is last"
                )
            ((batches, statements),) = _rows(
                connection,
                "SELECT count(*), coalesce(sum(leaf_count - 1), 0) FROM batch WHERE incarnation = ? "
                "AND number > ? AND number <= ?",
                (incarnation, before, up_to_number),
            )
            # A clock that went back must not make a batch look acknowledged for longer than it is.
            connection.execute(
                "INSERT OR REPLACE INTO acknowledged VALUES (?, ?, ?)",
                (incarnation, max(at_us // MINUTE_US, newest_minute), up_to_number),
            )
            return batches, statements

        def count(gone: tuple[int, int]) -> None:
            c = self._counts
            self._counts = replace(
                c,
                unacknowledged_batches=c.unacknowledged_batches - gone[0],
                unacknowledged_statements=c.unacknowledged_statements - gone[1],
            )

        return (await self._writer.do(work, count))[0]

    async def prune(self, now_us: int, retain_days: float, keep: KeepOf | None = None) -> int:
        """Delete batches acknowledged longer ago than `retain_days`, oldest first; returns how many.

        The newest batch of each incarnation stays: the next one names its root. `keep` is asked, for batches between
        two places, what shall outlive them; None: nothing.
        """
        before_minute = now_us // MINUTE_US - round(retain_days * DAY_MINUTES)
        total = 0
        for incarnation in await self.incarnations():
            while (ends := await self.prunable(incarnation, before_minute, PRUNE_BATCHES)) is not None:
                kept = [] if keep is None else await keep(*ends)
                total += await self._prune_some(ends, kept)
        return total

    async def _prune_some(self, ends: tuple[int, int], kept: Sequence[Kept]) -> int:
        def count(gone: tuple[int, int]) -> None:
            c = self._counts
            self._counts = replace(
                c, sealed_batches=c.sealed_batches - gone[0], sealed_statements=c.sealed_statements - gone[1]
            )

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            return prune_some(connection, ends, kept, series, self.content)

        series = self._series.all()
        return (await self._writer.do(work, count))[0]

    async def forget_kept(self, before_us: int) -> int:
        """Delete what outlived its batches and is older than this; returns of how many batches."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM kept WHERE last_timestamp_us < ?", (before_us,)).rowcount

        return await self._writer.do(work)

    async def cut(self, cuts: Sequence[Cut], notes: Mapping[str, bytes | None], sealed_kind: int) -> int:
        """Take leaves out of batches, which keep header, signature and number; returns how many leaves went.

        Raises ConflictError, and changes nothing, while a statement of `sealed_kind` is queued: it stands for them.
        """
        return await self._writer.do(lambda connection: cut_some(connection, cuts, notes, sealed_kind, self.content))

    async def set_note(self, key: str, value: bytes) -> None:
        """Keep a value under a key; returns after COMMIT."""
        await self.set_notes({key: value})

    async def set_notes(self, notes: Mapping[str, bytes | None]) -> None:
        """Keep several, all or none; None deletes."""
        await self._writer.put((), notes)

    async def delete_note(self, key: str) -> None:
        """Forget a key, known or not."""
        await self.set_notes({key: None})

    def journal(self, namespace: str) -> StoreJournal:
        """Where one driver keeps what must survive a restart."""
        return StoreJournal(self, namespace)

    async def channel_append(
        self, channel_id: bytes, incarnation: int, version: int, stage: Stage, encoded: bytes
    ) -> None:
        """Keep one stage of a channel state, once and for ever; the same row again changes nothing.

        Raises ConflictError for another row in its place, for an INTENT that is not above all that the channel has,
        and for a later stage without the one before it.
        """
        row = ChannelRow(channel_id, incarnation, version, stage, encoded)
        await self._writer.do(lambda connection: channels.append(connection, row, self.content))

    async def counts(self) -> Counts:
        """How much is where; from memory."""
        return self._counts

    def _count_put(self, put: Put) -> None:
        self._count_statements(put.statements)

    def _count_statements(self, statements: Sequence[Queued]) -> None:
        self._counts = replace(
            self._counts,
            queued=self._counts.queued + len(statements),
            queued_bytes=self._counts.queued_bytes + sum(len(s.encoded) for s in statements),
            queued_urgent=self._counts.queued_urgent + sum(s.urgent for s in statements),
        )

    def _mark_damaged(self) -> None:
        """Have the next start check the whole file."""
        _log.error("store.damaged", folder=str(self._folder))
        with contextlib.suppress(OSError):
            (self._folder / files.SUSPECT).touch()


def _rows(connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sql, parameters)]
