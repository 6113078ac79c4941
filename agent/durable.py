"""Makes what was done to files and folders survive a power cut. Every room above may need it."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """A file's content, and its name in its folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.absolute().parent)


def sync_folder(folder: Path) -> None:
    """Renames and new files in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, *, mode: int, owner_of: Path | None = None) -> None:
    """Write a file whole or not at all, and through no link: root may run this in a folder of the service's user.

    `owner_of`: who has that file or folder, where it is there, gets the file when root writes it. Raises OSError.
    """
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(beside, flags, mode), "wb") as file:
            if owner_of is not None and os.geteuid() == 0 and owner_of.exists():
                owner = owner_of.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.absolute().parent)
