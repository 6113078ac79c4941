"""After grid return, boot and safe mode no device gets more at once than it had (SAFETY 7)."""

from __future__ import annotations

from agent.control.coming_back import ComingBack
from agent.control.rules.draft import STEP_W, Draft, Rule
from agent.control.site import SiteView
from drivers.device import DeviceKind


def come_back_slowly(drafts: dict[str, Draft], site: SiteView) -> None:
    """Cap both sides at what flowed when it began and the allowance. Bounds of PV are lifted by the same ramp."""
    returning = site.coming_back
    if returning is None:
        return
    for draft in drafts.values():
        if draft.view.capabilities is None or not draft.view.online:
            continue
        lowest_w, highest_w = allowed(draft, returning)
        if draft.view.kind is DeviceKind.PV:
            held = draft.view.held
            if held is not None and held.lowest_w is not None:
                # Free PV is left to its own grid code.
                draft.cap_low(min(lowest_w, held.lowest_w), Rule.COMING_BACK)
            continue
        if draft.released and draft.view.kind is DeviceKind.BATTERY and not _can_be_bounded(draft):
            draft.set_power(0)
            draft.bind(Rule.COMING_BACK)
            continue
        draft.cap_low(lowest_w, Rule.COMING_BACK)
        draft.cap_high(highest_w, Rule.COMING_BACK)


def allowed(draft: Draft, returning: ComingBack) -> tuple[int, int]:
    """(lowest, highest) for now."""
    base_w = returning.base_w.get(draft.view.device_id, 0)
    more_import_w = draft.view.most_import_w * returning.allowance_permille // 1000
    more_export_w = draft.view.most_export_w * returning.allowance_permille // 1000
    return min(0, base_w) - more_export_w // STEP_W * STEP_W, max(0, base_w) + _whole(draft, more_import_w)


def _can_be_bounded(draft: Draft) -> bool:
    capabilities = draft.view.capabilities
    return capabilities is not None and capabilities.limits_export and capabilities.limits_import


def _whole(draft: Draft, power_w: int) -> int:
    """Nothing below what a charger can give at least."""
    return 0 if power_w < draft.minimum_w else power_w // STEP_W * STEP_W
