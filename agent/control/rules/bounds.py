"""Local bounds on any issuer (SAFETY 10): what commands have used up (`bounds.py`), they are not given.

A bound takes nothing from what restricts: IDLE, CURTAIL and a way back to nothing are always open.
"""

from __future__ import annotations

from agent.control.allocation import Range
from agent.control.bounds import SIGN_LEAST_W
from agent.control.order import Order
from agent.control.rules.draft import Draft, Rule
from agent.control.site import DeviceView, Sharing, SiteView


def is_event(order: Order, site: SiteView) -> bool:
    """Whether its coming into force counts: it orders power, and has not begun before."""
    return not order.command.restrictive and order.hash not in site.bounds.begun


def may_begin(order: Order, others: int, site: SiteView) -> bool:
    """Whether a command may come into force now, beside so many `others` that begin with it."""
    left = site.bounds.events_left
    return left is None or others < left or not is_event(order, site)


def may_be_moved(draft: Draft, site: SiteView) -> bool:
    """Whether commands may still move this device today; says on the draft which bound forbids it."""
    allowance = site.bounds.of(draft.view.device_id)
    if not allowance.energy:
        draft.bind(Rule.ENERGY_DAY)
    if not allowance.cycles:
        draft.bind(Rule.CYCLES_DAY)
    return allowance.energy and allowance.cycles


def keep_sign(draft: Draft, possible: Range, site: SiteView) -> Range:
    """The range on the side to which the device may still be ordered this hour."""
    sign = site.bounds.of(draft.view.device_id).sign
    if sign > 0 and possible.low < 0:
        return Range(0, max(0, possible.high), possible.minimum)
    if sign < 0 and possible.high > 0:
        return Range(min(0, possible.low), 0, possible.minimum)
    return possible


def bound_after_sharing(draft: Draft, power_w: int, asked_w: int, site: SiteView) -> int:
    """The power that a command gives a device, after the ramp: away from nothing in steps, towards it at once.

    `asked_w`: what the command asks of all its devices together.
    """
    if site.bounds.of(draft.view.device_id).sign * asked_w < 0:
        draft.bind(Rule.SIGN_CHANGES)
    ramp = ramp_of(draft, site)
    if ramp is None or ramp[0] <= power_w <= ramp[1]:
        return power_w
    draft.bind(Rule.RAMP)
    return min(max(power_w, ramp[0]), ramp[1])


def begins_w(draft: Draft, goal_w: int, site: SiteView) -> int:
    """What a car that rests is ordered on the way to its least current; 0: it begins at once, or shall rest.

    It takes nothing yet, but the ramp goes by what was ordered: from nothing to nothing it would never begin.
    """
    ramp = ramp_of(draft, site)
    if ramp is None or goal_w < draft.minimum_w or ramp[1] >= draft.minimum_w:
        return 0
    return ramp[1]


def ramp_of(draft: Draft, site: SiteView) -> tuple[int, int] | None:
    """(lowest, highest) to which the ramp lets it go in this plan; None: there is no ramp.

    A step beyond what commands had of it; what it does already it may go on with, and no step is added to that: a
    device that gives a little more than it is ordered would outrun the ramp.
    """
    allowance = site.bounds.of(draft.view.device_id)
    if allowance.ramp_permille is None:
        return None
    step_w = int(max(draft.view.most_import_w, draft.view.most_export_w) * allowance.ramp_permille / 1000)
    does_w = does_already_w(draft.view, site)
    return min(min(0, allowance.from_w) - step_w, does_w), max(max(0, allowance.from_w) + step_w, does_w)


def does_already_w(view: DeviceView, site: SiteView) -> int:
    """Power that no ramp takes from it: the metered one; at the rule of earlier releases none."""
    if site.sharing is Sharing.QUARTER or not view.online:
        return 0
    power_w = view.likely_w
    if power_w >= SIGN_LEAST_W and view.capabilities is not None:
        return max(power_w, view.capabilities.minimum_import_w)  # At its least current a car may take a little less.
    return power_w
