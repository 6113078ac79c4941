"""The store on a real SQLite file: group commit, sealing, acknowledgement, pruning, notes and channel rows."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest

from agent.clock import ClockQuality
from agent.evidence import statements
from agent.evidence.batch import FIRST_PREVIOUS_ROOT, KeyProtection, assemble, decode_batch
from agent.evidence.batch import seal as seal_batch
from agent.measure.reading import Quality, Reading
from agent.store import (
    ChannelRow,
    ConflictError,
    Queued,
    Reader,
    Stage,
    Store,
    StoredBatch,
    StoreError,
    StoreFullError,
    schema,
)
from agent.store import writer as writer_module
from agent.store.files import DATABASE
from drivers.device import ValueSource

MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
T0_US = 20_000 * DAY_US


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state", reserve_bytes=64 << 10) as opened:
        yield opened


def row(sequence: int, device: str = "pv-1", kind: int = 1, urgent: bool = False) -> Queued:
    return Queued(kind, device, sequence, T0_US + sequence * 1_000_000, f"{device}/{kind}/{sequence}".encode(), urgent)


async def seal(store: Store, limit: int = 4095) -> StoredBatch:
    """Seal what is queued, as the gateway does but without a signature."""
    rows = await store.queued(limit)
    last = await store.last_batch()
    number, previous = (1, bytes(32)) if last is None else (last[1] + 1, last[2])
    encoded = cbor2.dumps([1, b"", [b"sealing", *(r.encoded for r in rows)]])
    root = hashlib.sha256(encoded).digest()
    batch = StoredBatch(store.incarnation, number, root, previous, encoded, T0_US, len(rows) + 1)
    await store.seal(batch, rows[-1].rowid)
    return batch


async def test_what_was_put_is_queued_in_order_and_survives_reopening(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        await store.put([row(1), row(2, urgent=True)], {"meter/pv-1": b"2"})
        await store.put([Queued(5, None, None, 7, b"alarm")])
    async with await Store.open(tmp_path, reserve_bytes=4096) as store:
        queued = await store.queued()
        assert [(q.kind, q.device_id, q.sequence, q.encoded, q.urgent) for q in queued] == [
            (1, "pv-1", 1, b"pv-1/1/1", False),
            (1, "pv-1", 2, b"pv-1/1/2", True),
            (5, None, None, b"alarm", False),
        ]
        assert await store.note("meter/pv-1") == b"2"
        assert store.incarnation == 1
        counts = await store.counts()
        assert (counts.queued, counts.queued_bytes, counts.queued_urgent) == (3, 21, 1)


async def test_a_group_goes_to_the_connections_thread_once_whatever_is_in_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way there and back waits for the processor and for the interpreter: a command has no time for one each."""
    await store.put([row(1)])
    execute, times = store._write._execute, 0

    async def counted(*arguments: object) -> object:
        nonlocal times
        times += 1
        return await execute(*arguments)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(store._write, "_execute", counted)
    await store.put([row(2, urgent=True), row(3, device="pv-2", urgent=True)], {"a": b"1", "b": b"2", "gone": None})
    assert times == 1
    await seal(store)
    assert times == 2
    await store.acknowledge(1, 1, T0_US)
    assert times == 3
    assert (await store.counts()).sealed_statements == 3


async def test_many_producers_at_once_lose_nothing_and_keep_each_ones_order(store: Store) -> None:
    async def produce(device: str) -> None:
        for sequence in range(1, 51):
            await store.put([row(sequence, device)], {f"meter/{device}": str(sequence).encode()})

    async with asyncio.TaskGroup() as tasks:
        for n in range(20):
            tasks.create_task(produce(f"d{n}"))
    for n in range(20):
        assert await store.statements(f"d{n}", 1, 0, 1 << 62) == [row(s, f"d{n}").encoded for s in range(1, 51)]
    assert (await store.counts()).queued == 1000


async def test_queued_is_bounded_by_rows_and_bytes_but_gives_at_least_one(store: Store) -> None:
    await store.put([replace(row(n), encoded=bytes(100)) for n in range(1, 11)])
    assert len(await store.queued(3)) == 3
    assert len(await store.queued(10, 250)) == 2
    assert len(await store.queued(10, 1)) == 1


