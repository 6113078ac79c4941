"""The token that the configuration names, not started."""

from __future__ import annotations

from pathlib import Path

from agent.config import TokenSettings
from agent.token.pin import read_pin
from agent.token.refused_pin import FILE
from agent.token.token import Token


def configured_token(settings: TokenSettings, state_dir: Path) -> Token:
    """Its PIN is read when it is needed; one that it refused is remembered in the state directory."""
    return Token(
        module=settings.module,
        label=settings.label,
        serial=settings.serial,
        read_pin=lambda: read_pin(settings.pin_secret),
        refused_pin_file=state_dir / FILE,
    )
