"""The token that the configuration names, not started."""

from __future__ import annotations

from agent.config import TokenSettings
from agent.token.pin import read_pin
from agent.token.token import Token


def configured_token(settings: TokenSettings) -> Token:
    """Its PIN is read when it is needed."""
    return Token(
        module=settings.module,
        label=settings.label,
        serial=settings.serial,
        read_pin=lambda: read_pin(settings.pin_secret),
    )
