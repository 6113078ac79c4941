"""Limits to charging profiles, and composite schedules back to limits (OCPP 2.0.1 and 2.1 part 2, block K). Pure.

Our profiles on each EVSE, told apart by their ids, which are unique in a charger:

    STATIC_SHARE    TxDefaultProfile, stack level 0, without end: what the charger falls back to when we are silent
    WAITING         TxDefaultProfile, stack level 1, ends with the lease: rules a transaction that begins meanwhile
    TRANSACTION     TxProfile of the running transaction, ends with the lease
    PRIORITY_SHARE  PriorityCharging, stack level 0, without end: the static share again, for K21 and K22 (2.1)
    PRIORITY        PriorityCharging, stack level 1, ends with the lease: in place of TRANSACTION while priority is on

And one of the station (EVSE 0), where the owner wants it: ChargingStationMaxProfile without end (K04).

A higher stack level rules while it lasts, and a TxProfile rules over any TxDefaultProfile while it lasts, so the end
of a lease uncovers the static share without any word from us (SAFETY 2). TRANSACTION may be a dynamic profile
(`dynamic.py`). In 2.1 a lease ends sooner where the charger is cut off from us, by its maxOfflineDuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from drivers.device import Setpoint
from drivers.ocpp.messages import CompositeSchedule
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import format_timestamp
from drivers.ocpp.v2x import TOLD_THE_POWER, Mode, Period, read_period

BACKDATED_S: Final = 5
"""A schedule starts this long ago, so that one whose charger's clock is a little slow does not start in the future.
It ends when the lease ends all the same."""
LOOK_BEYOND_S: Final = 60
"""The composite schedule is asked for this long beyond the lease: what comes then shows whether it lapses."""
TOLERANCE_W: Final = 70
"""Chargers round to a tenth of an ampere: 69 W on three phases."""
LARGEST: Final = 10**9
"""Of any power or current that is believed."""
MOST_OFFLINE_S: Final = 30
"""A lease outlives our connection by so much at most (2.1): longer than a short fault, shorter than most leases."""


class RateUnit(StrEnum):
    """What a charger takes limits in (variable SmartChargingCtrlr.RateUnit)."""

    WATTS = "W"
    AMPERES = "A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How profiles are to be written for this charger and its car."""

    unit: RateUnit = RateUnit.WATTS
    extended: bool = False
    """OCPP 2.1: operation modes, setpoints."""
    per_phase: bool = False
    """The car told limits of each phase (2.1): it is ordered about by phase too."""
    offline_bound: bool = True
    """It takes maxOfflineDuration (2.1)."""


class Slot(IntEnum):
    """Which of our profiles. The number is the last digit of the profile's id."""

    STATIC_SHARE = 1
    WAITING = 2
    TRANSACTION = 3
    PRIORITY_SHARE = 4
    PRIORITY = 5


STATION_LIMIT_ID: Final = 6
"""EVSE 0 has no other profile of ours."""
LONG_AGO: Final = "2020-01-01T00:00:00Z"

_PURPOSES: Final = {
    Slot.STATIC_SHARE: "TxDefaultProfile",
    Slot.WAITING: "TxDefaultProfile",
    Slot.TRANSACTION: "TxProfile",
    Slot.PRIORITY_SHARE: "PriorityCharging",
    Slot.PRIORITY: "PriorityCharging",
}


class CannotError(Exception):
    """This EVSE cannot hold the band, now or ever. The message is a sentence for a person."""


def profile_id(evse_id: int, slot: Slot) -> int:
    """Unique in the charger."""
    return evse_id * 10 + slot


def limit_of(setpoint: Setpoint, settings: ChargerSettings, *, in_transaction: bool, extended: bool = False) -> int:
    """The one number that makes an EVSE stay in a band, W: zero and above caps charging, below orders discharge.

    Raises CannotError. A lowest bound above 0 cannot be enforced, the car decides; it is taken for its highest.
    """
    highest = settings.import_rating_w if setpoint.highest_w is None else setpoint.highest_w
    if highest >= 0:
        return min(highest, settings.import_rating_w)
    if settings.discharge == "never":
        raise CannotError("is not permitted to discharge (discharge = never)")
    if settings.discharge == "v2x" and not extended:
        raise CannotError("discharges by OCPP 2.1 only, and is connected with OCPP 2.0.1")
    if not in_transaction:
        raise CannotError("has no car in a transaction that could discharge")
    if highest < -settings.export_rating_w:
        raise CannotError(f"cannot discharge {-highest} W, its rating is {settings.export_rating_w} W")
    return highest


