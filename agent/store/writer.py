"""Group commit: everything that wants to be written while one transaction commits goes into the next one together.

One task owns the writing connection. A job's future is resolved only after the COMMIT that holds it, and FULL
synchronous WAL means that a COMMIT survives a power cut. A job that fails by its content (ConflictError) is rolled back
alone; a disk that fails takes the whole group back, and the urgent jobs are tried again out of the reserve.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final, Generic, TypeVar

import structlog

from agent.store import chunks
from agent.store.cipher import PLAIN, Content, of_note
from agent.store.errors import StoreCorruptError, StoreError, StoreFullError, translated
from agent.store.files import Reserve
from agent.store.query import Connection
from agent.store.rows import Queued

GROUP_ROWS: Final = 4096
"""Most statements of one transaction: bounds how long an urgent one waits for the transaction before it."""
PENDING_BYTES: Final = 16 << 20
"""Callers of non-urgent writes wait while this much is pending."""
RESERVE_RETRY_S: Final = 5.0
"""How often a full disk is asked whether it has room for the reserve again."""
_ROWS_TO_A_STATEMENT: Final = (2048, 256, 32, 4, 1)
"""A few sizes, so that SQLite finds each statement prepared."""

T = TypeVar("T")
_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Put:
    """Statements and notes: many of these become two statements of SQL."""

    statements: Sequence[Queued]
    notes: Mapping[str, bytes | None]
    done: asyncio.Future[None]
    urgent: bool

    @property
    def size(self) -> int:
        notes = sum(len(key) + len(value or b"") for key, value in self.notes.items())
        return notes + sum(len(s.encoded) + 64 for s in self.statements)


@dataclass(slots=True, eq=False)
class Task(Generic[T]):
    """Anything else: a function over the connection, in its thread. Always urgent: it changes states or frees space."""

    work: Callable[[sqlite3.Connection], T]
    done: asyncio.Future[T]
    committed: Callable[[T], None] = lambda _: None
    """Called with the result after COMMIT, before the caller gets it."""
    result: list[T] = field(default_factory=list)


class Series:
    """The small numbers of (device, kind): a cache that only ever holds what is committed."""

    def __init__(self, known: Iterable[tuple[int, str, int]]) -> None:
        """`known`: rows of the table (series, device_id, kind)."""
        self._numbers = {(device_id, kind): series for series, device_id, kind in known}
        self._new: dict[tuple[str, int], int] = {}

    def find(self, device_id: str | None, kind: int) -> int | None:
        """The number, None when nothing of the kind was ever stored for the device."""
        return self._numbers.get((device_id or "", kind))

    def number(self, connection: sqlite3.Connection, device_id: str | None, kind: int) -> int:
        """The number, made in the current transaction when there is none yet."""
        key = (device_id or "", kind)
        number = self._numbers.get(key) or self._new.get(key)
        if number is None:
            number = len(self._numbers) + len(self._new) + 1
            connection.execute("INSERT INTO series VALUES (?, ?, ?)", (number, *key))
            self._new[key] = number
        return number

    def all(self) -> list[int]:
        """Every number in use."""
        return list(self._numbers.values())

    def committed(self) -> None:
        self._numbers.update(self._new)
        self._new.clear()

    def mark(self) -> dict[tuple[str, int], int]:
        """What the current transaction has made so far, for `rolled_back`."""
        return dict(self._new)

    def rolled_back(self, to: dict[tuple[str, int], int] | None = None) -> None:
        self._new = to or {}


class Writer:
    """Takes jobs from any number of callers; `run` writes them until `close`."""

    def __init__(
        self,
        connection: Connection,
        series: Series,
        *,
        reserve: Reserve,
        put_committed: Callable[[Put], None],
        damaged: Callable[[], None],
        most_pages: int | None,
        reserve_pages: int,
        content: Content = PLAIN,
    ) -> None:
        """`most_pages`: the database never grows beyond; `reserve_pages` of them are for urgent jobs only."""
        self._connection = connection
        self._series = series
        self._content = content
        self._reserve = reserve
        self._put_committed = put_committed
        self._damaged = damaged
        self._most_pages = most_pages
        self._reserve_pages = reserve_pages
        self._page_limit: int | None = None
        self._urgent: deque[Put | Task[object]] = deque()
        self._pending: deque[Put] = deque()
        self._pending_bytes = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._reserve_asked_s = float("-inf")
        self._using = asyncio.Lock()

    async def put(self, statements: Sequence[Queued], notes: Mapping[str, bytes | None]) -> None:
        """Returns after COMMIT. A cancelled call may or may not have been written."""
        urgent = any(s.urgent for s in statements)
        while not urgent and not self._closing and not self._room.is_set():
            await self._room.wait()
        job = Put(statements, notes, asyncio.get_running_loop().create_future(), urgent)
        self._refuse_when_closing()
        if urgent:
            self._urgent.append(job)
        else:
            self._pending.append(job)
            self._pending_bytes += job.size
            if self._pending_bytes >= PENDING_BYTES:
                self._room.clear()
        self._work.set()
        await job.done

    async def do(self, work: Callable[[sqlite3.Connection], T], committed: Callable[[T], None] = lambda _: None) -> T:
        """Run `work` in a transaction, call `committed` with its result after COMMIT, return the result."""
        self._refuse_when_closing()
        job: Task[T] = Task(work, asyncio.get_running_loop().create_future(), committed)
        self._urgent.append(job)  # type: ignore[arg-type]  # Task is invariant in T; the queue does not look at it
        self._work.set()
        return await job.done

    async def change(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Go on over another connection; no transaction is under way while `connect` makes it."""
        async with self._using:
            self._connection = await connect()
            self._page_limit = None

    def close(self) -> None:
        """Take nothing more; `run` ends when all that was taken is written."""
        self._closing = True
        self._work.set()
        self._room.set()

    async def run(self) -> None:
        """Write until closed. Cancelled or failed, nobody is left waiting."""
        try:
            while True:
                await self._work.wait()
                group = self._take()
                if group:
                    await self._write(group)
                elif self._closing:
                    return
                else:
                    self._work.clear()
        finally:
            self._closing = True
            self._room.set()
            for job in [*self._urgent, *self._pending]:
                _fail(job, StoreError("the store was closed before this was written"))

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise StoreError("the store is closed")

    def _take(self) -> list[Put | Task[object]]:
        """The next group: all that is urgent, then as much of the rest as bounds the wait of the next urgent one."""
        group = list(self._urgent)
        self._urgent.clear()
        rows = 0
        while self._pending and rows < GROUP_ROWS:
            job = self._pending.popleft()
            self._pending_bytes -= job.size
            rows += len(job.statements)
            group.append(job)
        if self._pending_bytes < PENDING_BYTES:
            self._room.set()
        return group

    async def _write(self, group: list[Put | Task[object]]) -> None:
        """Write a group, whole if possible; every job of it is resolved."""
        error: Exception | None = None
        full = StoreFullError("no space left on the disk but the reserve: free some")
        if await self._room_for_all():
            error = await self._attempt(group, reserved=False)
            if isinstance(error, StoreFullError):
                full = error
                _log.error("store.reserve_released", why=str(error))
                self._reserve.release()
        else:
            error = full
        if isinstance(error, StoreFullError):
            for job in group:
                if not _is_urgent(job):
                    _fail(job, full)
            group = [job for job in group if _is_urgent(job)]
            error = await self._attempt(group, reserved=True)
        if error is None:
            return
        if len(group) == 1 or isinstance(error, (StoreFullError, StoreCorruptError)):
            for job in group:
                _fail(job, error)
            return
        # Something of one job could not be written (a number beyond 64 bits): the others need not suffer for it.
        for job in group:
            await self._write([job])

    async def _room_for_all(self) -> bool:
        """Whether the reserve is where it should be. A released one is for urgent jobs only."""
        if self._reserve.held:
            return True
        now_s = asyncio.get_running_loop().time()
        if now_s - self._reserve_asked_s < RESERVE_RETRY_S:
            return False
        self._reserve_asked_s = now_s
        return await asyncio.to_thread(self._reserve.hold)

    async def _attempt(self, group: list[Put | Task[object]], *, reserved: bool) -> Exception | None:
        """One transaction. Returns what was wrong with it as a whole; else its jobs are resolved."""
        if not group:
            return None
        failed: dict[int, StoreError] = {}
        try:
            async with self._using:
                await self._connection.run(partial(self._transact, group, failed, reserved=reserved))
        except sqlite3.Error as cause:
            error = translated(cause, f"writing a group of {len(group)}")
            if isinstance(error, StoreCorruptError):
                self._damaged()
            return error
        except Exception as error:
            return error
        except BaseException:
            for job in group:
                _fail(job, StoreError("the store was stopped while this was written: it may be kept or not"))
            raise
        self._series.committed()
        for job in group:
            if id(job) in failed:
                _fail(job, failed[id(job)])
            elif isinstance(job, Put):
                self._put_committed(job)
                _resolve(job.done, None)
            else:
                job.committed(job.result[0])
                _resolve(job.done, job.result[0])
        return None

    def _transact(
        self,
        group: list[Put | Task[object]],
        failed: dict[int, StoreError],
        connection: sqlite3.Connection,
        *,
        reserved: bool,
    ) -> None:
        """In the connection's thread, from BEGIN to COMMIT; rolled back whole when it raises."""
        try:
            self._limit_pages(connection, reserved=reserved)
            connection.execute("BEGIN IMMEDIATE")
            self._carry_out(connection, group, failed)
            commit(connection)
        except BaseException:
            self._series.rolled_back()
            # SQLite has rolled back by itself after some errors (SQLITE_FULL, SQLITE_IOERR).
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            raise

    def _carry_out(
        self, connection: sqlite3.Connection, group: list[Put | Task[object]], failed: dict[int, StoreError]
    ) -> None:
        puts: list[Put] = []
        for job in group:
            if isinstance(job, Put):
                puts.append(job)
                continue
            # In the order of arrival, so that a seal sees the rows that were put before it.
            self._insert(connection, puts)
            puts = []
            connection.execute("SAVEPOINT job")
            mark = self._series.mark()
            try:
                job.result = [job.work(connection)]
            except StoreError as error:
                connection.execute("ROLLBACK TO job")
                self._series.rolled_back(mark)
                failed[id(job)] = error
            connection.execute("RELEASE job")
        self._insert(connection, puts)

    def _insert(self, connection: sqlite3.Connection, puts: list[Put]) -> None:
        insert_statements(connection, self._series, [s for put in puts for s in put.statements], self._content)
        notes: dict[str, bytes | None] = {}
        for put in puts:
            notes.update(put.notes)
        write_notes(connection, notes, self._content)

    def _limit_pages(self, connection: sqlite3.Connection, *, reserved: bool) -> None:
        if self._most_pages is None:
            return
        limit = self._most_pages - (0 if reserved else self._reserve_pages)
        if limit != self._page_limit:
            connection.execute(f"PRAGMA max_page_count = {limit}")
            self._page_limit = limit


