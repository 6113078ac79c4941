"""Limits at the connection and on its phases, import and export (SAFETY 3, 8, 12).

House load is unknown and changes, so the connection is a closed loop around what the meter leaves of it (`house.py`).
Silent devices count at their worst. Without a meter, static sums count (`meter_lost.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.control.allocation import cuts, fit, hold_raises
from agent.control.command import Mode, Point
from agent.control.rules.budgets import cap_own_control, share_import
from agent.control.rules.draft import STEP_W, Draft, Rule
from agent.control.rules.meter_lost import static_phase, static_sums
from agent.control.rules.targets import Target
from agent.control.site import SiteView
from drivers.device import DeviceKind

NEAR: Final = 0.7
"""PV is held back by a bound that follows the meter only when it makes more than this part of it."""
CALM_W: Final = 200
"""Export above the limit by less than this, just after PV was given another bound, is what others take time to take."""
FULL_PERMILLE: Final = 990
"""A battery above this is not offered more: it tapers, and stops without a word."""

Drafts = dict[str, Draft]


def limit_connection(drafts: Drafts, targets: Iterable[Target], site: SiteView) -> None:
    """Import and export at the connection; raises wait for what must come down first."""
    export_w, export_rule = site.limits.export_limit_w, Rule.CONNECTION_EXPORT
    import_w, import_rule = site.limits.import_limit_w, Rule.CONNECTION_IMPORT
    for target in targets:
        command = target.order.command
        if not target.in_force or command.point is not Point.CONNECTION:
            continue
        if command.mode is Mode.EXPORT_LIMIT and command.power_w < export_w:
            export_w, export_rule = command.power_w, Rule.EXPORT_COMMAND
        if command.mode is Mode.IMPORT_LIMIT and command.power_w < import_w:
            import_w, import_rule = command.power_w, Rule.IMPORT_COMMAND
    for wired in site.inputs:
        if wired.export_limit_w is not None and wired.export_limit_w < export_w:
            export_w, export_rule = wired.export_limit_w, Rule.WIRED
        if wired.import_limit_w is not None and wired.import_limit_w < import_w:
            import_w, import_rule = wired.import_limit_w, Rule.WIRED
    if site.house_least_w is None or site.house_most_w is None:
        static_sums(drafts, site, import_w, export_w)
        return
    least_w, most_w = _house_w(site, import_w, export_w)
    if not site.limits.discharge_permitted:
        _no_export_from_storage(drafts, least_w - site.silent_worst_w[1])
    _closed_loop_export(drafts, site, least_w, export_w, export_rule)
    beside_w = _import_beside_w(drafts, site) - most_w
    _closed_loop_import(drafts, import_w + beside_w, import_rule)
    own_w = min([site.limits.import_limit_w, *(i.import_limit_w for i in site.inputs if i.import_limit_w is not None)])
    missing_w = -(own_w + beside_w)
    if missing_w > 0:
        _let_the_sun_in(drafts.values(), min(missing_w, _sun_room_w(drafts, site)))


def _house_w(site: SiteView, import_w: int, export_w: int) -> tuple[int, int]:
    """(least, most) of the house, for limits.

    Where the meter shows a limit passed, what this look alone may mean counts too: it is not waited for samples then.
    """
    meter, least_w, most_w = site.meter, site.house_least_w, site.house_most_w
    assert meter is not None, "static sums stand where there is none"
    assert least_w is not None
    assert most_w is not None
    if meter.power_w > import_w:
        most_w = max(most_w, site.house_most_now_w or most_w)
    if -meter.power_w > export_w:
        least_w = min(least_w, site.house_least_now_w or least_w)
    return least_w, most_w


def limit_phases(drafts: Drafts, site: SiteView) -> None:
    """Each phase's fuse, both ways: after the grid's frequency, which it alone outranks (SAFETY 5)."""
    for phase in range(1, site.limits.phases + 1):
        if site.meter is None:
            static_phase(drafts, site, phase)
        else:
            _phase(drafts, site, phase)


def _no_export_from_storage(drafts: Drafts, house_w: int) -> None:
    """Without the contract's permission storage may cover the site's own demand and no more."""
    demand_w = house_w + sum(map(_import_now_w, drafts.values())) - sum(map(_pv_now_w, drafts.values()))
    for name, power_w in cuts(demand_w, _ordered_discharge(drafts.values())).items():
        drafts[name].cap_low(-(power_w // STEP_W * STEP_W), Rule.STORAGE_EXPORT)


def _closed_loop_export(drafts: Drafts, site: SiteView, house_w: int, export_w: int, rule: Rule) -> None:
    """Storage gives way before PV: its energy is kept, the sun's would be lost. What is left then bounds PV."""
    online = [d for d in drafts.values() if d.view.online]
    budget_w = house_w + export_w - site.silent_worst_w[1]
    own_w = 0
    for draft in online:
        if _exports_freely(draft):
            own_w += draft.taking_w - draft.giving_w
        elif draft.taking_w:
            budget_w += _import_now_w(draft)
    budget_w += min(0, own_w)
    pv = {d.view.device_id: d for d in online if d.is_pv}
    pv_now_w = sum(map(_export_now_w, pv.values()))
    kept = _share_discharge(online, budget_w - pv_now_w, rule)
    # What a battery takes in by its own control is room for the sun alone: nobody's storage shall fill it.
    left_w = max(0, budget_w - sum(kept.values())) + max(0, own_w) + _probe_w(online, site, export_w)
    late_w = sum(max(0, drafts[name].giving_w - power_w) for name, power_w in kept.items())
    left_w = max(left_w - late_w, min(left_w, pv_now_w))
    room_w = budget_w - min(0, own_w) - sum(kept.values())
    left_w = _proven_w(list(pv.values()), online, site, export_w, room_w, left_w)
    most = {name: d.view.most_export_w if d.low is None else -d.low for name, d in pv.items()}
    commanded = rule in (Rule.EXPORT_COMMAND, Rule.WIRED)
    holding = any(d.view.held is not None and d.view.held.lowest_w is not None for d in pv.values())
    keeping = commanded and holding
    if (left_w >= sum(most.values()) and not keeping) or not (commanded or holding or pv_now_w > NEAR * left_w):
        return
    for name, share_w in fit(left_w, most).items():
        # A bound that a command brought goes up step by step, and goes away with the command.
        if share_w < most[name] or keeping:
            cap_own_control(pv[name], share_w if share_w == most[name] else share_w // STEP_W * STEP_W, rule)


def _proven_w(pv: list[Draft], online: list[Draft], site: SiteView, export_w: int, room_w: int, left_w: int) -> int:
    """The bound that PV holds already, as long as the meter shows no harm in it; else what is `left_w`.

    What batteries once took in by their own control they take again when a cloud has passed. `room_w`: without them.
    """
    bounds = [d.view.held.lowest_w for d in pv if d.view.held is not None and d.view.held.lowest_w is not None]
    if site.meter is None or not bounds or len(bounds) < len(pv):
        return left_w
    held_w, over_w = -sum(bounds), -export_w - site.meter.power_w
    if not all(draft.view.settled for draft in pv):
        # While the last step is not to be seen in the samples, only a meter that shows too much is believed.
        return held_w if over_w <= CALM_W else left_w
    if over_w > STEP_W // 2:
        return left_w
    takes_w = 0
    for draft in online:
        if _exports_freely(draft):
            charge = draft.view.state_of_charge_permille
            can_take = charge is not None and charge < FULL_PERMILLE
            takes_w += draft.view.most_import_w if can_take else draft.taking_w
    return max(left_w, min(held_w, room_w + takes_w))


def _share_discharge(online: list[Draft], budget_w: int, rule: Rule) -> dict[str, int]:
    """Cut the ordered discharges to the budget; raises wait for what must come down first. What each keeps, W."""
    storage = {d.view.device_id: d for d in online if not d.is_pv and not _exports_freely(d)}
    ordered = {name: max(0, -(d.low or 0)) for name, d in storage.items()}
    kept = fit(budget_w, ordered)
    granted = {name: max(0, -(d.view.held.lowest_w or 0)) if d.view.held else 0 for name, d in storage.items()}
    metered = {name: d.giving_w for name, d in storage.items()}
    held = hold_raises(budget_w, kept, granted, metered)
    for name, power_w in held.items():
        if power_w < ordered[name]:
            storage[name].cap_low(-(power_w // STEP_W * STEP_W), rule if power_w == kept[name] else Rule.RAISE_LATER)
    return held


def _probe_w(online: list[Draft], site: SiteView, export_w: int) -> int:
    """Where next to no export is allowed the sun offers a step more than a battery takes in, so that it can take more.

    It follows within a second; where it does not, the meter shows it and the step is taken back.
    """
    if export_w >= 2 * STEP_W or site.meter is None or site.meter.power_w < -export_w - STEP_W // 2:
        return 0
    for draft in online:
        charge = draft.view.state_of_charge_permille
        room_w = draft.view.most_import_w - draft.view.present_w
        looks_after_itself = draft.view.kind is DeviceKind.BATTERY and draft.released
        if looks_after_itself and charge is not None and charge < FULL_PERMILLE and room_w > STEP_W:
            return STEP_W + STEP_W // 2  # the half outweighs that bounds are rounded down
    return 0


def _import_beside_w(drafts: Drafts, site: SiteView) -> int:
    """What goes on beside those that can be bounded, as room for them: exports, less what silent and free ones take."""
    taken_w = site.silent_worst_w[0] + sum(d.taking_w for d in drafts.values() if _on_its_own(d))
    return sum(map(_export_now_w, drafts.values())) - taken_w


def _sun_room_w(drafts: Drafts, site: SiteView) -> int:
    """What PV may make beside its bands without more export than contract and wires allow.

    What the connection takes in may be doubt alone, such as a silent charger's share: export would be real.
    """
    limits_w = [site.limits.export_limit_w, *(i.export_limit_w for i in site.inputs if i.export_limit_w is not None)]
    room_w = (site.house_least_w or 0) + min(limits_w)
    room_w -= site.silent_worst_w[1]
    for draft in drafts.values():
        if not draft.view.online:
            continue
        if _exports_freely(draft):
            room_w += draft.taking_w - draft.giving_w
        elif draft.low is None:
            room_w -= _pv_now_w(draft)
        else:
            room_w += _import_now_w(draft) + min(0, draft.low)
    return room_w // STEP_W * STEP_W


def _let_the_sun_in(drafts: Iterable[Draft], missing_w: int, rule: Rule = Rule.CONNECTION_IMPORT) -> None:
    """No command and no hand holds PV back so far that the connection or its fuse has too much to carry without it."""
    if missing_w <= 0:
        return
    held = {d.view.device_id: d for d in drafts if d.view.online and d.is_pv and d.low is not None}
    more = {name: d.view.most_export_w + (d.low or 0) for name, d in held.items()}
    # Upwards in whole steps: a little more sun than is missing does no harm where power is taken in.
    for name, share_w in fit(-(-missing_w // STEP_W) * STEP_W, more).items():
        if share_w > 0:
            held[name].low = max(-held[name].view.most_export_w, (held[name].low or 0) - share_w)
            held[name].bind(rule)


def _closed_loop_import(drafts: Drafts, budget_w: int, rule: Rule) -> None:
    online = [d for d in drafts.values() if d.view.online]
    share_import(online, budget_w, rule, steps=True)
    importing = {d.view.device_id: d for d in online if not d.is_pv and not _on_its_own(d)}
    wanted = {name: max(0, d.high or 0) for name, d in importing.items()}
    granted = {name: _granted_w(d) for name, d in importing.items()}
    metered = {name: d.taking_w for name, d in importing.items()}
    for name, power_w in hold_raises(budget_w, wanted, granted, metered).items():
        if power_w < wanted[name]:
            drafts[name].cap_high(drafts[name].stepped(power_w), Rule.RAISE_LATER)


def _phase(drafts: Drafts, site: SiteView, phase: int) -> None:
    """One phase's fuse, both ways. A device's power is spread evenly over its phases."""
    on: dict[str, tuple[Draft, int]] = {}
    import_w = export_w = doubt_w = 0
    for view, parts in site.on_phase[phase - 1]:
        if not view.online:
            import_w -= view.worst_import_w // parts
            export_w -= view.worst_export_w // parts
            doubt_w += (view.worst_import_w - max(0, view.present_w)) // parts
            continue
        draft = drafts[view.device_id]
        on[view.device_id] = (draft, parts)
        alone = _on_its_own(draft)
        if draft.taking_w:
            import_w -= draft.taking_w // parts if alone else 0
            export_w += _import_now_w(draft) // parts
        elif draft.giving_w:
            import_w += _export_now_w(draft) // parts
            export_w -= draft.giving_w // parts if alone else -(-_pv_now_w(draft) // parts)
    house_least_w, house_most_w = site.phase_house_w[phase - 1]
    import_w += site.limits.phase_limit_w - house_most_w
    export_w += site.limits.phase_limit_w + house_least_w
    if import_w < 0:
        # What is missing on one phase is missing on each that the sun is spread over.
        spread = max((parts for draft, parts in on.values() if draft.is_pv), default=1)
        # For a fuse that carries too much more may go out than contract and wires let; not for what the silent might
        # take.
        missing_w = min(-import_w * spread, max(_sun_room_w(drafts, site), -(import_w + doubt_w) * spread))
        _let_the_sun_in((draft for draft, _ in on.values()), missing_w, Rule.PHASE)
    wishes = {name: -(-d.high // parts) for name, (d, parts) in on.items() if d.high is not None and d.high > 0}
    minimums = {name: on[name][0].minimum_w // on[name][1] for name in wishes}
    for name, share_w in cuts(import_w, wishes, minimums).items():
        draft, parts = on[name]
        draft.cap_high(draft.stepped(share_w * parts), Rule.PHASE)
    ordered = {
        name: -(d.low // parts) for name, (d, parts) in on.items() if d.low is not None and d.low < 0 and not d.is_pv
    }
    for name, share_w in cuts(export_w, ordered).items():
        draft, parts = on[name]
        draft.cap_low(-(share_w * parts // STEP_W * STEP_W), Rule.PHASE)


def _ordered_discharge(drafts: Iterable[Draft]) -> dict[str, int]:
    """Export that bands of storage and cars ask for, positive."""
    return {
        d.view.device_id: -d.low for d in drafts if d.view.online and not d.is_pv and d.low is not None and d.low < 0
    }


def _on_its_own(draft: Draft) -> bool:
    """A battery in its own self-consumption: it follows the house, so it counts as it is metered."""
    return draft.released and not draft.is_pv and draft.view.online


def _exports_freely(draft: Draft) -> bool:
    """A battery that nothing bounds downwards: by its own control it brings the connection to zero."""
    return draft.low is None and not draft.is_pv and draft.view.online


def _import_now_w(draft: Draft) -> int:
    """Metered import that goes on under the band: room for export elsewhere."""
    if not draft.taking_w or draft.released:
        return 0
    return draft.taking_w if draft.high is None else min(draft.taking_w, max(0, draft.high))


def _pv_now_w(draft: Draft) -> int:
    return _export_now_w(draft) if draft.is_pv else 0


def _export_now_w(draft: Draft) -> int:
    """Metered export that goes on under the band: room for import elsewhere."""
    if not draft.giving_w or draft.low is None:
        return draft.giving_w
    return min(draft.giving_w, max(0, -draft.low))


def going_on_w(drafts: Drafts) -> tuple[int, int]:
    """Import and export that go on under the bands: each is room for the other."""
    return sum(map(_import_now_w, drafts.values())), sum(map(_export_now_w, drafts.values()))


def _granted_w(draft: Draft) -> int:
    held = draft.view.held
    if held is None:
        return 0
    return max(0, held.highest_w if held.highest_w is not None else draft.view.most_import_w)
