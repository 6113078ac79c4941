"""The largest difference between phases (SAFETY 8): one-sided devices, import and export, PV and batteries among them.

What is on all phases alike makes no difference, and the house is not ours: only devices on some of the phases count. A
closed loop over what they do now: a phase may rise as far as the others already are, and the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.control.allocation import cuts
from agent.control.rules.draft import STEP_W, Draft, Rule
from agent.control.site import SiteView

MOST_ROUNDS: Final = 16
"""What is cut on one phase leaves less for the others, and less again; each round only lowers."""


@dataclass(slots=True)
class _Phase:
    """What is on one phase and not on all."""

    heard: list[tuple[Draft, int]] = field(default_factory=list)
    """Each with the number of phases that it is on."""
    silent_import_w: int = 0
    """What silent devices may make of it."""
    silent_export_w: int = 0


def limit_difference(drafts: dict[str, Draft], site: SiteView) -> None:
    """Cut what would take one phase's devices further from another's than the limit."""
    limit_w = site.limits.difference_limit_w
    if limit_w is None or site.limits.phases == 1:
        return
    phases = _uneven(drafts, site)
    bands = _bands(phases)
    for _ in range(MOST_ROUNDS):
        now = [sum(_now_w(draft, parts) for draft, parts in phase.heard) for phase in phases]
        least = [now_w - phase.silent_export_w for now_w, phase in zip(now, phases, strict=True)]
        most = [now_w + phase.silent_import_w for now_w, phase in zip(now, phases, strict=True)]
        for number, phase in enumerate(phases):
            _cut_imports(phase, min(least[:number] + least[number + 1 :]) + limit_w)
            _cut_exports(phase, limit_w - max(most[:number] + most[number + 1 :]))
        before, bands = bands, _bands(phases)
        if before == bands:
            break


def _uneven(drafts: dict[str, Draft], site: SiteView) -> list[_Phase]:
    phases = [_Phase() for _ in site.on_phase]
    for phase, on in zip(phases, site.on_phase, strict=True):
        for view, parts in on:
            if parts == site.limits.phases:
                continue
            if view.online:
                phase.heard.append((drafts[view.device_id], parts))
            else:
                phase.silent_import_w += view.worst_import_w // parts
                phase.silent_export_w += -(-view.worst_export_w // parts)
    return phases


def _bands(phases: Sequence[_Phase]) -> list[tuple[int | None, int | None]]:
    return [(draft.low, draft.high) for phase in phases for draft, _ in phase.heard]


def _now_w(draft: Draft, parts: int) -> int:
    """Its power on one phase now, as far as its band goes on to allow it."""
    power_w = draft.taking_w - draft.giving_w
    if draft.low is not None and power_w < draft.low:
        power_w = draft.low
    if draft.high is not None and power_w > draft.high:
        power_w = draft.high
    return int(power_w / parts)


def _cut_imports(phase: _Phase, most_w: int) -> None:
    """So that the phase's devices do not draw more than `most_w`, net of what they deliver now."""
    room_w = most_w - phase.silent_import_w
    cuttable: dict[str, tuple[Draft, int]] = {}
    wishes, minimums = {}, {}
    for draft, parts in phase.heard:
        now_w, name = _now_w(draft, parts), draft.view.device_id
        if draft.high is not None and draft.high > 0:
            cuttable[name], wishes[name] = (draft, parts), -(-draft.high // parts)
            minimums[name] = draft.minimum_w // parts
            room_w -= min(0, now_w)
        else:
            room_w -= now_w
    for name, kept_w in cuts(room_w, wishes, minimums).items():
        draft, parts = cuttable[name]
        draft.cap_high(draft.stepped(kept_w * parts), Rule.DIFFERENCE)


def _cut_exports(phase: _Phase, most_w: int) -> None:
    """As `_cut_imports`, of export; PV that nothing bounds may deliver its rating."""
    room_w = most_w - phase.silent_export_w
    cuttable: dict[str, tuple[Draft, int]] = {}
    wishes = {}
    for draft, parts in phase.heard:
        now_w, name, low = _now_w(draft, parts), draft.view.device_id, draft.low
        if low is None and draft.is_pv:
            low = -draft.view.most_export_w
        if low is not None and low < 0:
            cuttable[name], wishes[name] = (draft, parts), -(low // parts)
            room_w += max(0, now_w)
        else:
            room_w += now_w
    for name, kept_w in cuts(room_w, wishes).items():
        draft, parts = cuttable[name]
        draft.cap_low(-(kept_w * parts // STEP_W * STEP_W), Rule.DIFFERENCE)
