"""What was answered and when: a message that comes again gets the same receipt, no more often than is of use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.evidence.statements import CommandReceipt

REPEAT_RECEIPTS_S: Final = 10.0
"""A command that comes again within this time is not answered again."""
REFUSALS_PER_S: Final = 10.0
REFUSALS_AT_ONCE: Final = 100
"""Receipts for refused messages; beyond this they are counted, and one alarm says so."""
MOST_REFUSALS_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersMemory:
    """What answers go by, for the record of decisions."""

    answered: Mapping[bytes, float]
    refusals: tuple[CommandReceipt, ...]
    """In the order in which they were given."""
    refused: tuple[bytes, ...]
    """What each of them is for."""
    left: float
    refilled_s: float


class Answers:
    """One for the gateway; times are monotonic, keys are hashes of messages or orders. Bounded, whatever comes."""

    def __init__(self, now_s: float) -> None:
        self._answered: dict[bytes, float] = {}
        self._refusals: dict[bytes, CommandReceipt] = {}
        """Receipts for messages that were refused before any signature held, the oldest first."""
        self._left, self._refilled_s = float(REFUSALS_AT_ONCE), now_s

    def memory(self) -> AnswersMemory:
        """All that the next answers go by."""
        return AnswersMemory(
            answered=dict(self._answered),
            refusals=tuple(self._refusals.values()),
            refused=tuple(self._refusals),
            left=self._left,
            refilled_s=self._refilled_s,
        )

    def recall(self, memory: AnswersMemory) -> None:
        """Go on from there."""
        self._answered = dict(memory.answered)
        self._refusals = dict(zip(memory.refused, memory.refusals, strict=True))
        self._left, self._refilled_s = memory.left, memory.refilled_s

    def note(self, key: bytes, now_s: float) -> None:
        """It is answered now."""
        self._answered[key] = now_s

    def is_due(self, key: bytes, now_s: float) -> bool:
        """Whether the last answer is long enough ago for another one."""
        return now_s - self._answered.get(key, float("-inf")) >= REPEAT_RECEIPTS_S

    def forget(self, key: bytes) -> None:
        self._answered.pop(key, None)

    def refusal(self, key: bytes) -> CommandReceipt | None:
        """The receipt that this message was refused with before."""
        return self._refusals.get(key)

    def keep_refusal(self, key: bytes, receipt: CommandReceipt) -> None:
        self._refusals[key] = receipt
        while len(self._refusals) > MOST_REFUSALS_KEPT:
            oldest = next(iter(self._refusals))
            del self._refusals[oldest]
            self.forget(oldest)

    def may_refuse(self, now_s: float) -> bool:
        """Whether one more refusal may be answered; takes its place when it may."""
        self._left = min(float(REFUSALS_AT_ONCE), self._left + (now_s - self._refilled_s) * REFUSALS_PER_S)
        self._refilled_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
