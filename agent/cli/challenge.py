"""`v2g-gateway challenge`: whether a gateway's attestation key is in a genuine TPM. For the verifier; needs no TPM.

Three steps: the gateway's `quote NONCE --endorsement` gives its key and its TPM maker's certificate; `make` encrypts a
secret to both; the gateway's `quote --credential` answers with a quote over that secret; `check` looks whether it is.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.cli.init import put
from agent.cli.options import JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.cli.quote import CERTIFICATE, FILES
from agent.evidence.errors import EvidenceError
from agent.evidence.tpm_quote import check_quote, key_of
from agent.identity.endorsement import SECRET_BYTES, SEED_BYTES, endorsed, make_credential, read_certificate
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.token.quote import Quote

app = typer.Typer(help="Whether a gateway's TPM is a genuine one: for who verifies.", no_args_is_help=True)

CREDENTIAL: Final = "credential"
CHALLENGE: Final = "challenge.json"
MOST_FILE_BYTES: Final = 64 * 1024
_FORMAT: Final = "v2g-gateway/tpm-challenge"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the verifier keeps for himself until the answer comes."""

    secret: bytes
    key_name: bytes
    endorsement: bytes
    """SHA-256 of the certificate."""
    subject: str
    """Of the root that it leads to."""

    def encode(self) -> bytes:
        kept = {
            "format": _FORMAT, "version": _VERSION, "secret": self.secret.hex(), "key_name": self.key_name.hex(),
            "endorsement_sha256": self.endorsement.hex(), "root": self.subject,
        }  # fmt: skip
        return json.dumps(kept, indent=2).encode() + b"\n"


def decode_challenge(encoded: bytes) -> Challenge:
    """Raises ValueError."""
    try:
        kept = json.loads(encoded)
        if (kept["format"], kept["version"]) != (_FORMAT, _VERSION):
            raise ValueError("another format or version")
        secret, name, endorsement = (bytes.fromhex(kept[key]) for key in ("secret", "key_name", "endorsement_sha256"))
        return Challenge(secret, name, endorsement, str(kept["root"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is no challenge that was made here: {error}") from error


@app.command()
def make(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What the gateway's `quote` wrote.")],
    ek_roots: Annotated[Path, typer.Option(metavar="FILE", help="Roots of TPM makers that you trust, PEM.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the challenge goes; must not have one.")],
    ek_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The TPM's certificate, DER or PEM with what is between; else ek.crt."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the certificate of the TPM, and encrypt a secret to it and to the key that quotes.

    Send the gateway the file `credential`; keep the other one, which holds the secret.
    """
    there = [name for name in (CREDENTIAL, CHALLENGE) if (out / name).exists()]
    if there:
        fail(f"{out / there[0]}: is there already; name another folder", as_json=as_json)
    certificate = ek_certificate or folder / CERTIFICATE
    try:
        _, name = key_of(_read(folder / "quote.area")[2:])
        chain = read_certificate(_read(certificate))
        endorsement = endorsed(chain, _read(ek_roots), datetime.now(UTC))
        secret, seed = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SEED_BYTES)
        root = endorsement.root.subject.rfc4514_string()
        challenge = Challenge(secret, name, endorsement.fingerprint, root)
        out.mkdir(parents=True, exist_ok=True)
        put(out / CHALLENGE, challenge.encode(), mode=0o600)
        put(out / CREDENTIAL, make_credential(endorsement.key, name, secret, seed), mode=0o644)
    except (IdentityError, EvidenceError) as error:
        fail(f"{folder}: {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "credential": str(out / CREDENTIAL), "key_name": name.hex(), "root": root})
        return
    _say(f"The TPM's certificate leads to {root}. Whether it is this TPM's, and holds key {name.hex()[:20]}:")
    _say(f"  on the gateway  v2g-gateway quote --credential {CREDENTIAL} --out ANSWER   ({out / CREDENTIAL})")
    _say(f"  then here       v2g-gateway challenge check ANSWER --made {out}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="ANSWER", help="What the gateway's `quote --credential` wrote.")],
    made: Annotated[Path, typer.Option(metavar="FOLDER", help="What `challenge make` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Whether the answer is by a genuine TPM that holds the key: exit code 1 when not."""
    try:
        challenge = decode_challenge(_read(made / CHALLENGE))
        answer = Quote(*(_read(folder / name) for name in FILES))
        quoted = check_quote(answer.as_evidence(), challenge.secret)
        if quoted.key_name != challenge.key_name:
            fail(f"{folder}: is by another key than the one that was challenged", as_json=as_json)
        if verify_key_from_pem(answer.key_pem, what="quote.pem") != quoted.key:
            fail(f"{folder / 'quote.pem'}: is not the key that answered; trust it for nothing", as_json=as_json)
    except (IdentityError, EvidenceError) as error:
        fail(f"{folder}: {error}", as_json=as_json)
    except ValueError as error:
        fail(f"{made / CHALLENGE}: {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, folder), as_json=as_json)
    if as_json:
        emit_json(
            {
                "ok": True,
                "key_name": quoted.key_name.hex(),
                "endorsement_sha256": challenge.endorsement.hex(),
                "root": challenge.subject,
                "pcrs": {str(index): value.hex() for index, value in quoted.pcrs.items()},
                "reset_count": quoted.reset_count,
            }
        )
        return
    _say(f"A genuine TPM, certified under {challenge.subject}, holds key {quoted.key_name.hex()[:20]} and answered.")
    _say(f"Quoted are PCRs {', '.join(map(str, quoted.pcrs)) or 'none'}, after {quoted.reset_count} boots.")
    _say(f"What it quotes is its own word: v2g-gateway verify FILE --tpm-key {folder / 'quote.pem'} ...")


def _read(path: Path) -> bytes:
    """Raises OSError, with the file's name."""
    with path.open("rb") as file:
        return file.read(MOST_FILE_BYTES)


def _say(line: str) -> None:
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