async def test_a_seal_replaces_exactly_its_rows_by_one_batch(store: Store) -> None:
    await store.put([row(1), row(1, "pv-2"), row(2)])
    batch = await seal(store, limit=2)
    assert [q.encoded for q in await store.queued()] == [row(2).encoded]
    assert await store.last_batch() == (1, 1, batch.root)
    assert await store.batches(1, 10) == [batch]
    assert await store.statements("pv-1", 1, 0, 1 << 62) == [row(1).encoded, row(2).encoded]
    counts = await store.counts()
    assert (counts.queued, counts.sealed_batches, counts.sealed_statements) == (1, 1, 2)
    assert counts == await Reader.counts(store)


async def test_a_batch_as_evidence_makes_it_gives_its_statements_back(store: Store) -> None:
    reading = Reading(
        device_id="pv-1", incarnation=1, boot_id=bytes(16), sequence=1, timestamp_us=T0_US, net_energy_wh=0,
        import_register_milliwatt_hours=5, export_register_milliwatt_hours=None, meter_epoch=1, power_w=-3,
        voltage_millivolts=None, state_of_charge_permille=None, frequency_millihertz=50_000, quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )  # fmt: skip
    await store.put([Queued(1, "pv-1", 1, T0_US, statements.encode(reading))])
    rows = await store.queued()
    sealing = statements.Sealing(sealed_at_us=T0_US, clock_quality=ClockQuality.UNTRUSTED, clock_error_bound_us=None)
    unsigned = assemble(
        [statements.encode(sealing), *(r.encoded for r in rows)],
        gateway_id="did:key:zExample",
        incarnation=1,
        boot_id=bytes(16),
        number=1,
        previous_root=FIRST_PREVIOUS_ROOT,
        key_protection=KeyProtection.SOFTWARE,
        algorithm=-7,
        key_id=bytes(32),
    )
    encoded = seal_batch(unsigned, bytes(64)).encode()
    await store.seal(StoredBatch(1, 1, unsigned.root, bytes(32), encoded, T0_US, 2), rows[-1].rowid)
    assert [statements.decode(s) for s in await store.statements("pv-1", 1, 0, T0_US)] == [reading]
    found = await store.batch_of("pv-1", 1)
    assert found is not None
    assert decode_batch(found[0].encoded).leaves[found[1]] == statements.encode(reading)


@pytest.mark.parametrize(
    "wrong", [{"number": 3}, {"number": 1}, {"previous_root": bytes(32)}, {"leaf_count": 3}, {"incarnation": 2}]
)
async def test_a_batch_that_does_not_follow_is_refused_and_changes_nothing(
    store: Store, wrong: dict[str, int | bytes]
) -> None:
    await store.put([row(1)])
    first = await seal(store)
    await store.put([row(2)])
    right = StoredBatch(1, 2, b"r" * 32, first.root, b"", T0_US, 2)
    place = (await store.queued())[0].rowid
    before = await store.counts()
    with pytest.raises(ConflictError):
        await store.seal(replace(right, **wrong), place)  # type: ignore[arg-type]  # one field at a time
    assert await store.counts() == before == await Reader.counts(store)
    await store.seal(right, place)


async def test_sealing_nothing_is_refused(store: Store) -> None:
    with pytest.raises(ConflictError, match="0 queued"):
        await store.seal(StoredBatch(1, 1, bytes(32), bytes(32), b"", T0_US, 1), 99)


async def test_statements_are_found_by_time_and_sequence_sealed_or_not(store: Store) -> None:
    for first in range(1, 600, 2):
        await store.put([row(first), row(first, "pv-2"), row(first + 1), Queued(3, "pv-1", None, T0_US, b"window")])
        if first < 590:
            await seal(store)
    found = await store.statements("pv-1", 1, T0_US + 10_000_000, T0_US + 13_000_000)
    assert found == [row(n).encoded for n in (11, 12, 13)], "from is exclusive, to is inclusive"
    assert await store.statements("pv-1", 1, T0_US + 588_000_000, 1 << 62) == [row(n).encoded for n in range(589, 601)]
    assert await store.statements_after("pv-1", 1, 585) == [row(n).encoded for n in range(586, 601)]
    assert await store.statements_after("pv-1", 1, 100, limit=3) == [row(n).encoded for n in (101, 102, 103)]
    assert await store.statements_after("pv-1", 1, 600) == []
    assert await store.statements("pv-1", 7, 0, 1 << 62) == []
    assert len(await store.statements("pv-1", 3, 0, 1 << 62)) == 300


