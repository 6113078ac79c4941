"""Points at which the victim of a fault run commits something, and what befalls it there: death, or a full disk.

In the victim's process. Armed once, by an order; then the next commit of that kind is the one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from agent.identity import folder
from agent.identity.history import encode_history
from agent.store import Stage
from hil_tests.faults.disk import Calls, Disk

T = TypeVar("T")


class Point(StrEnum):
    """A commit."""

    THINNING_BEGINS = "thinning begins"
    """What stands for the readings is queued, together with the plan."""
    THINNING_SEALED = "thinning is sealed"
    LEAVES_GO = "leaves go"
    HISTORY_WRITTEN = "history is written"
    """The key is another from here on."""
    ORDER_DONE = "order is done"


class How(StrEnum):
    """What befalls it. The first and the last know nothing of the disk, the two between are its very sync."""

    BEFORE = "before"
    BEFORE_SYNC = "before its sync"
    AFTER_SYNC = "after its sync"
    AFTER = "after"
    FULL_DISK = "full disk"
    """From there on, until somebody heals it."""


@dataclass(slots=True)
class Doom:
    """What this process shall not outlive."""

    stage: Stage | None = None
    """The commit of a channel's state, at this stage."""
    point: Point | None = None
    how: How = How.AFTER


doom = Doom()


def tell(**words: object) -> None:
    """One line, in the kernel when this returns: a kill takes nothing of it back."""
    os.write(1, json.dumps(words).encode() + b"\n")


def die() -> None:
    """Nothing of this process runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


async def harmed(point: Point, commit: Awaitable[T]) -> T:
    """The commit, with what shall befall it there."""
    how = _arm(point)
    result = await commit
    if how is How.AFTER:
        die()
    return result


def _arm(point: Point) -> How | None:
    if doom.point is not point:
        return None
    doom.point = None
    disk = Disk.own()
    match doom.how:
        case How.BEFORE:
            die()
        case How.BEFORE_SYNC | How.AFTER_SYNC:
            disk.kill_at_sync(disk["syncs"] + 1, after=doom.how is How.AFTER_SYNC)
        case How.FULL_DISK:
            disk.fail(errno.ENOSPC, Calls.WRITE)
            tell(full_at=point)
        case How.AFTER:
            pass
    return doom.how


class DoomedFolder(folder.IdentityFolder):
    """The identity's files. They are none of the disk that is watched: the syncs are mimicked here."""

    def write_history(self, entries: Sequence[bytes]) -> None:
        if doom.point is Point.HISTORY_WRITTEN and doom.how is How.BEFORE_SYNC:
            _half_written(self.history_file, encode_history(entries))
        self._harmed(Point.HISTORY_WRITTEN, lambda: super(DoomedFolder, self).write_history(entries))

    def done_with_order(self) -> None:
        self._harmed(Point.ORDER_DONE, super().done_with_order)

    def _harmed(self, point: Point, commit: Callable[[], None]) -> None:
        here = doom.point is point
        if here and doom.how in (How.BEFORE, How.BEFORE_SYNC):
            die()
        commit()
        if here:
            die()


def _half_written(path: Path, content: bytes) -> None:
    """As the kernel may have it when the power goes: the new file begun beside the old one."""
    path.with_name(path.name + ".new").write_bytes(content[: len(content) // 2])
    die()
