"""SoftHSM's files, kept safe from SoftHSM: a checked copy of each `token.object`, put back when that file is found cut.

SoftHSM writes this file anew at each login, for a flag. Version 2.6 cuts it to nothing, gives its lock back, writes,
and never syncs (ObjectFile::store, File::unlock). Who is killed in between, or finds the disk full, leaves a token that
no SoftHSM finds again, with all its keys. New keys are not synced either.

The copy, `token.kept` in the token's own folder, holds what its original holds: label, serial number, and the key of
all keys, encrypted under the PIN. No key: those are files of their own, which SoftHSM writes once, and none of them is
ever put back, nor is a token whose file was removed. So what was destroyed stays so, and SoftHSM removes the copy with
the token. It is brought up to date before each login of ours and, while a token is in use, within seconds of each
change. So it is older than its original only where other programs changed PIN or label while no agent ran. Cut then,
the token comes back with the PIN before, for without it all keys are lost; that it was put back stands in
`token.put_back` until a person has seen to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent.durable import write_whole
from agent.token.errors import TokenUnavailableError

_log = structlog.get_logger()

OBJECT: Final = "token.object"
KEPT: Final = "token.kept"
"""SoftHSM passes over all names that do not end in .object, and removes them with the token."""
DAMAGED: Final = "token.damaged"
"""One that could be neither read nor written."""
PUT_BACK: Final = "token.put_back"
"""Says when, for people."""
SETTLES_S: Final = 2.0
"""So long a file is cut at most while its writer lives: it takes less than a millisecond on a machine at rest."""
LOOK_EVERY_S: Final = 0.01
MOST_BYTES: Final = 64 * 1024

# Attributes of a token.object (OSAttributes.h) and their kinds (ObjectFile.cpp); numbers are of 8 bytes, big-endian.
_LABEL, _SERIAL, _FLAGS, _SO_PIN, _USER_PIN = range(0x80005349, 0x8000534E)
_WIDTHS: Final = {1: 1, 2: 8}
"""Of the kinds that stand there as they are: booleans and numbers."""
_COUNTED: Final = {3: 1, 4: 1, 5: 8}
"""Bytes for each unit of the length in front: strings, maps, sets of mechanisms."""
_USER_PIN_INITIALISED: Final = 0x8
_GENERATION_BYTES: Final = 8
"""At the beginning: how often the file was written."""

_SETTING: Final = re.compile(r"^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TokenObject:
    """A whole token.object."""

    label: str
    content: bytes

    def is_as(self, other: TokenObject | None) -> bool:
        """The same but for the number of its writing."""
        return other is not None and self.content[_GENERATION_BYTES:] == other.content[_GENERATION_BYTES:]


class StrangeError(Exception):
    """A token.object of a kind that is not known here: another version's, to be left alone."""


def is_softhsm(module: Path) -> bool:
    """Whether a PKCS#11 module is SoftHSM's."""
    return "softhsm" in module.name


def look_after(conf: Path) -> str | None:
    """Mend the tokens that a softhsm2.conf names, copy those that are whole, make all of it durable.

    Gives what is lost and cannot be mended here, as a sentence for a person. Blocks, mostly for milliseconds. Raises
    TokenUnavailableError where a login would put the token at risk.
    """
    lost = []
    for folder in _folders(conf):
        try:
            with _alone(folder):
                lost += _look_after(folder)
        except StrangeError as error:
            _log.warning("token.copy_not_kept", folder=str(folder), reason=str(error))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                # Not ours to write, or nobody's: SoftHSM itself can harm nothing there, or says what it lacks.
                _log.warning("token.copy_not_kept", folder=str(folder), reason=error.strerror)
                if _is_cut(folder):
                    lost.append(
                        f"{folder / OBJECT} is cut, and cannot be put back from its copy {KEPT}: {error.strerror}; let "
                        "the agent write there, it then does so by itself"
                    )
                continue
            raise TokenUnavailableError(
                f"{folder}: {error.strerror}; SoftHSM would lose the token if its files cannot be written, so it is "
                "left alone until they can"
            ) from error
    return "; ".join(lost) or None


