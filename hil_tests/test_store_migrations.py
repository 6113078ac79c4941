"""Databases of every older format, as the programs of their time wrote them, opened with today's store.

`stores/version-N.sql` is a dump of one, made by the commit that had format N last, and `version-N.json` what was put
into it: four batches, of which two are acknowledged, two statements that wait, notes, a channel. From format 3 on the
acknowledged ones were pruned but for a reading each, and the third has lost a leaf.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from agent.cli import run as run_command
from agent.config import read_settings
from agent.evidence import statements
from agent.evidence.partial import decode_any
from agent.evidence.statements import Alarm, Kind
from agent.gateway import Gateway, StartError
from agent.measure.reading import Reading
from agent.store import Queued, Stage, Store, StoredBatch, StoreVersionError
from agent.store.backup import back_up, look_at
from agent.store.files import DATABASE, INCARNATION
from agent.store.schema import MIGRATIONS
from hil_tests.test_cli_commands import command, config
from tests.agent.uplink.parts import FIRST_US

__all__ = ["config"]

FOLDER: Final = Path(__file__).with_name("stores")
VERSIONS: Final = sorted(int(path.stem.removeprefix("version-")) for path in FOLDER.glob("version-*.sql"))
CHANNEL: Final = bytes(32)
EVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Old:
    """An older database in a folder, and what is in it."""

    folder: Path
    version: int
    content: dict[str, Any]

    @property
    def batches(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["batches"]
        return found

    def leaves(self) -> list[tuple[int, int, bytes]]:
        """(number of the batch, index, statement) of what is sealed and there."""
        return [
            (batch["number"], index, bytes.fromhex(leaf))
            for batch in self.batches
            for index, leaf in enumerate(batch["leaves"])
            if index and index not in batch.get("gone", [])
        ]

    def of(self, device_id: str) -> list[bytes]:
        """Readings of a device, sealed or waiting."""
        every = [*(leaf for _, _, leaf in self.leaves()), *map(bytes.fromhex, self.content["queue"])]
        decoded = [(each, statements.decode(each)) for each in every]
        return [each for each, s in decoded if isinstance(s, Reading) and s.device_id == device_id]


def old_store(folder: Path, version: int) -> Old:
    """Make it anew from its dump, as an agent that had been killed left it."""
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(folder / DATABASE, isolation_level=None)
    try:
        connection.executescript((FOLDER / f"version-{version}.sql").read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    (folder / INCARNATION).write_text("1\n", encoding="ascii")
    return Old(folder, version, json.loads((FOLDER / f"version-{version}.json").read_text(encoding="utf-8")))


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, config: Path) -> Old:
    return old_store(config.parent / "state", request.param)


def test_there_is_one_of_every_older_format() -> None:
    """A new format needs a dump of the one before it."""
    assert set(VERSIONS) >= {*range(1, len(MIGRATIONS))}


async def test_everything_that_was_kept_is_there(old: Old) -> None:
    async with await Store.open(old.folder) as store:
        assert (store.incarnation, store.set_aside, store.restored, store.put_back) == (1, None, False, False)
        held = await store.batches(1, 10)
        assert [(b.number, b.root.hex(), b.encoded.hex()) for b in held] == [
            (b["number"], b["root"], b["encoded"]) for b in old.batches
        ]
        assert [row.encoded.hex() for row in await store.queued()] == old.content["queue"]
        assert [row.encoded.hex() for row in await store.unacknowledged(0, 10)] == [
            b["encoded"] for b in old.batches if b["number"] > 2
        ]
        assert await store.acknowledged_number() == 2
        assert {k: v.hex() for k, v in (await store.notes("")).items()} == old.content["notes"]
        assert [
            [row.incarnation, row.version, int(row.stage), row.encoded.hex()]
            for row in await store.channel_rows(CHANNEL)
        ] == old.content["channel"]
        assert [encoded.hex() for _, encoded in await store.kept(0, EVER, 0, 10)] == old.content["kept"]


async def test_counts_are_those_of_what_is_there(old: Old) -> None:
    async with await Store.open(old.folder) as store:
        counts = await store.counts()
    sealed = {batch["number"]: len(batch["leaves"]) - 1 for batch in old.batches}
    assert (counts.queued, counts.queued_bytes) == (2, sum(len(each) // 2 for each in old.content["queue"]))
    assert (counts.sealed_batches, counts.unacknowledged_batches) == (len(sealed), 2)
    # What was merged counts on: it was sealed.
    assert counts.sealed_statements == sum(sealed.values())
    assert counts.unacknowledged_statements == sum(count for number, count in sealed.items() if number > 2)


async def test_every_statement_is_found_by_device_time_and_sequence(old: Old) -> None:
    async with await Store.open(old.folder) as store:
        for device_id in ("meter-1", "pv-1"):
            assert await store.statements(device_id, Kind.READING, 0, EVER) == old.of(device_id)
            assert await store.statements_after(device_id, Kind.READING, 0) == old.of(device_id)
        for number, index, leaf in old.leaves():
            statement = statements.decode(leaf)
            if isinstance(statement, Reading):
                found = await store.batch_of(statement.device_id, statement.sequence)
                assert found is not None
                assert (found[0].number, found[1]) == (number, index)
                assert leaf in await store.statements(
                    statement.device_id, Kind.READING, statement.timestamp_us - 1, statement.timestamp_us
                )
        alarms = [leaf for _, _, leaf in old.leaves() if isinstance(statements.decode(leaf), Alarm)]
        assert await store.statements(None, Kind.ALARM, 0, EVER) == alarms


async def test_it_has_the_tables_of_a_new_one_and_is_sound(old: Old, tmp_path: Path) -> None:
    async with await Store.open(old.folder), await Store.open(tmp_path / "new"):
        pass
    tables, verdicts = [], []
    for folder in (old.folder, tmp_path / "new"):
        connection = sqlite3.connect(folder / DATABASE)
        try:
            tables.append(connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall())
            verdicts.append(connection.execute("PRAGMA integrity_check").fetchone()[0])
            assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        finally:
            connection.close()
    assert tables[0] == tables[1]
    assert verdicts == ["ok", "ok"]


async def test_it_goes_on_with_the_next_numbers_over_restarts(old: Old) -> None:
    last = old.batches[-1]
    async with await Store.open(old.folder) as store:
        waiting = await store.queued()
        await store.put([Queued(kind=1, device_id="meter-1", sequence=8, timestamp_us=FIRST_US, encoded=b"one more")])
        # What it means the store does not know: any bytes of the right number of leaves will do.
        await store.seal(
            StoredBatch(
                incarnation=1,
                number=last["number"] + 1,
                root=b"r" * 32,
                previous_root=bytes.fromhex(last["root"]),
                encoded=bytes.fromhex(last["encoded"]),
                sealed_at_us=FIRST_US,
                leaf_count=len(waiting) + 1,
            ),
            waiting[-1].rowid,
        )
        assert await store.acknowledge(1, last["number"] + 1, FIRST_US) == 3
        await store.channel_append(CHANNEL, 1, 2, Stage.INTENT, b"the next state")
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            await store._write.execute("UPDATE channel_state SET encoded = x'00'")
    async with await Store.open(old.folder) as store:
        assert (store.incarnation, await store.acknowledged_number()) == (1, last["number"] + 1)
        assert [row.encoded for row in await store.queued()] == [b"one more"]
        newest = await store.channel_newest(CHANNEL)
        assert newest is not None
        assert (newest.version, newest.encoded) == (2, b"the next state")


async def test_its_export_verifies(old: Old, config: Path, tmp_path: Path) -> None:
    """By today's `export` and `verify`, after today's store has brought it to the newest format."""
    async with await Store.open(old.folder):
        pass
    bundle = tmp_path / "bundle"
    exported = await asyncio.to_thread(command, "export", bundle, "--config", config, "--json")
    assert exported.returncode == 0, exported.stderr + exported.stdout
    done = await asyncio.to_thread(command, "verify", bundle, "--gateway", old.content["gateway_id"], "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (0, True), done.stdout
    assert (found["gateway_id"], found["batches"]) == (old.content["gateway_id"], len(old.batches))
    assert sum(found["statements"].values()) == len(old.leaves())
    assert found["thinned"]["absent"] == sum(len(batch.get("gone", [])) for batch in old.batches)
    assert (found["chain_break"], found["contradictions"], found["false_claims"]) == (None, [], [])


async def test_a_backup_of_it_is_one(old: Old, tmp_path: Path) -> None:
    """Also of one that nobody has opened since: `backup` copies, and migrates nothing."""
    copied = await asyncio.to_thread(back_up, old.folder, tmp_path / "backup.db", lambda done, total: None)
    assert (copied.incarnation, copied.batches) == (1, len(old.batches))
    assert look_at(tmp_path / "backup.db") == copied


@pytest.mark.parametrize("version", VERSIONS)
def test_every_batch_in_the_dumps_is_what_it_says(version: int, tmp_path: Path) -> None:
    """Of the test data itself."""
    for batch in old_store(tmp_path / "old", version).batches:
        decoded = decode_any(bytes.fromhex(batch["encoded"]))
        assert (decoded.identity.number, decoded.root.hex()) == (batch["number"], batch["root"])


# Backward


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name.startswith((DATABASE, INCARNATION))
    }


async def test_a_newer_format_is_refused_in_words_and_not_touched(old: Old, config: Path) -> None:
    """Whatever else it has: the format is what counts."""
    connection = sqlite3.connect(old.folder / DATABASE, isolation_level=None)
    try:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    finally:
        connection.close()
    before = contents(old.folder)
    with pytest.raises(StoreVersionError, match="newer version of v2g-gateway"):
        await (await Store.open(old.folder)).close()
    assert contents(old.folder) == before
    with pytest.raises(StartError, match="install that version again, nothing was changed"):
        async with Gateway.open(read_settings(config)):
            pass
    assert contents(old.folder) == before
    ended = await asyncio.to_thread(command, "run", "--config", config)
    assert ended.returncode == run_command.EXIT_UNAVAILABLE
    assert f"format {len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)}" in ended.stderr
    assert contents(old.folder) == before
