"""The flexibility envelope: what the site could do otherwise for a quarter of an hour, up and down. Pure.

Up is towards export (discharge, charge less), down towards import (charge, produce less), both from where the devices
are now and zero or positive. It promises nothing that the plan would refuse: rooms, mandates and departures are the
plan's own, and the connection bounds the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.control.command import Price
from agent.control.departure import DEPARTURE_MARGIN, slack_s
from agent.control.rules.draft import Draft
from agent.control.rules.needs import set_room
from agent.control.site import DeviceView, SiteView
from agent.control.storage import FULL_PERMILLE, storage_wh
from drivers.device import DeviceKind

QUARTER_S: Final = 900


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
    """One device's share."""

    up_w: int = 0
    down_w: int = 0
    energy_up_wh: int = 0
    energy_down_wh: int = 0
    response_s: float = 2.0


def envelope(site: SiteView) -> Envelope:
    """The envelope at this moment."""
    refusal = _suspended(site)
    if refusal:
        return Envelope(why_not=refusal)
    assert site.meter is not None, "_suspended() wants a meter"
    views = [view for _, view in sorted(site.devices.items()) if view.online and view.capabilities is not None]
    parts = {view.device_id: _part(view, site) for view in views}
    most_up_w = max(0, site.limits.export_limit_w + site.meter.power_w)
    if not site.limits.discharge_permitted:
        most_up_w = min(most_up_w, max(0, site.meter.power_w))  # storage may cover the site's own demand and no more
    most_down_w = max(0, site.limits.import_limit_w - site.meter.power_w)
    up_w, down_w = sum(p.up_w for p in parts.values()), sum(p.down_w for p in parts.values())
    power_up_w, power_down_w = min(up_w, most_up_w), min(down_w, most_down_w)
    bounds = [bound for view in views if (bound := _soc_bounds(view, site)) is not None]
    prices = [p for view in views if parts[view.device_id].up_w and (p := _least_price(view, site)) is not None]
    return Envelope(
        power_up_w=power_up_w,
        power_down_w=power_down_w,
        energy_up_wh=min(sum(p.energy_up_wh for p in parts.values()), _quarter_wh(power_up_w)),
        energy_down_wh=min(sum(p.energy_down_wh for p in parts.values()), _quarter_wh(power_down_w)),
        ramp_up_w_per_min=_scaled(sum(_ramp(p.up_w, p.response_s) for p in parts.values()), power_up_w, up_w),
        ramp_down_w_per_min=_scaled(sum(_ramp(p.down_w, p.response_s) for p in parts.values()), power_down_w, down_w),
        minimum_soc_permille=max((low for low, _ in bounds), default=None),
        maximum_soc_permille=min((high for _, high in bounds), default=None),
        least_price_micro_per_kwh=max((micro for micro, _ in prices), default=0),
        currency=max(prices, default=(0, ""))[1],
        why_not="" if power_up_w or power_down_w else "nothing here can be moved now",
    )


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


def _part(view: DeviceView, site: SiteView) -> _Part:
    assert view.capabilities is not None
    draft = Draft(view)
    asked = _least_price(view, site)
    # The bid names what its owner asks for: for less nobody will order it.
    set_room(draft, site, None if asked is None else Price(*asked))
    now_w, response_s = view.likely_w, max(1.0, view.capabilities.response_s)
    if view.kind is DeviceKind.PV:
        held_back = min(max(0, -now_w), view.most_export_w) if view.capabilities.limits_export else 0
        return _Part(down_w=held_back, energy_down_wh=_quarter_wh(held_back), response_s=response_s)
    if not draft.dispatchable or (view.kind is DeviceKind.CHARGER and view.vehicle is None):
        return _Part()
    low_w, high_w = _room(draft, site)
    if site.coming_back is not None:
        share = site.coming_back.allowance_permille
        low_w = max(low_w, min(0, now_w) - view.most_export_w * share // 1000)
        high_w = min(high_w, max(0, now_w) + view.most_import_w * share // 1000)
    up_w, down_w = max(0, now_w - low_w), max(0, high_w - now_w)
    above_wh, below_wh = storage_wh(view, site)
    # What is taken in less comes from no storage; what is given less goes into none.
    energy_up = _quarter_wh(min(up_w, max(0, now_w))) + _bounded(_quarter_wh(max(0, up_w - max(0, now_w))), above_wh)
    energy_down = _quarter_wh(min(down_w, max(0, -now_w))) + _bounded(
        _quarter_wh(max(0, down_w - max(0, -now_w))), below_wh
    )
    return _Part(
        up_w=up_w,
        down_w=down_w,
        energy_up_wh=energy_up,
        energy_down_wh=energy_down,
        response_s=response_s,
    )


def _room(draft: Draft, site: SiteView) -> tuple[int, int]:
    """Where the device could be for the whole quarter; a car's departure must stay reachable after it."""
    view, low_w, high_w = draft.view, draft.room_low, max(draft.room_high, draft.room_low)
    if draft.must_charge:
        return high_w, high_w
    car = view.vehicle
    if view.kind is DeviceKind.CHARGER and car is not None:
        slack = slack_s(car, high_w, site.now)
        if slack is not None and slack < QUARTER_S:
            # So much must flow on the average that it can still be charged in time.
            low_w = max(low_w, int(high_w * DEPARTURE_MARGIN * (QUARTER_S - max(0.0, slack)) / QUARTER_S))
    return low_w, high_w


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


def _bounded(energy_wh: int, most_wh: int | None) -> int:
    return energy_wh if most_wh is None else min(energy_wh, most_wh)


def _ramp(power_w: int, response_s: float) -> int:
    return int(power_w * 60 / response_s)


def _scaled(rate: int, part_w: int, whole_w: int) -> int:
    return 0 if whole_w <= 0 else rate * part_w // whole_w
