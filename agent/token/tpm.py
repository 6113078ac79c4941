"""What only a TPM can do, through tpm2-tools: a secret sealed to this machine's TPM, so that no file alone opens it.

The tools run with fixed arguments, in a folder of their own (mode 0700) that is gone afterwards; a secret goes in by
standard input and comes out by standard output, and never stands in an argument. Where there is no TPM, or no tools,
`absence` says so and everything else is as before.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from agent.config import SecretError
from agent.token.errors import TokenError

TOOLS: Final = ("tpm2_createprimary", "tpm2_create", "tpm2_load", "tpm2_unseal")
ANSWERS_WITHIN_S: Final = 30.0
MOST_SECRET_BYTES: Final = 128
"""What a TPM seals at most."""
MOST_FILE_BYTES: Final = 16 * 1024
_FORMAT: Final = "v2g-gateway/tpm-sealed"
_VERSION: Final = 1

# The primary key is made anew from the owner's seed each time: the same attributes give the same key.
_PRIMARY: Final = ("tpm2_createprimary", "-Q", "-C", "o", "-g", "sha256", "-G", "ecc", "-c", "primary.ctx")
_SEAL: Final = (
    "tpm2_create", "-Q", "-C", "primary.ctx", "-g", "sha256", "-i", "-", "-u", "sealed.pub", "-r", "sealed.priv",
)  # fmt: skip
_LOAD: Final = (
    "tpm2_load", "-Q", "-C", "primary.ctx", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed.ctx",
)  # fmt: skip
_UNSEAL: Final = ("tpm2_unseal", "-c", "sealed.ctx")


class TpmError(TokenError, SecretError):
    """The TPM or its tools cannot do it. Says which step failed; never a secret."""


def absence() -> str | None:
    """Why nothing can be sealed here; None when the tools are there (whether a TPM answers, only asking it tells)."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} not installed: install the package tpm2-tools" if missing else None


def seal(secret: str) -> bytes:
    """What to keep of a secret in a file: only this TPM gives it back. Raises TpmError."""
    plain = secret.encode("utf-8")
    if not 0 < len(plain) <= MOST_SECRET_BYTES:
        raise TpmError(f"a TPM seals 1 to {MOST_SECRET_BYTES} bytes")
    with working_folder() as folder:
        run(_PRIMARY, folder)
        run(_SEAL, folder, given=plain)
        public, private = ((folder / f"sealed.{part}").read_bytes() for part in ("pub", "priv"))
    kept = {
        "format": _FORMAT,
        "version": _VERSION,
        "public": public.hex(),
        "private": private.hex(),
        "sha256": sha256(public + private).hexdigest(),
    }
    return json.dumps(kept).encode() + b"\n"


def unseal(kept: bytes) -> str:
    """The secret. Raises TpmError: for a damaged file, and for one that another TPM sealed."""
    public, private = check(kept)
    with working_folder() as folder:
        (folder / "sealed.pub").write_bytes(public)
        (folder / "sealed.priv").write_bytes(private)
        run(_PRIMARY, folder)
        run(_LOAD, folder)
        plain = run(_UNSEAL, folder)
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TpmError("the TPM gave back what is no text") from error


def check(kept: bytes) -> tuple[bytes, bytes]:
    """The public and the private part of what is kept, which no TPM is asked for. Raises TpmError: it is damaged."""
    try:
        if len(kept) > MOST_FILE_BYTES:
            raise ValueError("too long")
        read = json.loads(kept)
        if (read["format"], read["version"]) != (_FORMAT, _VERSION):
            raise ValueError("another format or version")
        public, private = bytes.fromhex(read["public"]), bytes.fromhex(read["private"])
        # Those of before have none.
        if read.get("sha256", sum_of := sha256(public + private).hexdigest()) != sum_of:
            raise ValueError("another checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TpmError(f"not a secret that was sealed here ({type(error).__name__}); seal it again") from error
    return public, private


class working_folder(tempfile.TemporaryDirectory[str]):  # noqa: N801  # used as a function
    """A folder for one piece of work, mode 0700, gone afterwards."""

    def __init__(self) -> None:
        super().__init__(prefix="v2g-tpm-")

    def __enter__(self) -> Path:  # type: ignore[override]  # a Path instead of its name
        return Path(super().__enter__())


def run(command: tuple[str, ...], folder: Path, given: bytes = b"", *, within_s: float = ANSWERS_WITHIN_S) -> bytes:
    """The standard output of one of the tools. Raises TpmError."""
    try:
        done = subprocess.run(  # fixed arguments
            command, cwd=folder, input=given, capture_output=True, timeout=within_s, check=False
        )
    except FileNotFoundError as error:
        raise TpmError(absence() or f"{command[0]} cannot be run") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TpmError(f"{command[0]}: {type(error).__name__}; is there a TPM, and may this user open it?") from error
    if done.returncode != 0:
        said = _telling(done.stderr.decode(errors="replace").strip().splitlines())
        raise TpmError(f"{command[0]} failed: {said[:200]}; is there a TPM, and may this user open it?")
    return done.stdout


def _telling(lines: list[str]) -> str:
    """The line that says why: with the TPM's own answer where there is one. The last one only says that it failed."""
    answers = [line for line in lines if " - tpm:" in line]
    others = [line for line in lines if "Unable to run" not in line]
    return [*(lines or ["without a word"])[-1:], *others[-1:], *answers[-1:]][-1]