async def test_the_batch_and_leaf_of_a_reading_are_found(store: Store) -> None:
    for first in range(1, 40, 2):
        await store.put([row(first, "pv-2"), row(first), row(first + 1)])
        await seal(store)
    found = await store.batch_of("pv-1", 24)
    assert found is not None
    batch, index = found
    assert cbor2.loads(batch.encoded)[2][index] == row(24).encoded
    assert await store.batch_of("pv-1", 41) is None
    assert await store.batch_of("pv-9", 1) is None


async def test_statements_are_read_once_each_while_they_move_from_queue_to_batch(store: Store) -> None:
    await store.put([row(n) for n in range(1, 2001)])

    async def keep_sealing() -> None:
        while await store.queued(1):
            await seal(store, limit=50)

    async with asyncio.TaskGroup() as tasks:
        sealing = tasks.create_task(keep_sealing())
        while not sealing.done():
            assert await store.statements("pv-1", 1, 0, 1 << 62) == [row(n).encoded for n in range(1, 2001)]


async def test_acknowledgement_is_cumulative_and_never_goes_back(store: Store) -> None:
    batches = []
    for n in range(1, 6):
        await store.put([row(n)])
        batches.append(await seal(store))
    assert await store.unacknowledged(0, 10) == batches
    assert await store.acknowledge(1, 3, T0_US) == 3
    assert await store.acknowledge(1, 2, T0_US) == 0
    assert await store.acknowledged_number() == 3
    assert await store.unacknowledged(0, 10) == batches[3:]
    assert await store.unacknowledged(4, 10) == batches[4:]
    assert await store.unacknowledged_incarnations() == [1]
    counts = await store.counts()
    assert (counts.unacknowledged_batches, counts.unacknowledged_statements) == (2, 2)
    assert counts == await Reader.counts(store)
    await store.acknowledge(1, 5, T0_US)
    assert await store.unacknowledged_incarnations() == []


@pytest.mark.parametrize(("incarnation", "number"), [(1, 2), (2, 1), (0, 1)])
async def test_an_acknowledgement_of_what_was_never_sealed_is_refused(
    store: Store, incarnation: int, number: int
) -> None:
    await store.put([row(1)])
    await seal(store)
    with pytest.raises(ConflictError, match="is acknowledged"):
        await store.acknowledge(incarnation, number, T0_US)


async def test_unacknowledged_is_bounded_by_bytes_but_gives_at_least_one(store: Store) -> None:
    for n in range(1, 4):
        await store.put([replace(row(n), encoded=bytes(1000))])
        await seal(store)
    assert [b.number for b in await store.unacknowledged(0, 10, most_bytes=2500)] == [1, 2]
    assert [b.number for b in await store.unacknowledged(0, 10, most_bytes=1)] == [1]


async def test_only_what_was_acknowledged_long_enough_ago_is_pruned_and_never_the_newest(store: Store) -> None:
    for n in range(1, 6):
        await store.put([row(n), row(n, "pv-2")])
        await seal(store)
    await store.acknowledge(1, 2, T0_US)
    await store.acknowledge(1, 4, T0_US + DAY_US)
    assert await store.prune(T0_US + 7 * DAY_US, 7) == 0
    assert await store.prune(T0_US + 7 * DAY_US + MINUTE_US, 7) == 2
    assert [b.number for b in await store.batches(1, 10)] == [3, 4, 5]
    assert await store.statements("pv-1", 1, 0, 1 << 62) == [row(n).encoded for n in (3, 4, 5)]
    assert await store.batch_of("pv-1", 2) is None
    assert await store.batch_of("pv-2", 3) is not None
    assert await store.counts() == await Reader.counts(store)
    await store.acknowledge(1, 5, T0_US + DAY_US)
    assert await store.prune(T0_US + 99 * DAY_US, 7) == 2
    last = await store.last_batch()
    assert last is not None
    assert last[1] == 5


