"""The key that the store is encrypted under, from where the configuration says that it is: as the token's PIN."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from agent.config import SecretError
from agent.token.pin import read_sealed

KEY_BYTES = 32


def store_key(reference: str | None) -> Callable[[], bytes] | None:
    """What reads the key at a secret reference, each time that it is asked; None: there is none.

    It blocks, on a TPM for up to seconds, and raises SecretError (TpmError is one), which never contains the key.
    """
    return None if reference is None else partial(read_store_key, reference)


def read_store_key(reference: str) -> bytes:
    """The key of 32 bytes. Raises SecretError."""
    return decoded(read_sealed(reference), reference)


def decoded(text: str, where: str) -> bytes:
    """The key in its text. Raises SecretError."""
    if text.lstrip().startswith("{"):
        raise SecretError(
            f"{where}: holds what a TPM sealed; name the plain copy of the key that store-key made beside it"
        )
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", text.strip()):
        raise SecretError(f"{where}: is no store key ({2 * KEY_BYTES} hexadecimal digits); store-key makes one")
    return bytes.fromhex(text.strip())
