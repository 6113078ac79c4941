"""The site as the plan sees it: one snapshot of meter, devices and limits, taken at one moment. Values only."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Final

from agent.control.bounds import NO_BOUNDS, BoundsView
from agent.control.coming_back import ComingBack
from agent.control.command import Price
from agent.control.frequency import GridFrequency
from agent.control.inputs import InputClamp
from agent.control.losses import Losses, losses_of
from agent.control.order import Now, Order
from agent.control.override import Override
from drivers.device import Capabilities, DeadMan, DeviceKind, VehicleSession

SAMPLE_OLD_S: Final = 1.5
"""A sample older than this says where a device was; its band says where it is."""


class Sharing(Enum):
    """By which rule targets are shared out: those of earlier releases are kept for what they have recorded."""

    QUARTER = 1
    """`fewest.py`"""
    LOSSES = 2
    """`merit_order.py`"""


class CarDay(Enum):
    """What a charger's car does when nobody commands."""

    NOW = "now"
    WAIT = "wait"
    DEPARTURE = "departure"
    """As late as its departure allows."""
    SURPLUS = "surplus"
    """From what PV leaves over at the connection; its departure's need comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """An owner's permission to discharge the vehicle that identifies itself with `token_id` (SAFETY 9)."""

    token_id: str
    minimum_soc_permille: int
    least_price_micro_per_kwh: int
    currency: str
    issuers: frozenset[str] = frozenset()
    """Whose commands and schedules may discharge it; none: whoever has the right to order here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What the connection and its contract allow."""

    import_limit_w: int
    export_limit_w: int
    phase_limit_w: int
    """Main fuse per phase, as power at nominal voltage."""
    phases: int
    difference_limit_w: int | None = None
    """Most that devices may make one phase differ from another; None: no such limit."""
    house_reserve_w: int
    """Most that everything not controlled draws; counted while the meter is lost."""
    discharge_permitted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What happens when nobody commands (SAFETY 12)."""

    cars_wait: bool = False
    battery_idle: bool = False
    battery_minimum_soc_permille: int = 100
    answers_frequency: bool = False
    """Local frequency response is on (SAFETY 11); not fighting the grid needs no permission (SAFETY 5)."""
    frequency_reserve_permille: int = 0
    """State of charge above the minimum, and below full, that a battery keeps for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The band that a device is believed to hold: confirmed, or ordered and not confirmed yet (then the wider one)."""

    lowest_w: int | None
    highest_w: int | None
    age_s: float = float("inf")
    """Since it was confirmed, or ordered anew without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """One controllable device."""

    device_id: str
    kind: DeviceKind
    online: bool
    capabilities: Capabilities | None
    """None until first contact."""
    power_w: int | None
    """Last metered power, + import; old for a device that is silent, None when it never gave any."""
    sample_age_s: float = 0.0
    """Of that power."""
    state_of_charge_permille: int | None = None
    state_of_charge_age_s: float | None = None
    vehicle: VehicleSession | None = None
    held: Held | None = None
    follows: bool | None = None
    """Whether metered power is in the band that it confirmed; None: not to be judged now."""
    phases: tuple[int, ...] = (1, 2, 3)
    rated_import_w: int | None = None
    """Installer's bound; the nameplate counts where it is lower, or where there is none."""
    rated_export_w: int | None = None
    fallback_import_w: int | None = None
    """Static share (SAFETY 2), where the installer gave one."""
    fallback_export_w: int | None = None
    day: CarDay | None = None
    """Of a charger; None: as the site's default says."""
    begun: bool = False
    """Charging for the departure has begun (`day.py`, as the next five)."""
    must_go_on: bool = False
    """It is pressing, and was: a little time to spare does not end it."""
    at_minimum: bool = False
    """Its car has been discharged to its owner's minimum: a little more charge does not begin it again."""
    given_ws: float | None = None
    """The most that its car can have given since its state of charge was measured; None: it was not counted."""
    sun_w: int | None = None
    """Its part of the sun; None: it waits for more of it."""
    sun_left_w: int | None = None
    """What the sun leaves over for all cars; None: the meter is lost."""
    losses: Losses | None = None
    """What moving power costs it; None: as is usual for its kind."""

    @property
    def usual_losses(self) -> Losses:
        """The installer's word, or what is usual."""
        return self.losses or losses_of(self.kind)

    def phases_of(self, site_phases: int) -> tuple[int, ...]:
        """Those of the site's phases that it is on."""
        return _within(self.phases, site_phases)

    @property
    def present_w(self) -> int:
        """Metered power, 0 where none is known."""
        return self.power_w or 0

    @property
    def expected_w(self) -> int:
        """Where the device is by now if it obeys the band that it holds: its last sample may be older than the band."""
        power_w = self.present_w
        if self.held is None or not self.online:
            return power_w
        if self.held.lowest_w is not None:
            power_w = max(power_w, self.held.lowest_w)
        return power_w if self.held.highest_w is None else min(power_w, self.held.highest_w)

    @property
    def settled(self) -> bool:
        """Whether its last sample shows what its band has made of it."""
        if self.held is None or self.capabilities is None:
            return True
        return self.held.age_s - self.sample_age_s >= self.capabilities.response_s

    @property
    def likely_w(self) -> int:
        """Power by the last sample, or by the band where the sample is old."""
        return self.expected_w if self.sample_age_s > SAMPLE_OLD_S else self.present_w

    @property
    def most_import_w(self) -> int:
        """Rating that counts: nameplate and installer's bound, whichever is lower; 0 while nothing is known."""
        return _lower(self.rated_import_w, self.capabilities.rated_import_w if self.capabilities else None)

    @property
    def most_export_w(self) -> int:
        return _lower(self.rated_export_w, self.capabilities.rated_export_w if self.capabilities else None)

    @property
    def worst_import_w(self) -> int:
        """What a device that does not answer is counted at (SAFETY 3): last grant, last power, fallback, the largest.

        Without a dead man in the device its nameplate counts (SAFETY 2).
        """
        grant_w = self.held.highest_w if self.held is not None else None
        fallback_w = self.fallback_import_w or 0
        if self.capabilities is not None and self.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK:
            fallback_w = max(0, self.capabilities.fallback_highest_w)
        elif self.capabilities is not None:
            fallback_w = self.most_import_w
        elif self.fallback_import_w is None and self.kind is DeviceKind.CHARGER:
            fallback_w = self.rated_import_w or 0
        return max(0, grant_w or 0, self.present_w, fallback_w)

    @property
    def worst_export_w(self) -> int:
        """As `worst_import_w`, of export; zero or positive."""
        grant_w = self.held.lowest_w if self.held is not None else None
        fallback_w = self.fallback_export_w or 0
        if self.capabilities is not None and self.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK:
            fallback_w = max(0, -self.capabilities.fallback_lowest_w)
        elif self.capabilities is not None:
            fallback_w = self.most_export_w
        elif self.fallback_export_w is None and self.kind is DeviceKind.PV:
            fallback_w = self.rated_export_w or 0
        if self.kind is DeviceKind.PV and self.held is not None and grant_w is None:
            # Nothing of ours is in it, no fallback either: the sun decides.
            fallback_w = max(fallback_w, self.most_export_w)
        return max(0, -(grant_w or 0), -self.present_w, fallback_w)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterView:
    """The grid meter, while it can be believed."""

    power_w: int
    phase_power_w: tuple[int, ...] = ()
    over_w: int = 0
    """So much more it may be, for limits: where a meter shows late, or swings (`meter_lag.py`); as the next three."""
    under_w: int = 0
    phase_over_w: tuple[int, ...] = ()
    phase_under_w: tuple[int, ...] = ()
    house_w: int | None = None
    """What is not controlled, as it is followed from look to look (`house.py`); None: this look alone tells."""
    phase_house_w: tuple[int, ...] = ()
    """Of each phase, where the meter shows phases."""


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """Everything that the plan looks at."""

    now: Now
    limits: SiteLimits
    defaults: Defaults
    devices: Mapping[str, DeviceView]
    meter: MeterView | None
    """None: absent, stale or implausible; then static sums count (SAFETY 8)."""
    orders: tuple[Order, ...] = ()
    """Standing commands, highest first."""
    mandates: Mapping[str, Mandate] = field(default_factory=dict)
    """By token id."""
    stop: str | None = None
    """Local STOP: who pressed it."""
    islanded: bool = False
    safe_mode: str | None = None
    """Why the site looks after itself only (connection targets are suspended)."""
    coming_back: ComingBack | None = None
    """After grid return, boot or safe mode."""
    frequency: GridFrequency = field(default_factory=GridFrequency)
    inputs: tuple[InputClamp, ...] = ()
    """Hard-wired inputs that are active (SAFETY 13)."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """Devices that owner or installer hold by hand, by id."""
    bounds: BoundsView = NO_BOUNDS
    """What commands have used up (SAFETY 10)."""
    spot: Price | None = None
    """The price that feeds agree on, for discharges whose command names none."""
    sharing: Sharing = Sharing.LOSSES

    @cached_property
    def house_w(self) -> int | None:
        """What is not controlled: the meter less all devices. None without a meter.

        The meter is of this second, a charger's sample may be of five seconds ago: an old sample counts where the
        device is by its band. `house_most_w` and `house_least_w` are for limits, which must not trust either word.
        """
        if self.meter is None:
            return None
        if self.meter.house_w is not None:
            return self.meter.house_w
        return self.meter.power_w - sum(device.likely_w for device in self.devices.values())

    @cached_property
    def house_most_w(self) -> int | None:
        """The most that the house may be, for limits: followed from look to look, where a meter is."""
        if self.meter is None or self.meter.house_w is None:
            return self.house_most_now_w
        return self._most_beside_silent_w(self.meter.house_w + self.meter.over_w + self._beside_w[0])

    @cached_property
    def house_least_w(self) -> int | None:
        """As `house_most_w`, the least."""
        if self.meter is None or self.meter.house_w is None:
            return self.house_least_now_w
        return self._least_beside_silent_w(self.meter.house_w - self.meter.under_w - self._beside_w[1])

    @cached_property
    def house_most_now_w(self) -> int | None:
        """By this look alone: the larger of the house by the devices' samples and by their bands."""
        if self.meter is None:
            return None
        return self._most_beside_silent_w(self.meter.power_w + self.meter.over_w - self._counted_w[0])

    @cached_property
    def house_least_now_w(self) -> int | None:
        """As `house_most_now_w`, the smaller one."""
        if self.meter is None:
            return None
        return self._least_beside_silent_w(self.meter.power_w - self.meter.under_w - self._counted_w[1])

    def _most_beside_silent_w(self, seen_w: int) -> int:
        """A silent device may have left its last power: what it stopped taking in is then no relief of the house.

        How much of the difference is the house is not known, but no more than the reserve.
        """
        doubt_w = self.silent_worst_w[1] + sum(d.present_w for d in self.devices.values() if not d.online)
        return max(seen_w, min(seen_w + doubt_w, self.limits.house_reserve_w))

    def _least_beside_silent_w(self, seen_w: int) -> int:
        """As `_most_beside_silent_w`; not below 0."""
        doubt_w = self.silent_worst_w[0] - sum(d.present_w for d in self.devices.values() if not d.online)
        return min(seen_w, max(seen_w - doubt_w, 0))

    @cached_property
    def phase_house_w(self) -> tuple[tuple[int, int], ...]:
        """(least, most) of the house on each phase; empty without a meter. Each device evenly over its phases.

        A fuse that carries too much already waits for nobody: then what this look alone may mean counts as well.
        """
        count = self.limits.phases
        if self.meter is None or self.house_least_w is None or self.house_most_w is None:
            return ()
        if len(self.meter.phase_power_w) < count:
            return tuple(map(self._part_of_house_w, self.on_phase))
        houses = []
        over_w, under_w = self.meter.phase_over_w or (0,) * count, self.meter.phase_under_w or (0,) * count
        for phase, shares in enumerate(self.on_phase):
            least_w, most_w = counted_w(shares)
            meter_w = self.meter.phase_power_w[phase]
            least_w, most_w = meter_w - under_w[phase] - most_w, meter_w + over_w[phase] - least_w
            if phase < len(self.meter.phase_house_w):
                house_w, (more_w, less_w) = self.meter.phase_house_w[phase], _beside_w(shares)
                low_w, high_w = house_w - under_w[phase] - less_w, house_w + over_w[phase] + more_w
                least_w = min(low_w, least_w) if -meter_w > self.limits.phase_limit_w else low_w
                most_w = max(high_w, most_w) if meter_w > self.limits.phase_limit_w else high_w
            houses.append((least_w, most_w))
        return tuple(houses)

    def _part_of_house_w(self, shares: tuple[tuple[DeviceView, int], ...]) -> tuple[int, int]:
        """`phase_house_w` of one phase where the meter shows none: by the house evenly, and the devices on it."""
        count, limit_w = self.limits.phases, self.limits.phase_limit_w
        assert self.house_least_w is not None, "asked where there is a meter"
        assert self.house_most_w is not None
        least_w, most_w = self.house_least_w // count, self.house_most_w // count
        least_now_w = (self.house_least_w if self.house_least_now_w is None else self.house_least_now_w) // count
        most_now_w = (self.house_most_w if self.house_most_now_w is None else self.house_most_now_w) // count
        on_least_w, on_most_w = counted_w(shares)
        if most_now_w + on_least_w > limit_w:
            most_w = max(most_w, most_now_w)
        if -(least_now_w + on_most_w) > limit_w:
            least_w = min(least_w, least_now_w)
        return least_w, most_w

    @cached_property
    def on_phase(self) -> tuple[tuple[tuple[DeviceView, int], ...], ...]:
        """By phase: each device that is on it, and over how many phases its power is spread."""
        on: list[list[tuple[DeviceView, int]]] = [[] for _ in range(self.limits.phases)]
        for device in self.devices.values():
            phases = device.phases_of(self.limits.phases)
            for phase in phases:
                on[phase - 1].append((device, len(phases)))
        return tuple(map(tuple, on))

    @cached_property
    def silent_worst_w(self) -> tuple[int, int]:
        """(import, export) that all silent devices are counted at."""
        silent = [device for device in self.devices.values() if not device.online]
        return sum(d.worst_import_w for d in silent), sum(d.worst_export_w for d in silent)

    @cached_property
    def _beside_w(self) -> tuple[int, int]:
        return _beside_w((device, 1) for device in self.devices.values())

    @cached_property
    def _counted_w(self) -> tuple[int, int]:
        return counted_w((device, 1) for device in self.devices.values())


