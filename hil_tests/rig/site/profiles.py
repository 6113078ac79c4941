"""Charging profiles as a charger holds them: installed, cleared, stacked, and the limit in force at a moment. Pure.

Source: OCPP 2.0.1 and 2.1 part 2, functional block K (K01 set, K08 composite schedule, K09 report, K10 clear, K21
priority, K28 dynamic), Q11 and Q12 (offline). Keys are the wire's own, because the `ocpp` package loses some of 2.1's.
Times are Unix seconds; powers are W at the outlet, + charging, - discharging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from .schedule import MOVED_BESIDE, Mode, Outlet, ProfileRefusedError, Step, read_step

MOST_PROFILES: Final = 20
HIGHEST_STACK_LEVEL: Final = 9
NOMINAL_HZ: Final = 50.0
PERIOD_OF_RECURRENCE_S: Final = {"Daily": 86_400.0, "Weekly": 604_800.0}


class Purpose(StrEnum):
    STATION_MAX = "ChargingStationMaxProfile"
    TX_DEFAULT = "TxDefaultProfile"
    TX = "TxProfile"
    PRIORITY = "PriorityCharging"


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
    steps: tuple[Step, ...]
    """Ascending."""
    received_s: float
    most_offline_s: float | None
    """Says nothing once the charger has been offline for so long; None: for ever."""
    gone_after_offline: bool
    """And does not come back then."""
    source: Mapping[str, Any]
    """As received, to be reported back."""
    updated_s: float | None = None
    """dynUpdateTime of a dynamic profile; None: it is none."""
    pull_s: float | None = None
    """dynUpdateInterval; None: an update is never asked for."""

    def origin_s(self, at_s: float, transaction_start_s: float | None) -> float:
        """Start of the schedule that counts at `at_s`."""
        if self.updated_s is not None:
            return self.updated_s
        if self.start_s is None:
            return max(self.received_s, transaction_start_s or 0.0)
        if self.recurrence_s is None or at_s < self.start_s:
            return self.start_s
        return self.start_s + (at_s - self.start_s) // self.recurrence_s * self.recurrence_s

    def lapsed(self, at_s: float, offline_since_s: float | None) -> bool:
        """Whether the charger is offline for too long for it."""
        if self.most_offline_s is None or offline_since_s is None:
            return False
        return at_s >= offline_since_s + self.most_offline_s

    def step(self, at_s: float, transaction_start_s: float | None) -> Step | None:
        """What the profile says at `at_s`; None when it says nothing then."""
        if not self.valid_from_s <= at_s < self.valid_to_s:
            return None
        offset = at_s - self.origin_s(at_s, transaction_start_s)
        if offset < 0 or (self.duration_s is not None and offset >= self.duration_s):
            return None
        return next((step for step in reversed(self.steps) if offset >= step.start_s), None)

    def changes_s(self, from_s: float, to_s: float, transaction_start_s: float | None) -> Iterable[float]:
        """Moments between which the limit does not change."""
        yield from (self.valid_from_s, self.valid_to_s)
        origin = self.origin_s(from_s, transaction_start_s)
        while origin < to_s:
            yield from (origin + step.start_s for step in self.steps)
            if self.duration_s is not None:
                yield origin + self.duration_s
            if self.recurrence_s is None:
                return
            origin += self.recurrence_s


class ProfileStore:
    """The profiles of one outlet (and of the station, evse 0)."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.extended = False
        """Profiles come by OCPP 2.1."""
        self.priority = False
        """Priority charging is on: its profile goes before those of the transaction (K21, K22)."""
        self.loses_sign = False
        """Takes an order to discharge and makes one to charge of it, as some simulators and chargers do."""
        self.takes_dynamic = False
        """Profiles of kind Dynamic (K28)."""
        self.endless_dynamic = False
        """Takes no notice of their duration: an update is in force until the next, as some chargers may have it."""
        self.external_w: float | None = None
        """A limit that somebody else set, not the CSMS (K11 to K13)."""
        self.outside: Step | None = None
        """How somebody else moves the power, in place of the CSMS, within the bounds of both (Q06)."""
        self.beside_w: float = 0.0
        """What the energy management system (Q05) or the charger's own load balancing (Q09) wants."""
        self.offline_since_s: float | None = None
        self._profiles: dict[int, Profile] = {}

    def install(self, evse_id: int, wire: Mapping[str, Any], *, transaction_id: str | None, now_s: float) -> Profile:
        """Take a profile, replacing one with its id.

        Raises ProfileRefusedError with what the specification names as reason.
        """
        if wire["chargingProfileKind"] == "Dynamic" and not self.takes_dynamic:
            raise ProfileRefusedError("UnsupportedKind", "dynamic profiles are not supported")
        profile = _parse(self.outlet, evse_id, wire, now_s, extended=self.extended)
        if profile.updated_s is not None and self.endless_dynamic:
            profile = replace(profile, duration_s=None)
        if profile.purpose is Purpose.PRIORITY and not self.extended:
            raise ProfileRefusedError("InvalidProfile", "PriorityCharging came with OCPP 2.1")
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
        if self.loses_sign:
            profile = replace(profile, steps=tuple(step.without_sign() for step in profile.steps))
        self._profiles[profile.profile_id] = profile
        return profile

    def update(self, profile_id: int, values: Mapping[str, Any], now_s: float) -> None:
        """UpdateDynamicSchedule, or what a pull brought. Raises ProfileRefusedError."""
        held = self._profiles.get(profile_id)
        if held is None or held.updated_s is None:
            raise ProfileRefusedError("InvalidProfile", f"profile {profile_id} is no dynamic one (K28.FR.11)")
        schedule = held.source["chargingSchedule"][0]
        period = {**schedule["chargingSchedulePeriod"][0], **values}
        step = read_step(self.outlet, period, schedule["chargingRateUnit"], extended=self.extended)
        step = step.without_sign() if self.loses_sign else step
        source = {**held.source, "chargingSchedule": [{**schedule, "chargingSchedulePeriod": [period]}]}
        self._profiles[profile_id] = replace(held, steps=(step,), source=source, updated_s=now_s)

    def to_pull(self, now_s: float) -> list[int]:
        """Profiles that have not been updated for their dynUpdateInterval (K28.FR.10)."""
        return [
            p.profile_id
            for p in self._profiles.values()
            if p.updated_s is not None and p.pull_s is not None and now_s >= p.updated_s + p.pull_s
        ]

    def clear(self, profile_id: int | None, criteria: Mapping[str, Any] | None) -> int:
        """Remove by id, else by criteria (all given must fit; none removes all). Returns how many went."""
        if profile_id is not None:
            gone = [profile_id] if profile_id in self._profiles else []
        else:
            wanted = criteria or {}
            gone = [
                p.profile_id
                for p in self._profiles.values()
                if wanted.get("evseId", p.evse_id) == p.evse_id
                and wanted.get("chargingProfilePurpose", p.purpose) == p.purpose
                and wanted.get("stackLevel", p.stack_level) == p.stack_level
            ]
        for key in gone:
            del self._profiles[key]
        return len(gone)

    def matching(self, evse_id: int | None, criterion: Mapping[str, Any]) -> list[Profile]:
        """The profiles that a GetChargingProfiles asks for."""
        sources = criterion.get("chargingLimitSource")
        if sources is not None and "CSO" not in sources:
            return []
        return [
            p
            for p in self._profiles.values()
            if (evse_id is None or p.evse_id == evse_id)
            and criterion.get("chargingProfilePurpose", p.purpose) == p.purpose
            and criterion.get("stackLevel", p.stack_level) == p.stack_level
            and p.profile_id in criterion.get("chargingProfileId", [p.profile_id])
        ]

    def end_transaction(self) -> None:
        """TxProfiles go with their transaction."""
        self._profiles = {key: p for key, p in self._profiles.items() if p.purpose is not Purpose.TX}

    def forget_all(self) -> None:
        self._profiles.clear()

    def holds(self, purpose: Purpose) -> bool:
        return any(p.purpose is purpose for p in self._profiles.values())

    def went_offline(self, now_s: float) -> None:
        if self.offline_since_s is None:
            self.offline_since_s = now_s

    def came_online(self, now_s: float) -> None:
        """What lapsed for good is gone; what lapsed for the time counts again (Q12)."""
        since_s, self.offline_since_s = self.offline_since_s, None
        self._profiles = {
            key: p for key, p in self._profiles.items() if not (p.gone_after_offline and p.lapsed(now_s, since_s))
        }

    def limit_w(self, at_s: float, transaction_start_s: float | None, frequency_hz: float = NOMINAL_HZ) -> float | None:
        """The one number in force at `at_s` (`Step.power_w`); None when no profile says anything then."""
        step = self.step(at_s, transaction_start_s)
        return None if step is None else step.power_w(frequency_hz)

    def step(self, at_s: float, transaction_start_s: float | None) -> Step | None:
        """What is in force at `at_s`; None when no profile says anything then.

        Priority charging, while it is on, goes before a TxProfile, and that before any TxDefaultProfile; within a
        purpose the highest stack level that has a period at this moment leads; the station's maximum bounds it.
        """
        purposes = ((Purpose.PRIORITY,) if self.priority else ()) + (Purpose.TX, Purpose.TX_DEFAULT)
        found = (self._leading(purpose, at_s, transaction_start_s) for purpose in purposes)
        leading = next((step for step in found if step is not None), None)
        of_station = self._leading(Purpose.STATION_MAX, at_s, transaction_start_s)
        bounds = [w for w in (self.external_w, None if of_station is None else of_station.limit_w) if w is not None]
        if self.outside is not None:
            leading = _under(self.outside, leading)
        if leading is not None and leading.mode in MOVED_BESIDE and leading.setpoint_w is None:
            beside = None if leading.mode is Mode.EXTERNAL_LIMITS else self.beside_w
            leading = replace(leading, setpoint_w=beside)
        if leading is None:
            return Step(limit_w=min(bounds)) if bounds else None
        return leading.within(float("-inf"), min(bounds)) if bounds else leading

    def composite(
        self, start_s: float, duration_s: int, transaction_start_s: float | None
    ) -> tuple[tuple[int, Step], ...]:
        """What will be in force from `start_s` on, as (seconds from start, step), within the outlet's ratings."""
        end_s = start_s + duration_s
        moments = {0}
        for profile in self._profiles.values():
            for moment in profile.changes_s(start_s, end_s, transaction_start_s):
                if start_s < moment < end_s:
                    # Whole seconds on the wire: a change counts from the second after which it holds.
                    moments.add(int(-((start_s - moment) // 1)))
        periods: list[tuple[int, Step]] = []
        for offset in sorted(moment for moment in moments if moment < duration_s):
            step = self.step(start_s + offset, transaction_start_s) or Step(limit_w=self.outlet.rated_w)
            step = replace(step.within(-self.outlet.rated_export_w, self.outlet.rated_w), start_s=0.0)
            if not periods or periods[-1][1] != step:
                periods.append((offset, step))
        return tuple(periods)

    def _leading(self, purpose: Purpose, at_s: float, transaction_start_s: float | None) -> Step | None:
        candidates = sorted(
            (p for p in self._profiles.values() if p.purpose is purpose and not p.lapsed(at_s, self.offline_since_s)),
            key=lambda p: (p.stack_level, p.evse_id, p.received_s),
            reverse=True,
        )
        steps = (profile.step(at_s, transaction_start_s) for profile in candidates)
        return next((step for step in steps if step is not None), None)


def _under(outside: Step, ours: Step | None) -> Step:
    """Others' step within what the CSMS allows: its cap, and no discharge where it speaks of none."""
    if ours is None:
        return outside
    caps = [w for w in (outside.limit_w, ours.limit_w) if w is not None]
    floors = [outside.discharge_w or 0.0, ours.discharge_w or 0.0]
    return replace(outside, limit_w=min(caps, default=None), discharge_w=max(floors))


def _parse(outlet: Outlet, evse_id: int, wire: Mapping[str, Any], now_s: float, *, extended: bool) -> Profile:
    try:
        purpose = Purpose(wire["chargingProfilePurpose"])
    except ValueError:
        raise ProfileRefusedError("InvalidProfile", "this purpose is not for a CSMS to set") from None
    if evse_id not in (0, outlet.evse_id):
        raise ProfileRefusedError("UnknownEvse", f"there is no EVSE {evse_id}")
    if not 0 <= wire["stackLevel"] <= HIGHEST_STACK_LEVEL:
        raise ProfileRefusedError("InvalidStackLevel", f"stack levels go to {HIGHEST_STACK_LEVEL}")
    schedule = wire["chargingSchedule"][0]
    steps = schedule["chargingSchedulePeriod"]
    starts = [step["startPeriod"] for step in steps]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise ProfileRefusedError("InvalidSchedule", f"periods start at {starts[:8]}; the first must be 0, then rising")
    read = tuple(read_step(outlet, step, schedule["chargingRateUnit"], extended=extended) for step in steps)
    kind = wire["chargingProfileKind"]
    dynamic = kind == "Dynamic"
    if dynamic and (
        not extended or len(wire["chargingSchedule"]) != 1 or len(steps) != 1 or "startSchedule" in schedule
    ):
        raise ProfileRefusedError("InvalidSchedule", "a dynamic profile has one period and no start (K28.FR.01, FR.02)")
    if not dynamic and ("dynUpdateInterval" in wire or "dynUpdateTime" in wire):
        raise ProfileRefusedError("InvalidProfile", "only a dynamic profile is updated (K01.FR.122)")
    if kind == "Recurring" and "recurrencyKind" not in wire:
        raise ProfileRefusedError("InvalidProfile", "a Recurring profile needs a recurrencyKind")
    start = schedule.get("startSchedule")
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
        stack_level=wire["stackLevel"],
        transaction_id=wire.get("transactionId"),
        start_s=start_s,
        recurrence_s=PERIOD_OF_RECURRENCE_S[wire["recurrencyKind"]] if kind == "Recurring" else None,
        duration_s=None if duration is None else float(duration),
        valid_from_s=unix_s(wire["validFrom"]) if "validFrom" in wire else float("-inf"),
        valid_to_s=unix_s(wire["validTo"]) if "validTo" in wire else float("inf"),
        steps=read,
        received_s=now_s,
        most_offline_s=None if "maxOfflineDuration" not in wire else float(wire["maxOfflineDuration"]),
        gone_after_offline=bool(wire.get("invalidAfterOfflineDuration", False)),
        source=dict(wire),
        updated_s=now_s if dynamic else None,
        pull_s=float(wire["dynUpdateInterval"]) if dynamic and wire.get("dynUpdateInterval", 0) > 0 else None,
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
