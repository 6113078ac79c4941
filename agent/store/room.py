"""How the store makes room: old acknowledged batches are deleted, and leaves are taken out of batches that stay.

Functions over the writer's connection, in its thread, each within one of its transactions. What may go, others decide.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.store import bodies, spans
from agent.store.cipher import PLAIN, Content, of_body, of_kept
from agent.store.errors import ConflictError
from agent.store.places import spans_of
from agent.store.schema import BLOCK_BITS
from agent.store.writer import write_notes

PRUNE_BATCHES: Final = 256
"""Deleted in one transaction, so that a day's pruning holds nobody up."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A batch as it shall be from now on, without some of its leaves."""

    place: int
    encoded: bytes
    gone: frozenset[int]
    """Indexes of the leaves that go with this."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a batch that is deleted."""

    place: int
    encoded: bytes


def prune_some(
    connection: sqlite3.Connection,
    ends: tuple[int, int],
    kept: Sequence[Kept],
    series: Iterable[int],
    content: Content = PLAIN,
) -> tuple[int, int]:
    """Delete the batches from one place to another; (batches, statements) that went. `series`: all that there are."""
    ((count, statements),) = _rows(
        connection, "SELECT count(*), coalesce(sum(leaf_count - 1), 0) FROM batch WHERE batch BETWEEN ? AND ?", ends
    )
    connection.executemany(
        "INSERT OR REPLACE INTO kept SELECT batch, incarnation, number, first_timestamp_us, last_timestamp_us, ? "
        "FROM batch WHERE batch = ?",
        [(content.seal(of_kept(each.place), bodies.pack(each.encoded)), each.place) for each in kept],
    )
    for table in ("body", "batch", "thinned"):
        connection.execute(f"DELETE FROM {table} WHERE batch BETWEEN ? AND ?", ends)  # noqa: S608  # fixed names
    connection.execute("DELETE FROM span WHERE place BETWEEN ? AND ?", spans_of(*ends))
    ((oldest,),) = _rows(connection, "SELECT min(batch) FROM batch", ())
    connection.executemany(
        "DELETE FROM block WHERE series = ? AND block < ?", [(each, oldest >> BLOCK_BITS) for each in series]
    )
    return count, statements


def cut_some(
    connection: sqlite3.Connection,
    cuts: Sequence[Cut],
    notes: Mapping[str, bytes | None],
    sealed_kind: int,
    content: Content = PLAIN,
) -> int:
    """Put batches without some leaves in the place of those with them; how many leaves went.

    What stands for the leaves must be sealed before they go: raises ConflictError while a statement of `sealed_kind` is
    queued. A batch that is no longer there is passed over.
    """
    waiting = _rows(connection, "SELECT 1 FROM queue JOIN series USING (series) WHERE kind = ? LIMIT 1", (sealed_kind,))
    if waiting:
        raise ConflictError("what stands for the leaves is not sealed yet")
    ends = min((cut.place for cut in cuts), default=0), max((cut.place for cut in cuts), default=0)
    held = {place for (place,) in _rows(connection, "SELECT batch FROM body WHERE batch BETWEEN ? AND ?", ends)}
    there = sorted((cut for cut in cuts if cut.place in held), key=lambda cut: cut.place)
    # Deleted first: a row that is only replaced by a shorter one leaves its page as empty as that makes it.
    connection.executemany("DELETE FROM body WHERE batch = ?", [(cut.place,) for cut in there])
    packed = [(cut.place, content.seal(of_body(cut.place), bodies.pack(cut.encoded))) for cut in there]
    connection.executemany("INSERT INTO body VALUES (?, ?)", packed)
    gone = 0
    for cut in there:
        gone += _cut_spans(connection, cut)
    write_notes(connection, notes, content)
    return gone


def _cut_spans(connection: sqlite3.Connection, cut: Cut) -> int:
    changed, empty, gone = [], [], 0
    for place, encoded in _rows(
        connection,
        "SELECT place, leaves FROM span WHERE place BETWEEN ? AND ? ORDER BY place",
        spans_of(cut.place, cut.place),
    ):
        leaves = spans.decode(encoded)
        left = [leaf for leaf in leaves if leaf.index not in cut.gone]
        gone += len(leaves) - len(left)
        if not left:
            empty.append((place,))
        elif len(left) < len(leaves):
            sequences = [leaf.sequence for leaf in left if leaf.sequence is not None]
            ends = min(sequences, default=None), max(sequences, default=None)
            changed.append((*ends, spans.encode(left), place))
    connection.executemany("DELETE FROM span WHERE place = ?", empty)
    connection.executemany("UPDATE span SET first_sequence = ?, last_sequence = ?, leaves = ? WHERE place = ?", changed)
    connection.execute(
        "INSERT INTO thinned VALUES (?1, ?2) ON CONFLICT (batch) DO UPDATE SET absent = absent + ?2", (cut.place, gone)
    )
    return gone


def _rows(connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sql, parameters)]
