"""How much sun there may be that a limit at the connection holds back: it shows only when it is used. Pure.

A car that takes more lets the limit's closed loop give PV more; so a surplus that is held back is asked for step by
step, and what does not come is taken back. Where a bound is on PV itself, nothing that a car takes would move it.
"""

from __future__ import annotations

from typing import Final

from agent.control.command import Mode, Point
from agent.control.site import DeviceView, SiteView
from drivers.device import DeviceKind

STEP_W: Final = 500
"""So much more than is seen the cars that charge from the sun may take while PV is held back."""
LEAST_W: Final = 200
"""PV that makes less may as well have no sun."""
AT_BOUND: Final = 0.9
"""PV that makes this part of its bound is held back by it."""


def hidden_w(site: SiteView) -> int | None:
    """The most that PV could make beside what it makes, W; 0 where none is held back, or no car could let it go.

    None: PV is on its way to another bound, and what it makes tells nothing yet.
    """
    if site.meter is None or site.stop is not None or site.islanded:
        return 0
    bounded = [
        view
        for name, view in site.devices.items()
        if view.kind is DeviceKind.PV and view.online and _bound_w(view) is not None and not _is_ordered(name, site)
    ]
    if not all(view.settled for view in bounded):
        return None
    return sum(view.most_export_w + view.present_w for view in bounded if _is_held_back(view))


def _bound_w(view: DeviceView) -> int | None:
    return None if view.held is None or view.held.lowest_w is None else -view.held.lowest_w


def _is_held_back(view: DeviceView) -> bool:
    bound_w = _bound_w(view)
    if bound_w is None or bound_w >= view.most_export_w:
        return False
    return -view.present_w >= max(LEAST_W, AT_BOUND * bound_w)


def _is_ordered(name: str, site: SiteView) -> bool:
    """By a command about devices, or by hand."""
    return name in site.overrides or any(
        order.command.point is Point.DEVICE
        and order.command.mode is not Mode.IMPORT_LIMIT
        and name in (order.command.targets or site.devices)
        for order in site.orders
    )
