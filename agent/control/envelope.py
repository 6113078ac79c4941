"""The flexibility envelope: what the site could do otherwise for a quarter of an hour, up and down. Pure.

Up is towards export (discharge, charge less), down towards import (charge, produce less), both from where the devices
are now and zero or positive. It promises nothing that the plan would refuse, since the plan is asked: what would it do
with a command for all that there is, each way? So limits by command and by wire, fuses, holds by hand, local bounds and
the grid's frequency count too. What a quarter of an hour needs beside (energy, departures) is reckoned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.control.command import MAX_POWER_W, Command, CommandType, Mode, Point
from agent.control.departure import slack_s
from agent.control.order import Order, Rank
from agent.control.plan import DeviceOrder, Plan, make_plan, tolerance_w
from agent.control.quarter import QUARTER_S, Quarter, Share, kept_up_wh
from agent.control.rehearsal import rehearse
from agent.control.site import DeviceView, SiteView
from agent.control.storage import FULL_PERMILLE
from drivers.device import DeviceKind

PROOFS: Final = 2
"""Rounds in which an offer is taken back to what a command for it comes to."""
_ASKED: Final = b"asked for the envelope"
"""Stands for the hash of a command that nobody gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What can be offered for the next quarter of an hour."""

    power_up_w: int = 0
    power_down_w: int = 0
    energy_up_wh: int = 0
    energy_down_wh: int = 0
    ramp_up_w_per_min: int = 0
    ramp_down_w_per_min: int = 0
    minimum_soc_permille: int | None = None
    """Down to here storage may be used; the highest of the bounds. None: no storage whose charge is known."""
    maximum_soc_permille: int | None = None
    least_price_micro_per_kwh: int = 0
    """For which every owner in it agrees to discharge."""
    currency: str = ""
    why_not: str = ""
    """Why nothing can be offered; empty while something can."""

    @property
    def capacity_w(self) -> int:
        """What can be held for the whole quarter, the larger of both directions."""
        return max(_held_w(self.power_up_w, self.energy_up_wh), _held_w(self.power_down_w, self.energy_down_wh))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One device's share. Below 0: so much it goes the other way, since no command may leave it where it is now, or it
    will not stay there by itself."""

    up_w: int = 0
    down_w: int = 0
    energy_up_wh: float = 0.0
    energy_down_wh: float = 0.0
    now_w: int = 0
    bounded: bool | None = None
    response_s: float = 2.0


def envelope(site: SiteView) -> Envelope:
    """The envelope at this moment."""
    refusal = _suspended(site)
    if refusal:
        return Envelope(why_not=refusal)
    views = [view for _, view in sorted(site.devices.items()) if _can_be_moved(view, site)]
    discharging, charging = _asked(site, CommandType.DISCHARGE), _asked(site, CommandType.CHARGE)
    parts = {v.device_id: _part(v, site, discharging.orders, charging.orders) for v in views}
    power_up_w = min(max(0, sum(p.up_w for p in parts.values())), _export_left_w(site, discharging))
    power_down_w = min(max(0, sum(p.down_w for p in parts.values())), _import_left_w(site, charging))
    less_up_w, less_down_w = power_up_w, power_down_w
    power_up_w, power_down_w = _proven_w(site, power_up_w, -1), _proven_w(site, power_down_w, 1)
    ups = [Share(p.up_w, p.energy_up_wh, p.now_w, p.bounded) for p in parts.values()]
    downs = [Share(p.down_w, p.energy_down_wh, -p.now_w, p.bounded) for p in parts.values()]
    bounds = [bound for view in views if (bound := _soc_bounds(view, site)) is not None]
    prices = [p for view in views if parts[view.device_id].up_w > 0 and (p := _least_price(view, site)) is not None]
    nothing = discharging.commands[_ASKED].reason if not discharging.commands[_ASKED].in_force else ""
    return Envelope(
        power_up_w=power_up_w,
        power_down_w=power_down_w,
        energy_up_wh=kept_up_wh(ups, power_up_w, less_up_w - power_up_w),
        energy_down_wh=kept_up_wh(downs, power_down_w, less_down_w - power_down_w),
        ramp_up_w_per_min=sum(_ramp(p.up_w, p, site.devices[name], site) for name, p in parts.items()),
        ramp_down_w_per_min=sum(_ramp(p.down_w, p, site.devices[name], site) for name, p in parts.items()),
        minimum_soc_permille=max((low for low, _ in bounds), default=None),
        maximum_soc_permille=min((high for _, high in bounds), default=None),
        least_price_micro_per_kwh=max((micro for micro, _ in prices), default=0),
        currency=max(prices, default=(0, ""))[1],
        why_not="" if power_up_w or power_down_w else nothing or "nothing here can be moved now",
    )


