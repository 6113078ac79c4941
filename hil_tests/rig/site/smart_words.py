"""What a charger says of smart charging by itself: its car's needs and plans, its driver's wish, others' limits.

Blocks K and Q, in the wire's own names.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .charging_needs import Told, charging_needs
from .profiles import rfc3339
from .schedule import ProfileRefusedError, Step

if TYPE_CHECKING:
    from .charger import Charger

EVSE_ID: Final = 1
PULL_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Raw:
    """A request in the wire's own names; its answer comes as a payload."""

    action: str
    payload: dict[str, Any]


class SmartWords:
    """Of one charger."""

    def __init__(self, charger: Charger) -> None:
        self._charger = charger
        self.pulls_answered = 0
        """Pulls of dynamic profiles that brought an update."""
        self._pulled_s: dict[int, float] = {}

    def needs(self) -> None:
        """What the car told the charger (K15, K18; K20 when it changed)."""
        if self._charger.evse.car is not None:
            told = Told(
                self._charger.extended,
                self._charger.settings.per_phase,
                self._charger.energy_transfer,
                self._charger.now_s,
            )
            needs = charging_needs(self._charger.evse, self._charger.evse.car, told)
            self._charger.say(Raw("NotifyEVChargingNeeds", {"evseId": EVSE_ID, "chargingNeeds": needs}))

    def schedule(self) -> None:
        """What the car makes of the first profile of its transaction (K15.FR.08): it plans with all it may have."""
        transaction = self._charger.transaction
        if transaction is None or transaction.schedule_told or not self._charger.extended:
            return
        transaction.schedule_told = True
        power_w = self._charger.profiles.limit_w(
            self._charger.now_s, transaction.start_s, self._charger.grid.frequency_hz
        )
        period = {
            "startPeriod": 0,
            "limit": round(self._charger.evse.rated_w if power_w is None else max(0.0, power_w), 1),
        }
        schedule = {"id": 1, "duration": 3600, "chargingRateUnit": "W", "chargingSchedulePeriod": [period]}
        told = {"timeBase": rfc3339(self._charger.now_s), "evseId": EVSE_ID, "chargingSchedule": schedule}

        def answered(answer: Any) -> None:
            transaction.schedule_answer = None if answer is None else answer["status"]

        self._charger.say(Raw("NotifyEVChargingSchedule", told), answered)

    def pull(self, profile_id: int) -> None:
        """Ask for the values of a dynamic profile that have not come for too long (K28.FR.10)."""
        asked_s = self._charger.now_s
        self._pulled_s[profile_id] = asked_s

        def answered(answer: Any) -> None:
            if answer is not None and answer["status"] == "Accepted" and "scheduleUpdate" in answer:
                with suppress(ProfileRefusedError):  # cleared meanwhile
                    self._charger.profiles.update(profile_id, answer["scheduleUpdate"], self._charger.now_s)
                    self.pulls_answered += 1

        self._charger.say(Raw("PullDynamicScheduleUpdate", {"chargingProfileId": profile_id}), answered)

    def pull_what_is_due(self) -> None:
        """Once for what is missing, and again after a second where the CSMS had nothing."""
        for profile_id in self._charger.profiles.to_pull(self._charger.now_s):
            if self._charger.now_s >= self._pulled_s.get(profile_id, 0.0) + PULL_AGAIN_S:
                self.pull(profile_id)

    def allowed(self, modes: frozenset[str]) -> None:
        """The CSMS said what the car may do; it is asked for its needs again under that (Q01, Q02)."""
        if modes != self._charger.energy_transfer:
            self._charger.energy_transfer = modes
            self.needs()

    def press_priority(self, *, activated: bool) -> None:
        """The driver wants to charge now, or no longer (K22). Nothing happens without a transaction or in 2.0.1."""
        if self._charger.transaction is not None and self._charger.extended:
            self._charger.profiles.priority = activated
            told = {"transactionId": self._charger.transaction.transaction_id, "activated": activated}
            self._charger.say(Raw("NotifyPriorityCharging", told))

    def limit_from_outside(self, limit_w: float | None) -> None:
        """An energy management system beside the CSMS limits the outlet; None: no longer (K11 to K13)."""
        self._charger.profiles.external_w = limit_w
        self._told_from_outside(None if limit_w is None else {"startPeriod": 0, "limit": limit_w})

    def move_from_outside(self, step: Step | None) -> None:
        """An energy management system moves the power within its own limits, in a mode of its own (Q06); None: no
        longer."""
        self._charger.profiles.outside = step
        self._told_from_outside(
            None if step is None else step.as_wire(0, 1.0, self._charger.evse.phases, extended=True, per_phase=False)
        )

    def _told_from_outside(self, period: dict[str, Any] | None) -> None:
        if period is None:
            self._charger.say(Raw("ClearedChargingLimit", {"chargingLimitSource": "EMS", "evseId": EVSE_ID}))
            return
        schedule = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [period]}
        limit = {"chargingLimitSource": "EMS", "isGridCritical": False}
        self._charger.say(
            Raw("NotifyChargingLimit", {"evseId": EVSE_ID, "chargingLimit": limit, "chargingSchedule": [schedule]})
        )
