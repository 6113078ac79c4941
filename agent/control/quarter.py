"""What a battery or a car can do in the course of a quarter of an hour, beyond what a plan says of one moment. Pure.

Its storage is full or empty, it leaves, it tapers, a ramp lets it rise slowly, a bound of the day is used up.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise
from typing import Final, NamedTuple

from agent.control.bounds import SIGN_LEAST_W
from agent.control.departure import DEPARTURE_MARGIN, DEPARTURE_RESERVE_S, slack_s
from agent.control.plan import tolerance_w
from agent.control.site import DeviceView, SiteView
from agent.control.storage import FULL_PERMILLE, battery_bounds_permille, storage_wh
from drivers.device import DeviceKind

QUARTER_S: Final = 900
TAPER_PERMILLE: Final = 900
"""Above this charge a car is counted on for less and less."""


class Share(NamedTuple):
    """One device's part of an offer, along its direction."""

    power_w: int
    energy_wh: float
    """In the quarter. Below 0: it does not stay where it is now."""
    at_rest_w: int
    """What it is when it rests, once its storage ends, against now."""
    bounded: bool | None
    """Whether a local bound may end it too; None: it has no storage."""


def kept_up_wh(shares: Collection[Share], power_w: int, limited_w: int) -> int:
    """The energy of all together at no more than `power_w` at any moment. `limited_w`: what limits took of the power.

    Whose storage ends leaves a gap that the others fill as far as they can; with less asked it ends later.
    """
    whole_w = sum(share.power_w for share in shares)
    if power_w <= 0 or whole_w <= 0:
        return 0
    part = min(1.0, power_w / whole_w)
    ends_s = [_ends_s(share, part) for share in shares]
    moments, kept_wh = sorted({0.0, float(QUARTER_S), *ends_s}), 0.0
    # When the last one has used up its bound, the owner's defaults hold, and they may undo what the sun's rest gives.
    storage_s = [end_s for share, end_s in zip(shares, ends_s, strict=True) if share.bounded is not None]
    all_bounded = storage_s and all(share.bounded is not False for share in shares)
    until_s = max(storage_s) if all_bounded else float(QUARTER_S)
    for from_s, to_s in pairwise(moments):
        if from_s >= until_s:
            break
        sum_w = sum(s.power_w if end_s > from_s else s.at_rest_w for s, end_s in zip(shares, ends_s, strict=True))
        kept_wh += min(power_w, sum_w) * (to_s - from_s) / 3600
    whole_wh = sum(share.energy_wh for share in shares) - limited_w * QUARTER_S / 3600
    return max(0, int(min(kept_wh, whole_wh)))


def _ends_s(share: Share, part: float) -> float:
    """When its storage ends if it does a part of what it could."""
    moved_w = share.power_w - share.at_rest_w
    less_w = share.power_w * part - share.at_rest_w
    moved_wh = share.energy_wh - share.at_rest_w * QUARTER_S / 3600
    if moved_w <= 0 or less_w <= 0:
        return float(QUARTER_S)
    return min(float(QUARTER_S), max(0.0, moved_wh * 3600 / less_w))


