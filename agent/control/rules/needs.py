"""What a device may do by its own state: ratings, batteries' state of charge, cars and their drivers (SAFETY 9)."""

from __future__ import annotations

import math
from typing import Final

from agent.control.command import Price
from agent.control.departure import DEPARTURE_RESERVE_S, slack_s
from agent.control.rules.draft import Draft, Rule
from agent.control.site import DeviceView, SiteView
from agent.control.storage import FULL_PERMILLE, battery_bounds_permille
from drivers.device import DeadMan, DeviceKind, VehicleSession

SOC_FRESH_S: Final = 300.0
"""A car's state of charge is believed for 5 min (SAFETY 9)."""
SMALL_BATTERY_WH: Final = 20_000
"""Of a car that does not say how large its battery is."""


def set_room(draft: Draft, site: SiteView, price: Price | None, issuer: str | None = None) -> None:
    """Fill in the room: between the ratings, narrowed by what the battery or car needs. `price`: of the discharge;
    `issuer`: of the command that has the device; None: no command has it."""
    view = draft.view
    draft.room_low, draft.room_high = -view.most_export_w, view.most_import_w
    draft.why_low = draft.why_high = Rule.RATING
    capabilities = view.capabilities
    if capabilities is None:
        return
    if not (capabilities.limits_export or capabilities.follows_setpoint) and view.kind is not DeviceKind.PV:
        draft.room_low, draft.why_low = 0, Rule.CAPABILITY
    if view.kind is DeviceKind.BATTERY:
        _battery(draft, site)
    elif view.kind is DeviceKind.CHARGER:
        _car(draft, site, price, issuer)
    elif view.kind is DeviceKind.PV:
        draft.room_high = 0


def _battery(draft: Draft, site: SiteView) -> None:
    least, most = battery_bounds_permille(site)
    charge = draft.view.state_of_charge_permille
    if charge is None and least > 0:
        draft.room_low, draft.why_low = 0, Rule.BATTERY_STATE
    elif charge is not None and charge <= least:
        draft.room_low, draft.why_low = 0, Rule.BATTERY_MINIMUM
    if charge is not None and charge >= most:
        draft.room_high, draft.why_high = 0, Rule.BATTERY_RESERVE if most < FULL_PERMILLE else Rule.BATTERY_FULL


def _car(draft: Draft, site: SiteView, price: Price | None, issuer: str | None) -> None:
    car = draft.view.vehicle
    if car is None:
        # Nothing to order about; whoever plugs in starts with the static share until the next plan.
        draft.room_low, draft.why_low = 0, Rule.NO_CAR
        draft.room_high = min(draft.room_high, _static_share_w(draft, draft.room_high))
        draft.why_high = Rule.NO_CAR
        return
    if car.max_charge_w is not None:
        draft.room_high = min(draft.room_high, car.max_charge_w)
    refusal = _no_discharge(draft, site, car, price, issuer)
    if refusal is not None:
        draft.room_low, draft.why_low = 0, refusal
    elif car.max_discharge_w is not None:
        draft.room_low = max(draft.room_low, -car.max_discharge_w)
    if car.charge_now:
        draft.must_charge, draft.why_low = True, Rule.CAR_NOW
    slack = _slack_s(draft, site, car)
    draft.slack_s = float("inf") if slack is None else slack
    # An unknown departure forces nothing.
    if not car.charge_now and (draft.slack_s < 0 or draft.view.must_go_on):
        draft.must_charge, draft.why_low = True, Rule.CAR_DEPARTURE
    if draft.must_charge:
        draft.room_low = 0


def _static_share_w(draft: Draft, otherwise_w: int) -> int:
    if draft.view.fallback_import_w is not None:
        return draft.view.fallback_import_w
    capabilities = draft.view.capabilities
    if capabilities is not None and capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK:
        return max(0, capabilities.fallback_highest_w)
    return otherwise_w


def _no_discharge(
    draft: Draft, site: SiteView, car: VehicleSession, price: Price | None, issuer: str | None
) -> Rule | None:
    """The first rule that forbids to discharge this car; None when it may be. What is not known forbids."""
    if draft.room_low >= 0:
        return draft.why_low
    if not site.limits.discharge_permitted:
        return Rule.SITE_DISCHARGE
    mandate = site.mandates.get(car.token_id) if car.token_id is not None else None
    if mandate is None or car.transaction_id is None:
        return Rule.CAR_MANDATE
    if issuer is not None and mandate.issuers and issuer not in mandate.issuers:
        return Rule.CAR_ISSUER
    age_s = draft.view.state_of_charge_age_s
    if car.state_of_charge_permille is None or age_s is None or age_s > SOC_FRESH_S:
        return Rule.CAR_STATE
    if (
        draft.view.at_minimum
        or car.state_of_charge_permille - given_since_permille(draft.view, car, age_s) <= mandate.minimum_soc_permille
    ):
        return Rule.CAR_MINIMUM
    if mandate.least_price_micro_per_kwh > 0 and (
        price is None or price.currency != mandate.currency or price.micro_per_kwh < mandate.least_price_micro_per_kwh
    ):
        return Rule.CAR_PRICE
    slack = _slack_s(draft, site, car)
    if slack is None or slack < DEPARTURE_RESERVE_S:
        return Rule.CAR_DEPARTURE  # Where nobody knows until when it needs its energy, none is taken.
    return None


def given_since_permille(view: DeviceView, car: VehicleSession, age_s: float) -> int:
    """What the car can have given since its state of charge was measured, rounded up.

    Where nobody has counted it since then: as if it had always been what it is now.
    """
    given_ws = giving_w(view) * age_s if view.given_ws is None else view.given_ws
    capacity_wh = car.battery_capacity_wh or SMALL_BATTERY_WH
    return math.ceil(given_ws / 3600 * 1000 / capacity_wh)


def giving_w(view: DeviceView) -> int:
    """The most that a car can be giving now."""
    return max(0, -view.present_w, -(view.held.lowest_w or 0) if view.held is not None else 0)


def _slack_s(draft: Draft, site: SiteView, car: VehicleSession) -> float | None:
    """Seconds to spare until charging must begin; None: it needs energy, and nobody knows until when."""
    return slack_s(car, draft.room_high, site.now)


def keep_room(draft: Draft) -> None:
    """Narrow the band to the room: what a target asked for and the device or its owner does not allow."""
    if draft.released:
        return
    if draft.low is not None and draft.low < draft.room_low and draft.view.kind is not DeviceKind.PV:
        draft.cap_low(draft.room_low, draft.why_low or Rule.RATING)
    if draft.high is not None and draft.high > draft.room_high:
        draft.cap_high(max(0, draft.room_high), draft.why_high or Rule.RATING)
