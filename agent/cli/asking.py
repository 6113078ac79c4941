"""What every command needs that asks something of an installed gateway: its settings, and who asks."""

from __future__ import annotations

import getpass
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agent.cli.output import fail
from agent.config import ConfigError, Settings, read_settings
from agent.store import Reader
from agent.token.store_key import store_key


def settings_of(path: Path, as_json: bool) -> Settings:
    """The settings, or the end of the command."""
    try:
        return read_settings(path)
    except ConfigError as error:
        fail(str(error), as_json=as_json)


def store_of(settings: Settings) -> AbstractAsyncContextManager[Reader]:
    """The store for reading, whether an agent runs or not. Raises StoreError when it is entered."""
    return Reader.beside(settings.gateway.state_dir, store_key(settings.evidence.store_key_secret))


def who() -> str:
    """Who gives an order here. STOP must not fail because a user id has no name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        name = f"user {os.getuid()}"
    return f"command line, {name}".encode("ascii", "replace").decode()