def commit(connection: sqlite3.Connection) -> None:
    """The one place where anything becomes durable; here a test can be there, or fail as a disk does."""
    connection.commit()


def insert_statements(
    connection: sqlite3.Connection, series: Series, statements: Sequence[Queued], content: Content = PLAIN
) -> None:
    """Append to the queue within the current transaction."""
    if not statements:
        return
    rows = [
        (
            series.number(connection, s.device_id, s.kind),
            s.sequence,
            s.timestamp_us,
            s.urgent,
            s.encoded if content.is_plain else len(s.encoded),
        )
        for s in statements
    ]
    last = insert_rows(connection, "INSERT INTO queue (series, sequence, timestamp_us, urgent, encoded)", rows)
    if not content.is_plain:
        chunks.insert(connection, content, last, [s.encoded for s in statements])


def insert_rows(connection: sqlite3.Connection, insert: str, rows: Sequence[Sequence[object]]) -> int:
    """`insert` (up to VALUES) of rows of one width, many to a statement, within the current transaction.

    Returns the row id of the last one, in a table that has them. `executemany` gives up the interpreter's lock for
    every row, and a busy event loop lets it wait 5 ms each time.
    """
    at, last = 0, 0
    for size in _ROWS_TO_A_STATEMENT:
        while len(rows) - at >= size:
            marks = ", ".join([f"({', '.join('?' * len(rows[at]))})"] * size)
            done = connection.execute(f"{insert} VALUES {marks}", list(chain.from_iterable(rows[at : at + size])))
            at, last = at + size, done.lastrowid or 0
    return last


def write_notes(connection: sqlite3.Connection, notes: Mapping[str, bytes | None], content: Content = PLAIN) -> None:
    """Set notes, or delete those whose value is None, within the current transaction."""
    kept = [(key, content.seal(of_note(key), value)) for key, value in notes.items() if value is not None]
    if kept:
        insert_rows(connection, "INSERT OR REPLACE INTO note", kept)
    if len(kept) < len(notes):
        gone = [(key,) for key, value in notes.items() if value is None]
        connection.executemany("DELETE FROM note WHERE key = ?", gone)


def _is_urgent(job: Put | Task[object]) -> bool:
    return not isinstance(job, Put) or job.urgent


def _fail(job: Put | Task[object], error: BaseException) -> None:
    if not job.done.done():
        job.done.set_exception(error)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