def period_of(setpoint: Setpoint, limit_w: int, settings: ChargerSettings, dialect: Dialect) -> Period:
    """`limit_of` in the charger's words: 2.1 discharges by a setpoint (Q03), 2.0.1 by a limit below 0."""
    if limit_w >= 0 or not dialect.extended:
        return Period(limit_w=limit_w)
    lowest_w = -settings.export_rating_w if setpoint.lowest_w is None else setpoint.lowest_w
    return Period(
        mode=Mode.CENTRAL_SETPOINT,
        setpoint_w=limit_w,
        limit_w=0,
        discharge_w=min(limit_w, max(lowest_w, -settings.export_rating_w)),
    )


def static_share_profile(settings: ChargerSettings, dialect: Dialect, slot: Slot = Slot.STATIC_SHARE) -> JsonObject:
    """What holds when nothing of ours holds any more. Relative: it needs no clock."""
    return {
        "id": profile_id(settings.evse_id, slot),
        "stackLevel": 0,
        "chargingProfilePurpose": _PURPOSES[slot],
        "chargingProfileKind": "Relative",
        "chargingSchedule": [_schedule(settings, slot, Period(limit_w=settings.static_share_w), dialect)],
    }


def station_profile(watts: int, evses: Sequence[ChargerSettings], unit: RateUnit) -> JsonObject:
    """The most that a whole station may take. Never relative: it belongs to no transaction (K01.FR.38)."""
    phases = sorted({phase for settings in evses for phase in settings.phases})
    period: JsonObject = {"startPeriod": 0, "limit": watts, "numberPhases": len(phases)}
    if unit is RateUnit.AMPERES:
        period["limit"] = watts * 10 // (evses[0].nominal_voltage_v * len(phases)) / 10
    return {
        "id": STATION_LIMIT_ID,
        "stackLevel": 0,
        "chargingProfilePurpose": "ChargingStationMaxProfile",
        "chargingProfileKind": "Absolute",
        "chargingSchedule": [
            {
                "id": STATION_LIMIT_ID,
                "startSchedule": LONG_AGO,
                "chargingRateUnit": unit.value,
                "chargingSchedulePeriod": [period],
            }
        ],
    }


def lease_profile(
    settings: ChargerSettings,
    period: Period,
    dialect: Dialect,
    *,
    wall_us: int,
    lease_s: float,
    transaction_id: str | None,
    priority: bool = False,
) -> JsonObject:
    """A period that ends by itself: for the running transaction, else for one that begins before the lease ends."""
    slot = Slot.WAITING if transaction_id is None else Slot.PRIORITY if priority else Slot.TRANSACTION
    profile = _lease(settings, slot, period, dialect, wall_us=wall_us, lease_s=lease_s)
    if slot is Slot.TRANSACTION:
        profile["transactionId"] = transaction_id
    return profile


def start_profile(
    settings: ChargerSettings, cap: Period, dialect: Dialect, *, wall_us: int, lease_s: float
) -> JsonObject:
    """The same for the transaction that is to begin with it: the charger knows its number first (K05)."""
    return _lease(settings, Slot.TRANSACTION, cap, dialect, wall_us=wall_us, lease_s=lease_s)


def _lease(
    settings: ChargerSettings, slot: Slot, period: Period, dialect: Dialect, *, wall_us: int, lease_s: float
) -> JsonObject:
    schedule = _schedule(settings, slot, period, dialect)
    schedule["startSchedule"] = format_timestamp(wall_us - BACKDATED_S * 1_000_000)
    schedule["duration"] = max(1, int(lease_s)) + BACKDATED_S
    profile: JsonObject = {
        "id": profile_id(settings.evse_id, slot),
        "stackLevel": 1,
        "chargingProfilePurpose": _PURPOSES[slot],
        "chargingProfileKind": "Absolute",
        "chargingSchedule": [schedule],
    }
    if dialect.extended and dialect.offline_bound:
        profile["maxOfflineDuration"] = min(MOST_OFFLINE_S, max(1, int(lease_s)))
        # What it held then is not to come back by itself: after each reconnect we say anew what holds.
        profile["invalidAfterOfflineDuration"] = True
    return profile


