"""Holds of owner and installer in the plan: they take a device from commands; every rule still narrows them."""

from __future__ import annotations

from agent.control.rules.draft import Draft, Rule
from agent.control.site import SiteView


def hold_locally(draft: Draft, site: SiteView) -> None:
    """Write a hold into the draft, in place of what its owner's default would be."""
    hold = site.overrides.get(draft.view.device_id)
    if hold is None or site.islanded:
        return
    draft.bind(Rule.HELD)
    if draft.must_charge:
        draft.cause += f" (it would be {hold.sentence})"
        return
    if hold.power_w is None:
        draft.cause = f"{hold.sentence}: {draft.cause}"
        return
    draft.set_power(hold.power_w)
    draft.cause = hold.sentence
    # By uptime: a lease must not end with a clock that was set.
    draft.until_us = site.now.wall_us + round(hold.left_s(site.now) * 1e6) if hold.power_w else None


def held_of(scope: tuple[str, ...], site: SiteView) -> str:
    """For the receipt of a command: which of its devices are held, by whom and until when. Empty: none."""
    if site.islanded:
        return ""
    return "; ".join(f"{name} is {site.overrides[name].sentence}" for name in scope if name in site.overrides)