def _asked(site: SiteView, type_: CommandType) -> Plan:
    """The plan if a command asked every device for all it has. How soon a power is reached is the ramp's matter."""
    return make_plan(_agreeing(site, _order(site, type_, Point.DEVICE, MAX_POWER_W)))


def _proven_w(site: SiteView, power_w: int, sign: int) -> int:
    """So much of it as a command for it alone comes to: shared out otherwise, other limits may bind than for all."""
    for _ in range(PROOFS):
        if not power_w:
            break
        assert site.meter is not None, "_suspended() wants a meter"
        target_w = site.meter.power_w + sign * power_w
        type_ = CommandType.DISCHARGE if target_w < 0 else CommandType.CHARGE
        asked = _agreeing(site, _order(site, type_, Point.CONNECTION, max(1, abs(target_w))))
        reached_w = min(power_w, max(0, (rehearse(asked, target_w) - site.meter.power_w) * sign))
        if power_w - reached_w <= tolerance_w(power_w):
            return power_w
        power_w = reached_w
    return power_w


def _order(site: SiteView, type_: CommandType, point: Point, power_w: int) -> Order:
    """A command that goes before all others."""
    command = Command(
        audience="zone:envelope",
        mode=Mode.SETPOINT,
        point=point,
        type=type_,
        power_w=power_w,
        start_us=site.now.wall_us,
        end_us=site.now.wall_us + QUARTER_S * 1_000_000,
        issuer="envelope",
        sequence=0,
    )
    return Order(
        hash=_ASKED,
        command_id="envelope",
        command=command,
        issuer_key=b"",
        rank=Rank.GOVERNANCE,
        received_us=site.now.wall_us,
    )


def _agreeing(site: SiteView, order: Order) -> SiteView:
    """The site with this order. Each owner gets the price for which he agrees, since the bid names it: for less nobody
    will order it."""
    agreeing = {
        token: replace(mandate, least_price_micro_per_kwh=0, issuers=frozenset())
        for token, mandate in site.mandates.items()
    }
    return replace(site, orders=(order, *site.orders), mandates=agreeing, bounds=site.bounds.without_ramp)


def _import_left_w(site: SiteView, plan: Plan) -> int:
    """What the connection may still take in: the plan bounds charging by it, and not that the sun makes less."""
    assert site.meter is not None, "_suspended() wants a meter"
    wired_w = [each.import_limit_w for each in site.inputs if each.import_limit_w is not None]
    most_w = min((site.limits.import_limit_w, *wired_w, *_commanded_limits_w(site, plan, Mode.IMPORT_LIMIT)))
    return max(0, most_w - site.meter.power_w)


def _export_left_w(site: SiteView, plan: Plan) -> int:
    """What the connection still lets out: the plan holds the sun back where cars that stop leave too much of it."""
    assert site.meter is not None, "_suspended() wants a meter"
    wired_w = [each.export_limit_w for each in site.inputs if each.export_limit_w is not None]
    most_w = min((site.limits.export_limit_w, *wired_w, *_commanded_limits_w(site, plan, Mode.EXPORT_LIMIT)))
    return max(0, most_w + site.meter.power_w)


def _commanded_limits_w(site: SiteView, plan: Plan, mode: Mode) -> list[int]:
    """What commands in force allow at the connection."""
    return [
        order.command.power_w
        for order in site.orders
        if order.command.mode is mode and order.command.point is Point.CONNECTION and plan.commands[order.hash].in_force
    ]


def _suspended(site: SiteView) -> str:
    if site.stop is not None:
        return f"local STOP by {site.stop}"
    if site.islanded:
        return "the site is islanded"
    if site.safe_mode is not None:
        return f"safe mode: {site.safe_mode}"
    if site.meter is None:
        return "there is no grid meter, or it is lost"
    if not site.now.time_known:
        return "the time is not known since the reboot"
    return ""


def _can_be_moved(view: DeviceView, site: SiteView) -> bool:
    """Whether anybody may count on it: it answers, does what it is told, and no person holds it by hand."""
    answers = view.online and view.capabilities is not None and view.follows is not False
    return answers and view.device_id not in site.overrides