def stamps(conf: Path) -> frozenset[tuple[str, int, int]]:
    """Changes with every writing of a token.object, by whomever."""
    found = set()
    for folder in _folders(conf):
        with contextlib.suppress(OSError):
            status = (folder / OBJECT).stat()
            found.add((folder.name, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def put_back(conf: Path) -> str:
    """Of the tokens that were put back: what a person should see to; empty: none, or it was seen to."""
    said = []
    for folder in _folders(conf):
        try:
            when = (_read(folder / PUT_BACK) or b"")[:40].decode("ascii").strip()
        except (OSError, ValueError):
            continue
        if when:
            said.append(
                f"{folder / OBJECT} was cut while SoftHSM wrote it, or unreadable, and put back from its copy on "
                f"{when}: if another program had changed its PIN or label just before, those before that count again, "
                f"so change them anew; then remove {folder / PUT_BACK}"
            )
    return "; ".join(said)


def kept_labels(conf: Path) -> list[str]:
    """Labels of the tokens that `look_after` has a copy of, also while another process writes the originals anew."""
    kept = []
    with contextlib.suppress(OSError):
        kept = [_kept(folder) for folder in _folders(conf)]
    return [found.label for found in kept if found is not None]


def token_object(content: bytes) -> TokenObject | None:
    """A token.object as it was read; None when it is cut, wherever that was, or blank. Raises StrangeError."""
    found: dict[int, bytes] = {}
    at = _GENERATION_BYTES
    try:
        while at < len(content):
            name, kind = (int.from_bytes(_part(content, at + skip, 8)) for skip in (0, 8))
            at += 16
            if kind in _COUNTED:
                length = int.from_bytes(_part(content, at, 8)) * _COUNTED[kind]
                at += 8
            elif kind in _WIDTHS:
                length = _WIDTHS[kind]
            elif kind == 0:  # a power cut may leave zeros
                return None
            else:
                raise StrangeError(f"an attribute of kind {kind} in {OBJECT}: not as SoftHSM 2 writes it")
            found[name] = _part(content, at, length)
            at += length
        label = found[_LABEL].decode().rstrip()
        has_pin = int.from_bytes(found[_FLAGS]) & _USER_PIN_INITIALISED
        if not {_SERIAL, _SO_PIN} <= found.keys() or (has_pin and _USER_PIN not in found):
            return None
    except (ValueError, KeyError):
        return None
    return TokenObject(label, content)


def _part(content: bytes, at: int, length: int) -> bytes:
    if at + length > len(content):
        raise ValueError("cut")
    return content[at : at + length]


def _look_after(folder: Path) -> list[str]:
    original, copy = folder / OBJECT, folder / KEPT
    keys = [path for path in sorted(folder.glob("*.object")) if path.name != OBJECT]
    now, kept = _settled(original), _kept(folder)
    if now is None:
        if not original.exists():
            # Removed, not cut: by somebody who destroys the token, and who shall find it destroyed.
            return [_lost(original, "is gone")] if keys else []
        if kept is None:
            # Without keys it is a token that somebody only began to make.
            return [_lost(original, "is cut, and there is no copy")] if keys else []
        try:
            _put_back(original, kept)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # A bad sector, which takes nothing either: the file needs another place. At no moment is it gone, which
            # would be taken for a token that was destroyed; and the sector stays with what holds it.
            with contextlib.suppress(OSError):
                os.link(original, folder / DAMAGED, follow_symlinks=False)
            write_whole(original, kept.content, mode=0o600, owner_of=folder)
        with contextlib.suppress(OSError):
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            write_whole(folder / PUT_BACK, f"{when}\n".encode(), mode=0o600, owner_of=folder)
        _log.warning(
            "token.put_back",
            file=str(original),
            label=kept.label,
            reason="it was cut while SoftHSM wrote it, or cannot be read",
        )
    elif not now.is_as(kept):
        write_whole(copy, now.content, mode=0o600, owner_of=copy.parent)
    for path in (original, *keys):
        _sync(path)
    _sync(folder)
    return []


def _is_cut(folder: Path) -> bool:
    """Whether a copy is good for what SoftHSM cannot read, by what may be read here."""
    try:
        return (folder / OBJECT).exists() and _whole(_read(folder / OBJECT)) is None and _kept(folder) is not None
    except (OSError, StrangeError):
        return False


def _lost(original: Path, what: str) -> str:
    return (
        f"{original} {what}, so SoftHSM does not see this token; put this one file back from a backup, or, if its keys "
        f"are not wanted any more, remove {original.parent}"
    )


def _kept(folder: Path) -> TokenObject | None:
    try:
        return _whole(_read(folder / KEPT))
    except StrangeError:
        return None


def _settled(path: Path) -> TokenObject | None:
    """The file once it is whole; None when it stays as it is: nobody is at work on it."""
    until_s = time.monotonic() + SETTLES_S
    while True:
        found = _whole(_read(path))
        if found is not None or not path.exists() or time.monotonic() > until_s:
            return found
        time.sleep(LOOK_EVERY_S)


def _whole(content: bytes | None) -> TokenObject | None:
    return None if content is None else token_object(content)


def _read(path: Path) -> bytes | None:
    """None: it is not there. What the disk does not give back is as good as cut: of two files one may be so."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with open(descriptor, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _log.error("token.file_unreadable", file=str(path), reason=error.strerror)
        return b""


def _put_back(original: Path, kept: TokenObject) -> None:
    """In place: a writer that lived after all then writes over it, and wins. Cut again, it is put back again."""
    descriptor = os.open(original, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(kept.content)
        file.truncate()  # flushes first
        os.fsync(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of all that look after this token. SoftHSM's own locks are on its files, and are given back before it writes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until_s = time.monotonic() + 2 * SETTLES_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise OSError(errno.EAGAIN, "another process does not let go of it") from None
                time.sleep(LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)


def _folders(conf: Path) -> list[Path]:
    """Of the tokens; none where the configuration cannot be read or names no folder: the module says that itself."""
    try:
        named = _SETTING.search(conf.read_text(encoding="utf-8"))
        return [] if named is None else sorted(path for path in Path(named[1]).iterdir() if path.is_dir())
    except (OSError, ValueError):
        return []
