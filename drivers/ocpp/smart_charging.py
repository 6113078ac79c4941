"""What a charger tells about limits that are not the car's: others' limits, the car's plan, profiles it holds. Pure.

Blocks K11 to K13, K23, K27 and K29 (limits from outside, local generation, both moved all the time), K09 (profiles
reported), K15 to K17 (the car's schedule), of one EVSE.
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
NEWS_PERCENT: Final = 10
"""Of the rating, by which a limit moves until people are told again."""
MOST_PROFILES: Final = 200
"""In one report; chargers hold some tens at most."""


@dataclass(frozen=True, slots=True)
class ExternalLimit:
    """Somebody else's word on what an EVSE may take."""

    source: str
    limit_w: int | None
    """None: it did not say how much."""
    grid_critical: bool
    local_generation: bool = False
    """It is no limit but what is generated beside the charger, which may be taken on top (K27, 2.1)."""

    def sentence(self) -> str:
        """For a person."""
        if self.local_generation:
            how_much = "some power" if self.limit_w is None else f"{self.limit_w} W"
            return f"{self.source} tells of {how_much} generated beside it"
        how_much = "less than was set here" if self.limit_w is None else f"no more than {self.limit_w} W"
        critical = ", critical for the grid" if self.grid_critical else ""
        return f"{self.source} limits it to {how_much}{critical}"


class SmartCharging:
    """Lives over connections: a charger that comes back does not tell again who limits it."""

    def __init__(self, settings: ChargerSettings) -> None:
        self._settings = settings
        self.external: dict[tuple[str, bool], ExternalLimit] = {}
        """By source (EMS, SO, ...), and whether it is local generation."""
        self._told: dict[tuple[str, bool], ExternalLimit] = {}
        self.held_w: int | None = None
        """The cap that the EVSE holds of ours; None: none, or it is to discharge."""
        self.say_again = False
        """The charger is to be told once more what holds (K16): its car or its driver has changed something."""
        self._start_ordered = False
        self._asked: int | None = None
        self._reported: list[ChargingProfile] = []
        self._report_ended = False

    def booted(self) -> None:
        """The charger has started anew, and tells anew what limits it."""
        self.external.clear()
        self._told.clear()
        self._asked = None

    def limited(self, message: NotifyChargingLimit) -> tuple[ExternalLimit, bool]:
        """NotifyChargingLimit (K11, K12), and whether it is news for a person: a limit that somebody moves every few
        seconds (K29) is none each time."""
        told = message["chargingLimit"]
        limits = [self._lowest_w(schedule) for schedule in message.get("chargingSchedule", ())]
        known = [limit for limit in limits if limit is not None]
        limit = ExternalLimit(
            quoted(told["chargingLimitSource"], 20),
            min(known) if known else None,
            bool(told.get("isGridCritical", False)),
            bool(told.get("isLocalGeneration", False)),
        )
        key = limit.source, limit.local_generation
        if key not in self.external and len(self.external) >= MOST_SOURCES:
            return limit, False
        self.external[key] = limit
        news = self._is_news(self._told.get(key), limit)
        if news:
            self._told[key] = limit
        return limit, news

    def cleared(self, source: str) -> bool:
        """ClearedChargingLimit (K13). Whether it was known."""
        keys = [(quoted(source, 20), generation) for generation in (False, True)]
        known = [self.external.pop(key, None) is not None for key in keys]
        for key in keys:
            self._told.pop(key, None)
        return any(known)

    def _is_news(self, told: ExternalLimit | None, limit: ExternalLimit) -> bool:
        if told is None or told.grid_critical is not limit.grid_critical:
            return True
        if told.limit_w is None or limit.limit_w is None:
            return told.limit_w is not limit.limit_w
        return abs(told.limit_w - limit.limit_w) * 100 > NEWS_PERCENT * self._settings.import_rating_w

    def planned(self, schedule: ChargingSchedule) -> bool:
        """NotifyEVChargingSchedule: whether what the car plans stays within the cap that it was given (K15.FR.10)."""
        most_w = self._highest_w(schedule)
        if self.held_w is None or most_w is None or most_w <= self.held_w + TOLERANCE_W:
            return True
        self.say_again = True
        return False

    def start_ordered(self, *, transaction_runs: bool) -> None:
        """A transaction was ordered with a limit of its own (K05): that goes before what the EVSE was told earlier, and
        before what it is told until the transaction begins."""
        self._start_ordered = not transaction_runs
        self.say_again |= transaction_runs

    def transaction_began(self) -> None:
        """What holds for it is told by its number, where its start brought an older limit."""
        self.say_again |= self._start_ordered
        self._start_ordered = False

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
