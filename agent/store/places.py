"""Batches by their place in the order of sealing: for making room, and for finding all of a device and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.store import bodies, spans
from agent.store.cipher import of_kept
from agent.store.query import Query, as_number
from agent.store.schema import SERIES_BITS

WRONG_CLOCK_US: Final = 2 * 86_400_000_000
PLACES_OF: Final = (
    "SELECT b.batch FROM batch b INDEXED BY batch_by_time "
    "WHERE b.last_timestamp_us >= ?1 AND b.first_timestamp_us < ?2 AND EXISTS "
    "(SELECT 1 FROM span p WHERE p.place IN (SELECT b.batch << 20 | series FROM series "
    "WHERE device_id = ?3 AND (?4 IS NULL OR kind = ?4))) ORDER BY b.batch"
)


@dataclass(frozen=True, slots=True)
class PlacedBatch:
    """A batch without its body, with its place: ascending in the order of sealing, over all incarnations."""

    place: int
    incarnation: int
    number: int
    root: bytes
    leaf_count: int
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class PlacedSpan:
    """Which leaves of the batch at a place belong to a device and kind."""

    place: int
    device_id: str | None
    kind: int
    leaves: tuple[spans.Leaf, ...]


def spans_of(first_place: int, last_place: int) -> tuple[int, int]:
    """The lowest and highest place that a span of these batches may have."""
    return first_place << SERIES_BITS, ((last_place + 1) << SERIES_BITS) - 1


class Places(Query):
    """The part of a reader that knows places."""

    async def used_bytes(self) -> int:
        """Size of the database without the pages that are free in it."""
        ((pages,),) = await self._all("PRAGMA page_count")
        ((free,),) = await self._all("PRAGMA freelist_count")
        ((size,),) = await self._all("PRAGMA page_size")
        return (as_number(pages) - as_number(free)) * as_number(size)

    async def prunable(self, incarnation: int, before_minute: int, limit: int) -> tuple[int, int] | None:
        """Places of the first and last of the oldest batches that were acknowledged before a minute; None: none.

        Batches of one incarnation were sealed one after the other: nothing else lies between.
        """
        rows = await self._all(
            "SELECT min(batch), max(batch) FROM (SELECT batch FROM batch WHERE incarnation = ?1 AND number <= (SELECT "
            "coalesce(max(up_to_number), 0) FROM acknowledged WHERE incarnation = ?1 AND minute < ?2) "
            "AND number < (SELECT max(number) FROM batch WHERE incarnation = ?1) ORDER BY number LIMIT ?3)",
            incarnation,
            before_minute,
            limit,
        )
        return None if rows[0][0] is None else (rows[0][0], rows[0][1])

    async def thinnable(self, after_place: int, before_us: int, limit: int) -> list[PlacedBatch]:
        """The oldest batches that nobody acknowledged, behind a place, all of one incarnation and without gaps.

        Up to the first that has something of `before_us` or later; at most `limit`. What is days later has its time
        from a clock that was wrong, and holds nothing up.
        """
        rows = await self._all(
            "SELECT batch, incarnation, number, root, leaf_count, first_timestamp_us, last_timestamp_us FROM batch b "
            "WHERE batch > ? AND number > coalesce((SELECT max(up_to_number) FROM acknowledged a "
            "WHERE a.incarnation = b.incarnation), 0) ORDER BY batch LIMIT ?",
            after_place,
            limit,
        )
        found: list[PlacedBatch] = []
        for row in rows:
            batch = PlacedBatch(*row)
            young = before_us <= batch.last_us < before_us + WRONG_CLOCK_US
            if young or (found and batch.incarnation != found[0].incarnation):
                break
            found.append(batch)
        return found

    async def holding(self, kind: int, after_place: int, limit: int) -> list[PlacedBatch]:
        """The oldest batches behind a place, not acknowledged, with a statement of a kind; at most `limit`."""
        rows = await self._all(
            "SELECT batch, incarnation, number, root, leaf_count, first_timestamp_us, last_timestamp_us FROM batch b "
            "WHERE batch IN (SELECT DISTINCT batch FROM span WHERE place >= (?1 + 1) << 20 AND series IN "
            "(SELECT series FROM series WHERE kind = ?2)) AND number > coalesce((SELECT max(up_to_number) FROM "
            "acknowledged a WHERE a.incarnation = b.incarnation), 0) ORDER BY batch LIMIT ?3",
            after_place,
            kind,
            limit,
        )
        return [PlacedBatch(*row) for row in rows]

    async def spans_between(self, first_place: int, last_place: int) -> list[PlacedSpan]:
        """Everything that batches between two places are indexed by."""
        rows = await self._all(
            "SELECT p.batch, s.device_id, s.kind, p.leaves FROM span p JOIN series s USING (series) "
            "WHERE p.place BETWEEN ? AND ? ORDER BY p.place",
            *spans_of(first_place, last_place),
        )
        return [
            PlacedSpan(place, device_id or None, kind, tuple(self._checked(spans.decode, leaves)))
            for place, device_id, kind, leaves in rows
        ]

    async def bodies_between(self, first_place: int, last_place: int) -> list[tuple[int, bytes]]:
        """(place, batch as it was encoded) between two places, in order."""
        rows = await self._all(
            "SELECT batch, encoded FROM body WHERE batch BETWEEN ? AND ? ORDER BY batch", first_place, last_place
        )
        return [(place, self._batch_of(place, body)) for place, body in rows]

    async def body_at(self, place: int) -> bytes | None:
        """The batch at a place, as it was encoded; None: it is gone."""
        found = await self.bodies_between(place, place)
        return found[0][1] if found else None

    async def places_of(self, device_id: str, from_us: int, to_us: int, kind: int | None = None) -> list[int]:
        """Places of batches with statements of a device, of a kind or any: from_us <= timestamp < to_us. In order.

        A batch may have them at other times: its spans tell.
        """
        rows = await self._all(PLACES_OF, from_us, to_us, device_id, kind)
        return [as_number(row[0]) for row in rows]

    async def placed(self, place: int) -> PlacedBatch | None:
        """The batch at a place; None: it is gone."""
        rows = await self._all(
            "SELECT batch, incarnation, number, root, leaf_count, first_timestamp_us, last_timestamp_us FROM batch "
            "WHERE batch = ?",
            place,
        )
        return PlacedBatch(*rows[0]) if rows else None

    async def device_ids(self) -> list[str]:
        """Devices that anything was ever stored of."""
        return [
            row[0] for row in await self._all("SELECT DISTINCT device_id FROM series WHERE device_id != '' ORDER BY 1")
        ]

    async def of_kind_between(self, kind: int, first_place: int, last_place: int) -> list[tuple[str | None, bytes]]:
        """(device, statement) of a kind in batches between two places, in order of the batches."""
        rows = await self._all(
            "SELECT s.device_id, p.leaves, p.batch, o.encoded FROM span p JOIN series s USING (series) "
            "JOIN body o ON o.batch = p.batch WHERE p.place BETWEEN ? AND ? AND s.kind = ? ORDER BY p.place",
            *spans_of(first_place, last_place),
            kind,
        )
        found: list[tuple[str | None, bytes]] = []
        for device_id, encoded_span, place, body in rows:
            leaves = self._checked(spans.leaves_of, self._batch_of(place, body))
            found += [(device_id or None, leaves[leaf.index]) for leaf in self._checked(spans.decode, encoded_span)]
        return found

    async def latest_us(self, first_place: int, last_place: int) -> int:
        """The latest time in batches between two places; 0: there are none."""
        rows = await self._all(
            "SELECT coalesce(max(last_timestamp_us), 0) FROM batch WHERE batch BETWEEN ? AND ?", first_place, last_place
        )
        return as_number(rows[0][0])

    async def last_place_before(self, us: int) -> int:
        """The place of a batch with nothing later than a time, and of all those the latest in it; 0: there is none."""
        rows = await self._all(
            "SELECT batch FROM batch INDEXED BY batch_by_time WHERE last_timestamp_us <= ? "
            "ORDER BY last_timestamp_us DESC LIMIT 1",
            us,
        )
        return as_number(rows[0][0]) if rows else 0

    async def kept(self, from_us: int, to_us: int, after_place: int, limit: int) -> list[tuple[int, bytes]]:
        """(place, what is left) of deleted batches with something of a time, behind a place, in order."""
        rows = await self._all(
            "SELECT batch, encoded FROM kept WHERE batch > ? AND last_timestamp_us >= ? AND first_timestamp_us < ? "
            "ORDER BY batch LIMIT ?",
            after_place,
            from_us,
            to_us,
            limit,
        )
        return [(place, self._checked(bodies.unpack, self._open(of_kept(place), body))) for place, body in rows]
