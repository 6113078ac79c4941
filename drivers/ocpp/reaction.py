"""What a message of a charger leads to: its answer, and what else is to be done. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.device import Sample
from drivers.ocpp.errors import ErrorCode
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.session import Notice, Outcome


@dataclass(slots=True)
class Reaction:
    """What a message leads to: exactly one of `answer` and `refusal`, and what else is to be done."""

    answer: JsonObject | None = None
    refusal: tuple[ErrorCode, str] | None = None
    samples: list[Sample] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    booted: bool = False
    """The charger has started anew: profiles and variables may be gone from it."""
    remember: bool = False
    """`StationSession.encode` says something new that must survive a restart."""
    model_changed: bool = False
    """The device model is different now; it is kept by itself."""

    def add(self, outcome: Outcome) -> None:
        """What came of it at one EVSE."""
        self.samples += outcome.samples
        self.notices += outcome.notices
        self.remember |= outcome.changed
