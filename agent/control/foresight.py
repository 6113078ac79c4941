"""What will stand against a command before its end: a car's departure, an owner's minimum; seen from its start. Pure.

The plan knows one moment. A receipt must say from the start what will not be delivered later: a car that is discharged
until its departure comes near, or rests until it must charge (SAFETY 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.control.command import Command, Mode, Point
from agent.control.departure import DEPARTURE_MARGIN, DEPARTURE_RESERVE_S, charging_s
from agent.control.site import DeviceView, SiteView
from drivers.device import DeviceKind, VehicleSession

ENOUGH_PERCENT: Final = 95


@dataclass(frozen=True, slots=True)
class _Turn:
    """When one car stops following, and why."""

    device_id: str
    at_us: int
    why: str


def shortfall(command: Command, site: SiteView) -> str:
    """Why the command cannot be done over its whole time although it can begin; empty when nothing is foreseen."""
    if command.mode is not Mode.SETPOINT or command.point is not Point.DEVICE or not site.now.time_known:
        return ""
    scope = [view for name, view in sorted(site.devices.items()) if not command.targets or name in command.targets]
    able = [view for view in scope if view.online and view.capabilities is not None and view.kind is not DeviceKind.PV]
    cars = [view for view in able if view.kind is DeviceKind.CHARGER and view.vehicle is not None]
    share_w = command.power_w // max(1, len([v for v in able if v.kind is DeviceKind.BATTERY or v.vehicle is not None]))
    turns = [turn for view in cars if (turn := _turn(view, share_w, command, site)) is not None]
    if not turns:
        return ""
    if command.signed_power_w < 0:
        turned = {turn.device_id: turn.at_us for turn in turns}
        possible_wh = sum(_possible_wh(view, turned, share_w, command, site) for view in able)
        asked_wh = command.power_w * (command.end_us - _from_us(command, site)) // 3_600_000_000
        if command.max_energy_wh is not None:
            asked_wh = min(asked_wh, command.max_energy_wh)
        if possible_wh * 100 >= asked_wh * ENOUGH_PERCENT:
            return ""
        return f"{possible_wh} Wh of {asked_wh} Wh are possible, for {_said(turns)}"[:500]
    return f"not until its end: {_said(turns)}"[:500]


def _said(turns: list[_Turn]) -> str:
    return ", ".join(f"{t.device_id} {t.why} from {_clock(t.at_us)} on" for t in turns)


def _clock(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _from_us(command: Command, site: SiteView) -> int:
    return max(command.start_us, site.now.wall_us)


def _rate_w(view: DeviceView, share_w: int) -> int:
    """What a car can give, as far as the command asks for it."""
    car = view.vehicle
    most_w = view.most_export_w if car is None or car.max_discharge_w is None else car.max_discharge_w
    return min(most_w, view.most_export_w, share_w)


def _turn(view: DeviceView, share_w: int, command: Command, site: SiteView) -> _Turn | None:
    car = view.vehicle
    assert car is not None
    from_us, discharges = _from_us(command, site), command.signed_power_w < 0
    rate_w = _rate_w(view, share_w) if discharges else -share_w
    found = [_departure_turn(view, car, rate_w, from_us, discharges=discharges)]
    if discharges:
        found.append(_minimum_turn(view, car, rate_w, from_us, site))
    turns = [turn for turn in found if turn is not None and turn.at_us < command.end_us]
    return min(turns, key=lambda turn: turn.at_us, default=None)


def _departure_turn(
    view: DeviceView, car: VehicleSession, rate_w: int, from_us: int, *, discharges: bool
) -> _Turn | None:
    """What is given has to be charged again, and what is taken in need not: the slack goes faster, or slower."""
    if not car.energy_needed_wh or car.departure_timestamp_us is None:
        return None
    charge_w = view.most_import_w if car.max_charge_w is None else min(view.most_import_w, car.max_charge_w)
    if charge_w <= 0:
        return None
    pace = 1 + rate_w / (charge_w * DEPARTURE_MARGIN)
    if pace <= 0:
        return None  # It is charged quickly enough by the command itself.
    slack = (car.departure_timestamp_us - from_us) / 1e6 - charging_s(car.energy_needed_wh, charge_w)
    slack -= DEPARTURE_RESERVE_S if discharges else 0
    # A car that has all that it needs by then does not turn.
    if rate_w < 0 and slack / pace * -rate_w >= car.energy_needed_wh * 3600:
        return None
    return _Turn(view.device_id, from_us + round(max(0.0, slack / pace) * 1e6), "charges for its departure")


def _minimum_turn(view: DeviceView, car: VehicleSession, rate_w: int, from_us: int, site: SiteView) -> _Turn | None:
    mandate = site.mandates.get(car.token_id) if car.token_id is not None else None
    if mandate is None or car.state_of_charge_permille is None or car.battery_capacity_wh is None or rate_w <= 0:
        return None
    above_wh = max(0, car.state_of_charge_permille - mandate.minimum_soc_permille) * car.battery_capacity_wh // 1000
    return _Turn(view.device_id, from_us + above_wh * 3_600_000_000 // rate_w, "is at its owner's minimum")


def _possible_wh(view: DeviceView, turned: Mapping[str, int], share_w: int, command: Command, site: SiteView) -> int:
    """What one device gives: a car its part until it turns, the others up to all that is asked."""
    power_w = _rate_w(view, share_w if view.device_id in turned else command.power_w)
    ends_us = min(turned.get(view.device_id, command.end_us), command.end_us)
    return power_w * max(0, ends_us - _from_us(command, site)) // 3_600_000_000
