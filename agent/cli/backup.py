"""`v2g-gateway backup` and `restore`: store and identity history into a file, and back with the agent stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.cli.asking import settings_of
from agent.cli.evidence import PIN_NOTE
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain, progress_bar
from agent.config import DEFAULT_PATH
from agent.evidence.cose import key_id_of
from agent.identity import history
from agent.identity.did import did_of
from agent.identity.errors import HistoryError, IdentityError
from agent.identity.folder import Held, IdentityFolder
from agent.identity.keys import verify_key_from_pem
from agent.store import KeySource, StoreError
from agent.store import backup as store_backup
from agent.store.files import DATABASE, Lock
from agent.token.store_key import store_key

HISTORY_NOTE: Final = "backup/identity-history"


def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to make; it must not exist.")],
    in_the_clear: Annotated[
        bool, typer.Option("--in-the-clear", help="Of an encrypted store: a copy that anybody can read.")
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Copy store and history into a file for its owner alone.

    The history is the identity's. Works while the agent runs. Keys stay in the token. The copy of an encrypted store is
    encrypted: it opens with the store's key, or that key's copy, which are not in it.
    """
    settings = settings_of(config, as_json)
    try:
        held, damage = _history_here(settings.gateway.state_dir)
        notes = {} if held is None else {HISTORY_NOTE: history.encode_history(held.entries)}
        with _progress() as told:
            key = store_key(settings.evidence.store_key_secret)
            copy = store_backup.back_up(
                settings.gateway.state_dir, out, told, notes, key=key, in_the_clear=in_the_clear
            )
    except FileExistsError:
        fail(f"{out}: is there already; name another file", as_json=as_json)
    except StoreError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json(
            {
                "ok": True,
                "file": str(out),
                "incarnation": copy.incarnation,
                "batches": copy.batches,
                "bytes": copy.bytes,
                "encrypted": copy.encrypted,
                "history_entries": 0 if held is None else len(held.entries),
                "history_damage": damage,
            }
        )
        return
    text = f"{out}: {copy.batches} batches, incarnation {copy.incarnation}, {copy.bytes / 1e6:.1f} MB, checked."
    if held is not None:
        text += f" With the history of {held.state.gateway_id}, {len(held.entries)} entries."
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if damage:
        console.print(plain(f"The history is not in it: {damage}"), markup=False, highlight=False, soft_wrap=True)
    text = (
        "It is encrypted: only the store's key opens it. Keep a copy of that key off this box (store-key --copy)."
        if copy.encrypted
        else "It is in the clear, with readings, which say when somebody is at home: keep it as you keep the gateway."
    )
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy of the key that it is encrypted under, if not this box's.")
    ] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back, with the agent stopped. What was there is set aside, never deleted.

    The agent begins a new incarnation with it, and a signed alarm tells of it: what was sealed after the backup was
    made is not in it.
    """
    settings = settings_of(config, as_json)
    state_dir = settings.gateway.state_dir
    here = store_key(settings.evidence.store_key_secret)
    opens = here if key_file is None else store_key(f"file:{key_file.absolute()}")
    try:
        copy = store_backup.look_at(source)
        brought = _history_to_take(state_dir, store_backup.note_in(source, HISTORY_NOTE, opens))
        key, ours = _key_in(source, opens), _keys_here(state_dir, here)
        theirs = None if key is None else _name_of(key)
        if key is not None and ours and key not in ours:
            names = ", ".join(map(_name_of, sorted(ours)))
            fail(f"{source}: is of another gateway, {theirs}; this one is {names}", as_json=as_json)
        if brought is not None:
            # First: a store without its history would go on under another name.
            _take_history(state_dir, brought)
        with _progress() as told:
            aside = store_backup.put_back(state_dir, source, told, key=here, opens=opens)
    except (StoreError, HistoryError) as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, source), as_json=as_json)
    if as_json:
        emit_json(
            {
                "ok": True,
                "gateway_id": theirs,
                "compared": bool(ours) and key is not None,
                "batches": copy.batches,
                "incarnation_before": copy.incarnation,
                "set_aside": None if aside is None else str(aside),
                "history_taken": None if brought is None else len(brought),
            }
        )
        return
    lines = [f"{copy.batches} batches of incarnation {copy.incarnation} are in place; the agent begins a new one."]
    if aside is not None:
        lines.append(f"What was there is now {aside}; delete it when nobody needs it.")
    if brought is not None:
        lines.append(f"With them the identity's history, {len(brought)} entries.")
    if not ours:
        lines.append(f"Nothing here says which gateway this is: {theirs or 'the backup neither'}; the token will.")
    for line in lines:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def _history_here(state_dir: Path) -> tuple[Held | None, str]:
    """The history, and what is wrong with it where it cannot be read. Raises OSError."""
    try:
        return IdentityFolder(state_dir).history(), ""
    except HistoryError as error:
        return None, str(error)


def _history_to_take(state_dir: Path, encoded: bytes | None) -> tuple[bytes, ...] | None:
    """The history in a backup where it says more than the one here; None where that one stays.

    Raises HistoryError where neither continues the other.
    """
    if encoded is None:
        return None
    entries = history.decode_history(encoded)
    name = history.replay(entries).gateway_id
    held, _ = _history_here(state_dir)
    if held is None or (len(entries) > len(held.entries) and history.continues(entries, held.entries)):
        return entries
    if not history.continues(held.entries, entries):
        raise HistoryError(
            f"the backup's history is of {name}, and the one here, of {held.state.gateway_id}, does not continue it: "
            "it is another gateway's, or one of the two was forged"
        )
    return None


def _take_history(state_dir: Path, entries: tuple[bytes, ...]) -> None:
    """Raises StoreInUseError while an agent runs, and OSError."""
    lock = Lock(state_dir)
    try:
        folder = IdentityFolder(state_dir)
        if _history_here(state_dir)[1]:
            folder.history_file.replace(folder.path / f"{folder.history_file.name}.damaged")
        folder.write_history(entries)
        if os.geteuid() == 0:
            owner = state_dir.stat()
            for path in (folder.path, folder.history_file):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    finally:
        lock.release()


def _key_in(database: Path, opens: KeySource | None) -> bytes | None:
    """The key that a database was sealed with; None: no evidence key was ever seen with it. Raises StoreError."""
    return store_backup.note_in(database, PIN_NOTE, opens)


def _keys_here(state_dir: Path, opens: KeySource | None) -> frozenset[bytes]:
    """Keys that this gateway seals or sealed with: by its history, by what `init` wrote for enrolment, by its store.

    None of them where nothing is there.
    """
    keys: set[bytes] = set()
    with contextlib.suppress(OSError, HistoryError):
        held = IdentityFolder(state_dir).history()
        keys.update(() if held is None else (epoch.key.public_key_der for epoch in held.state.epochs))
    with contextlib.suppress(OSError, IdentityError):
        pem = (state_dir / "enrolment" / "evidence.pem").read_bytes()
        keys.add(verify_key_from_pem(pem, what="evidence.pem").public_key_der)
    # A damaged store is a reason to restore.
    with contextlib.suppress(StoreError):
        key = _key_in(state_dir / DATABASE, opens) if (state_dir / DATABASE).exists() else None
        keys.update(() if key is None else (key,))
    return frozenset(keys)


def _name_of(key: bytes) -> str:
    try:
        return did_of(key)
    except IdentityError:
        return f"key {key_id_of(key).hex()[:16]}"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("copying")
        yield lambda done, total: bar.update(task, description=f"copied {done * 100 // max(1, total)} %")
