"""Whether the grid meter can be believed: wired the wrong way round, turning its sign, standing still (SAFETY 8). Pure.

What devices take more, the connection takes more. A meter that shows as much less each time has its wires or current
transformers turned round; one that shows the very same while its registers ought to run stands still. One look proves
nothing, since a house may switch just then: several in a row do, and several the other way take it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

EVERY_S: Final = 10.0
"""Between two looks: longer than the samples of all devices are apart."""
STEP_W: Final = 1_000
"""Less than this from the devices together tells nothing beside a house that lives."""
CONVICTS: Final = 4
"""Looks in a row that show the contrary."""
ACQUITS: Final = 3
LARGE_W: Final = 4_000
LARGE_CONVICTS: Final = 2
CLEAR_PERMILLE: Final = 200
"""Devices from one rest to the next by at least so much, and the meter by as much the other way but for this part: so
many in a row are enough. A right meter shows that only where the house moves by twice as much, the other way, just
then. Only at rest, for a battery that covers the house has moved before a late meter shows why."""
REST_S: Final = 5.0
"""Longer than a meter is late, and a charger's samples are apart."""
REST_W: Final = 500
"""So much may devices, and the meter, move meanwhile."""
FLIPS: Final = 8
"""Readings in a row that are the one before with the other sign."""
FLIPPED_PERCENT: Final = 10
"""So much may two such readings differ beside their sign, or devices have moved between them."""
STILL_S: Final = 30.0
"""A meter with power on it that shows all the same values for so long stands still: voltage alone never does."""
MOVED_STILL_S: Final = 5.0
"""The same, where devices have moved by `STEP_W` meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterShown:
    """What the grid meter shows now, all of it."""

    power_w: int
    registers: tuple[int | None, ...]
    """Of energy."""
    grid: tuple[int | None, ...]
    """Voltage, frequency: what never stays the same by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The least and the most of meter and devices together on the way from one look to the next, W."""

    meter_w: tuple[int, int]
    devices_w: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterDoubt:
    """What is held against the meter."""

    looked_s: float = float("-inf")
    devices_w: Mapping[str, int] | None = None
    meter_w: int = 0
    contrary: int = 0
    """Looks in a row."""
    agreeing: int = 0
    turned_round: bool = False
    values: tuple[int | None, ...] = ()
    same_since_s: float = float("inf")
    same_devices_w: Mapping[str, int] | None = None
    """What devices took then."""
    still: bool = False
    sum_w: int = 0
    """Of all devices, at the last reading."""
    flips: int = 0
    """Readings in a row with the other sign."""
    steady: int = 0
    """Readings in a row that are none."""
    turning: bool = False
    moving_s: float = float("inf")
    """When devices or the meter last moved."""
    moving_w: int = 0
    """Of all devices, then."""
    moving_meter_w: int = 0
    rest_w: Mapping[str, int] | None = None
    """What devices took when all was at rest, the last time."""
    rest_meter_w: int = 0
    large_contrary: int = 0
    """Large steps in a row."""
    since_look: Passed | None = None
    since_rest: Passed | None = None

    def sentence(self, meter_id: str) -> str:
        """Why it is not believed; empty while it is."""
        if self.turned_round:
            return (
                f"the grid meter {meter_id} counts the wrong way: it shows less import when devices take more; "
                "turn its wires or current transformers round, or set its direction"
            )
        if self.turning:
            return (
                f"the grid meter {meter_id} turns its sign from one reading to the next, while devices do not; "
                "look after its wires and registers"
            )
        if self.still:
            return (
                f"the grid meter {meter_id} stands still: all its values stay the same, for {MOVED_STILL_S:g} s while "
                f"devices moved, or for {STILL_S:g} s"
            )
        return ""


def step(doubt: MeterDoubt, shown: MeterShown, devices_w: Mapping[str, int], now_s: float) -> MeterDoubt:
    """The doubt after one look. `devices_w`: metered power of all devices that answer."""
    doubt = _stands_still(_turns(doubt, shown, sum(devices_w.values())), shown, devices_w, now_s)
    sum_w = sum(devices_w.values())
    doubt = replace(
        doubt,
        since_look=_passed(doubt.since_look, shown.power_w, sum_w),
        since_rest=_passed(doubt.since_rest, shown.power_w, sum_w),
    )
    doubt = _from_rest_to_rest(doubt, shown, devices_w, now_s)
    if now_s - doubt.looked_s < EVERY_S:
        return doubt
    before_w, meter_before_w, passed = doubt.devices_w, doubt.meter_w, doubt.since_look
    doubt = replace(
        doubt,
        looked_s=now_s,
        devices_w=dict(devices_w),
        meter_w=shown.power_w,
        since_look=_passed(None, shown.power_w, sum_w),
    )
    if before_w is None or before_w.keys() != devices_w.keys():
        return doubt
    moved_w, shown_w = sum(devices_w.values()) - sum(before_w.values()), shown.power_w - meter_before_w
    if abs(moved_w) < STEP_W:
        return doubt
    along_permille = shown_w * 1000 // moved_w
    if -1_500 <= along_permille <= -500:
        if _answered(passed, (meter_before_w, shown.power_w), (sum(before_w.values()), sum_w)):
            return doubt
        contrary = doubt.contrary + 1
        return replace(doubt, contrary=contrary, agreeing=0, turned_round=doubt.turned_round or contrary >= CONVICTS)
    if 500 <= along_permille <= 1_500:
        agreeing = doubt.agreeing + 1
        return replace(doubt, agreeing=agreeing, contrary=0, turned_round=doubt.turned_round and agreeing < ACQUITS)
    return doubt


def _from_rest_to_rest(doubt: MeterDoubt, shown: MeterShown, devices_w: Mapping[str, int], now_s: float) -> MeterDoubt:
    """The large steps, each judged once it has come to rest, and held against the rest before."""
    sum_w = sum(devices_w.values())
    still = abs(sum_w - doubt.moving_w) <= REST_W and abs(shown.power_w - doubt.moving_meter_w) <= REST_W
    if not still or doubt.moving_s > now_s:
        return replace(doubt, moving_s=now_s, moving_w=sum_w, moving_meter_w=shown.power_w)
    if now_s - doubt.moving_s < REST_S:
        return doubt
    before_w, meter_before_w, passed = doubt.rest_w, doubt.rest_meter_w, doubt.since_rest
    doubt = replace(
        doubt, rest_w=dict(devices_w), rest_meter_w=shown.power_w, since_rest=_passed(None, shown.power_w, sum_w)
    )
    if before_w is None or before_w.keys() != devices_w.keys():
        return doubt
    moved_w, shown_w = sum_w - sum(before_w.values()), shown.power_w - meter_before_w
    if abs(moved_w) < LARGE_W:
        return doubt
    answered = _answered(passed, (meter_before_w, shown.power_w), (sum(before_w.values()), sum_w))
    if abs(shown_w + moved_w) * 1000 <= CLEAR_PERMILLE * abs(moved_w) and not answered:
        contrary = doubt.large_contrary + 1
        turned_round = doubt.turned_round or contrary >= LARGE_CONVICTS
        return replace(doubt, large_contrary=contrary, agreeing=0, turned_round=turned_round)
    return replace(doubt, large_contrary=0)


def _passed(before: Passed | None, meter_w: int, sum_w: int) -> Passed:
    if before is None:
        return Passed(meter_w=(meter_w, meter_w), devices_w=(sum_w, sum_w))
    return Passed(meter_w=_wider(before.meter_w, meter_w), devices_w=_wider(before.devices_w, sum_w))


def _wider(span_w: tuple[int, int], power_w: int) -> tuple[int, int]:
    return min(span_w[0], power_w), max(span_w[1], power_w)


def _answered(passed: Passed | None, meter_w: tuple[int, int], devices_w: tuple[int, int]) -> bool:
    """Whether devices only answered the house: the meter went further than it stays, and came back with them.

    A water heater of twice the room that is left shows all of itself first; then devices make room for half of it.
    """
    if passed is None:
        return False
    return _beyond_w(passed.meter_w, meter_w) > _beyond_w(passed.devices_w, devices_w) + REST_W


def _beyond_w(span_w: tuple[int, int], ends_w: tuple[int, int]) -> int:
    """How far it went beyond its two ends."""
    return max(span_w[1] - max(ends_w), min(ends_w) - span_w[0])


def _turns(doubt: MeterDoubt, shown: MeterShown, sum_w: int) -> MeterDoubt:
    """A reading that was seen before tells nothing; `_stands_still` is to note this one."""
    if not doubt.values or (shown.power_w, *shown.registers, *shown.grid) == doubt.values:
        return replace(doubt, sum_w=sum_w)
    before_w = doubt.values[0] or 0
    most_w = max(abs(shown.power_w), abs(before_w)) * FLIPPED_PERCENT // 100
    flipped = (
        min(abs(shown.power_w), abs(before_w)) >= STEP_W // 2
        and abs(shown.power_w + before_w) <= most_w
        and abs(sum_w - doubt.sum_w) <= most_w
    )
    flips, steady = (doubt.flips + 1, 0) if flipped else (0, doubt.steady + 1)
    turning = flips >= FLIPS or (doubt.turning and steady < FLIPS)
    return replace(doubt, sum_w=sum_w, flips=flips, steady=steady, turning=turning)


def _stands_still(doubt: MeterDoubt, shown: MeterShown, devices_w: Mapping[str, int], now_s: float) -> MeterDoubt:
    values = (shown.power_w, *shown.registers, *shown.grid)
    # A meter without power, or that measures nothing that moves by itself, tells nothing by being calm.
    tells = all(any(value is not None for value in part) for part in (shown.registers, shown.grid))
    if values != doubt.values or not tells:
        return replace(doubt, values=values, same_since_s=now_s, same_devices_w=dict(devices_w), still=False)
    before_w, same_s = doubt.same_devices_w, now_s - doubt.same_since_s
    moved = (
        before_w is not None
        and before_w.keys() == devices_w.keys()
        and abs(sum(devices_w.values()) - sum(before_w.values())) >= STEP_W
    )
    return replace(
        doubt,
        still=doubt.still or (moved and same_s >= MOVED_STILL_S) or (shown.power_w != 0 and same_s >= STILL_S),
    )