def _part(
    view: DeviceView, site: SiteView, discharging: Mapping[str, DeviceOrder], charging: Mapping[str, DeviceOrder]
) -> _Part:
    assert view.capabilities is not None, "_can_be_moved() wants them"
    now_w, response_s = view.likely_w, max(1.0, view.capabilities.response_s)
    if view.kind is DeviceKind.PV:
        if not view.capabilities.limits_export:
            return _Part()
        # Its bound is negative: how much it would still make.
        bound_w = charging[view.device_id].lowest_w
        less_w = 0 if bound_w is None else max(0, min(bound_w, 0) - now_w)
        return _Part(down_w=less_w, energy_down_wh=_quarter_wh(less_w), now_w=-less_w, response_s=response_s)
    if view.kind is DeviceKind.CHARGER and view.vehicle is None:
        return _Part()
    least_w, most_w = discharging[view.device_id].highest_w, charging[view.device_id].highest_w
    if least_w is None or most_w is None:
        return _Part()  # it is left to itself: no command moves it
    store, now_wh = Quarter(view, site), now_w * QUARTER_S / 3600
    if _must_charge(view, site):
        # Whatever is ordered, as far as it is let, and until it is full or leaves: nothing to offer, but to count.
        low_w, high_w = store.takes_w(least_w), store.takes_w(most_w)
        return _Part(
            up_w=min(0, now_w - low_w),
            down_w=min(0, high_w - now_w),
            energy_up_wh=min(0.0, now_wh - store.moved_wh(low_w)),
            energy_down_wh=min(0.0, store.moved_wh(high_w) - now_wh),
            now_w=now_w,
        )
    low_w, high_w = max(store.gives_w(least_w), _departure_w(view, site, most_w)), store.takes_w(most_w)
    return _Part(
        up_w=now_w - low_w,
        down_w=high_w - now_w,
        energy_up_wh=now_wh - store.moved_wh(low_w),
        energy_down_wh=store.moved_wh(high_w) - now_wh,
        now_w=now_w,
        bounded=store.bounded,
        response_s=response_s,
    )


def _must_charge(view: DeviceView, site: SiteView) -> bool:
    """It charges whatever is ordered (SAFETY 9): no command has anything of it."""
    car = view.vehicle
    if car is None:
        return False
    slack = slack_s(car, _most_charge_w(view), site.now)
    return car.charge_now or view.must_go_on or (slack is not None and slack < 0)


def _most_charge_w(view: DeviceView) -> int:
    car = view.vehicle
    most_w = view.most_import_w
    return most_w if car is None or car.max_charge_w is None else min(most_w, car.max_charge_w)


def _departure_w(view: DeviceView, site: SiteView, high_w: int) -> int:
    """What a car must have on the average of the quarter, so that its departure stays reachable after it."""
    car = view.vehicle
    if view.kind is not DeviceKind.CHARGER or car is None:
        return -view.most_export_w
    slack = slack_s(car, _most_charge_w(view), site.now)
    if slack is None or slack >= QUARTER_S:
        return -view.most_export_w
    return int(max(0, high_w) * (QUARTER_S - max(0.0, slack)) / QUARTER_S)


def _soc_bounds(view: DeviceView, site: SiteView) -> tuple[int, int] | None:
    if view.kind is DeviceKind.BATTERY and view.state_of_charge_permille is not None:
        reserve = site.defaults.frequency_reserve_permille if site.defaults.answers_frequency else 0
        return site.defaults.battery_minimum_soc_permille + reserve, FULL_PERMILLE - reserve
    car = view.vehicle
    if view.kind is DeviceKind.CHARGER and car is not None and car.token_id is not None:
        mandate = site.mandates.get(car.token_id)
        if mandate is not None and car.state_of_charge_permille is not None:
            return mandate.minimum_soc_permille, FULL_PERMILLE
    return None


def _least_price(view: DeviceView, site: SiteView) -> tuple[int, str] | None:
    car = view.vehicle
    mandate = site.mandates.get(car.token_id) if car is not None and car.token_id is not None else None
    return None if mandate is None else (mandate.least_price_micro_per_kwh, mandate.currency)


def _quarter_wh(power_w: int) -> int:
    return power_w * QUARTER_S // 3600


def _held_w(power_w: int, energy_wh: int) -> int:
    return power_w if energy_wh >= _quarter_wh(power_w) else energy_wh * 3600 // QUARTER_S


def _ramp(power_w: int, part: _Part, view: DeviceView, site: SiteView) -> int:
    """How fast it gets there, W a minute: as the device answers, and no faster than the local ramp lets commands."""
    rate = int(max(0, power_w) * 60 / part.response_s)
    ramp_permille = site.bounds.of(view.device_id).ramp_permille_per_s
    if ramp_permille is None or view.kind is DeviceKind.PV:
        return rate
    return min(rate, max(view.most_import_w, view.most_export_w) * ramp_permille * 60 // 1000)
