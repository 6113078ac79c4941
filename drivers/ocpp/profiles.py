"""Limits to charging profiles, and composite schedules back to limits (OCPP 2.0.1 part 2, block K). Pure.

Three profiles are ours on each EVSE, told apart by their ids, which are unique in a charger:

    STATIC_SHARE  TxDefaultProfile, stack level 0, without end: what the charger falls back to when we are silent
    WAITING       TxDefaultProfile, stack level 1, ends with the lease: rules a transaction that begins meanwhile
    TRANSACTION   TxProfile of the running transaction, ends with the lease

A higher stack level rules while it lasts, and a TxProfile rules over any TxDefaultProfile while it lasts, so the end
of a lease uncovers the static share without any word from us (SAFETY 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from drivers.device import Setpoint
from drivers.ocpp.messages import CompositeSchedule
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import format_timestamp

BACKDATED_S: Final = 5
"""A schedule starts this long ago, so that one whose charger's clock is a little slow does not start in the future.
It ends when the lease ends all the same."""
LOOK_BEYOND_S: Final = 60
"""The composite schedule is asked for this long beyond the lease: what comes then shows whether it lapses."""
TOLERANCE_W: Final = 70
"""Chargers round to a tenth of an ampere: 69 W on three phases."""


class RateUnit(StrEnum):
    """What a charger takes limits in (variable SmartChargingCtrlr.RateUnit)."""

    WATTS = "W"
    AMPERES = "A"


class Slot(IntEnum):
    """Which of our profiles. The number is the last digit of the profile's id."""

    STATIC_SHARE = 1
    WAITING = 2
    TRANSACTION = 3


class CannotError(Exception):
    """This EVSE cannot hold the band, now or ever. The message is a sentence for a person."""


def profile_id(evse_id: int, slot: Slot) -> int:
    """Unique in the charger."""
    return evse_id * 10 + slot


def limit_of(setpoint: Setpoint, settings: ChargerSettings, *, in_transaction: bool) -> int:
    """The one number that makes an EVSE stay in a band, W: zero and above caps charging, below orders discharge.

    Raises CannotError. A lowest bound above 0 cannot be enforced, the car decides; it is taken for its highest.
    """
    highest = settings.import_rating_w if setpoint.highest_w is None else setpoint.highest_w
    if highest >= 0:
        return min(highest, settings.import_rating_w)
    if settings.discharge == "never":
        raise CannotError("is not permitted to discharge (discharge = never)")
    if settings.discharge == "v2x":
        raise CannotError("discharges by OCPP 2.1 only, and is connected with OCPP 2.0.1")
    if not in_transaction:
        raise CannotError("has no car in a transaction that could discharge")
    if highest < -settings.export_rating_w:
        raise CannotError(f"cannot discharge {-highest} W, its rating is {settings.export_rating_w} W")
    return highest


def static_share_profile(settings: ChargerSettings, unit: RateUnit) -> JsonObject:
    """What holds when nothing of ours holds any more. Relative: it needs no clock."""
    return {
        "id": profile_id(settings.evse_id, Slot.STATIC_SHARE),
        "stackLevel": 0,
        "chargingProfilePurpose": "TxDefaultProfile",
        "chargingProfileKind": "Relative",
        "chargingSchedule": [_schedule(settings, Slot.STATIC_SHARE, settings.static_share_w, unit)],
    }


def lease_profile(
    settings: ChargerSettings, limit_w: int, unit: RateUnit, *, wall_us: int, lease_s: float, transaction_id: str | None
) -> JsonObject:
    """A limit that ends by itself: for the running transaction, else for one that begins before the lease ends."""
    slot = Slot.WAITING if transaction_id is None else Slot.TRANSACTION
    schedule = _schedule(settings, slot, limit_w, unit)
    schedule["startSchedule"] = format_timestamp(wall_us - BACKDATED_S * 1_000_000)
    schedule["duration"] = max(1, int(lease_s)) + BACKDATED_S
    profile: JsonObject = {
        "id": profile_id(settings.evse_id, slot),
        "stackLevel": 1,
        "chargingProfilePurpose": "TxDefaultProfile" if transaction_id is None else "TxProfile",
        "chargingProfileKind": "Absolute",
        "chargingSchedule": [schedule],
    }
    if transaction_id is not None:
        profile["transactionId"] = transaction_id
    return profile


def _schedule(settings: ChargerSettings, slot: Slot, limit_w: int, unit: RateUnit) -> JsonObject:
    period: JsonObject = {"startPeriod": 0, "limit": _in_unit(limit_w, unit, settings)}
    if unit is RateUnit.AMPERES or len(settings.phases) < 3:  # 3 is what a missing number means
        period["numberPhases"] = len(settings.phases)
    return {
        "id": profile_id(settings.evse_id, slot),
        "chargingRateUnit": unit.value,
        "chargingSchedulePeriod": [period],
    }


def _in_unit(limit_w: int, unit: RateUnit, settings: ChargerSettings) -> float:
    """Amperes with one decimal (the most that OCPP allows), rounded towards zero: never more power than asked."""
    if unit is RateUnit.WATTS:
        return limit_w
    tenths = abs(limit_w) * 10 // settings.volts_over_phases
    return (tenths if limit_w >= 0 else -tenths) / 10


@dataclass(frozen=True, slots=True)
class Held:
    """What a charger says that it holds."""

    now_w: int
    """The limit in force, W."""
    after_lease_w: int | None
    """The limit once our lease has ended, W; None where the schedule does not reach so far."""


def read_composite(schedule: CompositeSchedule, settings: ChargerSettings, lease_s: float) -> Held:
    """What a composite schedule says. Times are taken from its start, which is the charger's present moment, so that
    its clock does not matter. Raises CannotError when it covers nothing.
    """
    periods = sorted(schedule["chargingSchedulePeriod"], key=lambda period: period["startPeriod"])
    in_force = [period for period in periods if period["startPeriod"] <= 1]
    if not in_force:
        raise CannotError("gave a composite schedule that says nothing of the present")

    def watts(limit: float, phases: int) -> int:
        if schedule["chargingRateUnit"] == RateUnit.WATTS:
            return round(limit)
        return round(limit * settings.nominal_voltage_v * phases)

    limits = [
        (period["startPeriod"], watts(period["limit"], int(period.get("numberPhases", len(settings.phases)))))
        for period in periods
    ]
    now_w = next(limit for start, limit in reversed(limits) if start <= 1)
    beyond_s = lease_s + LOOK_BEYOND_S / 2
    after = [limit for start, limit in limits if start <= beyond_s]
    return Held(now_w, after[-1] if schedule["duration"] > beyond_s else None)


def objection(held: Held, limit_w: int) -> str | None:
    """Why what a charger holds is not what it was told; None when it is.

    A charger may hold less than a cap (somebody else's limit); it may not hold more, nor discharge unasked.
    """
    if limit_w < 0:
        wrong = abs(held.now_w - limit_w) > TOLERANCE_W
    else:
        wrong = held.now_w > limit_w + (TOLERANCE_W if limit_w else 0) or held.now_w < 0
    return f"was told {limit_w} W and holds {held.now_w} W by its composite schedule" if wrong else None
