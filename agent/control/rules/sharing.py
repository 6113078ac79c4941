"""A target's power over the devices that it moves: what each can do, now and in the end, and what that costs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from agent.control import fewest
from agent.control.allocation import Range, fill
from agent.control.bounds import SIGN_LEAST_W
from agent.control.merit_order import Carrier, Shares, share, why_it_rests
from agent.control.rules.bounds import ramp_of
from agent.control.rules.draft import Draft, Rule
from agent.control.rules.phase_room import fits_phases
from agent.control.rules.slowly import allowed
from agent.control.site import DeviceView, Sharing, SiteView
from drivers.device import DeviceKind

Drafts = Mapping[str, Draft]
Carry = Callable[[int, Mapping[str, Range], Mapping[str, int]], dict[str, int]]
"""Powers for a total, within these ranges, of devices that have these powers until then."""


def share_out(
    total_w: int, ranges: Mapping[str, Range], drafts: Drafts, site: SiteView
) -> tuple[Shares, dict[str, str]]:
    """What each device has of it; of those that rest, why they and not others."""
    bands = {name: _band_of(drafts[name].view) for name in ranges}
    if site.sharing is Sharing.QUARTER:
        powers = _by_quarter(total_w, ranges, bands, drafts, site)
        resting = [name for name, power_w in powers.items() if not power_w] if any(powers.values()) else []
        return Shares(powers, powers), dict.fromkeys(resting, "")
    carriers = {
        name: _narrowed(_carrier(drafts[name].view, found, bands[name], site, total_w), drafts[name], site)
        for name, found in ranges.items()
    }
    shares = share(total_w, carriers, fits_phases(ranges, drafts, site))
    carrying = [carriers[name] for name, goal_w in shares.goals.items() if goal_w]
    resting = [name for name, goal_w in shares.goals.items() if not goal_w and not shares.powers[name]]
    return shares, {name: f": {why_it_rests(carriers[name], total_w, carrying)}" for name in resting if carrying}


def carry_by(names: Collection[str], drafts: Drafts, site: SiteView) -> Carry:
    """How it is shared out in the end, for whoever looks ahead."""
    fits = fits_phases(names, drafts, site)

    def carry(total_w: int, ranges: Mapping[str, Range], powers_w: Mapping[str, int]) -> dict[str, int]:
        bands = {name: (powers_w[name], powers_w[name]) for name in ranges}
        if site.sharing is Sharing.QUARTER:
            return _by_quarter(total_w, ranges, bands, drafts, site, ahead=True)
        views = {name: drafts[name].view for name in ranges}
        carriers = {name: _carrier(views[name], found, bands[name], site, total_w) for name, found in ranges.items()}
        return dict(share(total_w, carriers, fits).goals)

    return carry


def bind_on_the_way(draft: Draft, goal_w: int, site: SiteView) -> None:
    """Notes what keeps a device from where it shall come to."""
    if site.coming_back is not None and not _holds(allowed(draft, site.coming_back), goal_w):
        draft.bind(Rule.COMING_BACK)
    ramp = ramp_of(draft, site)
    if ramp is not None and not _holds(ramp, goal_w):
        draft.bind(Rule.RAMP)


def _band_of(view: DeviceView) -> tuple[int, int]:
    """The band that it holds, or its power where it holds none."""
    held, power_w = view.held, view.present_w
    if held is None or (held.lowest_w is None and held.highest_w is None):
        return power_w, power_w
    # Whoever has been ordered there moves there, before its meter shows it.
    lowest_w = held.lowest_w if held.lowest_w is not None else min(0, power_w)
    return lowest_w, held.highest_w if held.highest_w is not None else max(0, power_w)


def _carrier(view: DeviceView, found: Range, band: tuple[int, int], site: SiteView, total_w: int) -> Carrier:
    return Carrier(
        range=found,
        losses=view.usual_losses,
        rated_import_w=view.most_import_w,
        rated_export_w=view.most_export_w,
        lowest_w=band[0],
        highest_w=band[1],
        disobeys=view.follows is False or (total_w > 0 and _declines(view)),
        spent=site.bounds.of(view.device_id).spent,
    )


def _declines(view: DeviceView) -> bool:
    """Its car takes nothing, by the charger's word; others that can take it go first. It may change its mind."""
    return view.vehicle is not None and view.vehicle.declines and view.likely_w < SIGN_LEAST_W


def _narrowed(carrier: Carrier, draft: Draft, site: SiteView) -> Carrier:
    """With what it can do in this plan: a ramp, and coming back, let it rise only so fast."""
    found = carrier.range
    low, high = found.low, found.high
    for bound in (ramp_of(draft, site), None if site.coming_back is None else allowed(draft, site.coming_back)):
        if bound is not None:
            low, high = max(low, bound[0]), min(high, bound[1])
    if (low, high) == (found.low, found.high):
        return carrier
    return replace(carrier, now=Range(low, high, found.minimum))


def _holds(bound: tuple[int, int], power_w: int) -> bool:
    return bound[0] <= power_w <= bound[1]


def _by_quarter(
    total_w: int,
    ranges: Mapping[str, Range],
    bands: Mapping[str, tuple[int, int]],
    drafts: Drafts,
    site: SiteView,
    *,
    ahead: bool = False,
) -> dict[str, int]:
    """As earlier releases did: few, but all where a part of them may do less than their ranges say."""
    whole = set(range(1, site.limits.phases + 1))
    ramped = any(site.bounds.of(name).ramp_permille is not None for name in ranges)
    if (
        len(ranges) < 2
        or ramped
        or site.coming_back is not None
        or any(not whole <= set(drafts[n].view.phases) for n in ranges)
    ):
        return fill(total_w, ranges)
    views = {name: drafts[name].view for name in ranges}
    return fewest.share(
        total_w,
        {
            name: fewest.Carrier(
                range=found,
                is_car=views[name].kind is DeviceKind.CHARGER,
                lowest_w=bands[name][0],
                highest_w=bands[name][1],
                disobeys=not ahead and views[name].follows is False,
            )
            for name, found in ranges.items()
        },
    )
