"""The token's PIN, from where the configuration says that it is: a file, a systemd credential, or sealed to the TPM."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.config import read_secret
from agent.token import tpm
from agent.token.sealed_file import read_sealed_file, sealed_file_problem
from agent.token.tpm import TpmError

SEALED: Final = "tpm:"


def read_pin(reference: str) -> str:
    """The PIN, as `read_sealed`."""
    return read_sealed(reference)


def read_sealed(reference: str) -> str:
    """The secret at a reference. Blocks, on a TPM for up to seconds.

    Raises SecretError (TpmError is one), which never contains it.
    """
    if not reference.startswith(SEALED):
        return read_secret(reference)
    path = Path(reference.removeprefix(SEALED))
    kept = read_sealed_file(path)
    try:
        return tpm.unseal(kept)
    except TpmError as error:
        raise TpmError(f"{path}: {error}") from error


def sealed_problem(reference: str | None) -> tuple[str, bool]:
    """What a person should see to of a secret that is sealed to the TPM, and whether a damaged file was found.

    Empty: nothing, or it is kept otherwise. Blocks.
    """
    if reference is None or not reference.startswith(SEALED):
        return "", False
    return sealed_file_problem(Path(reference.removeprefix(SEALED)))
