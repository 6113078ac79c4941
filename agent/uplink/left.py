"""Incarnations whose rest stays here: a person has said that another box of the same name, a copy, has gone on instead.

What is left is kept as any evidence that nobody acknowledged, and exported; it is not sent, and blocks nothing.
"""

from __future__ import annotations

from typing import Final

import orjson
import structlog

from agent.uplink.outbox import Outbox

LEFT_NOTE: Final = "uplink-left"

_log = structlog.get_logger()


async def left_incarnations(outbox: Outbox) -> frozenset[int]:
    """Those of which nothing is sent any more."""
    note = await outbox.note(LEFT_NOTE)
    try:
        return frozenset() if note is None else decode_left(note)
    except ValueError as error:
        _log.warning("uplink.left_damaged", reason=str(error))
        return frozenset()


def encode_left(incarnations: frozenset[int]) -> bytes:
    """As `decode_left` reads it."""
    return orjson.dumps(sorted(incarnations))


def decode_left(note: bytes) -> frozenset[int]:
    """Raises ValueError for what is no such note."""
    found = orjson.loads(note)
    if not isinstance(found, list) or not all(isinstance(each, int) for each in found):
        raise ValueError("no list of incarnations")
    return frozenset(found)
