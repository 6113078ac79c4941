"""`v2g-gateway quote`: what this machine booted, in its TPM's own words, for whoever asked with a nonce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.init import put
from agent.cli.options import JsonOption
from agent.cli.output import console, emit_json, fail, os_error
from agent.token import quote as quotes
from agent.token.tpm import TpmError

FILES = ("quote.pem", "quote.msg", "quote.sig", "quote.pcrs")


def quote(
    nonce: Annotated[str, typer.Argument(metavar="NONCE", help="Of who asks, hexadecimal, 8 to 32 bytes.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go; must not have them.")],
    as_json: JsonOption = False,
) -> None:
    """Have the TPM quote what was booted, over a nonce.

    Four files for `tpm2_checkquote -u quote.pem -m quote.msg -s quote.sig -f quote.pcrs -g sha256 -q NONCE`. That the
    key is this machine's, only comparing it with the one seen at enrolment tells.
    """
    there = [name for name in FILES if (out / name).exists()]
    if there:
        fail(f"{out / there[0]}: is there already; name another folder", as_json=as_json)
    try:
        asked = bytes.fromhex(nonce)
    except ValueError:
        fail(f"nonce {nonce[:80]!r} is not hexadecimal, such as 00112233aabbccdd", code=2, as_json=as_json)
    try:
        given = quotes.quote(asked)
        out.mkdir(parents=True, exist_ok=True)
        for name, content in zip(FILES, (given.key_pem, given.message, given.signature, given.pcrs), strict=True):
            put(out / name, content, mode=0o644)
    except ValueError as error:
        fail(f"nonce: {error}", code=2, as_json=as_json)
    except TpmError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "files": [str(out / name) for name in FILES], "pcrs": quotes.PCRS})
        return
    text = f"{out}: {', '.join(FILES)}, over PCRs {quotes.PCRS}."
    console.print(text, markup=False, highlight=False, soft_wrap=True)
