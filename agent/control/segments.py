"""The record of decisions as files: events with their inputs and what came of them, which nobody alters unseen.

A segment is a file: a header, then frames, each with its length, compressed as one stream that is flushed with every
write, so that a power cut costs the last seconds only. SHA-256 over all before compression, chained from segment to
segment, is stated as signed evidence (alarm `control.record`, severity info) every quarter of an hour.

Where the store is encrypted, so is each write (sealed_file.py), and nothing else is different.

It begins with a memory, and holds the events after it. Version 2 was laid out so too, and its targets were shared out
by the rule of `fewest.py`; version 1 held plans alone. Both are still read, and decided again by their own rule.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from agent.control import codec
from agent.control.decisions import Decision
from agent.control.errors import RestoreError
from agent.control.events import Record, decode
from agent.control.sealed_file import SealedFileError, Sealing, pieces

VERSION: Final = 3
BY_QUARTER: Final = 2
PLANS_ALONE: Final = 1
SUFFIX: Final = ".decisions"
MOST_BYTES: Final = 16 * 1024 * 1024
"""Of one frame: more is none of ours."""
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a segment begins with."""

    version: int
    software: str
    """Of the agent that decided: another one may decide otherwise, and is told so."""
    previous: bytes
    """SHA-256 of the segment before; empty for the first one."""


class SegmentWriter:
    """Makes the bytes of one segment, in order; the caller writes them."""

    def __init__(self, header: Header) -> None:
        self._compress = zlib.compressobj(6)
        self._digest = hashlib.sha256()
        self.count = 0
        self._begun = [codec.encode(header)]

    @property
    def digest(self) -> bytes:
        """Of everything so far."""
        return self._digest.digest()

    def take(self, frames: list[bytes]) -> bytes:
        """The bytes to append, which can be read once they are on the disk."""
        begun, self._begun = self._begun, []
        self.count += len(frames)
        out = bytearray()
        for frame in (*begun, *frames):
            sized = _LENGTH.pack(len(frame)) + frame
            self._digest.update(sized)
            out += self._compress.compress(sized)
        return bytes(out + self._compress.flush(zlib.Z_SYNC_FLUSH))


Framed: TypeAlias = Header | Decision | Record


def read_segment(path: Path, sealing: Sealing | None = None) -> Iterator[tuple[Framed, bytes]]:
    """The header, then each frame, each with the digest up to it; what a power cut tore off is not there.

    `sealing`: of the store, where it is encrypted.
    Raises RestoreError for what was never written so, OSError.
    """
    digest = hashlib.sha256()
    version: int | None = None
    for frame in _frames(path, sealing):
        digest.update(_LENGTH.pack(len(frame)) + frame)
        try:
            value: Framed
            if version is None:
                value = codec.decode(Header, frame)
                version = value.version
                if version not in (PLANS_ALONE, BY_QUARTER, VERSION):
                    raise RestoreError(f"its version {version} is not known here; a newer release wrote it")
            elif version == PLANS_ALONE:
                value = codec.decode(Decision, frame)
            else:
                value = decode(frame)
        except RestoreError as error:
            raise RestoreError(f"{path.name}: {error}") from error
        yield value, digest.digest()


def _frames(path: Path, sealing: Sealing | None) -> Iterator[bytes]:
    decompress, buffer = zlib.decompressobj(), bytearray()
    try:
        for piece in pieces(path, sealing):
            buffer += decompress.decompress(piece)
            while len(buffer) >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(buffer)
                if size > MOST_BYTES:
                    raise RestoreError(f"{path.name}: is damaged: a frame of {size} bytes")
                if len(buffer) < _LENGTH.size + size:
                    break
                yield bytes(buffer[_LENGTH.size : _LENGTH.size + size])
                del buffer[: _LENGTH.size + size]
    except zlib.error as error:
        raise RestoreError(f"{path.name}: is damaged: {error}") from error
    except SealedFileError as error:
        raise RestoreError(f"{path.name}: {error}") from error
