"""What every device does when nobody commands it: safe without any authority (SAFETY 12)."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.control.rules.draft import Draft, Rule
from agent.control.site import CarDay, SiteView
from drivers.device import DeviceKind, VehicleSession


def set_default(draft: Draft, site: SiteView) -> None:
    """The owner's default: cars charge as their day says and never discharge, batteries serve the house, PV is free."""
    match draft.view.kind:
        case DeviceKind.CHARGER if site.islanded:
            draft.set_power(0)
            draft.cause = "the site is islanded: cars stop"
            draft.bind(Rule.ISLANDED)
        case DeviceKind.CHARGER:
            _set_car(draft, site)
        case DeviceKind.BATTERY if site.defaults.battery_idle and not site.islanded:
            draft.set_power(0)
            draft.cause = "nobody commands: the battery rests, by the owner's default"
        case DeviceKind.BATTERY:
            draft.low = draft.high = None
            draft.cause = "nobody commands: the battery looks after the house by itself"
        case _:
            draft.low = draft.high = None
            draft.cause = "nobody commands: it produces what it can"


def _set_car(draft: Draft, site: SiteView) -> None:
    """Between nothing and what its day allows: the driver and the departure go before it."""
    day = draft.view.day or (CarDay.WAIT if site.defaults.cars_wait else CarDay.NOW)
    car = draft.view.vehicle
    high, draft.cause = draft.room_high, "nobody commands: the car charges"
    if draft.must_charge and car is not None:
        draft.bind(Rule.CAR_NOW if car.charge_now else Rule.CAR_DEPARTURE)
        draft.cause = "the car charges: " + ("its driver said now" if car.charge_now else "its departure needs it")
    elif day is CarDay.WAIT:
        high, draft.cause = 0, "nobody commands: the car waits, by the owner's default"
    elif day is CarDay.DEPARTURE and car is not None:
        high, draft.cause = _by_departure(draft, car)
    elif day is CarDay.SURPLUS and not draft.view.begun:
        high, draft.cause = _from_the_sun(draft)
    elif day is CarDay.SURPLUS:
        draft.cause = "nobody commands: the car charges, since its departure comes near"
    if car is None:
        draft.cause = "no car: whoever comes " + ("may charge" if high else "waits")
    draft.low, draft.high = 0, high


def _by_departure(draft: Draft, car: VehicleSession) -> tuple[int, str]:
    if car.energy_needed_wh is None or (car.energy_needed_wh > 0 and car.departure_timestamp_us is None):
        return draft.room_high, "nobody commands: the car charges, since nobody told when it needs how much"
    if car.energy_needed_wh <= 0:
        return 0, "nobody commands: the car has what it needs for its departure"
    assert car.departure_timestamp_us is not None
    until = datetime.fromtimestamp(car.departure_timestamp_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%MZ")
    need = f"{car.energy_needed_wh / 1000:.1f} kWh until its departure at {until}"
    if draft.view.begun:
        return draft.room_high, f"nobody commands: the car charges, for {need}"
    return 0, f"nobody commands: the car waits, there is time enough for {need}"


def _from_the_sun(draft: Draft) -> tuple[int, str]:
    left_w, sun_w = draft.view.sun_left_w, draft.view.sun_w
    seen = "the grid meter is lost" if left_w is None else f"the sun leaves {max(0, left_w)} W over"
    if sun_w is None:
        return 0, f"nobody commands: the car waits for the sun; {seen}, {draft.minimum_w} W are the least"
    high = min(draft.room_high, sun_w)
    return high, f"nobody commands: the car charges from the sun with up to {high} W"