async def test_a_clock_that_went_back_prunes_nothing_early(store: Store) -> None:
    for n in (1, 2):
        await store.put([row(n)])
        await seal(store)
    await store.put([row(3)])
    await seal(store)
    await store.acknowledge(1, 1, T0_US)
    await store.acknowledge(1, 2, T0_US - 30 * DAY_US)
    assert await store.prune(T0_US + 6 * DAY_US, 7) == 0


async def test_notes_are_set_listed_by_prefix_and_deleted(store: Store) -> None:
    await store.set_notes({"a/1": b"x", "a/2": b"y", "b/1": b"z", "a/\u00e9": b""})
    assert await store.notes("a/") == {"a/1": b"x", "a/2": b"y", "a/\u00e9": b""}
    await store.put([row(1)], {"a/1": None, "a/2": b"w"})
    await store.delete_note("b/1")
    await store.delete_note("never")
    assert await store.notes("") == {"a/2": b"w", "a/\u00e9": b""}
    assert await store.note("a/1") is None


async def test_a_journal_is_a_name_space_of_its_own(store: Store) -> None:
    one, two = store.journal("sunspec/pv-1"), store.journal("sunspec/pv-2")
    await one.remember("first contact", b"1")
    assert await one.recall("first contact") == b"1"
    assert await two.recall("first contact") is None


CHANNEL = b"c" * 32


async def test_a_channel_stage_is_written_once_and_for_ever(store: Store) -> None:
    for stage in Stage:
        await store.channel_append(CHANNEL, 1, 1, stage, stage.name.encode())
        await store.channel_append(CHANNEL, 1, 1, stage, stage.name.encode())
        with pytest.raises(ConflictError, match="another"):
            await store.channel_append(CHANNEL, 1, 1, stage, b"different")
    assert [r.stage for r in await store.channel_rows(CHANNEL)] == list(Stage)
    assert await store.channel_newest(CHANNEL) == ChannelRow(CHANNEL, 1, 1, Stage.COUNTERSIGNED, b"COUNTERSIGNED")
    assert await store.channel_newest(CHANNEL, Stage.SIGNED) == ChannelRow(CHANNEL, 1, 1, Stage.SIGNED, b"SIGNED")
    assert await store.channel_newest(b"other") is None


@pytest.mark.parametrize(("incarnation", "version", "stage"), [(1, 1, 0), (1, 4, 0), (2, 6, 1), (2, 5, 2)])
async def test_a_channel_row_out_of_order_is_refused(store: Store, incarnation: int, version: int, stage: int) -> None:
    await store.channel_append(CHANNEL, 2, 5, Stage.INTENT, b"")
    with pytest.raises(ConflictError):
        await store.channel_append(CHANNEL, incarnation, version, Stage(stage), b"")


