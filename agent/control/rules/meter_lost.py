"""Without the grid meter static sums count: at the connection, and on each phase (SAFETY 8)."""

from __future__ import annotations

from agent.control.allocation import cuts
from agent.control.rules.budgets import bound_exports, cap_own_control, share_import
from agent.control.rules.draft import STEP_W, Draft, Rule
from agent.control.site import SiteView

Drafts = dict[str, Draft]


def static_sums(drafts: Drafts, site: SiteView, import_w: int, export_w: int) -> None:
    """SAFETY 8: the budget is the limit less the house's most; export falls to the static shares.

    Contract, wires and commands: before the grid's frequency, as with the meter. The fuse is `static_phase`'s.
    """
    online = [d for d in drafts.values() if d.view.online]
    silent_import_w, silent_export_w = site.silent_worst_w
    budget_w = import_w - site.limits.house_reserve_w - silent_import_w
    share_import(online, budget_w, Rule.METER_LOST)
    shares = [d.view.fallback_export_w for d in drafts.values() if d.view.fallback_export_w is not None]
    static_w = min(export_w, sum(shares)) if shares else export_w
    if not site.limits.discharge_permitted:
        for draft in online:
            if not draft.is_pv and draft.low is not None and draft.low < 0:
                draft.cap_low(0, Rule.STORAGE_EXPORT)
    # A battery in its own self-consumption does not export by itself: it stays as it is.
    bounded = [d for d in online if d.low is not None or d.is_pv]
    bound_exports(bounded, static_w - silent_export_w, Rule.METER_LOST)


def static_phase(drafts: Drafts, site: SiteView, phase: int) -> None:
    """SAFETY 8 for one phase's fuse, where no meter tells of it: bands must fit in beside the house's most.

    Nobody's export is counted on to carry another's import, nor the reverse: either may end at any moment.
    """
    import_w = site.limits.phase_limit_w - site.limits.house_reserve_w // site.limits.phases
    export_w = site.limits.phase_limit_w
    on: dict[str, tuple[Draft, int]] = {}
    imports, exports, minimums = {}, {}, {}
    for view, parts in site.on_phase[phase - 1]:
        if not view.online:
            import_w -= view.worst_import_w // parts
            export_w -= view.worst_export_w // parts
            continue
        draft, name = drafts[view.device_id], view.device_id
        low = -view.most_export_w if draft.is_pv and draft.low is None else draft.low
        on[name] = (draft, parts)
        if draft.high is not None and draft.high > 0:
            imports[name], minimums[name] = -(-draft.high // parts), draft.minimum_w // parts
        if low is not None and low < 0:
            exports[name] = -(low // parts)
    for name, share_w in cuts(import_w, imports, minimums).items():
        draft, parts = on[name]
        draft.cap_high(draft.stepped(share_w * parts), Rule.METER_LOST)
    for name, share_w in cuts(export_w, exports).items():
        draft, parts = on[name]
        cap_own_control(draft, share_w * parts // STEP_W * STEP_W, Rule.METER_LOST)
