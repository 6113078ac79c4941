"""A secret that the TPM sealed lies on the disk twice, FILE and FILE.copy: a bad sector does not lose what nothing else
opens.

Whether one is damaged its own checksum says, and not the TPM, which may be away. A damaged one is kept as FILE.damaged,
so that people see that there was one, and look after the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

import structlog

from agent.durable import write_whole
from agent.token import tpm
from agent.token.tpm import TpmError

COPY: Final = ".copy"
DAMAGED: Final = ".damaged"

log = structlog.get_logger()


def both(path: Path) -> tuple[Path, Path]:
    """The two files that a sealed secret is in."""
    return path, path.with_name(path.name + COPY)


def write_sealed(path: Path, kept: bytes, *, owner_of: Path) -> None:
    """Make both, one after the other, each read back. Where that fails none is left. Raises OSError, TpmError."""
    try:
        for each in both(path):
            write_whole(each, kept, mode=0o600, owner_of=owner_of)
            if each.read_bytes() != kept:
                raise TpmError(f"{each}: the disk gave back something else than was written; take another disk")
    except BaseException:
        for each in both(path):
            each.unlink(missing_ok=True)
        raise


def read_sealed_file(path: Path) -> bytes:
    """What is sealed, from whichever of the two is good; the other one is made anew. Raises TpmError."""
    first, second = both(path)
    kept, why = _good(first)
    if kept is None and why == os.strerror(errno.EACCES):
        raise TpmError(f"{first}: {why}")  # it may be as good as ever
    copied, why_copy = _good(second)
    if kept is None and copied is None:
        there = why_copy != os.strerror(errno.ENOENT)
        raise TpmError(f"{first}: {why}" + (f"; its copy {second}: {why_copy}" if there else ""))
    try:
        if kept is None:
            assert copied is not None
            with contextlib.suppress(FileNotFoundError):
                first.rename(damaged_one(path))
            write_whole(first, copied, mode=0o600, owner_of=second)
            log.error("token.sealed_file_mended", file=str(first), reason=why)
        elif copied != kept:
            # Gone, damaged, or of before somebody put another one in the first place.
            write_whole(second, kept, mode=0o600, owner_of=first)
            log.warning("token.sealed_file_copied", file=str(second), reason=why_copy or "it was another one")
    except OSError as error:
        log.warning("token.sealed_file_lies_once", file=str(path), reason=f"{error.strerror} ({error.filename})")
    good = kept or copied
    assert good is not None
    return good


def sealed_file_problem(path: Path) -> tuple[str, bool]:
    """What a person should see to, and whether a damaged one was found; else it lies there once. Empty: nothing.

    Blocks.
    """
    first, second = both(path)
    found = damaged_one(path)
    if os.access(found, os.F_OK):
        return (
            f"{first} was damaged, and is made anew from {second.name}: look after the disk (dmesg), then remove "
            f"{found.name}"
        ), True
    if (_good(first)[0] is None) != (_good(second)[0] is None):
        good, other = (first, second) if _good(first)[0] is not None else (second, first)
        return (
            f"{other} is not there or damaged, and the agent may not write it: a bad sector in {good} would lose what "
            f"it seals; as root: cp -p {good} {other}"
        ), False
    return "", False


def damaged_one(path: Path) -> Path:
    """Where a damaged one is kept."""
    return path.with_name(path.name + DAMAGED)


def _good(path: Path) -> tuple[bytes | None, str]:
    """The content of a file that is whole; else None and why."""
    try:
        kept = path.read_bytes()
        tpm.check(kept)
    except OSError as error:
        return None, error.strerror or type(error).__name__
    except TpmError as error:
        return None, str(error)
    return kept, ""
