"""What may be said of a message in logs, alarms and answers: never a token, password or key that was in it. Pure.

Errors of a charger may repeat what we sent to it; broken frames may hold anything anywhere.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json

HIDDEN: Final = "***"
LEAST_SECRET: Final = 4
"""Shorter values say nothing, and would be found in any sentence."""
_WORD: Final = re.compile(r"(?=.*[a-z].*[a-z])[A-Z][A-Za-z0-9]{1,49}")
"""An action by its looks: "Get15118EVCertificate". Tokens are hexadecimal, contracts in upper case."""
_OPEN: Final = frozenset({"type", "name", "status", "instance", "evsetype", "reasoncode", "attributetype"})
"""Keys whose values are words of the specification or of a maker, not secrets."""


def action_name(action: str) -> str:
    """An action that nobody knows, as far as it looks like one."""
    return quoted(action) if _WORD.fullmatch(action) else f"<{len(action)} characters>"


def without_secrets(text: str, sent: str) -> str:
    """A peer's sentence about a frame of ours, without the values that were in it."""
    try:
        values = _values(orjson.loads(sent)[2:])
    except (orjson.JSONDecodeError, TypeError):
        return HIDDEN
    # The longest first: one may be part of another.
    for value in sorted(values, key=len, reverse=True):
        text = re.sub(re.escape(value), HIDDEN, text, flags=re.IGNORECASE)
    return text


def label_of(frame: str) -> str:
    """Of a frame of ours, for a log: kind, and with a call its id and action. Whatever an answer or error holds was
    made of what the peer sent."""
    return frame[: frame.find("{")].rstrip(",") if frame.startswith(("[2,", "[6,")) else frame[:2]


def _values(content: Json, key: str = "") -> set[str]:
    if isinstance(content, dict):
        return {value for name, inner in content.items() for value in _values(inner, name.casefold())}
    if isinstance(content, list):
        return {value for inner in content for value in _values(inner, key)}
    if isinstance(content, str) and key and key not in _OPEN and len(content) >= LEAST_SECRET:
        return {content}
    return set()
