"""The token's PIN, from where the configuration says that it is: a file, a systemd credential, or sealed to the TPM."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.config import read_secret
from agent.token import tpm
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
    try:
        kept = path.read_bytes()
    except OSError as error:
        raise TpmError(f"{path}: {error.strerror}") from error
    try:
        return tpm.unseal(kept)
    except TpmError as error:
        raise TpmError(f"{path}: {error}") from error
