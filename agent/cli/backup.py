"""`v2g-gateway backup` and `restore`: the whole store into a file while the agent runs, and back while it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm

from agent.cli.asking import settings_of
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain, progress_bar
from agent.config import DEFAULT_PATH
from agent.identity.did import did_of
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import EVIDENCE_KEY
from agent.store import StoreError
from agent.store import backup as store_backup
from agent.store.files import DATABASE

PIN_NOTE = f"journal/token/pin/{EVIDENCE_KEY.hex()}"


def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to make; it must not exist.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Copy the whole store into a file, for its owner alone. Works while the agent runs. Keys stay in the token."""
    settings = settings_of(config, as_json)
    try:
        with _progress() as told:
            copy = store_backup.back_up(settings.gateway.state_dir, out, told)
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
            }
        )
        return
    text = f"{out}: {copy.batches} batches, incarnation {copy.incarnation}, {copy.bytes / 1e6:.1f} MB, checked."
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    text = "It holds readings, which say when somebody is at home: keep it as you keep the gateway."
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back, with the agent stopped. What was there is set aside, never deleted.

    The agent begins a new incarnation with it, and a signed alarm tells of it: what was sealed after the backup was
    made is not in it.
    """
    state_dir = settings_of(config, as_json).gateway.state_dir
    try:
        copy = store_backup.look_at(source)
        theirs, ours = _gateway_in(source), _gateway_here(state_dir)
        if ours is not None and theirs is not None and ours != theirs:
            fail(f"{source}: is of another gateway, {theirs}; this one is {ours}", as_json=as_json)
        with _progress() as told:
            aside = store_backup.put_back(state_dir, source, told)
    except StoreError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, source), as_json=as_json)
    if as_json:
        emit_json(
            {
                "ok": True,
                "gateway_id": theirs,
                "compared": ours is not None and theirs is not None,
                "batches": copy.batches,
                "incarnation_before": copy.incarnation,
                "set_aside": None if aside is None else str(aside),
            }
        )
        return
    lines = [f"{copy.batches} batches of incarnation {copy.incarnation} are in place; the agent begins a new one."]
    if aside is not None:
        lines.append(f"What was there is now {aside}; delete it when nobody needs it.")
    if ours is None:
        lines.append(f"Nothing here says which gateway this is: {theirs or 'the backup neither'}; the token will.")
    for line in lines:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def _gateway_in(database: Path) -> str | None:
    """Whose evidence a database holds; None: no evidence key was ever seen with it. Raises StoreError."""
    pin = store_backup.note_in(database, PIN_NOTE)
    try:
        return None if pin is None else did_of(pin)
    except (IdentityError, UnsupportedAlgorithm) as error:
        raise StoreError(f"{database}: the evidence key in it cannot be read: {error}") from error


def _gateway_here(state_dir: Path) -> str | None:
    """Which gateway this is, by what `init` wrote for its enrolment, else by its store; None where neither is there."""
    try:
        key = verify_key_from_pem((state_dir / "enrolment" / "evidence.pem").read_bytes(), what="evidence.pem")
        return did_of(key.public_key_der)
    except (OSError, IdentityError):
        pass
    try:
        return _gateway_in(state_dir / DATABASE) if (state_dir / DATABASE).exists() else None
    except StoreError:
        # A damaged one is a reason to restore.
        return None


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    with progress_bar() as bar:
        task = bar.add_task("copying")
        yield lambda done, total: bar.update(task, description=f"copied {done * 100 // max(1, total)} %")
