"""Names that a command takes before it makes what goes there: two commands at a time never write into one another's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


class TakenError(Exception):
    """A name is taken. Says which, and what to do."""


@contextlib.contextmanager
def reserved(paths: Sequence[Path]) -> Iterator[None]:
    """Empty files of mode 0600 under these names, gone again where the work within fails.

    Raises TakenError, OSError.
    """
    made: list[Path] = []
    try:
        for path in paths:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                if path in made:
                    raise TakenError(f"{path}: two of the files to be made have this name; give another") from None
                left = path.is_file() and not path.stat().st_size
                hint = " (it is empty: a command that was killed may have left it)" if left else ""
                raise TakenError(f"{path}: is there already; name another file{hint}") from None
            except FileNotFoundError:
                raise TakenError(f"{path}: there is no folder {path.parent}; make it first") from None
            made.append(path)
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
