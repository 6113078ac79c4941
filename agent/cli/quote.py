"""`v2g-gateway quote`: what this machine booted, in its TPM's own words, over a nonce or a challenge of who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.init import put
from agent.cli.options import JsonOption
from agent.cli.output import console, emit_json, fail, os_error
from agent.token import quote as quotes
from agent.token.quote import Quote
from agent.token.tpm import TpmError

FILES = ("quote.pem", "quote.msg", "quote.sig", "quote.pcrs", "quote.area", "quote.values")
CERTIFICATE = "ek.crt"
MOST_CREDENTIAL_BYTES = 4096


def quote(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go; must not have them.")],
    nonce: Annotated[
        str | None, typer.Argument(metavar="NONCE", help="Of who asks, hexadecimal, 8 to 32 bytes.")
    ] = None,
    credential: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="In place of a nonce: what `challenge make` wrote for this TPM."),
    ] = None,
    endorsement: Annotated[
        bool, typer.Option("--endorsement", help="The TPM maker's certificate too, for `challenge make`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Have the TPM quote what was booted, over a nonce.

    Files for `tpm2_checkquote -u quote.pem -m quote.msg -s quote.sig -f quote.pcrs -g sha256 -q NONCE`, and for
    `challenge`, which proves that the key is in a genuine TPM.
    """
    names = (*FILES, CERTIFICATE) if endorsement else FILES
    there = [name for name in names if (out / name).exists()]
    if there:
        fail(f"{out / there[0]}: is there already; name another folder", as_json=as_json)
    if (nonce is None) == (credential is None):
        fail("give a NONCE, or --credential FILE: over what is the quote to be?", code=2, as_json=as_json)
    try:
        given = _quote(nonce, credential)
        files = [
            (FILES[0], given.key_pem),
            (FILES[1], given.message),
            (FILES[2], given.signature),
            (FILES[3], given.pcrs),
            (FILES[4], given.area),
            (FILES[5], given.values),
        ]
        if endorsement:
            files.append((CERTIFICATE, quotes.endorsement_certificate()))
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files:
            put(out / name, content, mode=0o644)
    except ValueError as error:
        fail(f"nonce: {error}", code=2, as_json=as_json)
    except TpmError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "files": [str(out / name) for name, _ in files], "pcrs": quotes.PCRS})
        return
    text = f"{out}: {', '.join(name for name, _ in files)}, over PCRs {quotes.PCRS}."
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _quote(nonce: str | None, credential: Path | None) -> Quote:
    """Raises ValueError, TpmError or OSError."""
    if credential is not None:
        with credential.open("rb") as file:
            return quotes.answer(file.read(MOST_CREDENTIAL_BYTES))
    assert nonce is not None
    try:
        asked = bytes.fromhex(nonce)
    except ValueError:
        raise ValueError(f"{nonce[:80]!r} is not hexadecimal, such as 00112233aabbccdd") from None
    return quotes.quote(asked)
