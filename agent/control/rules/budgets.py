"""Bands cut to a budget, whatever the devices do by themselves; and the limits of commands on devices (SAFETY 3).

Silent devices count at their worst.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.control.allocation import fit
from agent.control.command import Mode, Point
from agent.control.rules.draft import Draft, Rule
from agent.control.rules.targets import Target

Drafts = dict[str, Draft]


def limit_by_commands(drafts: Drafts, targets: Iterable[Target]) -> None:
    """Limits that commands set on devices. All of them hold: the narrowest one binds, whoever said it."""
    for target in targets:
        command = target.order.command
        if not target.in_force or command.point is not Point.DEVICE or command.mode is Mode.SETPOINT:
            continue
        scope = [drafts[name] for name in target.scope]
        online = [draft for draft in scope if draft.view.online]
        silent = [draft for draft in scope if not draft.view.online]
        if command.mode is Mode.EXPORT_LIMIT:
            budget_w = command.power_w - sum(draft.view.worst_export_w for draft in silent)
            bound_exports(online, budget_w, Rule.EXPORT_COMMAND)
        else:
            budget_w = command.power_w - sum(draft.view.worst_import_w for draft in silent)
            _bound_imports(online, budget_w, Rule.IMPORT_COMMAND)


def bound_exports(drafts: list[Draft], budget_w: int, rule: Rule) -> None:
    """Bands whose lowest powers cannot sum to more export than the budget, whatever the devices do by themselves."""
    ordered = {d.view.device_id: -d.low for d in drafts if d.low is not None and d.low < 0}
    kept = fit(budget_w, ordered)
    for draft in drafts:
        name = draft.view.device_id
        if name in kept and kept[name] < ordered[name]:
            draft.cap_low(-kept[name], rule)
    free = {d.view.device_id: d.view.most_export_w for d in drafts if d.low is None}
    shares = fit(budget_w - sum(kept.values()), free)
    for draft in drafts:
        name = draft.view.device_id
        if name in free and (shares[name] < free[name] or draft.view.capabilities is None):
            cap_own_control(draft, shares[name], rule)


def cap_own_control(draft: Draft, share_w: int, rule: Rule) -> None:
    capabilities = draft.view.capabilities
    if capabilities is not None and not capabilities.limits_export and capabilities.follows_setpoint:
        # It cannot be bounded while it controls itself: it rests.
        draft.set_power(0)
        draft.bind(rule)
        return
    draft.cap_low(-share_w, rule)
    if capabilities is not None and not capabilities.limits_export:
        draft.bind(Rule.CAPABILITY)


def _bound_imports(drafts: list[Draft], budget_w: int, rule: Rule) -> None:
    """As `bound_exports`, of import."""
    drafts = [draft for draft in drafts if not draft.is_pv]
    if sum(draft.view.most_import_w if draft.high is None else max(0, draft.high) for draft in drafts) <= budget_w:
        return
    for draft in drafts:
        if draft.high is None:
            draft.cap_high(draft.view.most_import_w, rule)
    share_import(drafts, budget_w, rule)


def share_import(drafts: list[Draft], budget_w: int, rule: Rule, *, steps: bool = False) -> None:
    """Cut the imports to the budget: cars that must charge are served first, the others share what is left.

    Where not even the least of each that must fits in, those pause that have the most time to spare. `steps`: the
    budget follows the meter, and bounds go in whole steps.
    """
    for urgent in (True, False):
        group = [d for d in drafts if d.must_charge is urgent and d.high is not None and d.high > 0]
        if urgent:
            group.sort(key=lambda draft: (draft.slack_s, draft.view.device_id))
            while group and sum(min(d.minimum_w, d.high or 0) for d in group) > budget_w:
                group.pop().cap_high(0, rule)
        wishes = {d.view.device_id: d.high or 0 for d in group}
        kept = fit(budget_w, wishes, {d.view.device_id: d.minimum_w for d in group})
        for draft in group:
            if kept[draft.view.device_id] < wishes[draft.view.device_id]:
                kept_w = kept[draft.view.device_id]
                draft.cap_high(draft.stepped(kept_w) if steps else kept_w, rule)
        budget_w -= sum(kept.values())
