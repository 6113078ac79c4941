"""A part of the database that the disk does not give back: for a moment it is waited for, for ever it is set aside."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from agent.store import Queued, Store, files, key_problem, room_problem
from agent.store.files import DATABASE
from hil_tests.faults.disk import Calls, Disk, build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (package gcc)")

BAD = 100_000
"""Where the bad sector lies: within what was put, and beyond the end of an empty store."""

OPENS: str = """
import asyncio, sys
from pathlib import Path
from agent.store import files, open_store
files.UNREADABLE_WAIT_S = 0.0
async def main():
    async with await open_store(Path(sys.argv[1])) as store:
        aside = store.set_aside
        print(store.incarnation, (await store.counts()).queued, "-" if aside is None else aside.name)
asyncio.run(main())
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def disk(state: Path, tmp_path: Path) -> Disk:
    return Disk(build(tmp_path), state, tmp_path)


async def made(state: Path) -> None:
    async with await Store.open(state) as store:
        await store.put([Queued(1, "pv-1", n, n, bytes(5_000)) for n in range(20)])


async def opened(state: Path, disk: Disk) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPENS, str(state), env={**os.environ, **disk.environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, wrong = await process.communicate()
    return said.decode().strip().rpartition("\n")[2] or wrong.decode()[-500:]


async def test_a_sector_that_is_never_read_again_costs_the_file_its_place_and_not_the_gateway_its_start(
    state: Path, disk: Disk
) -> None:
    await made(state)
    disk["fail_from"] = BAD
    disk.fail(errno.EIO, Calls.READ)
    assert await opened(state, disk) == f"2 0 {DATABASE}.damaged-1-1"
    assert disk["failed"] >= files.UNREADABLE_TRIES
    [(held,)] = sqlite3.connect(state / f"{DATABASE}.damaged-1-1").execute("SELECT count(*) FROM queue").fetchall()
    assert held == 20, "nothing of it is deleted"


@pytest.mark.parametrize("begins", [0, BAD], ids=["its first page", "a page of rows"])
async def test_a_disk_that_reads_again_in_a_moment_costs_nothing(state: Path, disk: Disk, begins: int) -> None:
    await made(state)
    disk["fail_from"] = begins
    disk.fail(errno.EIO, Calls.READ, count=1)
    assert await opened(state, disk) == "1 20 -"
    assert disk["failed"] == 1


async def test_a_first_page_that_is_never_read_again_is_not_waited_for_either(state: Path, disk: Disk) -> None:
    await made(state)
    # All of its reads fail until it is set aside: with a log the first page is what each connection asks for first.
    disk.fail(errno.EIO, Calls.READ, count=files.UNREADABLE_TRIES)
    assert await opened(state, disk) == f"2 0 {DATABASE}.damaged-1-1"


async def test_a_database_that_waits_for_its_key_or_for_room_does_not_wait_for_a_lost_sector(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(state)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = 266, "SQLITE_IOERR_READ"

    def unreadable(*_: object, **__: object) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(sqlite3, "connect", unreadable)
    assert room_problem(state) == ""
    assert key_problem(state, lambda: bytes(32)) == ""
