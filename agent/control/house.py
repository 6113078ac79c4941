"""What is not controlled, followed from look to look: the grid meter less the devices, as far as these are known. Pure.

Between an order and the samples that show it nobody knows where a device is: somewhere on its way to what it may do.
What the meter shows meanwhile is first of all the device's, and not the house's: else each raise is taken for a rise of
the house, is taken back, and given again. So devices count as a span, from the least to the most that they may make of
what the meter shows, and the house is what it was before as long as that span explains the meter. What the span does
not explain is the house's at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from agent.control.meter_lag import MeterLag, steadied
from agent.control.site import DeviceView, MeterView
from drivers.device import DeviceKind

SKEW_S: Final = 1.0
"""Meter and devices are sampled so far apart, though both are fresh; and a meter shows the mean of as much."""
LATEST_S: Final = 5.0
"""A meter whose lag is not found yet is not later than this."""
KEPT_S: Final = 20.0
"""The oldest that a meter shows: its lag, and the age of a sample that counts still."""
EVERY_S: Final = 0.25
"""Looks that come closer together are one."""
FOLLOWED: Final = 0.2
LITTLE_FOLLOWED: Final = 0.9
LITTLE_W: Final = 250
"""So much of the way in a second the house follows what it would be if devices did at once as they were ordered: it
lives, and a little of that is hidden behind devices that are always moved a little. What is more than a little is
rather a device's that is late."""
NOTHING_W: Final = 10
"""Less than this is not followed while devices move: an order would answer it, and that the next one."""

