"""Reads a secret from where the configuration says that it is: a file of mode 0600, or a systemd credential."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


class SecretError(Exception):
    """A secret could not be read. Says where it was looked for, and never what it is."""


def read_secret(reference: str) -> str:
    """The secret at a SecretReference. Raises SecretError, which never contains it."""
    kind, _, name = reference.partition(":")
    if kind == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise SecretError(f"{reference}: systemd gave no credentials; use LoadCredential= or write file:/path")
        path = Path(folder) / name
    else:
        path = Path(name)
        try:
            if path.is_dir():
                raise SecretError(f"{path}: is a folder; name the file in it")
            if path.stat().st_mode & 0o077:
                raise SecretError(f"{path}: others may read this secret; run chmod 600 on it")
        except PermissionError as error:
            raise SecretError(_not_ours(path)) from error
        except OSError as error:
            raise SecretError(f"{path}: {error.strerror}") from error
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError as error:
        raise SecretError(_not_ours(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"{path}: cannot be read: {type(error).__name__}") from error


def _not_ours(path: Path) -> str:
    """On an installed box what root types is done as the service's user."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{path}: the user {user} may not read it; run chown {user} on it, in a folder that this user may enter"
