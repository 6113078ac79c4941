"""The grid's frequency: the site's answer to it (SAFETY 11), and that nothing is done against it (SAFETY 5)."""

from __future__ import annotations

from agent.control.rules.draft import Draft, Rule
from agent.control.site import SiteView
from drivers.device import DeviceKind

Drafts = dict[str, Draft]


def answer_frequency(drafts: Drafts, site: SiteView) -> None:
    """Shift each device from what is wanted of it, in proportion to its rating, the way that helps the grid."""
    share = site.frequency.share_permille
    if not site.defaults.answers_frequency or share == 0 or site.islanded:
        return
    for name, draft in drafts.items():
        capabilities = draft.view.capabilities
        if capabilities is None or not draft.view.online or capabilities.own_droop or draft.must_charge:
            continue
        shift_w = int(max(draft.view.most_import_w, draft.view.most_export_w) * share / 1000)
        base_w = site.frequency.base_w.get(name, draft.view.likely_w)
        if draft.view.kind is DeviceKind.PV:
            if shift_w > 0 and capabilities.limits_export:  # It can only produce less than it did.
                draft.cap_low(min(0, base_w + shift_w), Rule.FREQUENCY)
        elif capabilities.follows_setpoint:
            wanted_w = base_w if draft.point_w is None else draft.point_w
            draft.set_power(max(min(wanted_w + shift_w, max(0, draft.room_high)), min(0, draft.room_low)))
            draft.bind(Rule.FREQUENCY)
        elif draft.view.vehicle is not None and capabilities.limits_import:
            _charge_otherwise(draft, base_w + shift_w, capabilities.minimum_import_w, more=shift_w > 0)


def _charge_otherwise(draft: Draft, power_w: int, minimum_w: int, *, more: bool) -> None:
    """A car that only charges: by a higher limit (`more`) or a lower one, not below what it can charge with.

    One that rests does not begin because the grid has too little, nor is one held back because it has too much.
    """
    power_w = min(max(power_w, minimum_w), max(0, draft.room_high))
    high = draft.high if draft.high is not None else draft.room_high
    if power_w < high and not more:
        draft.cap_high(power_w, Rule.FREQUENCY)
    elif power_w > high and more:
        draft.high = power_w
        draft.bind(Rule.FREQUENCY)


def never_against(drafts: Drafts, site: SiteView) -> None:
    """Above the band nothing raises a device's export or lowers its import, below it the reverse.

    Measured against where each device was when the event began, and what it held. Fuses and STOP come after.
    """
    side = site.frequency.side
    if side == 0 or site.islanded:
        return
    for name, draft in drafts.items():
        if not draft.view.online or draft.view.capabilities is None:
            continue
        # Who came since it began is measured against where it is now.
        base_w = site.frequency.base_w.get(name, draft.view.likely_w)
        if draft.point_w is not None and draft.view.capabilities.follows_setpoint:
            _keep_point(draft, side, base_w)
        elif side > 0:
            _keep_up(draft, base_w)
        else:
            _keep_down(draft, base_w)


def _keep_point(draft: Draft, side: int, base_w: int) -> None:
    assert draft.point_w is not None
    if (draft.point_w - base_w) * side < 0:
        draft.low = draft.high = base_w
        draft.bind(Rule.GRID_CODE)


def _keep_up(draft: Draft, base_w: int) -> None:
    """No upper bound below where it is, no lower bound deeper than it was."""
    if draft.high is not None and draft.high < base_w:
        draft.high = base_w
        draft.bind(Rule.GRID_CODE)
    held_w = draft.view.held.lowest_w if draft.view.held is not None else None
    if held_w is not None and (draft.low is None or draft.low < min(held_w, base_w)):
        draft.low = min(held_w, base_w)
        draft.bind(Rule.GRID_CODE)


def _keep_down(draft: Draft, base_w: int) -> None:
    """No lower bound above where it is, no upper bound higher than it was."""
    if draft.low is not None and draft.low > base_w:
        draft.low = base_w
        draft.bind(Rule.GRID_CODE)
    held_w = draft.view.held.highest_w if draft.view.held is not None else None
    if held_w is not None and (draft.high is None or draft.high > max(held_w, base_w)):
        draft.high = max(held_w, base_w)
        draft.bind(Rule.GRID_CODE)