async def test_the_database_itself_refuses_to_change_a_channel_state(store: Store, tmp_path: Path) -> None:
    await store.channel_append(CHANNEL, 1, 1, Stage.INTENT, b"")
    connection = sqlite3.connect(tmp_path / "state" / "evidence.db")
    for sql in ("UPDATE channel_state SET encoded = x'00'", "DELETE FROM channel_state"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(sql)
    connection.close()


async def test_a_window_its_note_and_its_intent_are_kept_together_or_not_at_all(store: Store) -> None:
    intent = ChannelRow(CHANNEL, 1, 1, Stage.INTENT, b"one")
    await store.put([row(1)], {"progress": b"1"}, [intent])
    with pytest.raises(ConflictError):
        await store.put([row(1, "new")], {"progress": b"2"}, [replace(intent, encoded=b"two")])
    assert await store.note("progress") == b"1"
    assert (await store.counts()).queued == len(await store.queued()) == 1
    # The device that came with the refused call is known only now.
    await store.put([row(1, "new")])
    assert await store.statements("new", 1, 0, 1 << 62) == [row(1, "new").encoded]


async def test_one_call_that_cannot_be_written_does_not_take_others_with_it(store: Store) -> None:
    good = [asyncio.create_task(store.put([row(n)])) for n in (1, 2)]
    bad = asyncio.create_task(store.put([replace(row(3), timestamp_us=1 << 70)]))
    good.append(asyncio.create_task(store.put([row(4)])))
    results = await asyncio.gather(*good, bad, return_exceptions=True)
    assert results[:3] == [None] * 3
    assert isinstance(results[3], OverflowError)
    assert [q.sequence for q in await store.queued()] == [1, 2, 4]


async def test_what_was_taken_is_written_by_close_and_what_comes_later_is_refused(tmp_path: Path) -> None:
    store = await Store.open(tmp_path, reserve_bytes=4096)
    puts = [asyncio.create_task(store.put([row(n)])) for n in range(1, 101)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*puts) == [None] * 100
    with pytest.raises(StoreError, match="closed"):
        await store.put([row(101)])
    with pytest.raises(StoreError, match="closed"):
        await store.queued()
    async with Reader.beside(tmp_path) as reader:
        assert (await reader.counts()).queued == 100


async def test_a_cancelled_call_leaves_the_store_working(store: Store) -> None:
    task = asyncio.create_task(store.put([row(1)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.put([row(2)])
    assert (await store.queued())[-1].sequence == 2
    assert await store.counts() == await Reader.counts(store)


async def test_rare_statements_are_found_among_many_batches_and_after_pruning(store: Store) -> None:
    """More batches than share a line of the index, and a device that is in few of them."""
    rare = {3: 1, 300: 2, 301: 3, 590: 4}
    for n in range(1, 601):
        await store.put([row(n), *([row(rare[n], "rare")] if n in rare else [])])
        await seal(store)
    numbers = [await _number_of(store, "rare", sequence) for sequence in range(6)]
    assert numbers == [None, *rare, None]
    assert [await _number_of(store, "pv-1", n) for n in (1, 255, 256, 257, 600, 601)] == [1, 255, 256, 257, 600, None]
    for after in range(5):
        expected = [row(sequence, "rare").encoded for sequence in rare.values() if sequence > after]
        assert await store.statements_after("rare", 1, after) == expected
    assert len(await store.statements_after("pv-1", 1, 511)) == 89
    await store.acknowledge(1, 580, T0_US)
    assert await store.prune(T0_US + 99 * DAY_US, 7) == 580
    assert [await _number_of(store, "rare", sequence) for sequence in (1, 3, 4)] == [None, None, 590]
    assert await store.statements_after("rare", 1, 0) == [row(4, "rare").encoded]
    assert await store.statements_after("pv-1", 1, 0) == [row(n).encoded for n in range(581, 601)]


async def _number_of(store: Store, device: str, sequence: int) -> int | None:
    found = await store.batch_of(device, sequence)
    return None if found is None else found[0].number


async def test_a_store_of_the_first_format_goes_on_with_all_that_it_holds(tmp_path: Path) -> None:
    async with await Store.open(tmp_path / "new", reserve_bytes=4096) as store:
        for n in range(1, 6):
            await store.put([row(n), row(n, "pv-2")])
            await seal(store)
        batches = await store.batches(1, 10)
    old = tmp_path / "old" / DATABASE
    old.parent.mkdir()
    schema.migrate(old, schema.MIGRATIONS[:1])
    schema.write_incarnation(old, 1)
    connection = sqlite3.connect(old)
    connection.execute("ATTACH ? AS new", (str(tmp_path / "new" / DATABASE),))
    connection.executescript(
        "INSERT INTO main.series SELECT * FROM new.series; INSERT INTO main.batch SELECT * FROM new.batch;"
        "INSERT INTO main.span SELECT series, batch, first_sequence, last_sequence, leaves FROM new.span;"
    )
    # Bodies were not packed then.
    connection.executemany("INSERT INTO main.body VALUES (?, ?)", [(b.number, b.encoded) for b in batches])
    connection.commit()
    connection.close()
    async with await Store.open(old.parent, reserve_bytes=4096) as store:
        assert (store.set_aside, store.incarnation) == (None, 1)
        assert await store.batches(1, 10) == batches
        await store.put([row(6)])
        await seal(store)
        assert await store.statements("pv-1", 1, 0, 1 << 62) == [row(n).encoded for n in range(1, 7)]
        assert [await _number_of(store, "pv-2", n) for n in (1, 5, 6)] == [1, 5, None]


async def test_a_store_with_pages_of_another_size_keeps_them_and_its_limit_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA page_size = 4096; CREATE TABLE t (x); DROP TABLE t;")
    most = 1 << 20
    async with await Store.open(tmp_path, most_bytes=most, reserve_bytes=4096) as store:
        with contextlib.suppress(StoreFullError):
            for n in range(1, 2000):
                await store.put([replace(row(n), encoded=bytes(2048))])
        assert await store.used_bytes() <= most
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (4096,)
    assert most // 2 < path.stat().st_size <= most


async def test_a_new_store_has_small_pages(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, reserve_bytes=4096):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (schema.PAGE_BYTES,)


async def test_a_commit_waits_for_the_disk(store: Store) -> None:
    """SQLite's 2 is FULL: in WAL mode NORMAL loses the last commits in a power cut."""
    level = await store._writer.do(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
    mode = await store._writer.do(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
    assert (tuple(level), tuple(mode)) == ((2,), ("wal",))


async def test_who_puts_more_than_may_wait_has_to_wait_and_the_urgent_do_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PENDING_BYTES", 1)
    puts = [asyncio.create_task(store.put([row(number)])) for number in range(1, 9)]
    puts.append(asyncio.create_task(store.put([row(9, urgent=True)])))
    await asyncio.sleep(0)  # each has begun, the writer has not
    assert (len(store._writer._pending), len(store._writer._urgent)) == (1, 1)
    await asyncio.gather(*puts)
    assert (await store.counts()).queued == 9


async def test_a_second_of_fifty_devices_writes_less_than_a_kilobyte_for_each_reading(store: Store) -> None:
    seconds, devices = 30, 50

    def noise(n: int, k: int, size: int) -> bytes:
        """Deflates as badly as anything can."""
        return hashlib.shake_128(f"{n}/{k}".encode()).digest(size)

    for n in range(1, seconds + 1):
        readings = [replace(row(n, f"pv-{k}"), encoded=noise(n, k, 85)) for k in range(devices)]
        await store.put(readings, {f"meter/pv-{k}": noise(n, k, 45) for k in range(devices)})
        await seal(store)
    # All of it is still in the log: a frame for each page that a commit changed.
    log = (await asyncio.to_thread((store._folder / f"{DATABASE}-wal").stat)).st_size
    assert log / (seconds * devices) < 1000


async def test_batches_that_hold_certain_kinds_and_wait_are_found_by_number(store: Store) -> None:
    for number in range(1, 601):
        receipts = [row(number, "", kind=2)] if number in (3, 200, 300, 599) else []
        alarms = [row(number, "pv-1", kind=5)] if number in (4, 300) else []
        await store.put([row(number), *receipts, *alarms])
        await seal(store)
    assert await store.unacknowledged_with((2, 5), 0) == [3, 4, 200, 300, 599]
    assert await store.unacknowledged_with((2,), 3) == [200, 300, 599]
    await store.acknowledge(store.incarnation, 299, T0_US)
    assert await store.unacknowledged_with((2, 5), 4) == [300, 599]
    assert await store.unacknowledged_with((2, 5), 600) == []
    assert await store.unacknowledged_with((3,), 0) == []
    assert await store.unacknowledged_with((2, 5), 0, incarnation=store.incarnation + 1) == []


async def test_the_newest_sealed_statement_of_a_device_and_kind_is_found(store: Store) -> None:
    assert await store.newest_of("pv-1", 1) is None
    for number in range(1, 601):
        await store.put([row(number), row(number, "pv-2")] if number <= 300 else [row(number, "pv-2")])
        await seal(store)
    await store.put([row(601, "pv-2")])
    assert await store.newest_of("pv-1", 1) == b"pv-1/1/300"
    assert await store.newest_of("pv-2", 1) == b"pv-2/1/600"
    assert await store.newest_of("pv-2", 2) is None
    await store.put([row(301)])
    await seal(store)
    assert await store.newest_of("pv-1", 1) == b"pv-1/1/301"
