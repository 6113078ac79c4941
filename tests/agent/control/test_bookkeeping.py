"""The book and its record: receipts and the notes of the state that they tell of go into one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.control.book import Book
from agent.control.bookkeeping import Bookkeeping
from agent.control.notes import changed_notes, entry_key
from agent.control.order import Now
from agent.control.recorder import Recorder
from agent.control.replay import decode_window
from agent.evidence.statements import CommandReceipt, CommandState, Statement
from tests.agent.control.support import SOME_COMMAND, START_US, order_of

NOW = Now(wall_us=START_US)
ONE, OTHER = order_of(SOME_COMMAND, "one"), order_of(SOME_COMMAND, "other")


class Desk:
    """Keeps what it is given: the receipts' commands and the keys of the notes of each transaction."""

    def __init__(self) -> None:
        self.transactions: list[tuple[list[str], set[str]]] = []
        self.windows: list[bytes] = []
        """Replay windows as they were written, one after the other."""

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        receipts = [s.command_id for s in taken if isinstance(s, CommandReceipt)]
        self.windows += [note for key, note in notes.items() if note and key.startswith("command/window/")]
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


async def test_no_window_is_written_that_forgets_what_was_used_before_the_start() -> None:
    """Whoever is killed between two transactions would take the old commands once more."""
    desk, used = Desk(), order_of(replace(SOME_COMMAND, sequence=9), "used")
    stored = Book().admitted(used, CommandState.ACCEPTED, "", NOW).book
    recorder = Recorder(desk)
    books = Bookkeeping(recorder)
    books.adopt(books.book.admitted(OTHER, CommandState.ACCEPTED, "", NOW))  # sequence 1, before the store was read
    books.restore(changed_notes(Book(), stored))
    await _write(recorder)
    assert {decode_window(note).highest for note in desk.windows} == {9}
