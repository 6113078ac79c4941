"""A short run of faults, and the parts of the harness that do the harm: the shim under SQLite, and the power cut."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hil_tests.faults import power, run
from hil_tests.faults.disk import Calls, Disk, build, compiler
from hil_tests.rig.broker import mosquitto
from hil_tests.rig.token import softhsm_module

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (package gcc)")
SEED = 5
COMMITS = """
import sqlite3, sys
store = sqlite3.connect(sys.argv[1], isolation_level=None)
store.execute("PRAGMA journal_mode = WAL")
store.execute("PRAGMA synchronous = FULL")
store.execute("CREATE TABLE IF NOT EXISTS t (x)")
for n in range(int(sys.argv[2])):
    try:
        store.execute("INSERT INTO t VALUES (?)", (n,))
        print(n, flush=True)
    except sqlite3.Error as error:
        print(error.sqlite_errorname, flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "state").mkdir()
    return Disk(build(tmp_path), tmp_path / "state", tmp_path)


def commit(disk: Disk, tmp_path: Path, rows: int) -> tuple[int, list[str]]:
    """Exit code, and a line for each row: its number once it is committed, or the error."""
    done = subprocess.run(
        [sys.executable, "-c", COMMITS, str(tmp_path / "state" / "t.db"), str(rows)],
        env={**os.environ, **disk.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split()


def kept(tmp_path: Path) -> list[int]:
    code = "import sqlite3, sys; print(*(x for x, in sqlite3.connect(sys.argv[1]).execute('SELECT x FROM t')))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "state" / "t.db")], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_every_commit_is_a_sync_that_the_shim_counts(disk: Disk, tmp_path: Path) -> None:
    commit(disk, tmp_path, 0)
    before = disk["syncs"]
    disk.fresh()
    commit(disk, tmp_path, 20)
    assert disk["syncs"] >= 20
    assert before > 0
    assert disk["bytes_written"] > 20 * 4096


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_a_sync_ends_the_process_there(disk: Disk, tmp_path: Path, after: bool) -> None:
    commit(disk, tmp_path, 0)
    disk.fresh()
    disk.kill_at_sync(10, after=after)
    code, said = commit(disk, tmp_path, 100)
    assert code == -9
    assert 0 < len(said) < 10
    assert kept(tmp_path)[: len(said)] == [*range(len(said))]


def test_a_kill_in_a_write_leaves_a_part_of_it(disk: Disk, tmp_path: Path) -> None:
    commit(disk, tmp_path, 0)
    disk.fresh()
    disk.kill_at_write(21, 500)
    code, said = commit(disk, tmp_path, 100)
    assert code == -9
    assert kept(tmp_path) == [*range(len(said))], "a torn transaction is none"


@pytest.mark.parametrize(
    ("code", "calls", "name"),
    [
        (errno.ENOSPC, Calls.WRITE, "SQLITE_FULL"),
        (errno.EIO, Calls.WRITE, "SQLITE_IOERR_WRITE"),
        (errno.EIO, Calls.SYNC, "SQLITE_IOERR_FSYNC"),
    ],
)
def test_a_failing_disk_is_what_sqlite_sees(disk: Disk, tmp_path: Path, code: int, calls: Calls, name: str) -> None:
    commit(disk, tmp_path, 0)
    disk.fail(code, calls, count=1, skip=5)
    _, said = commit(disk, tmp_path, 30)
    assert said.count(name) == 1
    assert len(said) == 30


@pytest.mark.parametrize("loss", list(power.Loss))
def test_a_power_cut_takes_nothing_that_was_synced(disk: Disk, tmp_path: Path, loss: power.Loss) -> None:
    commit(disk, tmp_path, 0)
    disk.fresh()
    disk["record"] = 1
    disk.kill_at_sync(15, after=False)
    _, said = commit(disk, tmp_path, 100)
    changed = power.cut(tmp_path / "state", disk.record_file.read_bytes(), loss, random.Random(SEED))
    assert kept(tmp_path)[: len(said)] == [*range(len(said))]
    if loss is power.Loss.ALL:
        assert changed
        assert len(kept(tmp_path)) == len(said), "what was not synced is gone"


def test_a_power_cut_without_any_sync_loses_it_all(disk: Disk, tmp_path: Path) -> None:
    entry = power.Entry(1, "f", 4, 4, 4, b"")
    assert power.at_last_sync(b"oldsnewx", [entry]) == b"olds"
    lost = power.torn(b"olds", b"oldsnewx", lambda number, of: True)
    assert lost == b"olds"
    assert power.torn(b"olds", b"oldsnewx", lambda number, of: False) == b"oldsnewx"


def test_sectors_are_lost_one_by_one(tmp_path: Path) -> None:
    before, now = bytes(2048), b"\1" * 2048
    after = power.torn(before, now, lambda number, of: number % 2 == 1)
    assert after == (b"\1" * 512 + bytes(512)) * 2


def test_a_plan_has_every_kind_and_is_the_same_for_a_seed() -> None:
    assert run.plan(300, SEED) == run.plan(300, SEED)
    assert len(run.ALL_KINDS) == sum(map(len, run.OF_CARRIER.values())), "a kind has one carrier"
    assert set(run.plan(len(run.ALL_KINDS), SEED)) == set(run.ALL_KINDS)
    assert run.plan(300, SEED) != run.plan(300, SEED + 1)


@pytest.mark.timeout(300)  # half a minute on a quiet machine
@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed")
async def test_no_fault_loses_doubles_reuses_or_stops_anything(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = await run.run(tmp_path, count=len(SHORT), seed=SEED, token="softhsm", say=said.append, kinds=SHORT)
    assert outcome.violations == [], "\n".join(said)
    assert outcome.faults == len(SHORT)
    assert outcome.readings > 100


SHORT = (
    "kill_at_commit_of_start",
    "kill_at_login",
    "kill_at_commit",
    "power_cut",
    "disk_full",
    "token_loss",
    "clock_back",
    "platform_loses_last_second",
    "backup_put_back",
    "cloned_card",
    "thinning_kill_at_commit",
    "rotation_kill_at_commit",
    *(("mqtt_broker_killed", "mqtt_mixed_acknowledgements", "mqtt_session_lost") if mosquitto() is not None else ()),
)
"""One of each family, over each kind of gateway; a full run has them all, hundreds of times."""