def _schedule(settings: ChargerSettings, slot: Slot, period: Period, dialect: Dialect) -> JsonObject:
    per_phase = dialect.per_phase and len(settings.phases) == 3
    wire = period.as_wire(
        lambda watts, parts: _in_unit(watts, parts, dialect.unit, settings),
        extended=dialect.extended,
        per_phase=per_phase,
    )
    if dialect.unit is RateUnit.AMPERES or len(settings.phases) < 3:  # 3 is what a missing number means
        wire["numberPhases"] = len(settings.phases)
    return {
        "id": profile_id(settings.evse_id, slot),
        "chargingRateUnit": dialect.unit.value,
        "chargingSchedulePeriod": [wire],
    }


def _in_unit(watts: int, parts: int, unit: RateUnit, settings: ChargerSettings) -> float:
    """One decimal at most (as OCPP allows), rounded towards zero: never more power than asked.

    Amperes are those of a line conductor, so they are the same for all phases and for one of them.
    """
    if unit is RateUnit.WATTS and parts == 1:
        return watts
    tenths = abs(watts) * 10 // (parts if unit is RateUnit.WATTS else settings.volts_over_phases)
    return (tenths if watts >= 0 else -tenths) / 10


@dataclass(frozen=True, slots=True)
class Held:
    """What a charger says that it holds."""

    now_w: int
    """The limit or setpoint in force, W."""
    after_lease_w: int | None
    """The limit once our lease has ended, W; None where the schedule does not reach so far."""
    mode: Mode = Mode.CHARGING_ONLY
    """Of operation, now."""
    changes_s: int | None = None
    """Seconds until it will be anything else; None: not within what it shows."""


def read_composite(schedule: CompositeSchedule, settings: ChargerSettings, lease_s: float) -> Held:
    """What a composite schedule says. Times are taken from its start, which is the charger's present moment, so that
    its clock does not matter. Raises CannotError when it covers nothing.
    """

    def watts(value: float, phases: int | None) -> int:
        if not abs(value) < LARGEST:
            raise CannotError(f"gave a composite schedule with {value:g} {schedule['chargingRateUnit']}")
        if schedule["chargingRateUnit"] == RateUnit.WATTS:
            return round(value)
        return round(value * settings.nominal_voltage_v * (len(settings.phases) if phases is None else phases))

    shown = sorted((read_period(wire, watts) for wire in schedule["chargingSchedulePeriod"]), key=lambda p: p.start_s)
    in_force = [period for period in shown if period.start_s <= 1]
    if not in_force:
        raise CannotError("gave a composite schedule that says nothing of the present")

    def most_w(power_w: int | None) -> int:
        return settings.import_rating_w if power_w is None else power_w

    beyond_s = lease_s + LOOK_BEYOND_S / 2
    last = [period for period in shown if period.start_s <= beyond_s][-1]
    after_w = most_w(last.power_w) if last.lowest_w >= -1 else last.lowest_w
    now = in_force[-1]
    others = (period for period in shown if period.start_s > now.start_s)
    changes_s = next((p.start_s for p in others if (p.power_w, p.mode) != (now.power_w, now.mode)), None)
    return Held(most_w(now.power_w), after_w if schedule["duration"] > beyond_s else None, now.mode, changes_s)


def is_share(in_the_end_w: int, settings: ChargerSettings) -> bool:
    """Whether what a charger says to hold in the end is no more than its static share, and no discharge."""
    return -1 <= in_the_end_w <= settings.static_share_w + TOLERANCE_W


def objection(held: Held, period: Period) -> str | None:
    """Why what a charger holds is not what it was told; None when it is.

    A charger may hold less than a cap (somebody else's limit); it may not hold more, nor discharge unasked, nor move
    the power by itself unasked.
    """
    told_w = period.told_w
    if told_w is None or held.mode not in TOLD_THE_POWER:
        wrong = held.mode is not period.mode
        return f"was told {period.mode.value} and is in {held.mode.value} by its composite schedule" if wrong else None
    if told_w < 0:
        wrong = abs(held.now_w - told_w) > TOLERANCE_W
    else:
        wrong = held.now_w > told_w + (TOLERANCE_W if told_w else 0) or held.now_w < 0
    return f"was told {told_w} W and holds {held.now_w} W by its composite schedule" if wrong else None
