"""What a car still needs until its departure: by its driver's word, else the car's, else the owner's default. Pure.

A car tells its need once and takes energy from then on; what is left is counted on the charger's register, so that a
restart, a pause and a discharge change nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final

from agent.control.command import MAX_TIME_US
from agent.control.errors import ControlError, RestoreError
from agent.control.order import Now
from agent.control.tally import Register
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError
from drivers.device import VehicleSession

MOST_WH: Final = 1_000_000
MOST_TOLD_WH: Final = 10**9
"""Of a car or a configuration; a note with more is damaged."""
MOST_AHEAD_US: Final = 7 * 86_400 * 1_000_000


class WishError(ControlError):
    """A driver's wish that cannot be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultNeed:
    """What the owner's configuration says of cars that say nothing."""

    departure: time | None = None
    zone: tzinfo
    energy_wh: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The driver's word. None: not said."""

    energy_wh: int | None = None
    departure_us: int | None = None

    def __post_init__(self) -> None:
        if self.energy_wh is not None and not 0 <= self.energy_wh <= MOST_WH:
            raise WishError(f"{self.energy_wh} Wh is outside 0 to {MOST_WH}")

    def check(self, now_us: int) -> None:
        """Raises WishError for a departure that is over, or too far away to be meant."""
        if self.departure_us is not None and not now_us < self.departure_us <= now_us + MOST_AHEAD_US:
            raise WishError("the departure is in the past, or more than 7 days away")


@dataclass(frozen=True, slots=True, kw_only=True)
class CarNeed:
    """One session's need, and the register when it was told."""

    transaction_id: str | None = None
    wish: Wish = Wish()
    energy_wh: int | None = None
    by: str = ""
    """Whose word the energy is: "driver", "car", "default"."""
    told_at: Register | None = None
    """None: the charger has shown no register since; then nothing is counted down."""
    default_departure_us: int | None = None


def step_need(
    need: CarNeed, car: VehicleSession, register: Register | None, default: DefaultNeed | None, now: Now
) -> CarNeed:
    """The need after one look at the session."""
    if car.transaction_id != need.transaction_id:
        # What was told before anything was authorised is of this session; of an ended transaction nothing is kept.
        before = need if need.transaction_id is None else CarNeed()
        need = replace(before, transaction_id=car.transaction_id)
    if need.default_departure_us is None and default is not None and default.departure is not None and now.time_known:
        need = replace(need, default_departure_us=next_local_us(default.departure, default.zone, now.wall_us))
    energy_wh, by = _energy(need, car, default)
    if (energy_wh, by) != (need.energy_wh, need.by):
        return replace(need, energy_wh=energy_wh, by=by, told_at=register)
    other_meter = need.told_at is not None and register is not None and register.meter_id != need.told_at.meter_id
    if register is not None and (need.told_at is None or other_meter):
        # Another meter's register says nothing about the old one: what is left then counts from here.
        return replace(need, told_at=register)
    return need


def _energy(need: CarNeed, car: VehicleSession, default: DefaultNeed | None) -> tuple[int | None, str]:
    if need.wish.energy_wh is not None:
        return need.wish.energy_wh, "driver"
    if car.energy_needed_wh is not None:
        return car.energy_needed_wh, "car"
    if default is not None and default.energy_wh is not None:
        return default.energy_wh, "default"
    return None, ""


def in_need(car: VehicleSession, need: CarNeed, register: Register | None) -> VehicleSession:
    """The session with what is left of the need, and the departure that counts."""
    left_wh, told_at = need.energy_wh, need.told_at
    # Who needs nothing has no target: what it gives is nobody's need.
    if left_wh and register and told_at and register.meter_id == told_at.meter_id:
        left_wh = max(0, left_wh - (register.net_milliwatt_hours - told_at.net_milliwatt_hours) // 1000)
    told_us = car.departure_timestamp_us
    if told_us is not None and not 0 < told_us < MAX_TIME_US:
        told_us = None  # A car that leaves in the year 9999 has not said when.
    departure_us = need.wish.departure_us or told_us or need.default_departure_us
    if (left_wh, departure_us) == (car.energy_needed_wh, car.departure_timestamp_us):
        return car
    return replace(car, energy_needed_wh=left_wh, departure_timestamp_us=departure_us)


def next_local_us(at: time, zone: tzinfo, now_us: int) -> int:
    """The next moment at which clocks there show that time, Unix microseconds."""
    here = datetime.fromtimestamp(now_us // 1_000_000, UTC).astimezone(zone)
    for days in range(3):
        moment = datetime.combine(here.date() + timedelta(days=days), at, zone)
        moment_us = int(moment.timestamp()) * 1_000_000
        if moment_us > now_us:
            return moment_us
    raise AssertionError("a time of day comes within two days")


def encode_need(need: CarNeed) -> bytes:
    """For the store."""
    register: cbor.Value = None
    if need.told_at is not None:
        register = [need.told_at.meter_id, need.told_at.net_milliwatt_hours]
    return cbor.encode([
        1, need.transaction_id, need.wish.energy_wh, need.wish.departure_us, need.energy_wh, need.by, register,
        need.default_departure_us,
    ])  # fmt: skip


def decode_need(note: bytes) -> CarNeed:
    """A stored need. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="need of a car")
        match value:
            case [
                1, str() | None as transaction_id, int() | None as wish_wh, int() | None as wish_us,
                int() | None as energy_wh, str(by), register, int() | None as default_us,
            ] if all(0 <= us < MAX_TIME_US for us in (wish_us or 0, default_us or 0)) and (
                0 <= (energy_wh or 0) <= MOST_TOLD_WH
            ):  # fmt: skip
                return CarNeed(
                    transaction_id=transaction_id,
                    wish=Wish(energy_wh=wish_wh, departure_us=wish_us),
                    energy_wh=energy_wh,
                    by=by,
                    told_at=_register(register),
                    default_departure_us=default_us,
                )
    except (EvidenceError, WishError) as error:
        raise RestoreError(f"need of a car: {error}") from error
    raise RestoreError("need of a car: not laid out as version 1")


def _register(value: cbor.Value) -> Register | None:
    match value:
        case None:
            return None
        case [str(meter_id), int(net)]:
            return Register(meter_id, net)
    raise RestoreError("need of a car: its register is not laid out as version 1")
