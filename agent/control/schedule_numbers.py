"""The numbers of schedules, and what those that are gone asked for, as they are kept over restarts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.control.errors import RestoreError
from agent.control.ordered import Ordered
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError

HOUR_US: Final = 3600 * 1_000_000

Newest = Mapping[bytes, tuple[int, int]]
"""(epoch, sequence) of the newest schedule, by key."""
Gone = Mapping[bytes, Mapping[int, Ordered]]
"""By issuer's name and hour."""


def encode_numbers(newest: Newest, gone: Gone) -> bytes:
    """For the store."""
    items: list[cbor.Value] = [[key, epoch, sequence] for key, (epoch, sequence) in sorted(newest.items())]
    sums: list[cbor.Value] = [
        [issuer, hour, part.energy_wh, part.value_micro]
        for issuer, hours in sorted(gone.items())
        for hour, part in sorted(hours.items())
    ]
    return cbor.encode([2, items, sums])


def decode_numbers(note: bytes) -> tuple[dict[bytes, tuple[int, int]], dict[bytes, dict[int, Ordered]]]:
    """As they were stored; version 1 had no sums. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="schedule numbers")
    except EvidenceError as error:
        raise RestoreError(str(error)) from error
    sums: list[cbor.Value] = []
    match value:
        case [1, list(items)]:
            pass
        case [2, list(items), list(sums)]:
            pass
        case _:
            raise RestoreError("schedule numbers: not laid out as version 2")
    newest = {}
    for item in items:
        match item:
            case [bytes(key), int(epoch), int(sequence)]:
                newest[key] = (epoch, sequence)
            case _:
                raise RestoreError("schedule numbers: a number is not laid out as version 2")
    gone: dict[bytes, dict[int, Ordered]] = {}
    for item in sums:
        match item:
            case [bytes(issuer), int(hour), int(energy_wh), int(value_micro)]:
                gone.setdefault(issuer, {})[hour] = Ordered(energy_wh, value_micro)
            case _:
                raise RestoreError("schedule numbers: a sum is not laid out as version 2")
    return newest, gone
