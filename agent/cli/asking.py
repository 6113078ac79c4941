"""What every command needs that asks something of an installed gateway: its settings, and who asks."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from agent.cli.output import fail
from agent.config import ConfigError, Settings, read_settings


def settings_of(path: Path, as_json: bool) -> Settings:
    """The settings, or the end of the command."""
    try:
        return read_settings(path)
    except ConfigError as error:
        fail(str(error), as_json=as_json)


def who() -> str:
    """Who gives an order here. STOP must not fail because a user id has no name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        name = f"user {os.getuid()}"
    return f"command line, {name}".encode("ascii", "replace").decode()
