"""What an order becomes in OCPP's words, or why it cannot be told to this charger and its car now. Pure."""

from __future__ import annotations

from dataclasses import replace

from drivers.ocpp import profiles
from drivers.ocpp.bidirectional import Bidirectional
from drivers.ocpp.profiles import CannotError, Dialect, Slot
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.session import EvseSession
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode, Period
from drivers.ocpp.wanted import Distrust, Wanted


def period_for(
    wanted: Wanted,
    session: EvseSession,
    settings: ChargerSettings,
    dialect: Dialect,
    bidirectional: Bidirectional,
    distrust: Distrust | None,
    *,
    in_transaction: bool,
) -> Period:
    """`settings`: with the owner's bound. Raises CannotError."""
    extended = dialect.extended
    # A mode of its own may move the power down to its lowest: that has to be permitted too.
    band = wanted.setpoint if wanted.period is None else replace(wanted.setpoint, highest_w=wanted.setpoint.lowest_w)
    if wanted.period is not None and not extended:
        raise CannotError(f"takes {wanted.period.mode.value} by OCPP 2.1 only")
    limit_w = profiles.limit_of(band, settings, in_transaction=in_transaction, extended=extended)
    if limit_w < 0 and extended and bidirectional.problem is not None:
        raise CannotError(f"cannot discharge: {bidirectional.problem}")
    if limit_w < 0 and session.car.charge_now:
        raise CannotError("is not told to discharge: its driver wants it to charge now")
    if limit_w < 0 and distrust is not None:
        raise CannotError(f"is not told to discharge again for now: it {distrust.why}")
    if wanted.period is not None:
        return wanted.period
    period = profiles.period_of(wanted.setpoint, limit_w, settings, dialect)
    exactly = wanted.setpoint.lowest_w == wanted.setpoint.highest_w and in_transaction
    if wanted.setpoint.for_frequency and exactly and bidirectional.knows(Mode.CENTRAL_FREQUENCY):
        return period.for_frequency(wanted.setpoint.highest_w)
    return period


def start_with(
    wanted: Wanted | None, settings: ChargerSettings, dialect: Dialect, *, wall_us: int, monotonic_s: float
) -> JsonObject:
    """The profile of a start (K05): the cap in force for what is left of its lease, else the static share. A discharge
    is not ordered of a car that has not said what it can."""
    plain = replace(dialect, per_phase=False)
    left_s = 0.0 if wanted is None else wanted.until_s - monotonic_s
    if wanted is not None and left_s > 1.0 and wanted.period is None and not wanted.takes_from_the_car:
        cap = Period(limit_w=profiles.limit_of(wanted.setpoint, settings, in_transaction=False))
        return profiles.start_profile(settings, cap, plain, wall_us=wall_us, lease_s=left_s)
    return profiles.static_share_profile(settings, plain, Slot.TRANSACTION)
