"""A file that grows at its end, encrypted in pieces where the store is: each piece bound to the file's name and its
place.

A plain file is as it was written. An encrypted one begins with a mark, then each piece with its length; what a power
cut tore off the last piece is not there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from agent.durable import sync_folder

MARK: Final = b"V2GW sealed 1\n"
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of one piece: more is none of ours."""
_LENGTH: Final = struct.Struct(">I")
_READ_BYTES: Final = 65_536
_PIECE_BYTES: Final = 1 << 20


class Sealing(Protocol):
    """How content is kept (the store's)."""

    @property
    def is_plain(self) -> bool: ...

    def seal(self, context: bytes, plain: bytes, /) -> bytes: ...

    def open(self, context: bytes, kept: bytes, /) -> bytes:
        """Raises an exception of its own for what does not open."""
        ...


class SealedFileError(Exception):
    """A file cannot be read. Says why."""


def piece(sealing: Sealing | None, name: str, number: int, plain: bytes) -> bytes:
    """The bytes to append for the piece of a number, from 0."""
    if sealing is None or sealing.is_plain:
        return plain
    sealed = sealing.seal(_context(name, number), plain)
    return (MARK if number == 0 else b"") + _LENGTH.pack(len(sealed)) + sealed


def pieces(path: Path, sealing: Sealing | None) -> Iterator[bytes]:
    """What was written, piece by piece or as it lies there. Raises SealedFileError, OSError."""
    with path.open("rb") as file:
        begun = file.read(len(MARK))
        if begun != MARK:
            while begun:
                yield begun
                begun = file.read(_READ_BYTES)
            return
        if sealing is None or sealing.is_plain:
            raise SealedFileError("is encrypted, and the store here is not: its key is not known")
        number = 0
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            (size,) = _LENGTH.unpack(head)
            if size > MOST_BYTES:
                raise SealedFileError(f"is damaged: a piece of {size} bytes")
            sealed = file.read(size)
            if len(sealed) < size:
                return
            try:
                yield sealing.open(_context(path.name, number), sealed)
            except Exception as error:  # The store's own: what it is, its text says.
                raise SealedFileError(f"piece {number}: {error}") from error
            number += 1


def is_sealed(path: Path) -> bool:
    """Whether a file is encrypted. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK


def recode(path: Path, opens: Sealing | None, seals: Sealing | None) -> None:
    """Write a file anew, encrypted or not, in its place; the old one is overwritten.

    Raises SealedFileError, OSError.
    """
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        for number, plain in enumerate(_joined(pieces(path, opens))):
            file.write(piece(seals, path.name, number, plain))
        file.flush()
        os.fsync(file.fileno())
    before = path.stat()
    if os.geteuid() == 0:
        os.chown(beside, before.st_uid, before.st_gid, follow_symlinks=False)
    with path.open("r+b") as old:
        beside.replace(path)
        sync_folder(path.parent)  # else a power cut might leave the old name to the overwritten one
        for _ in range(0, before.st_size, _PIECE_BYTES):
            old.write(bytes(min(_PIECE_BYTES, before.st_size - old.tell())))
        old.flush()
        os.fsync(old.fileno())


def _joined(parts: Iterator[bytes]) -> Iterator[bytes]:
    whole = bytearray()
    for part in parts:
        whole += part
        if len(whole) >= _PIECE_BYTES:
            yield bytes(whole)
            whole.clear()
    if whole:
        yield bytes(whole)


def _context(name: str, number: int) -> bytes:
    return b"file:%s/%d" % (name.encode(), number)
