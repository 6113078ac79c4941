"""What a command comes to in a few plans, on devices that do what is ordered, before anybody has given it. Pure.

One plan is not enough: raises wait for what must come down first, and phases follow what the others do. House and sun
stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent.control.plan import DeviceOrder, make_plan, tolerance_w
from agent.control.quarter import Quarter
from agent.control.site import DeviceView, Held, MeterView, SiteView
from drivers.device import DeviceKind

MOST_PLANS: Final = 4


def rehearse(site: SiteView, target_w: int) -> int:
    """The connection's power after a few plans with the site's orders, W; the furthest from `target_w` of the last two.

    The site has a meter. Where plans keep it at the target, they are all.
    """
    assert site.meter is not None, "there is nothing to see without a meter"
    view, seen = site, [site.meter.power_w]
    for _ in range(MOST_PLANS):
        before = view
        view = _moved(view, make_plan(view).orders, site, rising=target_w > site.meter.power_w)
        assert view.meter is not None, "_moved() keeps it"
        seen.append(view.meter.power_w)
        if _at_rest(before, view) or all(abs(power_w - target_w) <= tolerance_w(target_w) for power_w in seen[-2:]):
            return seen[-1]
    return max(seen[-2:], key=lambda power_w: abs(power_w - target_w))


def _at_rest(before: SiteView, after: SiteView) -> bool:
    then = before.devices
    return all((then[name].held, then[name].power_w) == (now.held, now.power_w) for name, now in after.devices.items())


def _moved(view: SiteView, orders: Mapping[str, DeviceOrder], site: SiteView, *, rising: bool) -> SiteView:
    """A moment later."""
    powers_w = {
        name: _follows_w(each, orders[name], site.devices[name], site, rising=rising)
        for name, each in view.devices.items()
    }
    assert view.meter is not None, "rehearse() wants it"
    meter_w = view.meter.power_w + sum(powers_w[name] - device.likely_w for name, device in view.devices.items())
    for name, device in sorted(view.devices.items()):
        if device.online and device.kind is DeviceKind.BATTERY and orders[name].released:
            # By its own control it brings the connection to nothing.
            own_w = min(max(powers_w[name] - meter_w, -device.most_export_w), device.most_import_w)
            meter_w += own_w - powers_w[name]
            powers_w[name] = own_w
    devices = {
        name: device
        if not device.online
        else replace(
            device,
            power_w=powers_w[name],
            sample_age_s=0.0,
            held=Held(lowest_w=orders[name].lowest_w, highest_w=orders[name].highest_w),
        )
        for name, device in view.devices.items()
    }
    return replace(view, devices=devices, meter=_shown(view, powers_w, meter_w))


def _shown(view: SiteView, powers_w: Mapping[str, int], meter_w: int) -> MeterView:
    assert view.meter is not None, "rehearse() wants it"
    phases_w = list(view.meter.phase_power_w)
    for name, device in view.devices.items():
        phases = device.phases_of(view.limits.phases)
        for phase in phases if len(phases_w) >= view.limits.phases else ():
            phases_w[phase - 1] += (powers_w[name] - device.likely_w) // len(phases)
    return replace(view.meter, power_w=meter_w, phase_power_w=tuple(phases_w))


def _sun_w(pv: DeviceView) -> int:
    """What PV may come to make: one that is held back can make its rating, for all that is known."""
    bound_w = pv.held.lowest_w if pv.held is not None else None
    held_back = bound_w is not None and pv.likely_w <= bound_w + tolerance_w(bound_w)
    return -pv.most_export_w if held_back else pv.likely_w


def _follows_w(device: DeviceView, order: DeviceOrder, at_first: DeviceView, site: SiteView, *, rising: bool) -> int:
    """Where a device comes to by its order. `at_first`: as it was when all began; `rising`: to more import."""
    low_w, high_w = order.lowest_w, order.highest_w
    if not device.online or device.capabilities is None or device.follows is False:
        return device.likely_w
    if device.kind is DeviceKind.PV:
        sun_w = _sun_w(at_first) if rising else at_first.likely_w
        return sun_w if low_w is None else max(sun_w, low_w)
    if high_w is None:
        return device.likely_w if low_w is None else max(device.likely_w, low_w)
    if high_w <= 0 or (device.kind is DeviceKind.CHARGER and device.vehicle is None):
        return min(0, high_w)
    return Quarter(at_first, site).takes_w(high_w)