def _beside_w(shares: Iterable[tuple[DeviceView, int]]) -> tuple[int, int]:
    """(more, less) that the house may be, for what devices do beside their bands: they might come back to them."""
    more_w = less_w = 0
    for device, parts in shares:
        if device.follows is False:
            beside_w = (device.present_w - device.expected_w) // parts
            more_w, less_w = more_w + max(0, beside_w), less_w + max(0, -beside_w)
    return more_w, less_w


def counted_w(shares: Iterable[tuple[DeviceView, int]]) -> tuple[int, int]:
    """(least, most) that devices make of a meter's power: all by their samples, or all by their bands.

    One that does not follow is taken by itself: what it does beside its band stays with the house, where no band that
    another is still to reach may hide it (SAFETY 3). `shares`: each device, and by what its power is divided.
    """
    by_samples_w = by_bands_w = least_w = most_w = 0
    for device, parts in shares:
        present_w, expected_w = device.present_w // parts, device.expected_w // parts
        if device.follows is False:
            least_w += min(present_w, expected_w)
            most_w += max(present_w, expected_w)
        else:
            by_samples_w += present_w
            by_bands_w += expected_w
    return least_w + min(by_samples_w, by_bands_w), most_w + max(by_samples_w, by_bands_w)


@functools.cache
def _within(phases: tuple[int, ...], site_phases: int) -> tuple[int, ...]:
    return tuple(phase for phase in phases if phase <= site_phases) or (1,)


def _lower(bound: int | None, nameplate: int | None) -> int:
    if nameplate is None:
        return 0
    return nameplate if bound is None else min(bound, nameplate)
