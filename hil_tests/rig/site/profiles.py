"""Charging profiles as a charger holds them: installed, cleared, stacked, and the limit in force at a moment. Pure.

Source: OCPP 2.0.1 part 2, functional block K (K01 set, K08 composite schedule, K09 report, K10 clear).
Times are Unix seconds; powers are W at the outlet, + charging, - discharging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

MOST_PROFILES: Final = 20
HIGHEST_STACK_LEVEL: Final = 9
PERIOD_OF_RECURRENCE_S: Final = {"Daily": 86_400.0, "Weekly": 604_800.0}


class Purpose(StrEnum):
    STATION_MAX = "ChargingStationMaxProfile"
    TX_DEFAULT = "TxDefaultProfile"
    TX = "TxProfile"


class ProfileRefusedError(Exception):
    """A profile that this charger does not take. `reason` is the statusInfo.reasonCode."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Outlet:
    """What the profiles act on."""

    evse_id: int
    rated_w: float
    rated_export_w: float
    """Zero: a negative limit is refused."""
    phases: int
    line_voltage_v: float

    def watts(self, limit: float, unit: str, phases: int | None) -> float:
        return limit if unit == "W" else limit * (phases or self.phases) * self.line_voltage_v


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One installed profile; its periods in W."""

    profile_id: int
    evse_id: int
    purpose: Purpose
    stack_level: int
    transaction_id: str | None
    start_s: float | None
    """Start of the schedule; None: relative, counted from `active_from_s` or the transaction's start."""
    recurrence_s: float | None
    duration_s: float | None
    valid_from_s: float
    valid_to_s: float
    periods: tuple[tuple[float, float], ...]
    """(seconds from the schedule's start, W), ascending."""
    received_s: float
    source: Mapping[str, Any]
    """As received, to be reported back."""

    def origin_s(self, at_s: float, transaction_start_s: float | None) -> float:
        """Start of the schedule that counts at `at_s`."""
        if self.start_s is None:
            return max(self.received_s, transaction_start_s or 0.0)
        if self.recurrence_s is None or at_s < self.start_s:
            return self.start_s
        return self.start_s + (at_s - self.start_s) // self.recurrence_s * self.recurrence_s

    def limit_w(self, at_s: float, transaction_start_s: float | None) -> float | None:
        """The limit that the profile sets at `at_s`; None when it says nothing then."""
        if not self.valid_from_s <= at_s < self.valid_to_s:
            return None
        offset = at_s - self.origin_s(at_s, transaction_start_s)
        if offset < 0 or (self.duration_s is not None and offset >= self.duration_s):
            return None
        limit = None
        for start, watts in self.periods:
            if offset >= start:
                limit = watts
        return limit

    def changes_s(self, from_s: float, to_s: float, transaction_start_s: float | None) -> Iterable[float]:
        """Moments between which the limit does not change."""
        yield from (self.valid_from_s, self.valid_to_s)
        origin = self.origin_s(from_s, transaction_start_s)
        while origin < to_s:
            yield from (origin + start for start, _ in self.periods)
            if self.duration_s is not None:
                yield origin + self.duration_s
            if self.recurrence_s is None:
                return
            origin += self.recurrence_s


