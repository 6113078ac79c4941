"""The book and its record: receipts and the notes of the state that they tell of go into one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agent.control.book import Book
from agent.control.bookkeeping import Bookkeeping
from agent.control.notes import changed_notes, entry_key
from agent.control.order import Now
from agent.control.recorder import Recorder
from agent.evidence.statements import CommandReceipt, CommandState, Statement
from tests.agent.control.support import SOME_COMMAND, START_US, order_of

NOW = Now(wall_us=START_US)
ONE, OTHER = order_of(SOME_COMMAND, "one"), order_of(SOME_COMMAND, "other")


class Desk:
    """Keeps what it is given: the receipts' commands and the keys of the notes of each transaction."""

    def __init__(self) -> None:
        self.transactions: list[tuple[list[str], set[str]]] = []

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        receipts = [s.command_id for s in taken if isinstance(s, CommandReceipt)]
        self.transactions.append((receipts, {key for key in notes if key.startswith(entry_key(b""))}))


async def _write(recorder: Recorder) -> None:
    """Have all written that was submitted."""
    written = asyncio.Event()
    recorder.submit((), {}, written.set)
    running = asyncio.create_task(recorder.run())
    async with asyncio.timeout(20):
        await written.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_kept_back_is_written_with_the_next_change_receipts_and_notes_together() -> None:
    desk = Desk()
    recorder = Recorder(desk)
    books = Bookkeeping(recorder)
    books.go_on(books.book.admitted(ONE, CommandState.ACCEPTED, "", NOW))
    assert ONE.hash in books.book.entries
    assert recorder.backlog == 0
    books.adopt(books.book.admitted(OTHER, CommandState.ACCEPTED, "", NOW))
    assert recorder.backlog == 4
    await _write(recorder)
    keys = {entry_key(ONE.hash), entry_key(OTHER.hash)}
    assert desk.transactions == [(["one", "one", "other", "other"], keys)]


async def test_what_was_kept_back_can_be_written_although_nothing_else_changes() -> None:
    desk = Desk()
    recorder = Recorder(desk)
    books = Bookkeeping(recorder)
    books.go_on(books.book.admitted(ONE, CommandState.ACCEPTED, "", NOW))
    books.write()
    books.write()
    await _write(recorder)
    assert desk.transactions == [(["one", "one"], {entry_key(ONE.hash)})]


async def test_what_was_kept_back_of_a_command_that_the_store_knows_is_not_said_twice() -> None:
    """It came again after a restart, before the store was read: it goes on with the life that it had."""
    desk, stored = Desk(), Book().admitted(ONE, CommandState.ACCEPTED, "", NOW).book
    recorder = Recorder(desk)
    books = Bookkeeping(recorder)
    books.go_on(books.book.admitted(ONE, CommandState.ACCEPTED, "", NOW))
    books.restore(changed_notes(Book(), stored))
    assert recorder.backlog == 0
    books.adopt(books.book.admitted(OTHER, CommandState.ACCEPTED, "", NOW))
    await _write(recorder)
    assert [receipt for receipts, _ in desk.transactions for receipt in receipts] == ["other", "other"]
