"""Whether the phases bear a way of sharing out a target: their fuses, and the largest difference between them.

The limits themselves come later in the plan, and cut what they must. But what they cut of few devices nobody would
make up for: so few carry a target only where nothing is foreseen to be cut. Told with caution: all else at its most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from agent.control.merit_order import Fits
from agent.control.rules.draft import Draft
from agent.control.site import SiteView

NEVER_W: Final = 1_000_000_000


def fits_phases(movable: Collection[str], drafts: Mapping[str, Draft], site: SiteView) -> Fits:
    """For powers of these devices. Where all are on every phase, it is the same for every way of sharing."""
    phases = site.limits.phases
    on = {name: drafts[name].view.phases_of(phases) for name in movable}
    if all(len(found) == phases for found in on.values()):
        return lambda _: True
    return _Room(on, drafts, site).bears


class _Room:
    """What is left on each phase; made when it is first asked for."""

    def __init__(self, on: Mapping[str, tuple[int, ...]], drafts: Mapping[str, Draft], site: SiteView) -> None:
        self._on, self._drafts, self._site = on, drafts, site
        self._made = False
        count = site.limits.phases
        self._low_w, self._high_w = [-NEVER_W] * count, [NEVER_W] * count
        """For the devices together."""
        self._least_w, self._most_w = [0] * count, [0] * count
        """What others that are not on every phase make of it."""

    def bears(self, powers: Mapping[str, int]) -> bool:
        """Whether each phase bears its part of these powers."""
        if not self._made:
            self._make()
        count, limit_w = self._site.limits.phases, self._site.limits.difference_limit_w
        all_w, uneven_w = [0] * count, [0] * count
        for name, power_w in powers.items():
            phases = self._on[name]
            for phase in phases if power_w else ():
                all_w[phase - 1] += power_w // len(phases)
                if len(phases) < count:
                    uneven_w[phase - 1] += power_w // len(phases)
        if any(not low <= w <= high for low, w, high in zip(self._low_w, all_w, self._high_w, strict=True)):
            return False
        if limit_w is None or count == 1:
            return True
        highest_w = max(most + w for most, w in zip(self._most_w, uneven_w, strict=True))
        return highest_w - min(least + w for least, w in zip(self._least_w, uneven_w, strict=True)) <= limit_w

    def _make(self) -> None:
        self._made = True
        site, count = self._site, self._site.limits.phases
        for phase, (house_least_w, house_most_w) in enumerate(site.phase_house_w):
            self._high_w[phase] = site.limits.phase_limit_w - house_most_w
            self._low_w[phase] = -site.limits.phase_limit_w - house_least_w
        for name, draft in self._drafts.items():
            if name in self._on:
                continue
            view, phases = draft.view, draft.view.phases_of(count)
            if view.online:
                import_w = max(draft.taking_w, draft.high or 0)
                export_w = max(draft.giving_w, -(draft.low or 0))
                least_w = most_w = draft.taking_w - draft.giving_w
            else:
                import_w, export_w = view.worst_import_w, view.worst_export_w
                least_w, most_w = -export_w, import_w
            for phase in phases:
                self._high_w[phase - 1] -= import_w // len(phases)
                self._low_w[phase - 1] += export_w // len(phases)
                if len(phases) < count:
                    self._least_w[phase - 1] += least_w // len(phases)
                    self._most_w[phase - 1] += most_w // len(phases)