class Quarter:
    """One device's, from where it is now. Powers in W and energies in Wh, + import."""

    def __init__(self, view: DeviceView, site: SiteView) -> None:
        assert view.capabilities is not None, "of a device that was never reached nothing is known"
        self._view = view
        self._is_car = view.kind is DeviceKind.CHARGER
        self._least_current_w = view.capabilities.minimum_import_w
        self._above_wh, self._below_wh = storage_wh(view, site)
        self._full = _is_full(view, site)
        allowance, car = site.bounds.of(view.device_id), view.vehicle
        self._charge_permille = car.state_of_charge_permille if car is not None else view.state_of_charge_permille
        self._capacity_wh = car.battery_capacity_wh if car is not None else view.capabilities.energy_capacity_wh
        by_cycles_wh = None
        if allowance.charge_left_permille is not None and self._capacity_wh is not None:
            by_cycles_wh = allowance.charge_left_permille * self._capacity_wh // 1000
        left = [each for each in (allowance.energy_left_wh, by_cycles_wh) if each is not None]
        self._left_wh = min(left, default=None)
        """What commands may still move of it today."""
        self._rise_w_per_s: float | None = None
        if allowance.ramp_permille_per_s is not None:
            rating_w = max(view.most_import_w, view.most_export_w)
            self._rise_w_per_s = max(1.0, rating_w * allowance.ramp_permille_per_s / 1000)
        self._spare_s: float | None = None
        """Until it gives nothing more, since its departure comes near."""
        self._charge_w = view.most_import_w if car is None or car.max_charge_w is None else car.max_charge_w
        if car is not None:
            slack = slack_s(car, self._charge_w, site.now)
            self._spare_s = None if slack is None else max(0.0, slack - DEPARTURE_RESERVE_S)
        leaves_us = None if car is None else car.departure_timestamp_us
        self._here_s = float(QUARTER_S)
        if leaves_us is not None and site.now.time_known:
            self._here_s = min(self._here_s, max(0.0, (leaves_us - site.now.wall_us) / 1e6))

    def gives_w(self, ordered_w: int) -> int:
        """Where it will be if it shall give so much, or take so little."""
        if ordered_w >= 0:
            return self.takes_w(ordered_w)
        if self._above_wh == 0:
            return min(0, self._view.likely_w)
        return max(ordered_w, -self._reached_w(-ordered_w, max(0, -self._view.likely_w), self._above_wh))

    def takes_w(self, ordered_w: int) -> int:
        """Where it will be if it may take so much."""
        if ordered_w <= 0:
            return ordered_w
        now_w = max(0, self._view.likely_w)
        if self._below_wh == 0 or self._full:
            return min(ordered_w, now_w)
        taken_w = min(ordered_w, self._reached_w(ordered_w, now_w, self._below_wh))
        if not self._is_car:
            return taken_w
        if self._view.vehicle is not None and self._view.vehicle.declines and now_w < SIGN_LEAST_W:
            return 0
        held, view = self._view.held, self._view
        allowed_w = held.highest_w if held is not None and held.highest_w is not None and view.settled else 0
        if allowed_w >= self._least_current_w and now_w < allowed_w - tolerance_w(allowed_w):
            # It may take more than it does: it takes no more (its own limit, it tapers, or it has enough).
            taken_w = min(taken_w, now_w)
        taken_w = max(min(taken_w, now_w), self._tapered_w(taken_w))
        return 0 if taken_w < min(ordered_w, self._least_current_w) else taken_w

    def moved_wh(self, power_w: int) -> float:
        """Into it in the quarter; below 0: out of it."""
        now_w = self._view.likely_w
        towards_w = abs(now_w) if now_w * power_w > 0 else 0
        during_s = self._here_s
        if power_w < 0 and self._spare_s is not None and self._charge_w > 0:
            # What is given has to be charged again.
            during_s = min(during_s, self._spare_s / (1 - power_w / (self._charge_w * DEPARTURE_MARGIN)))
        wanted_wh = max(0.0, abs(power_w) * during_s / 3600 - self._rising_wh(abs(power_w), towards_w))
        if power_w > 0 and self._is_car:
            wanted_wh = min(wanted_wh, self._until_full_wh(power_w))
        stored_wh = self._above_wh if power_w < 0 else self._below_wh
        # What it gives, or takes, by itself no bound on commands takes from it.
        moved_wh = _bounded(_bounded(wanted_wh, stored_wh), self._left_wh)
        return -moved_wh if power_w < 0 else moved_wh

    @property
    def bounded(self) -> bool:
        """Whether a bound of the day holds for what commands move of it."""
        return self._left_wh is not None

    def _reached_w(self, power_w: int, from_w: int, stored_wh: int | None) -> int:
        """How far the local ramp lets it come within the quarter, and before its storage ends."""
        if self._rise_w_per_s is None:
            return power_w
        most_w = from_w + self._rise_w_per_s * self._here_s
        if stored_wh is not None or self._left_wh is not None:
            stored_wh = min(wh for wh in (stored_wh, self._left_wh) if wh is not None)
            most_w = min(most_w, math.sqrt(from_w**2 + 2 * self._rise_w_per_s * stored_wh * 3600))
        return min(power_w, max(from_w, int(most_w)))

    def _rising_wh(self, power_w: int, from_w: int) -> float:
        """What the local ramp takes of the energy."""
        if self._rise_w_per_s is None or power_w <= from_w:
            return 0.0
        rise_s = min(self._here_s, (power_w - from_w) / self._rise_w_per_s)
        lost_wh = rise_s * (power_w - from_w) / 2 / 3600
        if self._is_car and from_w < self._least_current_w:  # Below its least current it takes nothing.
            lost_wh += self._least_current_w**2 / 2 / self._rise_w_per_s / 3600
        return lost_wh

    def _tapered_w(self, power_w: int) -> int:
        """A car that is nearly full takes less and less."""
        if self._charge_permille is None or self._charge_permille <= TAPER_PERMILLE:
            return power_w
        rated_w = self._view.most_import_w
        return min(power_w, rated_w * (FULL_PERMILLE - self._charge_permille) // (FULL_PERMILLE - TAPER_PERMILLE))

    def _until_full_wh(self, power_w: int) -> float:
        """What a car takes in the quarter: with a straight taper towards full, as far as its least current."""
        if self._charge_permille is None or self._capacity_wh is None or not self._view.most_import_w:
            return float("inf")
        taper_wh = self._capacity_wh * (FULL_PERMILLE - TAPER_PERMILLE) / 1000
        missing_wh = self._capacity_wh * (FULL_PERMILLE - self._charge_permille) / 1000
        # At this much missing the taper is down to the power.
        bend_wh = taper_wh * min(1.0, power_w / self._view.most_import_w)
        end_wh = taper_wh * min(1.0, self._least_current_w / self._view.most_import_w)
        level_wh = max(0.0, missing_wh - bend_wh)
        level_s = level_wh * 3600 / power_w
        if level_s >= self._here_s:
            return float("inf")
        begin_wh = min(missing_wh, bend_wh)
        pace_per_s = self._view.most_import_w / 3600 / taper_wh
        left_wh = begin_wh * math.exp(-pace_per_s * (self._here_s - level_s))
        return level_wh + max(0.0, begin_wh - max(left_wh, end_wh))


def _is_full(view: DeviceView, site: SiteView) -> bool:
    """By its charge alone: of how large it is, some tell nothing."""
    if view.kind is DeviceKind.BATTERY:
        return (view.state_of_charge_permille or 0) >= battery_bounds_permille(site)[1]
    car = view.vehicle
    return car is not None and (car.state_of_charge_permille or 0) >= FULL_PERMILLE


def _bounded(energy_wh: float, most_wh: int | None) -> float:
    return energy_wh if most_wh is None else min(energy_wh, most_wh)
