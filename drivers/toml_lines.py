"""Which line of a TOML text a key is on: a fault is told with the place that a person can go to. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_HEADER: Final = re.compile(r"""\s*(\[\[?)\s*([\w."' -]+?)\s*\]\]?\s*(#.*)?$""")
_ASSIGNMENT: Final = re.compile(r"\s*([\w-]+)\s*=")


def line_of(text: str, where: Sequence[int | str]) -> int:
    """The line, from 1, of a location such as ("device", 1, "unit"); its section's, or 1, where it is absent.

    A number counts the tables of an array, [[device]], from 0; one into a plain list is the list's line.
    """
    keys = tuple(part for part in where if isinstance(part, str))
    wanted = {_names(where[:at]): part for at, part in enumerate(where) if isinstance(part, int)}
    seen: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    best, is_ours = 1, True
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                seen[section] = seen.get(section, -1) + 1
            arrays = [section[:size] for size in range(1, len(section) + 1) if section[:size] in seen]
            is_ours = keys[: len(section)] == section and all(wanted.get(one, seen[one]) == seen[one] for one in arrays)
            if is_ours:
                best = number
        elif is_ours and (key := _ASSIGNMENT.match(line)) and (*section, key[1]) == keys[: len(section) + 1]:
            return number
    return best


def _names(where: Sequence[int | str]) -> tuple[str, ...]:
    return tuple(part for part in where if isinstance(part, str))
