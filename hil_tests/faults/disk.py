"""The disk under the agent, as a fault wants it: `shim.c`, compiled once for a run, and the page shared with it."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim.c")
FIELDS: Final = (
    "writes", "syncs", "bytes_written", "kill_at_write", "kill_permille", "kill_at_sync", "kill_after_sync",
    "fail_errno", "fail_on", "fail_skip", "fail_left", "failed", "record", "sync_us", "cuts",
    "kill_at_cut", "fail_from",
)  # fmt: skip
"""`struct control` of shim.c, an int64 each."""


class Calls(IntFlag):
    """Which calls fail."""

    WRITE = 1
    SYNC = 2
    READ = 4
    SHARE = 8
    """Room for the memory that SQLite's connections share: asked for when none is there yet."""


class DiskError(Exception):
    """The shim cannot be made. Says why, and what to do."""


def compiler() -> str | None:
    """The C compiler; None when none is installed."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the shim into a folder. Raises DiskError."""
    program = compiler()
    if program is None:
        raise DiskError("no C compiler: install gcc and libc6-dev (./install.sh test does)")
    out = folder / "shim.so"
    done = subprocess.run(
        [program, "-O2", "-shared", "-fPIC", "-o", str(out), str(SOURCE), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DiskError(f"{program} {SOURCE.name}: {done.stderr[:600]}")
    return out


class Disk:
    """The files of one folder, as one process sees them. The counters begin anew with `fresh`."""

    def __init__(self, shim: Path, folder: Path, beside: Path) -> None:
        """`beside`: a folder for the shared page and the record, not the watched one."""
        self._shim = shim
        self._folder = folder
        self._control_file = beside / "disk.control"
        self.record_file = beside / "disk.record"
        self._control_file.write_bytes(bytes(8 * len(FIELDS)))
        with self._control_file.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8 * len(FIELDS))

    @property
    def environment(self) -> Mapping[str, str]:
        """For the process; it must not hold the files open before."""
        return {
            "LD_PRELOAD": str(self._shim),
            "V2G_FAULTS_FOLDER": str(self._folder),
            "V2G_FAULTS_CONTROL": str(self._control_file),
            "V2G_FAULTS_RECORD": str(self.record_file),
        }

    @classmethod
    def own(cls) -> Disk:
        """For the process itself that runs on such a disk: the page that it shares with who watches it."""
        disk = cls.__new__(cls)
        with Path(os.environ["V2G_FAULTS_CONTROL"]).open("r+b") as file:
            disk._page = mmap.mmap(file.fileno(), 8 * len(FIELDS))
        return disk

    def __getitem__(self, field: str) -> int:
        return int(struct.unpack_from("q", self._page, 8 * FIELDS.index(field))[0])

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("q", self._page, 8 * FIELDS.index(field), value)

    def fresh(self) -> None:
        """A healthy disk with nothing counted or recorded: before a process starts."""
        for field in FIELDS:
            self[field] = 0
        self.record_file.unlink(missing_ok=True)

    def kill_at_sync(self, number: int, *, after: bool) -> None:
        """SIGKILL at the n-th sync of the process, before or after what it makes durable."""
        self["kill_after_sync"] = int(after)
        self["kill_at_sync"] = number

    def kill_at_write(self, number: int, permille: int) -> None:
        """SIGKILL in the n-th write of the process, when so much of it is written."""
        self["kill_permille"] = permille
        self["kill_at_write"] = number

    def kill_at_cut(self, number: int, *, after: bool = True) -> None:
        """SIGKILL when SoftHSM has emptied one of its files for the n-th time, to write it anew, or is about to.

        The first is that of a login.
        """
        self["kill_at_cut"] = number if after else -number

    def fail(self, errno: int, calls: Calls, *, count: int = -1, skip: int = 0) -> None:
        """Let calls fail: so many after so many that pass, or all until `heal`."""
        self["fail_on"] = 0
        self["fail_errno"], self["fail_skip"], self["fail_left"] = errno, skip, count
        self["fail_on"] = int(calls)

    def heal(self) -> None:
        """No call fails any more."""
        self["fail_on"] = 0
