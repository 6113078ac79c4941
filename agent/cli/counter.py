"""`v2g-gateway counter`: a counter in this machine's TPM, behind which channels are signed while offline."""

from __future__ import annotations

import contextlib

from agent.cli.asking import settings_of
from agent.cli.init import put
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error
from agent.config import DEFAULT_PATH
from agent.token import counter, tpm


def define(
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Have a counter in the TPM guard offline signing.

    Once for each machine: a copied card shows itself by the counter. The agent uses it from its next start, once the
    platform has answered.
    """
    path = settings_of(config, as_json).gateway.state_dir / counter.FILE
    if path.exists():
        fail(f"{path}: there is a counter already", as_json=as_json)
    try:
        kept = counter.define()
        try:
            put(path, kept, mode=0o600, for_owner_of=path.parent)
        except OSError:
            with contextlib.suppress(tpm.TpmError):
                counter.undefine()
            raise
        made = counter.open_counter(path)
        value = None if made is None else made.read()
    except tpm.TpmError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, path), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "file": str(path), "index": counter.INDEX, "counter": value})
        return
    text = f"{path}: the counter at {counter.INDEX} stands at {value}. Restart the agent; it counts once the platform"
    console.print(f"{text} has answered.", markup=False, highlight=False, soft_wrap=True)
