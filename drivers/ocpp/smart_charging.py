"""What an EVSE holds of us, and what it and its car say about that: the car's plan, the profiles it holds. Pure.

Blocks K09 (profiles reported), K15 to K17 (the car's schedule), K05 (a start with a limit). Others' limits: `outside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from drivers.ocpp.messages import ChargingProfile, ChargingSchedule, ReportChargingProfiles
from drivers.ocpp.profiles import LARGEST, TOLERANCE_W
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import read_period

MOST_PROFILES: Final = 200
"""In one report; chargers hold some tens at most."""


class SmartCharging:
    """Lives over connections."""

    def __init__(self, settings: ChargerSettings) -> None:
        self._settings = settings
        self.held_w: int | None = None
        """The cap that the EVSE holds of ours; None: none, or it is to discharge."""
        self.say_again = False
        """The charger is to be told once more what holds (K16): its car or its driver has changed something."""
        self._start_ordered = False
        self._asked: int | None = None
        self._reported: list[ChargingProfile] = []
        self._report_ended = False

    def booted(self) -> None:
        """The charger has started anew: what it was asked before it does not answer any more."""
        self._asked = None

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

    def _highest_w(self, schedule: ChargingSchedule) -> int | None:
        return max(self._watts(schedule), default=None)
