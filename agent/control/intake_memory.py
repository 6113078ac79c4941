"""What the next answers to the platform go by, as it is recorded."""

from __future__ import annotations

from dataclasses import dataclass

from agent.control.answers import AnswersMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingMemory:
    """One message that cannot be judged yet."""

    message: bytes
    device_id: str | None
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeMemory:
    """All of it."""

    started_s: float
    flooded: bool
    answers: AnswersMemory
    undecided: tuple[WaitingMemory, ...]
