"""What every device does when nobody commands it: safe without any authority (SAFETY 12)."""

from __future__ import annotations

from agent.control.rules.draft import Draft, Rule
from agent.control.site import SiteView
from drivers.device import DeviceKind


def set_default(draft: Draft, site: SiteView) -> None:
    """The owner's default: cars charge or wait and never discharge, batteries look after the house, PV is free."""
    match draft.view.kind:
        case DeviceKind.CHARGER if site.islanded:
            draft.set_power(0)
            draft.cause = "the site is islanded: cars stop"
            draft.bind(Rule.ISLANDED)
        case DeviceKind.CHARGER:
            wait = site.defaults.cars_wait and not draft.must_charge
            draft.low, draft.high = 0, 0 if wait else draft.room_high
            draft.cause = _car_sentence(draft, wait)
        case DeviceKind.BATTERY if site.defaults.battery_idle and not site.islanded:
            draft.set_power(0)
            draft.cause = "nobody commands: the battery rests, by the owner's default"
        case DeviceKind.BATTERY:
            draft.low = draft.high = None
            draft.cause = "nobody commands: the battery looks after the house by itself"
        case _:
            draft.low = draft.high = None
            draft.cause = "nobody commands: it produces what it can"


def _car_sentence(draft: Draft, wait: bool) -> str:
    car = draft.view.vehicle
    if car is None:
        return "no car: whoever comes may charge"
    if draft.must_charge:
        draft.bind(Rule.CAR_NOW if car.charge_now else Rule.CAR_DEPARTURE)
        return "the car charges: " + ("its driver said now" if car.charge_now else "its departure needs it")
    return "nobody commands: the car waits, by the owner's default" if wait else "nobody commands: the car charges"
