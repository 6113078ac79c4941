"""Local bounds on any issuer (SAFETY 10): what commands have used up (`bounds.py`), they are not given.

A bound takes nothing from what restricts: IDLE, CURTAIL and a way back to nothing are always open.
"""

from __future__ import annotations

from agent.control.allocation import Range
from agent.control.order import Order
from agent.control.rules.draft import Draft, Rule
from agent.control.site import SiteView


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
    allowance = site.bounds.of(draft.view.device_id)
    if allowance.sign * asked_w < 0:
        draft.bind(Rule.SIGN_CHANGES)
    if allowance.ramp_permille is None:
        return power_w
    rating_w = max(draft.view.most_import_w, draft.view.most_export_w)
    step_w = int(rating_w * allowance.ramp_permille / 1000)
    from_w = allowance.from_w
    if from_w * power_w < 0:
        from_w = 0
    highest_w, lowest_w = max(0, from_w) + step_w, min(0, from_w) - step_w
    ramped_w = min(max(power_w, lowest_w), highest_w)
    if ramped_w != power_w:
        draft.bind(Rule.RAMP)
    return ramped_w
