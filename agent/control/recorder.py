"""Writes receipts, alarms and the book's notes, in order, one transaction for all that wait; never gives up.

Nobody waits for it but those who ask to be told. While the store is away things wait here, and what only reduces power
has acted already (DESIGN: law 5). A statement that no verifier could read is refused when it comes, with an alarm in
its place: it would hold up all that comes after it for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from agent.evidence.statements import Alarm, CommandReceipt, Statement, decode, encode

RETRY_LEAST_S: Final = 0.2
RETRY_MOST_S: Final = 5.0
UNRECORDABLE: Final = "control.unrecordable"
"""Code of the alarm in the place of a statement that was refused."""
MOST_FAULT: Final = 160
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


def fault_of(statement: Statement) -> str:
    """Why a statement cannot be sealed, in words that can; empty when it can. What is encoded must be read again."""
    try:
        decode(encode(statement))
    except Exception as error:  # Whatever the reason is: it is this statement's, and the store has not seen it.
        return repr(error)[:MOST_FAULT].encode("ascii", "backslashreplace").decode()
    return ""


class Recorder:
    """A queue in front of the desk. `run` it in a task of its own."""

    def __init__(
        self,
        desk: Desk,
        on_refused: Callable[[str, str], None] = lambda subject, text: None,
        *,
        heard: Callable[[Sequence[Statement]], None] = lambda _: None,
    ) -> None:
        """`on_refused` is told of each statement that cannot be recorded: subject and text of an alarm; `heard` of the
        others, as they come."""
        self._desk = desk
        self._on_refused = on_refused
        self._heard = heard
        self.refused = 0
        """Statements that could not be recorded, since the start."""
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
        """Take something to be written. Returns at once; `on_committed` is called after COMMIT.

        Of a statement that is refused the notes beside it and `on_committed` stay: what it tells of has happened.
        """
        faults = [fault_of(statement) for statement in statements]
        good = tuple(statement for statement, fault in zip(statements, faults, strict=True) if not fault)
        if good:
            self._heard(good)
        if good or notes or on_committed is not None:
            self._waiting.append(_Record(good, notes, on_committed))
            self._arrived.set()
        for statement, fault in zip(statements, faults, strict=True):
            if fault:
                self._refuse(statement, fault)

    def _refuse(self, statement: Statement, fault: str) -> None:
        self.refused += 1
        kind = type(statement).__name__
        log.error("control.unrecordable", kind=kind, reason=fault)
        if not (isinstance(statement, Alarm) and statement.code == UNRECORDABLE):
            self._on_refused(kind, f"a {kind} cannot be recorded and is left out, number {self.refused}: {fault}")

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
            # Each of them: a command whose commit nobody is told of would never act.
            with ExitStack() as each:
                for record in reversed(records):
                    if record.on_committed is not None:
                        each.callback(record.on_committed)

    def _next_records(self) -> list[_Record]:
        count, statements = 0, 0
        for record in self._waiting:
            statements += len(record.statements)
            if count and statements > MOST_AT_ONCE:
                break
            count += 1
        return self._waiting[:count]