Span = tuple[int, int]
"""(least, most) W."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseLook:
    """What devices made of the connection at one moment, as it was known then."""

    at_s: float
    total_w: Span
    likely_w: Span
    """The same, where those that can be ordered to a power are there at once."""
    phases_w: tuple[Span, ...]
    """Each device evenly over its phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What is known of it."""

    total_w: int | None = None
    """None: no meter has shown it yet."""
    phases_w: tuple[int, ...] = ()
    late_w: int | None = None
    """The same, if the meter may be `LATEST_S` late: what would allow more than this is not believed yet."""
    late_phases_w: tuple[int, ...] = ()
    looks: tuple[HouseLook, ...] = ()
    """The oldest first."""
    looked_s: float = float("inf")
    """When that was, the last time."""


def follow(
    state: House,
    lag: MeterLag,
    meter: MeterView,
    devices: Mapping[str, DeviceView],
    phases: int,
    *,
    read_s: float,
    now_s: float,
) -> tuple[House, MeterView]:
    """The state after one look, and the meter with the house that it leaves. `read_s`: when the meter was read."""
    steady = steadied(lag, meter)
    state = step(
        state, steady.power_w, steady.phase_power_w, devices, phases, read_s=read_s, lag_s=lag.lag_s, now_s=now_s
    )
    off_w = [late_w - house_w for late_w, house_w in zip(state.late_phases_w, state.phases_w, strict=True)]
    beside_w = (state.late_w or 0) - (state.total_w or 0)
    return state, replace(
        steady,
        house_w=state.total_w,
        phase_house_w=state.phases_w,
        over_w=steady.over_w + max(0, beside_w),
        under_w=steady.under_w + max(0, -beside_w),
        phase_over_w=tuple(max(0, each_w) for each_w in off_w),
        phase_under_w=tuple(max(0, -each_w) for each_w in off_w),
    )


def step(
    state: House,
    meter_w: int,
    meter_phases_w: tuple[int, ...],
    devices: Mapping[str, DeviceView],
    phases: int,
    *,
    read_s: float,
    lag_s: float,
    now_s: float,
) -> House:
    """The state after one look. `read_s`: when the meter was read, which shows what was `lag_s` before, or later.

    `meter_phases_w`: empty where it has none.
    """
    look = _look(devices.values(), phases, now_s)
    looks = [seen for seen in state.looks if now_s - KEPT_S <= seen.at_s <= now_s]
    if looks and now_s - looks[-1].at_s < EVERY_S:
        look = _joined(looks.pop(), look)
    looks.append(look)
    first_s, last_s = read_s - lag_s - SKEW_S - EVERY_S, read_s + EVERY_S
    then = [seen for seen in looks if first_s <= seen.at_s <= last_s] or looks[:1]
    shown = min(then, key=lambda seen: abs(seen.at_s - (read_s - lag_s)))
    total_w = state.total_w
    if total_w is not None:
        after_s = max(0.0, now_s - state.looked_s)
        beside_w = _within(total_w, meter_w, [shown.likely_w]) - total_w
        if abs(beside_w) > NOTHING_W:
            followed = LITTLE_FOLLOWED if abs(beside_w) <= LITTLE_W else FOLLOWED
            total_w += round(beside_w * min(1.0, followed * after_s))
    late = [seen for seen in looks if read_s - LATEST_S - EVERY_S <= seen.at_s <= last_s] or looks[:1]
    return House(
        total_w=_within(total_w, meter_w, [seen.total_w for seen in then]),
        phases_w=_phases(state.phases_w, meter_phases_w[:phases], then),
        late_w=_within(state.late_w, meter_w, [seen.total_w for seen in late]),
        late_phases_w=_phases(state.late_phases_w, meter_phases_w[:phases], late),
        looks=tuple(looks),
        looked_s=now_s,
    )


def _phases(before_w: tuple[int, ...], meter_w: tuple[int, ...], looks: Sequence[HouseLook]) -> tuple[int, ...]:
    return tuple(
        _within(house_w, shown_w, [seen.phases_w[number] for seen in looks])
        for number, (house_w, shown_w) in enumerate(zip_longest(before_w[: len(meter_w)], meter_w))
    )


def span_of(view: DeviceView) -> Span:
    """Where a device may be now: at its last sample, or on the way from there to what its band has it do."""
    power_w = view.present_w
    if view.settled or not view.online or view.follows is False:
        return power_w, power_w
    expected_w = view.expected_w
    edge_w = _edge_w(view)
    return min(power_w, expected_w, edge_w), max(power_w, expected_w, edge_w)


def _likely_of(view: DeviceView, span: Span) -> Span:
    held = view.held
    if held is not None and held.lowest_w is not None and held.lowest_w == held.highest_w:
        return view.likely_w, view.likely_w
    return span


def _edge_w(view: DeviceView) -> int:
    """The most that the band lets it do, of what it does by itself."""
    low, high = (None, None) if view.held is None else (view.held.lowest_w, view.held.highest_w)
    if view.kind is DeviceKind.PV:
        return max(-view.most_export_w, -view.most_export_w if low is None else low)
    if view.kind is DeviceKind.CHARGER:
        most_w = view.most_import_w if high is None else min(high, view.most_import_w)
        return most_w if most_w else low or 0
    return view.expected_w


def _look(devices: Iterable[DeviceView], phases: int, now_s: float) -> HouseLook:
    total_w = likely_w = (0, 0)
    by_phase = [(0, 0)] * phases
    for view in devices:
        span = span_of(view)
        total_w, likely_w = _sum(total_w, span), _sum(likely_w, _likely_of(view, span))
        on = view.phases_of(phases)
        for phase in on:
            by_phase[phase - 1] = _sum(by_phase[phase - 1], (span[0] // len(on), span[1] // len(on)))
    return HouseLook(at_s=now_s, total_w=total_w, likely_w=likely_w, phases_w=tuple(by_phase))


def _joined(one: HouseLook, other: HouseLook) -> HouseLook:
    """Two of nearly one moment: what both allow may have been."""
    return HouseLook(
        at_s=one.at_s,
        total_w=_both(one.total_w, other.total_w),
        likely_w=other.likely_w,
        phases_w=tuple(map(_both, one.phases_w, other.phases_w)),
    )


def _sum(one: Span, other: Span) -> Span:
    return one[0] + other[0], one[1] + other[1]


def _both(one: Span, other: Span) -> Span:
    return min(one[0], other[0]), max(one[1], other[1])


def _within(before_w: int | None, meter_w: int, spans: Sequence[Span]) -> int:
    """As it was, as far as the spans let it have been so."""
    least_w, most_w = meter_w - max(high for _, high in spans), meter_w - min(low for low, _ in spans)
    if before_w is None:
        return (least_w + most_w) // 2
    return min(max(before_w, least_w), most_w)
