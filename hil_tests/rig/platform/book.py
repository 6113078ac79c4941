"""The platform's durable book: an append-only log in SQLite. What is acknowledged was committed here before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self


class Kind(StrEnum):
    """Of an entry, and what its octets are."""

    BATCH = "batch"
    """A sealed batch in wire form."""
    READING = "reading"
    """A DeviceTelemetry that was carried by a device's stream (without GatewayLink)."""
    STATEMENT = "statement"
    """The same with a statement that is no reading."""
    URGENT = "urgent"
    """An UrgentStatement, which came ahead of its batch."""
    COMMAND = "command"
    """A GridCommand; the note is the order that it was made from, JSON."""
    CHANNEL = "channel"
    """A channel state with both signatures (SignedState); the note is the device. Written before it is sent."""
    CONFLICT = "conflict"
    """What contradicts what was signed before; the note says it, the octets are the second content."""


@dataclass(frozen=True, slots=True)
class Entry:
    kind: Kind
    gateway_id: str
    at_us: int
    octets: bytes
    note: str


class Book:
    """Opened for one process at a time. Every `append` survives a power cut when it returns."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, gateway_id TEXT NOT NULL, "
            "at_us INTEGER NOT NULL, octets BLOB NOT NULL, note TEXT NOT NULL) STRICT"
        )

    def append(self, entry: Entry) -> None:
        self._connection.execute(
            "INSERT INTO entry (kind, gateway_id, at_us, octets, note) VALUES (?, ?, ?, ?, ?)",
            (entry.kind.value, entry.gateway_id, entry.at_us, entry.octets, entry.note),
        )

    def entries(self, kind: Kind | None = None) -> Iterator[Entry]:
        """In order of writing; all of them, or of one kind."""
        rows = self._connection.execute(
            "SELECT kind, gateway_id, at_us, octets, note FROM entry WHERE ?1 IS NULL OR kind = ?1 ORDER BY id",
            (None if kind is None else kind.value,),
        )
        for found, gateway_id, at_us, octets, note in rows:
            yield Entry(Kind(found), gateway_id, at_us, octets, note)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
