"""Who beside us moves or bounds the power of an EVSE, and what the plan may count on then. Pure.

OCPP 2.0.1 and 2.1 part 2, K11 to K13, K23, K27 and K29 (limits from outside, local generation, both moved all the
time), Q05, Q06 and Q09 (2.1: others' setpoints). An energy management system at the site may give a charger limits or
setpoints of its own; the charger tells the limits (NotifyChargingLimit) and, in 2.1, in which operation mode it is.
What others hold back is not ours to raise, and what they move is not ours to order; a cap of ours still holds, since
the lowest of all limits rules.
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
NEWS_PERCENT: Final = 10
"""Of the rating, by which a limit moves until people are told again."""
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


@dataclass(slots=True)
class _Told:
    limit: ExternalLimit
    spans: tuple[Span, ...]
    said: ExternalLimit
    """What people heard of it last."""


class Outside:
    """Of one EVSE. Lives over connections, as the limits of others do in the charger."""

    def __init__(self, settings: ChargerSettings) -> None:
        self._settings = settings
        self._told: dict[tuple[str, bool], _Told] = {}
        """By source (EMS, SO, ...), and whether it is local generation."""
        self.mode = Mode.CHARGING_ONLY
        """In which the charger says that it is."""

    def booted(self) -> None:
        """The charger has started anew, and tells anew who limits it."""
        self._told.clear()
        self.mode = Mode.CHARGING_ONLY

    @property
    def limits(self) -> list[ExternalLimit]:
        """Of all sources that have not let go."""
        return [told.limit for told in self._told.values()]

    def shown(self, mode: str | None) -> None:
        """By a transaction's event or a composite schedule; None: it does not say (2.0.1)."""
        if mode is not None:
            self.mode = Mode(mode)

    def limited(self, message: NotifyChargingLimit, wall_us: int) -> tuple[ExternalLimit, bool]:
        """NotifyChargingLimit, and whether it is news for a person: a limit that somebody moves every few seconds (K29)
        is none each time."""
        told = message["chargingLimit"]
        spans = [span for schedule in message.get("chargingSchedule", ()) for span in self._spans(schedule, wall_us)]
        limit = ExternalLimit(
            quoted(told["chargingLimitSource"], 20),
            min((span.highest_w for span in spans if span.highest_w is not None), default=None),
            bool(told.get("isGridCritical", False)),
            bool(told.get("isLocalGeneration", False)),
        )
        key = limit.source, limit.local_generation
        before = self._told.get(key)
        if before is None and len(self._told) >= MOST_SOURCES:
            return limit, False
        news = before is None or self._is_news(before.said, limit)
        said = limit if before is None or news else before.said
        self._told[key] = _Told(limit, tuple(spans[:MOST_SPANS]), said)
        return limit, news

    def cleared(self, source: str) -> bool:
        """ClearedChargingLimit. Whether it was known."""
        known = [self._told.pop((quoted(source, 20), generation), None) for generation in (False, True)]
        return any(told is not None for told in known)

    def within(self, lowest_w: int, highest_w: int, wall_us: int) -> tuple[int, int]:
        """What others leave now of these ratings: zero or negative, and zero or positive."""
        bounds = [told for told in self._told.values() if not told.limit.local_generation]  # that comes on top
        now = [span for told in bounds for span in told.spans if span.holds(wall_us)]
        highest = [max(0, span.highest_w) for span in now if span.highest_w is not None]
        lowest = [min(0, span.lowest_w) for span in now if span.lowest_w is not None]
        return max(lowest_w, *lowest, lowest_w), min(highest_w, *highest, highest_w)

    def moves(self, ordered: Mode | None) -> Mode | None:
        """The mode in which others, or the charger by itself, move the power. `ordered`: what we have it hold."""
        return self.mode if self.mode in OTHERS_MOVE and self.mode is not ordered else None

    def _is_news(self, said: ExternalLimit, limit: ExternalLimit) -> bool:
        if said.grid_critical is not limit.grid_critical:
            return True
        if said.limit_w is None or limit.limit_w is None:
            return said.limit_w is not limit.limit_w
        return abs(said.limit_w - limit.limit_w) * 100 > NEWS_PERCENT * self._settings.import_rating_w

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
