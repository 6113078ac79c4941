"""What a person should see to: noted once it is known, gone once it is solved."""

from __future__ import annotations

import structlog

from agent.status import Problem, Verdict

log = structlog.get_logger()


class Problems:
    """By subject; one sentence each."""

    def __init__(self) -> None:
        self._noted: dict[str, Problem] = {}

    def note(self, subject: str, sentence: str) -> None:
        """Something that a person should see to."""
        if subject not in self._noted:
            log.warning("gateway.problem", subject=subject, sentence=sentence)
        self._noted[subject] = Problem(severity=Verdict.ATTENTION, subject=subject, sentence=sentence)

    def solved(self, subject: str) -> None:
        """Nobody needs to see to it any more."""
        self._noted.pop(subject, None)

    @property
    def noted(self) -> tuple[Problem, ...]:
        """What is open now."""
        return tuple(self._noted.values())
