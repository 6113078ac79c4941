"""A lease as a dynamic charging profile: installed once, then moved by updates (OCPP 2.1, K28). Pure.

Such a profile has one period and no start. Its `duration` counts from dynUpdateTime, which the charger sets by its own
clock when it takes the profile and with each update (K28.FR.09); once that has passed, the profile is invalid and the
next one rules (K28.FR.13 and 15): this is the end in the device that SAFETY 2 asks for. `dynUpdateInterval` ends
nothing, it is when a charger asks for an update; maxOfflineDuration ends it where the charger knows that it is offline.

An update makes the duration begin anew, whoever has it sent. So a lease has a duration of half of it, and is refreshed
by the plan's renewals, by us and by the charger's pulls only as long as what is refreshed still ends within the lease.
Whoever falls silent, the permission ends half a lease after the last word, and never after the lease. Where the
charger's composite schedule does not show this end, the profile is replaced by one that ends by the clock, and none is
tried again before the charger boots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, cast

from drivers.ocpp.profiles import Held, is_share
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode, Period

SHORTEST_LEASE_S: Final = 10.0
"""A shorter one is over before it would be moved."""
SHORTEST_PART: Final = 0.2
"""Of a lease, that a duration may be: from the end of a command on leases become shorter, and durations stay."""
REFRESH_AT: Final = 0.75
"""Part of the duration after which we refresh what the plan has not: it renews after a third of a lease."""
PULL_AT: Final = 0.85
"""And after which the charger is to ask, if that did not reach it."""
LOOKED_AT_S: Final = 2.0
"""`refresh` is asked more often than this."""
ON_ITS_WAY_S: Final = 1.0
"""An answer may reach the charger so much later than it was made."""
SLACK_S: Final = 5
"""What a composite schedule may differ from the duration."""
MOST_REFUSALS: Final = 2
"""Updates in a row: the first may be of a profile that somebody cleared."""
_MOVED: Final = ("limit", "setpoint", "dischargeLimit")
_MOVABLE: Final = frozenset({Mode.CHARGING_ONLY, Mode.CENTRAL_SETPOINT, Mode.CENTRAL_FREQUENCY})
"""Modes whose whole content an update can change."""


@dataclass(frozen=True, slots=True)
class _Installed:
    """What the charger has of us."""

    profile: JsonObject
    """With the values that it was told last."""
    until_s: float
    """End of the lease."""
    refreshed_s: float

    @property
    def duration_s(self) -> int:
        return int(cast(int, _schedule(self.profile)["duration"]))

    def may_refresh(self, now_s: float) -> bool:
        return now_s + ON_ITS_WAY_S + self.duration_s <= self.until_s


class DynamicLease:
    """Of one EVSE: the lease of its transaction. Times are monotonic."""

    def __init__(self) -> None:
        self.offered = False
        """The charger says that it takes dynamic profiles; asked on each connection."""
        self.distrust = ""
        """Why none is tried again until it boots; empty: nothing is known against it."""
        self._installed: _Installed | None = None
        self._refusals = 0
        self._under_way = 0

    @property
    def usable(self) -> bool:
        return self.offered and not self.distrust

    @property
    def busy(self) -> bool:
        """An order is on its way: what comes of another may be of either."""
        return self._under_way > 0

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While an order is on its way the values are neither these nor those: no pull is answered with them."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def forget(self) -> None:
        """It is not known that the charger has it."""
        self._installed = None

    def connection_began(self) -> None:
        self.offered, self._installed = False, None

    def booted(self) -> None:
        """Perhaps with a firmware that knows more."""
        self.distrust, self._refusals, self._installed = "", 0, None

    def took(self, profile: JsonObject, until_s: float, now_s: float, *, by_update: bool) -> None:
        """The charger accepted this profile, or the update to it; the question left at `now_s` at the earliest."""
        self._installed = _Installed(profile, until_s, now_s)
        if by_update:
            self._refusals = 0

    def refused_update(self) -> bool:
        """Not this time. Whether it was the last that is tried."""
        self._installed = None
        self._refusals += 1
        return self._refusals >= MOST_REFUSALS

    def moved_to(self, profile: JsonObject, lease_s: float) -> JsonObject | None:
        """What the charger has, with the values of this profile; None where only a new profile brings them: nothing
        installed, another transaction, another mode, a duration that would outlast the lease or be too often over."""
        installed = self._installed
        if installed is None or _frame(installed.profile) != _frame(profile):
            return None
        if not lease_s * SHORTEST_PART <= installed.duration_s <= lease_s - ON_ITS_WAY_S:
            return None
        schedule: JsonObject = {**_schedule(installed.profile), "chargingSchedulePeriod": [_period(profile)]}
        return {**installed.profile, "chargingSchedule": [schedule]}

    def refresh(self, transaction_id: str | None, now_s: float) -> JsonObject | None:
        """The update that has to be sent now, so that the lease holds to its end; None: none."""
        installed = self._here(transaction_id)
        if installed is None or not installed.may_refresh(now_s):
            return None
        age_s, duration_s = now_s - installed.refreshed_s, installed.duration_s
        old = age_s >= min(REFRESH_AT * duration_s, duration_s - LOOKED_AT_S)
        last_chance = not installed.may_refresh(now_s + LOOKED_AT_S) and age_s > LOOKED_AT_S
        return update_of(installed.profile) if old or last_chance else None

    def refreshed(self, now_s: float) -> None:
        """The charger accepted what `refresh` gave."""
        if self._installed is not None:
            self._installed, self._refusals = replace(self._installed, refreshed_s=now_s), 0

    def pulled(self, profile_id: int, transaction_id: str | None, now_s: float) -> JsonObject:
        """The answer to a PullDynamicScheduleUpdate."""
        installed = self._here(transaction_id)
        if installed is None or installed.profile["id"] != profile_id:
            return rejected("no dynamic profile of ours is in force there")
        if not installed.may_refresh(now_s):
            return rejected("no more was ordered: it ends")
        self._installed = replace(installed, refreshed_s=now_s)
        return {"status": "Accepted", "scheduleUpdate": _values(installed.profile)}

    def _here(self, transaction_id: str | None) -> _Installed | None:
        installed = self._installed
        if installed is None or self.busy or installed.profile["transactionId"] != transaction_id:
            return None
        return installed


def rejected(why: str) -> JsonObject:
    """K28.FR.12: of a profile that is not a dynamic one of ours, or not any more."""
    return {"status": "Rejected", "statusInfo": {"reasonCode": "InvalidProfile", "additionalInfo": why}}


def update_of(profile: JsonObject) -> JsonObject:
    """The UpdateDynamicSchedule that brings the values of a profile."""
    return {"chargingProfileId": profile["id"], "scheduleUpdate": _values(profile)}


def dynamic_profile(profile: JsonObject, period: Period, lease_s: float) -> JsonObject | None:
    """A lease of a transaction as a dynamic profile; None where it cannot be one."""
    movable = profile["chargingProfilePurpose"] == "TxProfile" and period.mode in _MOVABLE
    if not movable or lease_s < SHORTEST_LEASE_S:
        return None
    duration_s = int(lease_s / 2)
    schedule: JsonObject = {**_schedule(profile), "duration": duration_s}
    schedule.pop("startSchedule", None)
    return {
        **profile,
        "chargingProfileKind": "Dynamic",
        "dynUpdateInterval": max(1, int(PULL_AT * duration_s)),
        "chargingSchedule": [schedule],
    }


def flaw(held: Held, profile: JsonObject, settings: ChargerSettings) -> str:
    """Why the composite schedule is no proof that a dynamic profile ends as it should; empty: it is."""
    duration_s = int(cast(int, _schedule(profile)["duration"]))
    if held.after_lease_w is None or not is_share(held.after_lease_w, settings):
        return f"shows no end of a dynamic profile of {duration_s} s in its composite schedule"
    ends_s = held.changes_s
    if ends_s is None or abs(ends_s - duration_s) <= SLACK_S:
        return ""
    return f"shows the end of a dynamic profile of {duration_s} s after {ends_s} s in its composite schedule"


def _schedule(profile: JsonObject) -> JsonObject:
    return cast("list[JsonObject]", profile["chargingSchedule"])[0]


def _period(profile: JsonObject) -> JsonObject:
    return cast("list[JsonObject]", _schedule(profile)["chargingSchedulePeriod"])[0]


def _is_moved(name: str) -> bool:
    return name.removesuffix("_L2").removesuffix("_L3") in _MOVED


def _values(profile: JsonObject) -> JsonObject:
    return {name: value for name, value in _period(profile).items() if _is_moved(name)}


def _frame(profile: JsonObject) -> JsonObject:
    """What has to be the same for an update to do: all but how long it lasts and the values, though which there are."""
    period: JsonObject = {name: None if _is_moved(name) else value for name, value in _period(profile).items()}
    schedule: JsonObject = {**_schedule(profile), "chargingSchedulePeriod": [period], "duration": None}
    return {**profile, "dynUpdateInterval": None, "chargingSchedule": [schedule]}
