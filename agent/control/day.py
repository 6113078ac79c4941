"""The ordinary day of cars when nobody commands: now, by departure, or from the sun; with a memory, so nothing flaps.

The plan is a function of one moment; what has begun, and since when the sun was enough, is stepped here, once before
each plan, and stands in the view. Pure.

The sun is measured at the grid meter: what the house and PV leave over. A battery in its own self-consumption gives way
to cars and fills no car: what it takes in counts as sun, what it gives does not. Sun that a limit holds back is not
measured by anybody: a car that starts shows whether it is there, and where it is not, none tries again for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.allocation import Range, fill
from agent.control.departure import DEPARTURE_RESERVE_S, slack_s
from agent.control.held_back import STEP_W as HELD_BACK_STEP_W
from agent.control.held_back import hidden_w
from agent.control.rules.needs import given_since_permille, giving_w
from agent.control.site import CarDay, DeviceView, SiteView
from drivers.device import DeviceKind, VehicleSession

STEP_W: Final = 100
MUST_UNTIL_S: Final = 300.0
"""A car that must charge goes on until it has so much time to spare: else it would start and stop all night."""
ASLEEP_AFTER_S: Final = 60.0
"""A car that takes nothing for so long leaves the sun to the others, but for the least that wakes it."""
ASLEEP_W: Final = 200
SAME_WORD_S: Final = 0.5
"""A state of charge that was measured later by more is another one."""
TRY_AGAIN_S: Final = 1800.0
"""Sun that was thought to be held back, and was not there, is not looked for again before."""
AGAIN_PERMILLE: Final = 20
"""A car that was discharged to its owner's minimum gives again once it has so much more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SunPace:
    """What the owner set."""

    start_after_s: float = 60.0
    """The sun must have been enough for so long before another car starts."""
    stop_after_s: float = 120.0
    """It must have been too little for so long before one stops."""
    least_s: float = 300.0
    """A car that has started charges so long at least, and one that has stopped rests so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarState:
    """One charger."""

    transaction_id: str | None = None
    begun: bool = False
    """Charging for the departure has begun."""
    must: bool = False
    """It has become pressing: no command stands above it any more."""
    at_minimum: bool = False
    """It was discharged to its owner's minimum."""
    measured_s: float | None = None
    """When its state of charge was measured."""
    given_ws: float | None = None
    """The most that it can have given since; None: it has told no state of charge."""
    looked_s: float = 0.0
    sunny: bool = False
    """Charges from the sun."""
    changed_s: float = float("-inf")
    """When it last started or stopped with the sun."""
    awake_s: float = float("-inf")
    """When it last took something."""
    sun_w: int = 0
    """Its part of the sun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayState:
    """All chargers, and how long the sun has been enough or too little."""

    cars: Mapping[str, CarState] = field(default_factory=dict)
    enough_since_s: float | None = None
    short_since_s: float | None = None
    left_w: int | None = None
    """What the sun leaves over for cars; None: not known, the meter is lost."""
    held_back_w: int = 0
    """What PV may make beside, as last seen."""
    all_seen_s: float = float("-inf")
    """When PV last made less than it might: then all the sun was seen."""
    trying: str | None = None
    """The car that started for sun which is held back, until it is seen."""
    tried_s: float = float("-inf")
    """When that was last in vain."""


def step_day(state: DayState, site: SiteView, pace: SunPace, now_s: float) -> DayState:
    """The state after one look. `now_s`: monotonic."""
    chargers = {name: d for name, d in site.devices.items() if d.kind is DeviceKind.CHARGER}
    cars = {name: _departing(state.cars.get(name, CarState()), view, site, now_s) for name, view in chargers.items()}
    state = replace(state, cars=cars, left_w=_left_w(site, cars))
    if site.frequency.side != 0:
        return state  # Closed loops freeze while the grid is in need (SAFETY 5).
    found_w = hidden_w(site)
    if found_w is not None:
        state = replace(state, held_back_w=found_w, all_seen_s=state.all_seen_s if found_w else now_s)
    return _sun(state, chargers, pace, now_s)


def with_day(site: SiteView, state: DayState) -> SiteView:
    """The view as the plan needs it."""
    devices = dict(site.devices)
    for name, car in state.cars.items():
        devices[name] = replace(
            devices[name],
            begun=car.begun,
            must_go_on=car.must,
            at_minimum=car.at_minimum,
            given_ws=car.given_ws,
            sun_w=car.sun_w if car.sunny else None,
            sun_left_w=state.left_w,
        )
    return replace(site, devices=devices)


def _departing(state: CarState, view: DeviceView, site: SiteView, now_s: float) -> CarState:
    car = view.vehicle
    if car is None or car.transaction_id != state.transaction_id:
        state = CarState(
            transaction_id=None if car is None else car.transaction_id,
            sunny=state.sunny and car is not None,
            changed_s=state.changed_s,
            awake_s=state.awake_s,
        )
    if car is None:
        return state
    state = _counted(state, view, now_s)
    at_minimum = _at_minimum(state, view, car, site)
    if at_minimum != state.at_minimum:
        state = replace(state, at_minimum=at_minimum)
    charge_w = view.most_import_w if car.max_charge_w is None else min(view.most_import_w, car.max_charge_w)
    slack = slack_s(car, charge_w, site.now)
    if slack is None:
        return replace(state, begun=False, must=False) if state.begun or state.must else state
    must = slack < (MUST_UNTIL_S if state.must else 0.0)
    begun = slack != float("inf") and (state.begun or slack < DEPARTURE_RESERVE_S)
    return state if (begun, must) == (state.begun, state.must) else replace(state, begun=begun, must=must)


def _counted(state: CarState, view: DeviceView, now_s: float) -> CarState:
    """With what it can have given until now: power changes between two words of a car, and all of it has flowed."""
    age_s = view.state_of_charge_age_s
    if age_s is None:
        return replace(state, measured_s=None, given_ws=None, looked_s=now_s)
    measured_s, power_w = now_s - age_s, giving_w(view)
    if state.given_ws is None or state.measured_s is None or measured_s > state.measured_s + SAME_WORD_S:
        return replace(state, measured_s=measured_s, given_ws=power_w * age_s, looked_s=now_s)
    given_ws = state.given_ws + power_w * max(0.0, now_s - state.looked_s)
    return replace(state, given_ws=given_ws, looked_s=now_s)


def _at_minimum(state: CarState, view: DeviceView, car: VehicleSession, site: SiteView) -> bool:
    """Between two words of the car what it gave is counted at its most: its next word must not begin it anew."""
    mandate = site.mandates.get(car.token_id) if car.token_id is not None else None
    charge, age_s = car.state_of_charge_permille, view.state_of_charge_age_s
    if mandate is None or charge is None or age_s is None:
        return state.at_minimum
    if state.at_minimum:
        return charge < mandate.minimum_soc_permille + AGAIN_PERMILLE
    given = given_since_permille(replace(view, given_ws=state.given_ws), car, age_s)
    return charge - given <= mandate.minimum_soc_permille


def _follows_sun(view: DeviceView, state: CarState) -> bool:
    car = view.vehicle
    return (
        view.day is CarDay.SURPLUS
        and view.online
        and view.capabilities is not None
        and car is not None
        and not car.charge_now
        and not state.must
    )


def _left_w(site: SiteView, cars: Mapping[str, CarState]) -> int | None:
    if site.house_w is None:
        return None
    taken_w = site.house_w
    for name, view in site.devices.items():
        if view.kind is DeviceKind.CHARGER and _follows_sun(view, cars[name]):
            continue
        looks_after_itself = view.held is None or (view.held.lowest_w is None and view.held.highest_w is None)
        if view.kind is DeviceKind.BATTERY and looks_after_itself:
            continue
        taken_w += view.likely_w
    return -taken_w


def _sun(state: DayState, chargers: Mapping[str, DeviceView], pace: SunPace, now_s: float) -> DayState:
    cars = dict(state.cars)
    candidates = [name for name in sorted(cars) if _follows_sun(chargers[name], cars[name])]
    for name, car in cars.items():
        if name not in candidates and car.sunny:
            cars[name] = replace(car, sunny=False, changed_s=now_s, sun_w=0)
        if chargers[name].present_w >= ASLEEP_W:
            cars[name] = replace(cars[name], awake_s=now_s)
    left_w = state.left_w if state.left_w is not None else 0
    running = [name for name in candidates if cars[name].sunny]
    trying = state.trying if state.trying in running else None
    tried_s, may_try = state.tried_s, trying is None and now_s - state.tried_s >= TRY_AGAIN_S
    least_w = sum(_least_w(chargers[name]) for name in running)
    enough_s, short_s = state.enough_since_s, state.short_since_s
    waiting = [n for n in candidates if not cars[n].sunny and now_s - cars[n].changed_s >= pace.least_s]
    # Who needs least can start soonest; among equals the name decides.
    following = min(waiting, key=lambda name: (_least_w(chargers[name]), name), default=None)
    there_w = left_w + (state.held_back_w if may_try else 0)
    if following is None or there_w < least_w + _least_w(chargers[following]):
        enough_s = None
    elif enough_s is None:
        enough_s = now_s
    elif now_s - enough_s >= pace.start_after_s:
        cars[following] = replace(cars[following], sunny=True, changed_s=now_s, awake_s=now_s)
        running, enough_s = [*running, following], None
        if left_w < least_w + _least_w(chargers[following]):
            trying = following
        least_w += _least_w(chargers[following])
    if running and (trying or now_s - state.all_seen_s >= pace.start_after_s):
        left_w += min(state.held_back_w, HELD_BACK_STEP_W)
    if not running or left_w >= least_w:
        short_s = trying = None
    elif short_s is None:
        short_s = now_s
    elif now_s - short_s >= pace.stop_after_s:
        # The one that started last stops first.
        ending = max(running, key=lambda name: (cars[name].changed_s, name))
        if ending == trying or now_s - cars[ending].changed_s >= pace.least_s:
            if ending == trying:
                trying, tried_s = None, now_s
            cars[ending] = replace(cars[ending], sunny=False, changed_s=now_s, sun_w=0)
            running, short_s = [name for name in running if name != ending], None
    ranges = {name: _range(chargers[name], cars[name], now_s) for name in running}
    for name, power_w in fill(max(left_w, 0), ranges).items():
        cars[name] = replace(cars[name], sun_w=max(power_w // STEP_W * STEP_W, _least_w(chargers[name])))
    return replace(state, cars=cars, enough_since_s=enough_s, short_since_s=short_s, trying=trying, tried_s=tried_s)


def _least_w(view: DeviceView) -> int:
    return view.capabilities.minimum_import_w if view.capabilities is not None else 0


def _range(view: DeviceView, state: CarState, now_s: float) -> Range:
    least_w = _least_w(view)
    most_w = max(least_w, view.most_import_w)
    if view.vehicle is not None and view.vehicle.max_charge_w is not None:
        most_w = max(least_w, min(most_w, view.vehicle.max_charge_w))
    if now_s - state.awake_s > ASLEEP_AFTER_S:
        most_w = least_w
    return Range(least_w, most_w)
