"""Replay windows: which sequence numbers of an issuer were already used. One window per issuer key and audience.

A sliding window as in IPsec (RFC 4303 section 3.4.3): the highest number and a bit for each of the numbers below it. A
new epoch starts the numbers anew and closes the old ones for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from agent.control.errors import RestoreError
from agent.evidence import cbor
from agent.evidence.errors import MalformedError

WIDTH: Final = 1024
"""Numbers that may still arrive out of order below the highest one."""


class Freshness(Enum):
    """What a sequence number is to a window."""

    FRESH = "fresh"
    USED = "used before"
    TOO_OLD = "older than the replay window"
    OLD_EPOCH = "of an epoch that has been replaced"


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """What was used. Bit i of `used` is the number `highest - i`."""

    issuer_key: bytes
    audience: str
    epoch: int = 0
    highest: int = -1
    used: int = 0

    def judge(self, epoch: int, sequence: int) -> Freshness:
        """Whether a command with these numbers can be a new one."""
        if epoch < self.epoch:
            return Freshness.OLD_EPOCH
        if epoch > self.epoch or sequence > self.highest:
            return Freshness.FRESH
        behind = self.highest - sequence
        if behind >= WIDTH:
            return Freshness.TOO_OLD
        return Freshness.USED if self.used >> behind & 1 else Freshness.FRESH

    def after(self, epoch: int, sequence: int) -> ReplayWindow:
        """The window once a fresh number has been used."""
        if epoch > self.epoch:
            return ReplayWindow(self.issuer_key, self.audience, epoch, sequence, 1)
        if sequence > self.highest:
            shifted = self.used << min(sequence - self.highest, WIDTH) | 1
            return ReplayWindow(self.issuer_key, self.audience, epoch, sequence, shifted & (1 << WIDTH) - 1)
        used = self.used | 1 << (self.highest - sequence)
        return ReplayWindow(self.issuer_key, self.audience, epoch, self.highest, used)

    def joined(self, other: ReplayWindow) -> ReplayWindow:
        """What either has seen: a window restored late meets the one that was begun without it."""
        newer, older = (self, other) if (self.epoch, self.highest) >= (other.epoch, other.highest) else (other, self)
        if newer.epoch > older.epoch:
            return newer
        shifted = older.used << min(newer.highest - older.highest, WIDTH)
        used = (newer.used | shifted) & (1 << WIDTH) - 1
        return ReplayWindow(newer.issuer_key, newer.audience, newer.epoch, newer.highest, used)

    def encode(self) -> bytes:
        """For the store."""
        bits = self.used.to_bytes(WIDTH // 8)
        return cbor.encode([1, self.issuer_key, self.audience, self.epoch, self.highest, bits])


def decode_window(note: bytes) -> ReplayWindow:
    """A stored window. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="replay window")
    except MalformedError as error:
        raise RestoreError(str(error)) from error
    match value:
        case [1, bytes(key), str(audience), int(epoch), int(highest), bytes(bits)] if len(bits) == WIDTH // 8:
            return ReplayWindow(key, audience, epoch, highest, int.from_bytes(bits))
    raise RestoreError("replay window: not laid out as version 1")
