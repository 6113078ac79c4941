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
    draft.until_us = hold.until_us if hold.power_w and site.now.time_known else None


def held_of(scope: tuple[str, ...], site: SiteView) -> str:
    """For the receipt of a command: which of its devices are held, by whom and until when. Empty: none."""
    if site.islanded:
        return ""
    return "; ".join(f"{name} is {site.overrides[name].sentence}" for name in scope if name in site.overrides)
