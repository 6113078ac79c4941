"""Writes receipts, alarms and the book's notes, in order, one transaction for all that wait; never gives up.

Nobody waits for it but those who ask to be told. While the store is away things wait here, and what only reduces power
has acted already (DESIGN: law 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from agent.evidence.statements import CommandReceipt, Statement

RETRY_LEAST_S: Final = 0.2
RETRY_MOST_S: Final = 5.0
MOST_AT_ONCE: Final = 500
"""Statements in one transaction, so that a long backlog is no giant one."""

log = structlog.get_logger()


class Desk(Protocol):
    """Where statements go; returns once they and the notes (None deletes) are committed together."""

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None], /) -> None: ...


class Notes(Protocol):
    """Where the notes are read at start."""

    async def notes(self, prefix: str, /) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class _Record:
    statements: tuple[Statement, ...]
    notes: Mapping[str, bytes | None]
    on_committed: Callable[[], None] | None


class Recorder:
    """A queue in front of the desk. `run` it in a task of its own."""

    def __init__(self, desk: Desk, heard: Callable[[Sequence[Statement]], None] = lambda _: None) -> None:
        """`heard`: told of each statement as it comes."""
        self._desk, self._heard = desk, heard
        self._waiting: list[_Record] = []
        self._arrived = asyncio.Event()
        self.trouble = ""
        """Why nothing can be recorded; empty while it can."""

    @property
    def backlog(self) -> int:
        """Statements that wait."""
        return sum(len(record.statements) for record in self._waiting)

    def submit(
        self,
        statements: Sequence[Statement],
        notes: Mapping[str, bytes | None],
        on_committed: Callable[[], None] | None = None,
    ) -> None:
        """Take something to be written. Returns at once; `on_committed` is called after COMMIT."""
        if statements:
            self._heard(statements)
        if statements or notes or on_committed is not None:
            self._waiting.append(_Record(tuple(statements), notes, on_committed))
            self._arrived.set()

    def drop(self, order_hashes: Set[bytes], keys: Set[str]) -> None:
        """Leave out what waits about these commands, before `run`: they have another life in the store."""
        self._waiting = [
            replace(
                record,
                statements=tuple(
                    s
                    for s in record.statements
                    if not (isinstance(s, CommandReceipt) and s.command_hash in order_hashes)
                ),
                notes={key: note for key, note in record.notes.items() if key not in keys},
            )
            for record in self._waiting
        ]

    async def run(self) -> None:
        """Write until cancelled."""
        failures = 0
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            records = self._next_records()
            notes: dict[str, bytes | None] = {}
            for record in records:
                notes.update(record.notes)
            try:
                await self._desk.put([s for record in records for s in record.statements], notes)
            except Exception as error:  # Whatever the store's trouble is: things wait here, and it is tried again.
                if not self.trouble:
                    log.warning("control.cannot_record", error=str(error))
                self.trouble = str(error) or repr(error)
                failures += 1
                await asyncio.sleep(min(RETRY_MOST_S, RETRY_LEAST_S * 2 ** min(failures - 1, 10)))
                continue
            failures, self.trouble = 0, ""
            del self._waiting[: len(records)]
            for record in records:
                if record.on_committed is not None:
                    record.on_committed()

    def _next_records(self) -> list[_Record]:
        count, statements = 0, 0
        for record in self._waiting:
            statements += len(record.statements)
            if count and statements > MOST_AT_ONCE:
                break
            count += 1
        return self._waiting[:count]
