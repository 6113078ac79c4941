"""Who beside us moves or bounds the power of an EVSE, and what the plan may count on then. Pure.

OCPP 2.0.1 and 2.1 part 2, K12 and K13 (limits of others), Q05, Q06 and Q09 (2.1: others' setpoints). An energy
management system at the site may give a charger limits or setpoints of its own; the charger tells the limits
(NotifyChargingLimit) and, in 2.1, in which operation mode it is. What others hold back is not ours to raise, and what
they move is not ours to order; a cap of ours still holds, since the lowest of all limits rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drivers.ocpp.errors import quoted
from drivers.ocpp.messages import ChargingSchedule, NotifyChargingLimit
from drivers.ocpp.profiles import LARGEST, TOLERANCE_W, Held
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import parse_timestamp_us
from drivers.ocpp.v2x import Mode, Period, read_period

OTHERS_MOVE: Final = frozenset(
    {Mode.EXTERNAL_SETPOINT, Mode.EXTERNAL_LIMITS, Mode.LOCAL_LOAD_BALANCING, Mode.LOCAL_FREQUENCY}
)
MOST_SOURCES: Final = 8
MOST_SPANS: Final = 200
"""Of one source: a day in quarters of an hour, twice."""


@dataclass(frozen=True, slots=True)
class Span:
    """What somebody allows from a moment to another, W; None: no word on that side, or without end."""

    start_us: int
    end_us: int | None
    highest_w: int | None
    lowest_w: int | None

    def holds(self, wall_us: int) -> bool:
        return self.start_us <= wall_us and (self.end_us is None or wall_us < self.end_us)


class Outside:
    """Of one EVSE. Lives over connections, as the limits of others do in the charger."""

    def __init__(self, settings: ChargerSettings) -> None:
        self._settings = settings
        self._limits: dict[str, tuple[Span, ...]] = {}
        self.mode = Mode.CHARGING_ONLY
        """In which the charger says that it is."""

    def booted(self) -> None:
        """The charger has started anew, and tells anew who limits it."""
        self._limits.clear()
        self.mode = Mode.CHARGING_ONLY

    def shown(self, mode: str | None) -> None:
        """By a transaction's event or a composite schedule; None: it does not say (2.0.1)."""
        if mode is not None:
            self.mode = Mode(mode)

    def limited(self, message: NotifyChargingLimit, wall_us: int) -> bool:
        """NotifyChargingLimit. False: it is no limit, but power of the site's own that comes on top (2.1)."""
        told = message["chargingLimit"]
        if told.get("isLocalGeneration", False):
            return False
        source = quoted(told["chargingLimitSource"], 20)
        spans = [span for schedule in message.get("chargingSchedule", ()) for span in self._spans(schedule, wall_us)]
        if source in self._limits or len(self._limits) < MOST_SOURCES:
            self._limits[source] = tuple(spans[:MOST_SPANS])
        return True

    def cleared(self, source: str) -> None:
        """ClearedChargingLimit."""
        self._limits.pop(quoted(source, 20), None)

    def within(self, lowest_w: int, highest_w: int, wall_us: int) -> tuple[int, int]:
        """What others leave now of these ratings: zero or negative, and zero or positive."""
        now = [span for spans in self._limits.values() for span in spans if span.holds(wall_us)]
        highest = [max(0, span.highest_w) for span in now if span.highest_w is not None]
        lowest = [min(0, span.lowest_w) for span in now if span.lowest_w is not None]
        return max(lowest_w, *lowest, lowest_w), min(highest_w, *highest, highest_w)

    def moves(self, ordered: Mode | None) -> Mode | None:
        """The mode in which others, or the charger by itself, move the power. `ordered`: what we have it hold."""
        return self.mode if self.mode in OTHERS_MOVE and self.mode is not ordered else None

    def _spans(self, schedule: ChargingSchedule, wall_us: int) -> list[Span]:
        settings = self._settings

        def watts(value: float, phases: int | None) -> int:
            if not abs(value) < LARGEST:
                return LARGEST if value > 0 else -LARGEST
            per_unit = 1 if schedule["chargingRateUnit"] == "W" else settings.nominal_voltage_v
            return round(value * per_unit * (1 if per_unit == 1 else phases or len(settings.phases)))

        start_us = parse_timestamp_us(schedule["startSchedule"]) if "startSchedule" in schedule else wall_us
        end_us = start_us + int(schedule["duration"]) * 1_000_000 if "duration" in schedule else None
        periods = sorted(schedule["chargingSchedulePeriod"], key=lambda period: period["startPeriod"])[:MOST_SPANS]
        starts = [start_us + int(period["startPeriod"]) * 1_000_000 for period in periods]
        spans = []
        for period, begins_us, ends_us in zip(periods, starts, [*starts[1:], end_us], strict=True):
            shown = read_period(period, watts)
            lowest_w = shown.lowest_w if "dischargeLimit" in period else None
            highest_w = shown.power_w if "limit" in period or shown.mode is Mode.IDLE else None
            spans.append(Span(begins_us, ends_us, highest_w, lowest_w))
        return spans


def holds_as_cap(held: Held, period: Period) -> bool:
    """Whether a charger that others move stays below the cap that it was given: below it, the power is theirs."""
    told_w = period.told_w
    moved = held.mode in OTHERS_MOVE and period.mode not in OTHERS_MOVE
    return moved and told_w is not None and told_w >= 0 and -1 <= held.now_w <= told_w + (TOLERANCE_W if told_w else 0)
