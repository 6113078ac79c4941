"""How much energy a battery or a car can give and take between the bounds of its charge. Pure.

What is not known is None, and bounds nothing: then the power alone does.
"""

from __future__ import annotations

from typing import Final

from agent.control.site import DeviceView, SiteView
from drivers.device import DeviceKind

FULL_PERMILLE: Final = 1000


def battery_bounds_permille(site: SiteView) -> tuple[int, int]:
    """(least, most) charge of the site's batteries; what is kept for the grid's frequency is free while it needs it."""
    least = site.defaults.battery_minimum_soc_permille
    if not site.defaults.answers_frequency or site.frequency.share_permille != 0:
        return least, FULL_PERMILLE
    reserve = site.defaults.frequency_reserve_permille
    return least + reserve, FULL_PERMILLE - reserve


def storage_wh(view: DeviceView, site: SiteView) -> tuple[int | None, int | None]:
    """(Wh above its least charge, Wh below its most). A car without its owner's mandate gives nothing."""
    if view.kind is DeviceKind.BATTERY:
        charge = view.state_of_charge_permille
        capacity_wh = None if view.capabilities is None else view.capabilities.energy_capacity_wh
        least, most = battery_bounds_permille(site)
    elif view.kind is DeviceKind.CHARGER and view.vehicle is not None:
        charge, capacity_wh = view.vehicle.state_of_charge_permille, view.vehicle.battery_capacity_wh
        mandate = site.mandates.get(view.vehicle.token_id) if view.vehicle.token_id is not None else None
        least, most = FULL_PERMILLE if mandate is None else mandate.minimum_soc_permille, FULL_PERMILLE
    else:
        return None, None
    if charge is None or capacity_wh is None:
        return None, None
    return max(0, charge - least) * capacity_wh // 1000, max(0, most - charge) * capacity_wh // 1000