class ProfileStore:
    """The profiles of one outlet (and of the station, evse 0)."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self._profiles: dict[int, Profile] = {}

    def install(self, evse_id: int, wire: Mapping[str, Any], *, transaction_id: str | None, now_s: float) -> Profile:
        """Take a profile (keys as the `ocpp` package gives them), replacing one with its id.

        Raises ProfileRefusedError with what the specification names as reason.
        """
        profile = _parse(self.outlet, evse_id, wire, now_s)
        if profile.purpose is Purpose.TX:
            if evse_id == 0:
                raise ProfileRefusedError("InvalidProfile", "a TxProfile needs an EVSE")
            if transaction_id is None or profile.transaction_id != transaction_id:
                raise ProfileRefusedError("TxNotFound", f"transaction {profile.transaction_id!r} does not run here")
        elif profile.purpose is Purpose.STATION_MAX and evse_id != 0:
            raise ProfileRefusedError("InvalidProfile", "a ChargingStationMaxProfile is for EVSE 0")
        for other in self._profiles.values():
            same_place = (other.purpose, other.stack_level, other.evse_id) == (
                profile.purpose,
                profile.stack_level,
                evse_id,
            )
            overlap = other.valid_from_s < profile.valid_to_s and profile.valid_from_s < other.valid_to_s
            if other.profile_id != profile.profile_id and same_place and overlap:
                raise ProfileRefusedError(
                    "DuplicateProfile", f"profile {other.profile_id} has this purpose and stack level (K01.FR.39)"
                )
        if profile.profile_id not in self._profiles and len(self._profiles) >= MOST_PROFILES:
            raise ProfileRefusedError("TooManyProfiles", f"{MOST_PROFILES} are installed; clear some")
        self._profiles[profile.profile_id] = profile
        return profile

    def clear(self, profile_id: int | None, criteria: Mapping[str, Any] | None) -> int:
        """Remove by id, else by criteria (all given must fit; none removes all). Returns how many went."""
        if profile_id is not None:
            gone = [profile_id] if profile_id in self._profiles else []
        else:
            wanted = criteria or {}
            gone = [
                p.profile_id
                for p in self._profiles.values()
                if wanted.get("evse_id", p.evse_id) == p.evse_id
                and wanted.get("charging_profile_purpose", p.purpose) == p.purpose
                and wanted.get("stack_level", p.stack_level) == p.stack_level
            ]
        for key in gone:
            del self._profiles[key]
        return len(gone)

    def matching(self, evse_id: int | None, criterion: Mapping[str, Any]) -> list[Profile]:
        """The profiles that a GetChargingProfiles asks for."""
        sources = criterion.get("charging_limit_source")
        if sources is not None and "CSO" not in sources:
            return []
        return [
            p
            for p in self._profiles.values()
            if (evse_id is None or p.evse_id == evse_id)
            and criterion.get("charging_profile_purpose", p.purpose) == p.purpose
            and criterion.get("stack_level", p.stack_level) == p.stack_level
            and p.profile_id in criterion.get("charging_profile_id", [p.profile_id])
        ]

    def end_transaction(self) -> None:
        """TxProfiles go with their transaction."""
        self._profiles = {key: p for key, p in self._profiles.items() if p.purpose is not Purpose.TX}

    def forget_all(self) -> None:
        self._profiles.clear()

    def limit_w(self, at_s: float, transaction_start_s: float | None) -> float | None:
        """The limit in force at `at_s`; None when no profile says anything then.

        A TxProfile goes before any TxDefaultProfile; within a purpose the highest stack level that has a period at
        this moment leads; the station's maximum bounds the result.
        """
        in_transaction = self._leading(Purpose.TX, at_s, transaction_start_s)
        if in_transaction is None:
            in_transaction = self._leading(Purpose.TX_DEFAULT, at_s, transaction_start_s)
        of_station = self._leading(Purpose.STATION_MAX, at_s, transaction_start_s)
        limits = [limit for limit in (in_transaction, of_station) if limit is not None]
        return min(limits) if limits else None

    def composite(
        self, start_s: float, duration_s: int, transaction_start_s: float | None
    ) -> tuple[tuple[int, float], ...]:
        """What will be in force from `start_s` on, as (seconds from start, W), within the outlet's ratings."""
        end_s = start_s + duration_s
        moments = {0}
        for profile in self._profiles.values():
            for moment in profile.changes_s(start_s, end_s, transaction_start_s):
                if start_s < moment < end_s:
                    # Whole seconds on the wire: a change counts from the second after which it holds.
                    moments.add(int(-((start_s - moment) // 1)))
        periods: list[tuple[int, float]] = []
        for offset in sorted(moment for moment in moments if moment < duration_s):
            limit = self.limit_w(start_s + offset, transaction_start_s)
            watts = self._within_ratings(limit)
            if not periods or periods[-1][1] != watts:
                periods.append((offset, watts))
        return tuple(periods)

    def _within_ratings(self, limit: float | None) -> float:
        if limit is None:
            return self.outlet.rated_w
        return min(self.outlet.rated_w, max(-self.outlet.rated_export_w, limit))

    def _leading(self, purpose: Purpose, at_s: float, transaction_start_s: float | None) -> float | None:
        candidates = sorted(
            (p for p in self._profiles.values() if p.purpose is purpose),
            key=lambda p: (p.stack_level, p.evse_id, p.received_s),
            reverse=True,
        )
        for profile in candidates:
            limit = profile.limit_w(at_s, transaction_start_s)
            if limit is not None:
                return limit
        return None


def _parse(outlet: Outlet, evse_id: int, wire: Mapping[str, Any], now_s: float) -> Profile:
    try:
        purpose = Purpose(wire["charging_profile_purpose"])
    except ValueError:
        raise ProfileRefusedError("InvalidProfile", "this purpose is not for a CSMS to set") from None
    if evse_id not in (0, outlet.evse_id):
        raise ProfileRefusedError("UnknownEvse", f"there is no EVSE {evse_id}")
    if not 0 <= wire["stack_level"] <= HIGHEST_STACK_LEVEL:
        raise ProfileRefusedError("InvalidStackLevel", f"stack levels go to {HIGHEST_STACK_LEVEL}")
    schedule = wire["charging_schedule"][0]
    steps = schedule["charging_schedule_period"]
    starts = [step["start_period"] for step in steps]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise ProfileRefusedError("InvalidSchedule", f"periods start at {starts[:8]}; the first must be 0, then rising")
    unit = schedule["charging_rate_unit"]
    periods = tuple(
        (float(step["start_period"]), outlet.watts(float(step["limit"]), unit, step.get("number_phases")))
        for step in steps
    )
    if min(watts for _, watts in periods) < 0 and outlet.rated_export_w == 0:
        raise ProfileRefusedError("InvalidSchedule", "this EVSE cannot discharge: a limit below 0 means nothing to it")
    kind = wire["charging_profile_kind"]
    if kind == "Recurring" and "recurrency_kind" not in wire:
        raise ProfileRefusedError("InvalidProfile", "a Recurring profile needs a recurrencyKind")
    start = schedule.get("start_schedule")
    if kind == "Recurring" and start is None:
        raise ProfileRefusedError("InvalidSchedule", "a Recurring profile needs a startSchedule")
    if kind == "Absolute" and start is None:
        start_s: float | None = now_s
    else:
        start_s = None if start is None or kind == "Relative" else unix_s(start)
    duration = schedule.get("duration")
    return Profile(
        profile_id=wire["id"],
        evse_id=evse_id,
        purpose=purpose,
        stack_level=wire["stack_level"],
        transaction_id=wire.get("transaction_id"),
        start_s=start_s,
        recurrence_s=PERIOD_OF_RECURRENCE_S[wire["recurrency_kind"]] if kind == "Recurring" else None,
        duration_s=None if duration is None else float(duration),
        valid_from_s=unix_s(wire["valid_from"]) if "valid_from" in wire else float("-inf"),
        valid_to_s=unix_s(wire["valid_to"]) if "valid_to" in wire else float("inf"),
        periods=periods,
        received_s=now_s,
        source=dict(wire),
    )


def unix_s(text: str) -> float:
    """Unix seconds of an RFC 3339 time. Raises ProfileRefusedError on anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ProfileRefusedError("InvalidSchedule", f"{text[:40]!r} is not a time") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(moment_s: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
