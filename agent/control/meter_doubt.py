"""Whether the grid meter can be believed: one that is wired the wrong way round, or that stands still (SAFETY 8). Pure.

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
STILL_S: Final = 30.0
"""A meter with power on it that shows all the same values for so long stands still: voltage alone never does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterShown:
    """What the grid meter shows now, all of it."""

    power_w: int
    registers: tuple[int | None, ...]
    """Of energy."""
    grid: tuple[int | None, ...]
    """Voltage, frequency: what never stays the same by itself."""


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
    still: bool = False

    def sentence(self, meter_id: str) -> str:
        """Why it is not believed; empty while it is."""
        if self.turned_round:
            return (
                f"the grid meter {meter_id} counts the wrong way: it shows less import when devices take more; "
                "turn its wires or current transformers round, or set its direction"
            )
        if self.still:
            return f"the grid meter {meter_id} stands still: all its values have been the same for {STILL_S:g} s"
        return ""


def step(doubt: MeterDoubt, shown: MeterShown, devices_w: Mapping[str, int], now_s: float) -> MeterDoubt:
    """The doubt after one look. `devices_w`: metered power of all devices that answer."""
    doubt = _stands_still(doubt, shown, now_s)
    if now_s - doubt.looked_s < EVERY_S:
        return doubt
    before_w, meter_before_w = doubt.devices_w, doubt.meter_w
    doubt = replace(doubt, looked_s=now_s, devices_w=dict(devices_w), meter_w=shown.power_w)
    if before_w is None or before_w.keys() != devices_w.keys():
        return doubt
    moved_w, shown_w = sum(devices_w.values()) - sum(before_w.values()), shown.power_w - meter_before_w
    if abs(moved_w) < STEP_W:
        return doubt
    along_permille = shown_w * 1000 // moved_w
    if -1_500 <= along_permille <= -500:
        contrary = doubt.contrary + 1
        return replace(doubt, contrary=contrary, agreeing=0, turned_round=doubt.turned_round or contrary >= CONVICTS)
    if 500 <= along_permille <= 1_500:
        agreeing = doubt.agreeing + 1
        return replace(doubt, agreeing=agreeing, contrary=0, turned_round=doubt.turned_round and agreeing < ACQUITS)
    return doubt


def _stands_still(doubt: MeterDoubt, shown: MeterShown, now_s: float) -> MeterDoubt:
    values = (shown.power_w, *shown.registers, *shown.grid)
    # A meter without power, or that measures nothing that moves by itself, tells nothing by being calm.
    tells = all(any(value is not None for value in part) for part in (shown.registers, shown.grid))
    if values != doubt.values or shown.power_w == 0 or not tells:
        return replace(doubt, values=values, same_since_s=now_s, still=False)
    return replace(doubt, still=now_s - doubt.same_since_s >= STILL_S)
