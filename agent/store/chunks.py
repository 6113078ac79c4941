"""Queued statements of an encrypted store: one value for all that were committed together, and not one for each.

A row of the queue then holds the length of its statement in the place of it; the statements of a run of places are a
CBOR array in `chunk`. A chunk stays until the last of its statements is sealed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import cbor2

from agent.store.cipher import Content, of_chunk
from agent.store.errors import StoreCorruptError

LENGTH: Final = "iif(typeof(encoded) = 'integer', encoded, length(encoded))"
"""SQL: how long a queued statement is, encrypted or not."""
OF_PLACES: Final = (
    "SELECT first, last, encoded FROM chunk WHERE first BETWEEN "
    "coalesce((SELECT max(first) FROM chunk WHERE first <= ?1), ?1) AND ?2 ORDER BY first LIMIT ?3"
)
"""SQL: the chunks with any of the places from one to another."""


def insert(connection: sqlite3.Connection, content: Content, last: int, statements: Sequence[bytes]) -> None:
    """Keep statements whose rows were just appended to the queue, the last one at `last`."""
    first = last - len(statements) + 1
    kept = content.seal(of_chunk(first, last), cbor2.dumps(list(statements)))
    connection.execute("INSERT INTO chunk VALUES (?, ?, ?)", (first, last, kept))


def forget(connection: sqlite3.Connection, up_to: int) -> None:
    """Delete the chunks that are sealed whole, within the transaction that seals."""
    connection.execute("DELETE FROM chunk WHERE last <= ?", (up_to,))


def opened(content: Content, rows: Iterable[tuple[int, int, bytes]]) -> dict[int, bytes]:
    """Statements by their places. Raises StoreCorruptError."""
    found: dict[int, bytes] = {}
    for first, last, encoded in rows:
        try:
            statements = cbor2.loads(content.open(of_chunk(first, last), encoded))
            if len(statements) != last - first + 1:
                raise ValueError(f"{len(statements)} statements")
        except (cbor2.CBORError, ValueError, TypeError) as error:
            raise StoreCorruptError(f"queued statements are damaged ({error})") from error
        found.update(enumerate(statements, first))
    return found
