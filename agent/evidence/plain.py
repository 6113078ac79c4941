"""A statement as JSON shows it: its fields by name, byte strings in hexadecimal, enumerations as their numbers."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TypeAlias

from agent.evidence.kinds import Statement

Json: TypeAlias = "str | int | bool | None | list[Json] | dict[str, Json]"


def fields_of(statement: Statement) -> dict[str, Json]:
    """The fields, in the order of the layout."""
    fields = asdict(statement)
    for name in ("signed_values", "quote"):  # a layout without it has no such field
        if name in fields and not fields[name]:
            del fields[name]
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> Json:
    match value:
        case bytes():
            return value.hex()
        case Enum():
            return int(value.value)
        case tuple() | list():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case None | bool() | int() | str():
            return value
    raise TypeError(f"{type(value).__name__} in a statement")
