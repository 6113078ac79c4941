"""The book of commands as it is, and as it is written: receipts and notes of a change are recorded together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.control.book import Book, Change
from agent.control.notes import changed_notes, entry_key, restore, window_key
from agent.control.order import Now
from agent.control.recorder import Recorder
from agent.evidence.statements import CommandReceipt


class Bookkeeping:
    """One for the gateway."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._written = Book()
        self._kept_back: tuple[CommandReceipt, ...] = ()
        """Receipts of the book as it is, which go with the next record."""
        self.book = Book()

    def go_on(self, change: Change) -> None:
        """Take a new book; what there is to write of it is written with the next one that is adopted."""
        self.book = change.book
        self._kept_back += change.receipts

    def adopt(self, change: Change, on_committed: Callable[[], None] | None = None) -> None:
        """Take a new book, and have receipts and notes written together."""
        self.go_on(change)
        self.write(on_committed)

    def write(self, on_committed: Callable[[], None] | None = None) -> None:
        """Have everything written that was kept back."""
        receipts, self._kept_back = self._kept_back, ()
        notes = changed_notes(self._written, self.book)
        self._written = self.book
        self._recorder.submit(receipts, notes, on_committed)

    def committed(self, order_hash: bytes) -> None:
        """The store has this command: it may act."""
        self.book = self.book.committed(order_hash)

    def recall(self, book: Book) -> None:
        """Go on with this one; nothing of it is to be written."""
        self.book = self._written = book
        self._kept_back = ()

    def restore(self, stored: Mapping[str, bytes]) -> tuple[int, tuple[str, ...]]:
        """Go on with what an earlier run has written: how many commands, and a sentence for each damaged note."""
        self.write()
        restored, faults = restore(stored)
        # A command that came again meanwhile goes on with the life that it had, not with two.
        twice = restored.entries.keys() & self.book.entries.keys()
        # The replay windows are written anew, at once: those that wait to be written know of nothing before this start.
        windows = {window_key(window) for window in self.book.windows.values()}
        self._recorder.drop(twice, windows | {entry_key(order_hash) for order_hash in twice})
        self.book = self.book.joined(restored)
        self._written = replace(self.book, windows={})
        self.write()
        return len(restored.entries), tuple(faults)

    def tidy(self, now: Now) -> tuple[bytes, ...]:
        """Forget what is over for long; which commands that were."""
        self.book, gone = self.book.tidied(now)
        if gone:
            kept = {h: e for h, e in self._written.entries.items() if h in self.book.entries}
            notes: dict[str, bytes | None] = {**changed_notes(replace(self._written, entries=kept), self.book)}
            self._written = self.book
            self._recorder.submit((), notes | {entry_key(order_hash): None for order_hash in gone})
        return gone
