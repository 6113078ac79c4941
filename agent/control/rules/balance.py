"""The largest difference between phases (SAFETY 8): one-sided devices, import and export, PV and batteries among them.

What is on all phases alike makes no difference, and the house is not ours: only devices on some of the phases count. A
closed loop over what they do now: a phase may rise as far as the others already are, and the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.control.allocation import fit
from agent.control.rules.draft import STEP_W, Draft, Rule
from agent.control.site import SiteView
from drivers.device import DeviceKind

MOST_ROUNDS: Final = 16
"""What is cut on one phase leaves less for the others, and less again; each round only lowers."""


@dataclass(frozen=True, slots=True)
class _Share:
    """One device's part of one phase."""

    draft: Draft
    parts: int
    """Phases that it is on."""


def limit_difference(drafts: dict[str, Draft], site: SiteView) -> None:
    """Cut what would take one phase's devices further from another's than the limit."""
    phases = range(1, site.limits.phases + 1)
    limit_w = site.limits.difference_limit_w
    if limit_w is None or site.limits.phases == 1:
        return
    on = _uneven(drafts, site.limits.phases)
    for _ in range(MOST_ROUNDS):
        before = [(draft.low, draft.high) for draft in drafts.values()]
        least = {phase: sum(_least_w(share) for share in on[phase]) for phase in phases}
        most = {phase: sum(_most_w(share) for share in on[phase]) for phase in phases}
        for phase in phases:
            others = [other for other in phases if other != phase]
            _cut_imports(on[phase], min(least[other] for other in others) + limit_w)
            _cut_exports(on[phase], limit_w - max(most[other] for other in others))
        if before == [(draft.low, draft.high) for draft in drafts.values()]:
            break


def _uneven(drafts: dict[str, Draft], site_phases: int) -> dict[int, list[_Share]]:
    """By phase: the devices that are on it and not on all."""
    on: dict[int, list[_Share]] = {phase: [] for phase in range(1, site_phases + 1)}
    for draft in drafts.values():
        phases = draft.view.phases_of(site_phases)
        if len(phases) < site_phases:
            for phase in phases:
                on[phase].append(_Share(draft, len(phases)))
    return on


def _now_w(share: _Share) -> int:
    """Its power on one phase now, as far as its band goes on to allow it."""
    draft = share.draft
    power_w = draft.view.present_w
    if draft.low is not None:
        power_w = max(power_w, draft.low)
    if draft.high is not None:
        power_w = min(power_w, draft.high)
    return int(power_w / share.parts)


def _least_w(share: _Share) -> int:
    return _now_w(share) if share.draft.view.online else -share.draft.view.worst_export_w // share.parts


def _most_w(share: _Share) -> int:
    return _now_w(share) if share.draft.view.online else share.draft.view.worst_import_w // share.parts


def _cut_imports(shares: Sequence[_Share], most_w: int) -> None:
    """So that the phase's devices do not draw more than `most_w`, net of what they deliver now."""
    cuttable = {s.draft.view.device_id: s for s in shares if s.draft.view.online and (s.draft.high or 0) > 0}
    rest_w = sum(_most_w(s) for s in shares if s.draft.view.device_id not in cuttable)
    delivered_w = sum(min(0, _now_w(s)) for s in cuttable.values())
    wishes = {name: -(-(s.draft.high or 0) // s.parts) for name, s in cuttable.items()}
    minimums = {name: s.draft.minimum_w // s.parts for name, s in cuttable.items()}
    for name, kept_w in fit(most_w - rest_w - delivered_w, wishes, minimums).items():
        if kept_w < wishes[name]:
            draft = cuttable[name].draft
            draft.cap_high(draft.stepped(kept_w * cuttable[name].parts), Rule.DIFFERENCE)


def _cut_exports(shares: Sequence[_Share], most_w: int) -> None:
    """As `_cut_imports`, of export; PV that nothing bounds may deliver its rating."""
    wishes, cuttable = {}, {}
    for share in shares:
        view, low = share.draft.view, share.draft.low
        if low is None and view.kind is DeviceKind.PV:
            low = -view.most_export_w
        if view.online and low is not None and low < 0:
            cuttable[view.device_id], wishes[view.device_id] = share, -(low // share.parts)
    rest_w = sum(_least_w(s) for s in shares if s.draft.view.device_id not in cuttable)
    drawn_w = sum(max(0, _now_w(s)) for s in cuttable.values())
    for name, kept_w in fit(most_w + rest_w + drawn_w, wishes).items():
        if kept_w < wishes[name]:
            cuttable[name].draft.cap_low(-(kept_w * cuttable[name].parts // STEP_W * STEP_W), Rule.DIFFERENCE)
