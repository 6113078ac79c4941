"""`v2g-gateway seal-pin`: the token's PIN into a file that only this machine's TPM opens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.asking import settings_of
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error
from agent.cli.reserving import TakenError, reserved
from agent.config import DEFAULT_PATH, SecretError
from agent.token import tpm
from agent.token.pin import SEALED, read_pin
from agent.token.sealed_file import both, write_sealed


def seal_pin(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to make; it must not exist.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Seal the token's PIN to this machine's TPM. A disk that is carried away does not give it then."""
    settings = settings_of(config, as_json)
    path = out.absolute()
    try:
        with reserved(both(path)):
            pin = read_pin(settings.token.pin_secret)
            kept = tpm.seal(pin)
            if tpm.unseal(kept) != pin:
                fail("the TPM gave back another PIN than it was given; nothing was written", as_json=as_json)
            write_sealed(path, kept, owner_of=settings.gateway.state_dir)
    except (SecretError, TakenError) as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, path), as_json=as_json)
    line = f'pin_secret = "{SEALED}{path}"'
    if as_json:
        emit_json({"ok": True, "file": str(path), "pin_secret": f"{SEALED}{path}"})
        return
    where = f"{path}: sealed, and again in {both(path)[1].name}"
    text = f"{where}. In [token] write {line}, see that the agent starts with it, and remove the plain PIN."
    console.print(text, markup=False, highlight=False, soft_wrap=True)
