"""What a charger tells about limits that are not the car's: others' limits, the car's plan, profiles it holds. Pure.

Blocks K11 to K13 (external limits), K09 (profiles reported), K15 to K17 (the car's schedule), of one EVSE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drivers.ocpp.errors import quoted
from drivers.ocpp.messages import ChargingProfile, ChargingSchedule, NotifyChargingLimit, ReportChargingProfiles
from drivers.ocpp.profiles import LARGEST, TOLERANCE_W
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import read_period

MOST_SOURCES: Final = 8
MOST_PROFILES: Final = 200
"""In one report; chargers hold some tens at most."""


@dataclass(frozen=True, slots=True)
class ExternalLimit:
    """Somebody else's word on what an EVSE may take."""

    source: str
    limit_w: int | None
    """None: it did not say how much."""
    grid_critical: bool

    def sentence(self) -> str:
        """For a person."""
        how_much = "less than was set here" if self.limit_w is None else f"no more than {self.limit_w} W"
        critical = ", critical for the grid" if self.grid_critical else ""
        return f"{self.source} limits it to {how_much}{critical}"


class SmartCharging:
    """Lives over connections: a charger that comes back does not tell again who limits it."""

    def __init__(self, settings: ChargerSettings) -> None:
        self._settings = settings
        self.external: dict[str, ExternalLimit] = {}
        """By source (EMS, SO, ...)."""
        self.held_w: int | None = None
        """The cap that the EVSE holds of ours; None: none, or it is to discharge."""
        self.say_again = False
        """The charger is to be told once more what holds (K16): its car or its driver has changed something."""
        self._asked: int | None = None
        self._reported: list[ChargingProfile] = []
        self._report_ended = False

    def booted(self) -> None:
        """The charger has started anew, and tells anew what limits it."""
        self.external.clear()
        self._asked = None

    def limited(self, message: NotifyChargingLimit) -> ExternalLimit:
        """NotifyChargingLimit (K12, K13)."""
        told = message["chargingLimit"]
        limits = [self._lowest_w(schedule) for schedule in message.get("chargingSchedule", ())]
        known = [limit for limit in limits if limit is not None]
        source = quoted(told["chargingLimitSource"], 20)
        limit = ExternalLimit(source, min(known) if known else None, bool(told.get("isGridCritical", False)))
        if source in self.external or len(self.external) < MOST_SOURCES:
            self.external[source] = limit
        return limit

    def cleared(self, source: str) -> bool:
        """ClearedChargingLimit (K13). Whether it was known."""
        return self.external.pop(quoted(source, 20), None) is not None

    def planned(self, schedule: ChargingSchedule) -> bool:
        """NotifyEVChargingSchedule: whether what the car plans stays within the cap that it was given (K15.FR.10)."""
        most_w = self._highest_w(schedule)
        if self.held_w is None or most_w is None or most_w <= self.held_w + TOLERANCE_W:
            return True
        self.say_again = True
        return False

    # --- GetChargingProfiles

    def expect(self, request_id: int) -> None:
        """A report was asked for."""
        self._asked, self._reported, self._report_ended = request_id, [], False

    def reported(self, message: ReportChargingProfiles) -> None:
        """ReportChargingProfiles (K09); one that nobody asked for is left."""
        if int(message["requestId"]) != self._asked:
            return
        self._reported += message["chargingProfile"][: MOST_PROFILES - len(self._reported)]
        self._report_ended = not message.get("tbc", False)

    def report(self) -> Sequence[ChargingProfile] | None:
        """The profiles, once all have come."""
        return self._reported if self._report_ended else None

    # --- inside

    def _watts(self, schedule: ChargingSchedule) -> list[int]:
        settings, unit = self._settings, schedule["chargingRateUnit"]

        def watts(value: float, phases: int | None) -> int:
            if not abs(value) < LARGEST:
                return LARGEST
            per_unit = 1 if unit == "W" else settings.nominal_voltage_v * (phases or len(settings.phases))
            return round(value * per_unit)

        shown = [read_period(period, watts).power_w for period in schedule["chargingSchedulePeriod"]]
        return [power_w for power_w in shown if power_w is not None]

    def _lowest_w(self, schedule: ChargingSchedule) -> int | None:
        return min(self._watts(schedule), default=None)

    def _highest_w(self, schedule: ChargingSchedule) -> int | None:
        return max(self._watts(schedule), default=None)
