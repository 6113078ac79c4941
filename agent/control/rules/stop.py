"""Local STOP: all controllable power to its safe value at once, above everything (SAFETY 1)."""

from __future__ import annotations

from agent.control.rules.draft import Draft, Rule
from agent.control.site import SiteView


def stop_all(drafts: dict[str, Draft], site: SiteView) -> None:
    """0 W for every device, silent ones too: they get it when they answer."""
    if site.stop is None:
        return
    for draft in drafts.values():
        draft.low = draft.high = 0
        draft.until_us = None
        draft.cause = f"local STOP by {site.stop}; it is cleared only here"
        draft.bound = [Rule.STOP]
