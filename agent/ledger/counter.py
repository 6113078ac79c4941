"""What a hardware counter tells of the store beside it: whether this store is its newest life, or a copy that was left
behind.

Before the counter is raised, the value that it will have is committed; after it, that it has been. A crash anywhere
leaves a counter that stands at one of the two. A copy of the store made before knows neither. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.evidence import cbor
from agent.evidence.errors import MalformedError
from agent.evidence.fields import Fields
from agent.ledger.errors import LedgerError

_VERSION = 1


class Standing(Enum):
    """How counter and store stand to each other."""

    AGREED = "agreed"
    UNBOUND = "unbound"
    """The store has never been in step with the platform beside a counter: the platform must answer first."""
    AHEAD = "ahead"
    """Another life of the store raised it: this one is a copy that was left behind."""
    BEHIND = "behind"
    """It is another counter: a counter never falls."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of the counter."""

    value: int
    intended: int | None = None
    """It is about to be raised to this."""

    def encode(self) -> bytes:
        """For a note."""
        return cbor.encode([_VERSION, self.value, self.intended])


def decode_known(encoded: bytes) -> Known:
    """Raises LedgerError."""
    try:
        value = cbor.decode(encoded, what="counter note")
        if not isinstance(value, list):
            raise TypeError("not an array")
        f = Fields(value)
        if (version := f.count()) != _VERSION:
            raise ValueError(f"format version {version} is not known here")
        known = Known(f.count(), f.number_or_none())
        f.end()
    except (MalformedError, ValueError, TypeError) as error:
        raise LedgerError(f"what the store knows of the counter cannot be read: {str(error)[:200]}") from error
    if known.intended is not None and known.intended <= known.value:
        raise LedgerError("what the store knows of the counter contradicts itself")
    return known


def compare(known: Known | None, counter: int) -> Standing:
    """How they stand. Between the intent and its confirmation either value is ours."""
    if known is None:
        return Standing.UNBOUND
    if counter in (known.value, known.intended):
        return Standing.AGREED
    return Standing.AHEAD if counter > known.value else Standing.BEHIND
