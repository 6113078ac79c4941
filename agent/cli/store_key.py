"""`v2g-gateway store-key` and `decrypt`: the key that the store is encrypted under, and the way back."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.asking import settings_of
from agent.cli.init import put
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain, progress_bar
from agent.cli.reserving import TakenError, reserved
from agent.config import DEFAULT_PATH, SecretError
from agent.control.decision_log import RECORD, recode_all
from agent.store import StoreError, decrypt
from agent.store.files import Lock, begin_anew
from agent.token import tpm
from agent.token.pin import SEALED, read_sealed
from agent.token.sealed_file import both, write_sealed
from agent.token.store_key import KEY_BYTES, decoded, store_key


def seal_store_key(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to make; it must not exist.")],
    copy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the key in plain here too, to be kept off this box.")
    ] = None,
    no_copy: Annotated[
        bool, typer.Option("--no-copy", help="Without a copy: what is encrypted is lost with this TPM.")
    ] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Seal the key of such a copy, on a box that lacks it.")
    ] = None,
    anew: Annotated[
        bool,
        typer.Option("--begin-anew", help="The store that is here, whose key is lost, is set aside; a new one begins."),
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Make the store's key, sealed to the TPM.

    The store is encrypted under it from the next start on. Its copy opens the store and its backups on another machine.
    """
    if sum((copy is not None, no_copy, from_ is not None)) != 1:
        fail("give one of --copy FILE, --no-copy and --from FILE", as_json=as_json, code=2)
    state_dir = settings_of(config, as_json).gateway.state_dir
    path = out.absolute()
    files = (*both(path), *(() if copy is None else (copy.absolute(),)))
    aside = None
    try:
        with contextlib.closing(Lock(state_dir)) if anew else contextlib.nullcontext(), reserved(files):
            key = secrets.token_hex(KEY_BYTES) if from_ is None else _copied(from_)
            kept = tpm.seal(key)
            if tpm.unseal(kept) != key:
                fail("the TPM gave back another key than it was given; nothing was written", as_json=as_json)
            if copy is not None:
                put(copy.absolute(), key.encode() + b"\n", mode=0o600)
            write_sealed(path, kept, owner_of=state_dir)
            if anew:
                aside = begin_anew(state_dir)
    except (SecretError, StoreError, TakenError) as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, path), as_json=as_json)
    reference = f"{SEALED}{path}"
    if as_json:
        emit_json(
            {
                "ok": True,
                "file": str(path),
                "store_key_secret": reference,
                "copy": None if copy is None else str(copy.absolute()),
                "set_aside": None if aside is None else str(aside),
            }
        )
        return
    _say(f"{path}: sealed, and again in {both(path)[1].name}, for a bad sector.")
    _say(f'In [evidence] write store_key_secret = "{reference}"; the next start encrypts what is here.')
    if aside is not None:
        _say(f"What was here is now {aside}.")
    if copy is not None:
        _say(f"{copy.absolute()}: the key itself. Take it off this box: without it all is lost with the TPM.")
    elif no_copy:
        _say("There is no copy: store and backups are lost with this TPM.")


def decrypt_store(
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Put an encrypted store in the clear.

    With the record of decisions, while the agent is stopped. Then take store_key_secret out of the configuration: else
    the next start encrypts them again.
    """
    settings = settings_of(config, as_json)
    state_dir, reference = settings.gateway.state_dir, settings.evidence.store_key_secret
    try:
        with progress_bar() as bar:
            task = bar.add_task("decrypting")
            damaged, opened = decrypt(
                state_dir,
                store_key(reference),
                lambda done, total: bar.update(task, description=f"decrypted {done * 100 // max(1, total)} %"),
                lambda content: recode_all(state_dir / RECORD, content, None),
            )
    except StoreError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, state_dir), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "damaged_values": damaged, "record_left": opened})
        return
    _say(f"{state_dir}: in the clear. Take store_key_secret out of [evidence] before the agent starts again.")
    if reference is not None and reference.startswith(SEALED):
        files = " and ".join(map(str, both(Path(reference.removeprefix(SEALED)))))
        _say(f"{files} hold the key still, which encrypted backups need; remove both when nothing does.")
    if damaged:
        _say(f"{damaged} values did not open, and are empty now.")
    for sentence in opened:
        _say(f"Not decrypted: {sentence}")


def _copied(path: Path) -> str:
    return decoded(read_sealed(f"file:{path.absolute()}"), str(path)).hex()


def _say(line: str) -> None:
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
