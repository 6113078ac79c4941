"""What was not seen yet of a site that was just started: what a command could come to there, nobody can tell. Pure."""

from __future__ import annotations

from agent.control.command import Command, Mode
from agent.control.rules.draft import Draft
from agent.control.rules.targets import scope_of
from agent.control.site import Sharing, SiteView


def unseen(command: Command, site: SiteView, *, metered: bool) -> str:
    """Which of its devices have not shown yet what they are and do, or the grid meter; empty: all is known.

    `metered`: the site has a grid meter.
    """
    if command.mode is not Mode.SETPOINT or command.restrictive or site.sharing is Sharing.QUARTER:
        return ""
    drafts = {name: Draft(view) for name, view in sorted(site.devices.items())}
    views = {name: site.devices[name] for name in scope_of(command, drafts)}
    names = [name for name, view in views.items() if view.capabilities is None or view.power_w is None]
    if metered and site.meter is None:
        names.append("the grid meter")
    return f"{', '.join(names)} gave no values yet since the start"[:400] if names else ""
