"""Everything that is read from the store. One connection of its own: WAL lets it read while the writer writes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import orjson

from agent.store import chunks, secret, spans
from agent.store.cipher import of_channel, of_note
from agent.store.errors import StoreCorruptError, StoreError
from agent.store.files import DATABASE
from agent.store.places import Places
from agent.store.query import Parameter, as_number, connect
from agent.store.rows import ChannelRow, Counts, QueuedRow, Stage, StoredBatch
from agent.store.schema import BLOCK_BITS, SERIES_BITS

CHUNK: Final = 256
"""Batches read in one go: about 1 MB of a busy site."""
_BATCH_COLUMNS: Final = (
    "b.batch, b.incarnation, b.number, b.root, b.previous_root, o.encoded, b.sealed_at_us, b.leaf_count"
)


class Reader(Places):
    """Reads a store. On its own (`Reader.beside`) also while the agent runs, for the command line."""

    @staticmethod
    @asynccontextmanager
    async def beside(state_dir: Path, key: secret.KeySource | None = None) -> AsyncIterator[Reader]:
        """Read a store that may be in use, taking no lock. `key` is asked where the store is encrypted.

        Raises StoreError when there is none, StoreKeyError.
        """
        path = state_dir / DATABASE
        try:
            there = path.exists()
        except PermissionError:
            raise StoreError(f"{path}: only the gateway's user and root may read it; try with sudo") from None
        if not there:
            raise StoreError(f"{path}: there is no store; the agent makes it when it first runs")
        connection = await connect(path, writing=False)
        try:
            content = await connection.run(lambda held: secret.content(held, key, path, writes=False))
            reader = Reader(connection, 0, lambda: None, content)
            rows = await reader._all("SELECT value FROM property WHERE name = 'incarnation'")
            if not rows:
                # Whoever made it was killed in the midst of it.
                raise StoreError(f"{path}: is not finished; the agent finishes it when it next runs")
            reader.incarnation = as_number(rows[0][0])
            yield reader
        finally:
            await connection.close()

    async def queued(self, limit: int = 4095, most_bytes: int = 1 << 20) -> list[QueuedRow]:
        """The statements that wait longest, in order of `put`: at most `limit` and `most_bytes`, but at least one."""
        if self.content.is_plain:
            return await self._queued(limit, most_bytes)
        while True:
            newest = await self._newest_place()
            found = await self._queued(limit, most_bytes)
            # Rows and chunks are two snapshots; between them a queue that was sealed whole gives its places anew.
            if await self._newest_place() == newest:
                return found

    async def _queued(self, limit: int, most_bytes: int) -> list[QueuedRow]:
        # One row of JSON: the interpreter's lock is given up once, and not for every statement.
        ((listed,),) = await self._all(
            "SELECT json_group_array(json_array(place, kind, device_id, sequence, timestamp_us, "  # noqa: S608  # a fixed text
            "CASE typeof(encoded) WHEN 'blob' THEN hex(encoded) END, urgent)) "
            f"FROM (SELECT *, sum({chunks.LENGTH}) OVER (ORDER BY place) AS running FROM ("
            "SELECT q.place, s.kind, s.device_id, q.sequence, q.timestamp_us, q.encoded, q.urgent "
            "FROM queue q JOIN series s USING (series) ORDER BY q.place LIMIT ?)) "
            "WHERE running <= ? OR place = (SELECT min(place) FROM queue)",
            limit,
            most_bytes,
        )
        rows = sorted(orjson.loads(listed), key=itemgetter(0))
        if self.content.is_plain:
            statements = {row[0]: bytes.fromhex(row[5]) for row in rows}
        else:
            statements = await self._in_chunks([row[0] for row in rows])
        return [
            QueuedRow(place, kind, device_id or None, sequence, timestamp_us, statements[place], bool(urgent))
            for place, kind, device_id, sequence, timestamp_us, _, urgent in rows
            if place in statements  # else it was sealed since
        ]

    async def is_queued(self, encoded: bytes) -> bool:
        """Whether a statement waits to be sealed."""
        if self.content.is_plain:
            return bool(await self._all("SELECT 1 FROM queue WHERE encoded = ? LIMIT 1", encoded))
        rows = await self._all("SELECT place FROM queue WHERE encoded = ? ORDER BY place", len(encoded))
        return encoded in (await self._in_chunks([row[0] for row in rows])).values()

    async def _in_chunks(self, places: Sequence[int]) -> dict[int, bytes]:
        """Queued statements of an encrypted store, by places in rising order; what was sealed since is not among them.

        Raises StoreCorruptError.
        """
        wanted, found, at = set(places), dict[int, bytes](), 0
        while at < len(places):
            rows = await self._all(chunks.OF_PLACES, places[at], places[-1], CHUNK)
            opened = self._checked(partial(chunks.opened, self.content), [row[:3] for row in rows])
            found |= {place: statement for place, statement in opened.items() if place in wanted}
            if len(rows) < CHUNK:
                break
            at = bisect_right(places, rows[-1][1])
        return found

    async def last_batch(self) -> tuple[int, int, bytes] | None:
        """(incarnation, number, root) of the newest batch of this incarnation; None before its first."""
        rows = await self._all(
            "SELECT incarnation, number, root FROM batch WHERE incarnation = ? ORDER BY number DESC LIMIT 1",
            self.incarnation,
        )
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    async def unacknowledged(
        self, after_number: int, limit: int, *, incarnation: int | None = None, most_bytes: int = 4 << 20
    ) -> list[StoredBatch]:
        """Batches of an incarnation (this one) that nobody acknowledged, number above `after_number`, in order.

        At most `limit` and `most_bytes`, but at least one where there is one.
        """
        which = self.incarnation if incarnation is None else incarnation
        rows = await self._all(
            "SELECT number, size FROM batch WHERE incarnation = ?1 AND number > max(?2, coalesce("
            "(SELECT max(up_to_number) FROM acknowledged WHERE incarnation = ?1), 0)) ORDER BY number LIMIT ?3",
            which,
            after_number,
            limit,
        )
        last, size = 0, 0
        for number, bytes_of_it in rows:
            size += bytes_of_it
            if last and size > most_bytes:
                break
            last = number
        if not last:
            return []
        return await self._batches("b.incarnation = ? AND b.number BETWEEN ? AND ?", which, rows[0][0], last)

    async def unacknowledged_with(
        self, kinds: Collection[int], after_number: int, *, incarnation: int | None = None
    ) -> list[int]:
        """Numbers of an incarnation's (this one's) batches that nobody acknowledged, above `after_number`, in order,
        which hold statements of these kinds (thinned or not)."""
        which = self.incarnation if incarnation is None else incarnation
        least = max(after_number, await self.acknowledged_number(which))
        first = await self._all(
            "SELECT batch FROM batch WHERE incarnation = ? AND number > ? ORDER BY number LIMIT 1", which, least
        )
        if not first:
            return []
        # With + the blocks are gone through, of which few hold any, and not all batches of the incarnation.
        rows = await self._all(
            "SELECT DISTINCT b.number FROM series s CROSS JOIN block k ON k.series = s.series AND k.block >= ?1 >> ?2 "
            "CROSS JOIN batch b ON b.batch BETWEEN max(?1, k.block << ?2) AND (k.block + 1 << ?2) - 1 "
            "CROSS JOIN span p ON p.place = (b.batch << 20 | s.series) "
            "WHERE s.kind IN (SELECT value FROM json_each(?3)) AND +b.incarnation = ?4 AND +b.number > ?5 ORDER BY 1",
            first[0][0],
            BLOCK_BITS,
            orjson.dumps(sorted(kinds)).decode(),
            which,
            least,
        )
        return [row[0] for row in rows]

    async def unacknowledged_incarnations(self) -> list[int]:
        """Incarnations that have unacknowledged batches, oldest first. More than one after a restored backup."""
        rows = await self._all(
            "SELECT incarnation FROM batch b GROUP BY incarnation HAVING max(number) > coalesce("
            "(SELECT max(up_to_number) FROM acknowledged a WHERE a.incarnation = b.incarnation), 0) ORDER BY 1"
        )
        return [row[0] for row in rows]

    async def acknowledged_number(self, incarnation: int | None = None) -> int:
        """Number of the newest acknowledged batch of an incarnation (this one); 0: none."""
        rows = await self._all(
            "SELECT coalesce(max(up_to_number), 0) FROM acknowledged WHERE incarnation = ?",
            self.incarnation if incarnation is None else incarnation,
        )
        return as_number(rows[0][0])

    async def batches(self, from_number: int, limit: int, *, incarnation: int | None = None) -> list[StoredBatch]:
        """Batches held of an incarnation (this one), acknowledged or not, from a number on, in order."""
        which = self.incarnation if incarnation is None else incarnation
        return await self._batches("b.incarnation = ? AND b.number >= ?", which, from_number, limit=limit)

    async def incarnations(self) -> list[int]:
        """Incarnations that batches are held of, oldest first."""
        return [row[0] for row in await self._all("SELECT DISTINCT incarnation FROM batch ORDER BY 1")]

    async def batch_of(self, device_id: str | None, sequence: int, *, kind: int = 1) -> tuple[StoredBatch, int] | None:
        """The batch that holds the statement of a kind (1: reading) with this sequence, and its leaf index.

        None when it is unknown, still queued, or pruned.
        """
        series = await self._series_of(device_id, kind)
        first = await self._first_batch_with(series, sequence)
        rows = await self._all("SELECT batch, leaves FROM span WHERE place = ?", first << SERIES_BITS | series)
        for batch, leaves in rows:
            for leaf in self._checked(spans.decode, leaves):
                if leaf.sequence == sequence:
                    return (await self._batches("b.batch = ?", batch))[0], leaf.index
        return None

    async def statements(self, device_id: str | None, kind: int, from_us: int, to_us: int) -> list[bytes]:
        """Statements of a device and kind, sealed or queued, with from_us < timestamp <= to_us, in order of `put`.

        For readings that is the order of their sequence. (A reading at a boundary tells of the time before it.)
        """
        rows = await self._all(
            "SELECT coalesce(min(batch), 0) FROM batch INDEXED BY batch_by_time "
            "WHERE last_timestamp_us > ? AND first_timestamp_us <= ?",
            from_us,
            to_us,
        )
        return await self._scan(
            await self._series_of(device_id, kind),
            as_number(rows[0][0]),
            lambda leaf: from_us < leaf.timestamp_us <= to_us,
            before_us=to_us,
        )

    async def statements_after(
        self, device_id: str | None, kind: int, sequence: int, limit: int = 100_000
    ) -> list[bytes]:
        """Statements of a device and kind, sealed or queued, with a higher sequence, in its order; at most `limit`."""
        series = await self._series_of(device_id, kind)
        first = await self._first_batch_with(series, sequence + 1)
        return await self._scan(
            series, first, lambda leaf: leaf.sequence is not None and leaf.sequence > sequence, limit=limit
        )

    async def newest_of(self, device_id: str, kind: int) -> bytes | None:
        """The newest sealed statement of a device and kind; None: there is none (any more)."""
        series = await self._series_of(device_id, kind)
        rows = await self._all(
            "SELECT b.batch, p.leaves, o.encoded FROM (SELECT max(block) AS block FROM block WHERE series = ?1) k "
            "CROSS JOIN batch b ON b.batch BETWEEN k.block << ?2 AND (k.block + 1 << ?2) - 1 "
            "CROSS JOIN span p ON p.place = (b.batch << 20 | ?1) CROSS JOIN body o ON o.batch = b.batch "
            "ORDER BY b.batch DESC LIMIT 1",
            series,
            BLOCK_BITS,
        )
        if not rows:
            return None
        batch, places, encoded = rows[0]
        leaves = self._checked(spans.leaves_of, self._batch_of(batch, encoded))
        return leaves[self._checked(spans.decode, places)[-1].index] or None

    async def note(self, key: str) -> bytes | None:
        """The value kept under a key."""
        rows = await self._all("SELECT value FROM note WHERE key = ?", key)
        return self._open(of_note(key), rows[0][0]) if rows else None

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """All notes whose key begins with the prefix, by key, in the keys' order."""
        rows = await self._all(
            "SELECT key, value FROM note WHERE key >= ? AND key < ? ORDER BY key", prefix, prefix + "\U0010ffff"
        )
        return {key: self._open(of_note(key), value) for key, value in rows}

    async def channel_newest(self, channel_id: bytes, stage: Stage | None = None) -> ChannelRow | None:
        """The newest row of a channel, by incarnation, version and stage; or the newest of one stage."""
        rows = await self._all(
            "SELECT channel_id, incarnation, version, stage, encoded FROM channel_state WHERE channel_id = ?1 "
            "AND (?2 IS NULL OR stage = ?2) ORDER BY incarnation DESC, version DESC, stage DESC LIMIT 1",
            channel_id,
            None if stage is None else int(stage),
        )
        return self._channel_row(rows[0]) if rows else None

    async def channel_rows(self, channel_id: bytes, *, newest: int | None = None) -> list[ChannelRow]:
        """Rows of a channel in order of incarnation, version and stage; with `newest`, only that many last ones."""
        rows = await self._all(
            "SELECT channel_id, incarnation, version, stage, encoded FROM channel_state WHERE channel_id = ? "
            "ORDER BY incarnation DESC, version DESC, stage DESC LIMIT ?",
            channel_id,
            -1 if newest is None else newest,
        )
        return [self._channel_row(row) for row in reversed(rows)]

    async def counts(self) -> Counts:
        """How much is where, by counting."""
        rows = await self._all(
            f"SELECT count(*), coalesce(sum({chunks.LENGTH}), 0), coalesce(sum(urgent), 0) FROM queue UNION ALL "  # noqa: S608  # a fixed text
            "SELECT count(*), coalesce(sum(leaf_count - 1), 0), 0 FROM batch UNION ALL "
            "SELECT count(*), coalesce(sum(leaf_count - 1), 0), 0 FROM batch b WHERE number > coalesce("
            "(SELECT max(up_to_number) FROM acknowledged a WHERE a.incarnation = b.incarnation), 0)"
        )
        (queued, queued_bytes, urgent), (batches, sealed, _), (waiting, unacknowledged, _) = rows
        return Counts(queued, queued_bytes, urgent, batches, sealed, waiting, unacknowledged)

    async def _series_of(self, device_id: str | None, kind: int) -> int:
        """The number of a series; -1, which has no rows, when nothing of it was ever stored."""
        rows = await self._all("SELECT series FROM series WHERE device_id = ? AND kind = ?", device_id or "", kind)
        return rows[0][0] if rows else -1

    async def _first_batch_with(self, series: int, sequence: int) -> int:
        """The first batch that may hold this sequence or a later one: sequences rise with batches."""
        ((block, first),) = await self._all(
            "SELECT (SELECT max(block) FROM block WHERE series = ?1 AND first_sequence <= ?2), min(block) FROM block "
            "WHERE series = ?1",
            series,
            sequence,
        )
        if block is None:
            return 0 if first is None else as_number(first) << BLOCK_BITS
        ((batch,),) = await self._all(
            "SELECT min(b.batch) FROM batch b CROSS JOIN span p ON p.place = (b.batch << 20 | ?3) "
            "WHERE b.batch BETWEEN ?1 AND ?2 AND p.last_sequence >= ?4",
            block << BLOCK_BITS,
            ((block + 1) << BLOCK_BITS) - 1,
            series,
            sequence,
        )
        return (as_number(block) + 1) << BLOCK_BITS if batch is None else as_number(batch)

    async def _scan(
        self,
        series: int,
        first_batch: int,
        wanted: Callable[[spans.Leaf], bool],
        *,
        before_us: int | None = None,
        limit: int | None = None,
    ) -> list[bytes]:
        """Leaves of a series from `first_batch` on, then from the queue, in order.

        A statement moves from the queue into a batch while we read. So the queue is read in one snapshot with the
        number of the newest batch, and counts only when no batch came since the batches were read.
        """
        found: list[bytes] = []
        last = first_batch - 1
        newest = await self._newest_place()
        while limit is None or len(found) < limit:
            # CROSS JOIN fixes the order of the loops: headers, then spans, and bodies only of what is left.
            rows = await self._all(
                "SELECT b.batch, p.leaves, o.encoded FROM batch b CROSS JOIN span p CROSS JOIN body o "
                "WHERE b.batch > ? AND (?2 IS NULL OR b.first_timestamp_us <= ?2) "
                "AND p.place = (b.batch << 20 | ?3) AND o.batch = b.batch ORDER BY b.batch LIMIT ?4",
                last,
                before_us,
                series,
                CHUNK,
            )
            for batch, encoded_span, encoded in rows:
                last = batch
                indexes = [leaf.index for leaf in self._checked(spans.decode, encoded_span) if wanted(leaf)]
                if indexes:
                    leaves = self._checked(spans.leaves_of, self._batch_of(batch, encoded))
                    found += [leaves[index] for index in indexes]
            if len(rows) == CHUNK:
                continue
            queue = await self._all(
                "SELECT 0, (SELECT coalesce(max(batch), 0) FROM batch), NULL, NULL UNION ALL "
                "SELECT place, timestamp_us, sequence, encoded FROM queue WHERE series = ? ORDER BY 1",
                series,
            )
            if queue[0][1] == newest:
                waiting = {
                    place: encoded
                    for place, timestamp_us, sequence, encoded in queue[1:]
                    if wanted(spans.Leaf(place, timestamp_us, sequence))
                }
                if not self.content.is_plain:
                    there = await self._in_chunks(list(waiting))
                    if await self._newest_place() != newest:
                        # Sealed since, and maybe with others in their places: the batch that holds them is read next.
                        continue
                    if len(there) < len(waiting):
                        raise self._noticed(StoreCorruptError("queued statements are missing: restart the agent"))
                    waiting = {place: there[place] for place in waiting}
                found += waiting.values()
                break
            newest = as_number(queue[0][1])
        return found if limit is None else found[:limit]

    async def _newest_place(self) -> int:
        return as_number((await self._all("SELECT coalesce(max(batch), 0) FROM batch"))[0][0])

    async def _batches(self, where: str, *parameters: Parameter, limit: int = -1) -> list[StoredBatch]:
        rows = await self._all(
            f"SELECT {_BATCH_COLUMNS} FROM batch b JOIN body o USING (batch) WHERE {where} ORDER BY b.batch LIMIT ?",  # noqa: S608  # fixed texts
            *parameters,
            limit,
        )
        return [
            StoredBatch(incarnation, number, root, previous_root, self._batch_of(place, body), *rest)
            for place, incarnation, number, root, previous_root, body, *rest in rows
        ]

    def _channel_row(self, row: tuple[Any, ...]) -> ChannelRow:
        channel_id, incarnation, version, stage, encoded = row
        plain = self._open(of_channel(channel_id, incarnation, version, stage), encoded)
        return ChannelRow(channel_id, incarnation, version, Stage(stage), plain)
