"""A power cut, after the fact: what was written and not yet synced is kept, lost or torn, sector by sector.

The kernel keeps what a killed process wrote; a power cut does not. `shim.c` has recorded what each write replaced, so
what lies between the last sync and the end can be taken back. What was synced is left alone: a disk that lies about
that is another fault, against which no program is safe.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512
_HEAD: Final = struct.Struct("5q40s")
_WRITE, _SYNC, _TRUNCATE = 1, 2, 3


class Loss(StrEnum):
    """What becomes of the sectors that were not synced."""

    ALL = "nothing of it was written"
    TAIL = "written up to some sector"
    SOME = "any of them were written, in any order"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record: a write or truncation of one file, or its sync."""

    kind: int
    name: str
    offset: int
    length: int
    old_size: int
    """Of the file, before it."""
    old: bytes
    """What was there before; shorter than `length` where the file ended."""


def read_record(octets: bytes) -> Iterator[Entry]:
    """The entries, in order of time. A last one that the kill has cut is none: its write was never made."""
    at = 0
    while at + _HEAD.size <= len(octets):
        kind, offset, length, old_size, old_length, name = _HEAD.unpack_from(octets, at)
        at += _HEAD.size
        if at + old_length > len(octets):
            return
        yield Entry(kind, name.rstrip(b"\0").decode(), offset, length, old_size, octets[at : at + old_length])
        at += old_length


def unsynced(record: bytes) -> dict[str, list[Entry]]:
    """What no sync followed, in order, by name of the file."""
    found: dict[str, list[Entry]] = {}
    for entry in read_record(record):
        if entry.kind == _SYNC:
            found.pop(entry.name, None)
        else:
            found.setdefault(entry.name, []).append(entry)
    return found


def at_last_sync(now: bytes, entries: Sequence[Entry]) -> bytes:
    """The content of a file before all of its unsynced entries."""
    before = bytearray(now)
    for entry in reversed(entries):
        end = entry.offset + len(entry.old)
        before.extend(bytes(max(0, end - len(before))))
        before[entry.offset : end] = entry.old
        before.extend(bytes(max(0, entry.old_size - len(before))))
        del before[entry.old_size :]
    return bytes(before)


def torn(before: bytes, now: bytes, lost: Callable[[int, int], bool]) -> bytes:
    """The content now, with the sectors that are `lost` (number of the changed sector, of so many) as they were."""
    size = max(len(before), len(now))
    old, new = before.ljust(size, b"\0"), bytearray(now.ljust(size, b"\0"))
    places = [at for at in range(0, size, SECTOR_BYTES) if old[at : at + SECTOR_BYTES] != new[at : at + SECTOR_BYTES]]
    end = len(before)
    for number, at in enumerate(places):
        if lost(number, len(places)):
            new[at : at + SECTOR_BYTES] = old[at : at + SECTOR_BYTES]
        else:
            end = max(end, min(at + SECTOR_BYTES, len(now)))
    # A file that grew is as long as what arrived of it; one that was cut may have its old end back.
    return bytes(new[:end])


def losing(loss: Loss, chance: random.Random) -> Callable[[int, int], bool]:
    """Which of the changed sectors of one file are lost."""
    share = chance.random()
    match loss:
        case Loss.ALL:
            return lambda number, of: True
        case Loss.TAIL:
            return lambda number, of: number >= of * share
        case Loss.SOME:
            return lambda number, of: chance.random() < share


def cut(folder: Path, record: bytes, loss: Loss, chance: random.Random) -> dict[str, int]:
    """Make the files of a folder what a power cut would have left; how many bytes of each are others than before."""
    changed: dict[str, int] = {}
    for name, entries in sorted(unsynced(record).items()):
        path = folder / name
        if not path.is_file():
            continue
        now = path.read_bytes()
        after = torn(at_last_sync(now, entries), now, losing(loss, chance))
        if after != now:
            path.write_bytes(after)
            changed[name] = sum(a != b for a, b in zip(now, after, strict=False)) + abs(len(now) - len(after))
    # Memory that processes share is gone with the power.
    for path in folder.glob("*-shm"):
        path.unlink()
    return changed
