"""The registers of each control function, and what to write into them for a band of power. Pure.

A function is the registers that belong together and no others (SAFETY 4): model 704 also holds anti-islanding, power
factor and ramps, 124 the storage reserve. SunSpec counts generation as positive; the bands here are ours, + is import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.sunspec.codec import Field, Layout, Value
from drivers.sunspec.errors import ControlRefusedError
from drivers.sunspec.models import PointKind

Overlay = Mapping[str, int]
"""Points to change and the raw numbers to put there."""

FULL_PERCENT: Final = 100
TOLERANCE_PERCENT: Final = 1
"""A device may keep a value in its own, coarser resolution."""
_MOST: Final = {
    PointKind.UINT16: (0, 0xFFFE),
    PointKind.ENUM16: (0, 0xFFFE),
    PointKind.BITFIELD16: (0, 0x7FFF),
    PointKind.INT16: (-0x7FFF, 0x7FFF),
    PointKind.UINT32: (0, 0xFFFFFFFE),
    PointKind.INT32: (-0x7FFFFFFF, 0x7FFFFFFF),
}


@dataclass(frozen=True, slots=True)
class ControlFunction:
    """One function of one model."""

    name: str
    model: int
    runs: tuple[tuple[str, ...], ...]
    """Its registers as contiguous runs, each one write, in the order to write them."""
    enable: str
    """Takes effect with this one: written once more after all others (a Fronius acts on nothing else)."""
    timer: str
    """Seconds after which the order lapses in the device; each write of the function starts it anew. Empty: none."""
    one_by_one: tuple[str, ...]
    """The order for devices that refuse a run: what makes it lapse first, what makes it act last."""
    tolerant: frozenset[str]
    """Values that a device may round."""
    remaining: str = ""
    """Read-only seconds until the order lapses; empty: the model does not tell."""
    reverts: tuple[tuple[str, str], ...] = ()
    """Points and what they revert to; empty: they revert to no order."""


LIMIT_704: Final = ControlFunction(
    name="active power limit (704)",
    model=704,
    runs=(("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPctRvrt", "WMaxLimPctEnaRvrt", "WMaxLimPctRvrtTms"),),
    enable="WMaxLimPctEna",
    timer="WMaxLimPctRvrtTms",
    one_by_one=("WMaxLimPctRvrtTms", "WMaxLimPctRvrt", "WMaxLimPctEnaRvrt", "WMaxLimPct", "WMaxLimPctEna"),
    tolerant=frozenset({"WMaxLimPct", "WMaxLimPctRvrt"}),
    remaining="WMaxLimPctRvrtRem",
    reverts=(("WMaxLimPctEna", "WMaxLimPctEnaRvrt"), ("WMaxLimPct", "WMaxLimPctRvrt")),
)
LIMIT_123: Final = ControlFunction(
    name="active power limit (123)",
    model=123,
    runs=(("WMaxLimPct", "WMaxLimPct_WinTms", "WMaxLimPct_RvrtTms", "WMaxLimPct_RmpTms", "WMaxLim_Ena"),),
    enable="WMaxLim_Ena",
    timer="WMaxLimPct_RvrtTms",
    one_by_one=("WMaxLimPct_RvrtTms", "WMaxLimPct_WinTms", "WMaxLimPct_RmpTms", "WMaxLimPct", "WMaxLim_Ena"),
    tolerant=frozenset({"WMaxLimPct"}),
)
SETPOINT_704: Final = ControlFunction(
    name="active power setpoint (704)",
    model=704,
    runs=(
        (
            *("WSetEna", "WSetMod", "WSet", "WSetRvrt", "WSetPct", "WSetPctRvrt"),
            *("WSetEnaRvrt", "WSetRvrtTms"),
        ),
    ),
    enable="WSetEna",
    timer="WSetRvrtTms",
    one_by_one=(
        *("WSetRvrtTms", "WSetRvrt", "WSetPctRvrt", "WSetEnaRvrt"),
        *("WSet", "WSetPct", "WSetMod", "WSetEna"),
    ),
    tolerant=frozenset({"WSet", "WSetPct", "WSetRvrt", "WSetPctRvrt"}),
    remaining="WSetRvrtRem",
    reverts=(("WSetEna", "WSetEnaRvrt"), ("WSet", "WSetRvrt"), ("WSetPct", "WSetPctRvrt")),
)
STORAGE_124: Final = ControlFunction(
    name="storage charge and discharge limits (124)",
    model=124,
    runs=(
        ("OutWRte", "InWRte", "InOutWRte_WinTms", "InOutWRte_RvrtTms", "InOutWRte_RmpTms"),
        ("StorCtl_Mod",),
    ),
    enable="StorCtl_Mod",
    timer="InOutWRte_RvrtTms",
    one_by_one=(
        *("InOutWRte_RvrtTms", "InOutWRte_WinTms", "InOutWRte_RmpTms"),
        *("OutWRte", "InWRte", "StorCtl_Mod"),
    ),
    tolerant=frozenset({"OutWRte", "InWRte"}),
)
CONNECT_703: Final = ControlFunction(
    name="permission to enter service (703)",
    model=703,
    runs=(("ES",),),
    enable="ES",
    timer="",
    one_by_one=("ES",),
    tolerant=frozenset(),
)
CONNECT_123: Final = ControlFunction(
    name="connection (123)",
    model=123,
    runs=(("Conn_WinTms", "Conn_RvrtTms", "Conn"),),
    enable="Conn",
    timer="Conn_RvrtTms",
    one_by_one=("Conn_RvrtTms", "Conn_WinTms", "Conn"),
    tolerant=frozenset(),
)
_MODE_PERCENT, _MODE_WATTS = 0, 1  # WSetMod
_STORAGE_LIMIT_CHARGE, _STORAGE_LIMIT_DISCHARGE = 1, 2  # bits of StorCtl_Mod


class FunctionState:
    """The registers of one function as read: what is implemented, what they hold."""

    def __init__(self, function: ControlFunction, layout: Layout, words: Sequence[int], read_s: float = 0.0) -> None:
        """`words` are those of `function_span`, from its first register on; read at the monotonic moment `read_s`."""
        self.function = function
        self.read_s = read_s
        self._layout = layout
        self._first, _ = function_span(function, layout)
        self._words = tuple(words)
        self._values = layout.decode(words, self._first)

    def value(self, path: str) -> Value | None:
        """A point's raw number and scale factor; None when it is not implemented."""
        return self._values.get(path)

    def number(self, path: str) -> int | None:
        value = self._values.get(path)
        return value.raw if value is not None and isinstance(value.raw, int) else None

    def implements(self, *paths: str) -> bool:
        return all(path in self._values for path in paths)

    def field(self, path: str) -> Field:
        return self._layout.fields[path]

    def run_words(self, run: Sequence[str], overlay: Overlay | None = None) -> tuple[int, ...]:
        """The words of a run: as read, with the points of `overlay` changed."""
        words: list[int] = []
        for path in run:
            if overlay is not None and path in overlay:
                words.extend(encode(self.field(path), overlay[path]))
            else:
                field = self.field(path)
                words.extend(self._words[field.offset - self._first : field.end - self._first])
        return tuple(words)

    @property
    def settings(self) -> tuple[int, ...]:
        """Everything that we may write, as read, run after run: what `release` puts back."""
        return tuple(word for run in self.function.runs for word in self.run_words(run))

    def with_settings(self, settings: Sequence[int]) -> FunctionState:
        """The state that the function would have with the words that `settings` once gave.

        Raises ControlRefusedError when they are not as many as the function has.
        """
        words = list(self._words)
        at = 0
        for path in (path for run in self.function.runs for path in run):
            field = self.field(path)
            words[field.offset - self._first : field.end - self._first] = settings[at : at + field.point.size]
            at += field.point.size
        if at != len(settings):
            raise ControlRefusedError(
                f"{self.function.name}: {len(settings)} registers are on record from first contact, it has {at}"
            )
        return FunctionState(self.function, self._layout, words, self.read_s)


def function_span(function: ControlFunction, layout: Layout) -> tuple[int, int]:
    """(first offset, count) of the registers to read for a function, scale factors included.

    Raises ControlRefusedError when the device's model is too short for it.
    """
    try:
        spans = [layout.fields[path].span for run in function.runs for path in run]
    except KeyError as error:
        raise ControlRefusedError(
            f"{function.name}: the device's model {function.model} has no {error.args[0]} (length {layout.length})"
        ) from None
    first = min(start for start, _ in spans)
    return first, max(end for _, end in spans) - first


def encode(field: Field, number: int) -> tuple[int, ...]:
    """The words of a raw number. Raises ControlRefusedError when the point cannot hold it, or it means "nothing"."""
    least, most = _MOST[field.point.kind]
    if not least <= number <= most:
        raise ControlRefusedError(f"{field.point.name} cannot hold {number}: it takes {least} to {most}")
    bits = number & (0xFFFF if field.point.size == 1 else 0xFFFFFFFF)
    return (bits,) if field.point.size == 1 else (bits >> 16, bits & 0xFFFF)


def is_usable(state: FunctionState) -> bool:
    """Whether a function can be written and read back: its switch and at least one of its values are implemented."""
    needed = {
        LIMIT_704: ("WMaxLimPct",),
        LIMIT_123: ("WMaxLimPct",),
        SETPOINT_704: (),
        STORAGE_124: ("OutWRte", "InWRte"),
        CONNECT_703: (),
        CONNECT_123: (),
    }[state.function]
    if state.function is SETPOINT_704 and not (state.implements("WSet") or state.implements("WSetPct")):
        return False
    return state.implements(state.function.enable, *needed)


def scaled_raw(watts: int, reference_w: int | None, factor: int) -> int:
    """Raw number for a power, rounded toward zero: in watts, or as a percentage where `reference_w` is given."""
    top, bottom = (watts, 1) if reference_w is None else (watts * FULL_PERCENT, reference_w)
    if factor < 0:
        top *= 10**-factor
    else:
        bottom *= 10**factor
    return top // bottom if top >= 0 else -(-top // bottom)


def limit_in_force_w(state: FunctionState, reference_w: int | None) -> int | None:
    """The export limit that a limit function holds, watts; None when it is off."""
    value = state.value("WMaxLimPct")
    if reference_w is None or value is None or state.number(state.function.enable) != 1:
        return None
    return value.in_parts(reference_w) // FULL_PERCENT


def limit_overlay(
    state: FunctionState, limit_w: int, reference_w: int, timer_s: int, fallback_w: int | None
) -> dict[str, int]:
    """For LIMIT_704 and LIMIT_123: export at most `limit_w` (zero or positive), for `timer_s` (0: for good).

    `fallback_w`: what 704 reverts to; None: to no limit.
    """
    value = state.value("WMaxLimPct")
    if value is None:
        raise ControlRefusedError(f"{state.function.name}: WMaxLimPct is not implemented")

    def percent(watts: int) -> int:
        return scaled_raw(max(0, min(watts, reference_w)), reference_w, value.factor)

    overlay = {"WMaxLimPct": percent(limit_w), state.function.enable: 1}
    if state.function is LIMIT_704:
        if fallback_w is not None and state.implements("WMaxLimPctRvrt", "WMaxLimPctEnaRvrt"):
            overlay |= {"WMaxLimPctRvrt": percent(fallback_w), "WMaxLimPctEnaRvrt": 1}
        elif state.implements("WMaxLimPctEnaRvrt"):
            overlay["WMaxLimPctEnaRvrt"] = 0
    elif state.implements("WMaxLimPct_WinTms"):
        overlay["WMaxLimPct_WinTms"] = 0  # a random delay of the limit
    return overlay | _timer(state, timer_s)


def setpoint_overlay(
    state: FunctionState, power_w: int, reference_w: int | None, timer_s: int, *, rest_on_revert: bool, in_percent: bool
) -> dict[str, int]:
    """For SETPOINT_704: hold `power_w` (+ import). Reverts to rest (0 W), or to the device's own control.

    `in_percent`: by WSetPct instead of WSet; some devices take only that.
    """
    path, mode = ("WSetPct", _MODE_PERCENT) if in_percent else ("WSet", _MODE_WATTS)
    value = state.value(path)
    if value is None or (in_percent and reference_w is None):
        raise ControlRefusedError(f"{state.function.name}: {path} is not implemented, or what it is a percentage of")
    overlay = {path: scaled_raw(-power_w, reference_w if in_percent else None, value.factor), "WSetEna": 1}
    if state.implements("WSetMod"):
        overlay["WSetMod"] = mode
    if state.implements("WSetEnaRvrt"):
        overlay["WSetEnaRvrt"] = int(rest_on_revert)
    if rest_on_revert:
        # Both: which of them counts depends on a mode that may be written in another request.
        overlay |= {revert: 0 for revert in ("WSetRvrt", "WSetPctRvrt") if state.implements(revert)}
    return overlay | _timer(state, timer_s)


def storage_overlay(
    state: FunctionState, lowest_w: int | None, highest_w: int | None, reference_w: int, timer_s: int
) -> dict[str, int]:
    """For STORAGE_124: the band as the most charge and the most discharge; a negative one forces the other way.

    "Charge at most -50 %" is "discharge at least 50 %": so Fronius and those who followed read it.
    """
    outward, inward = state.value("OutWRte"), state.value("InWRte")
    if outward is None or inward is None:
        raise ControlRefusedError(f"{state.function.name}: OutWRte and InWRte are not implemented")
    overlay = {"StorCtl_Mod": 0}
    if lowest_w is not None:
        overlay["OutWRte"] = scaled_raw(-lowest_w, reference_w, outward.factor)
        overlay["StorCtl_Mod"] |= _STORAGE_LIMIT_DISCHARGE
    if highest_w is not None:
        overlay["InWRte"] = scaled_raw(highest_w, reference_w, inward.factor)
        overlay["StorCtl_Mod"] |= _STORAGE_LIMIT_CHARGE
    if state.implements("InOutWRte_WinTms"):
        overlay["InOutWRte_WinTms"] = 0
    return overlay | _timer(state, timer_s)


def connection_overlay(state: FunctionState) -> dict[str, int]:
    """For CONNECT_703 and CONNECT_123: off, at once, and for good: what restricts does not lapse by itself."""
    overlay = {state.function.enable: 0}
    if state.function is CONNECT_123 and state.implements("Conn_WinTms"):
        overlay["Conn_WinTms"] = 0  # a random delay
    return overlay | _timer(state, 0)


def _timer(state: FunctionState, timer_s: int) -> dict[str, int]:
    if not state.implements(state.function.timer):
        return {}
    _, most = _MOST[state.field(state.function.timer).point.kind]
    return {state.function.timer: min(timer_s, most)}


def differences(state: FunctionState, overlay: Overlay, reference_w: int | None) -> list[str]:
    """What a read-back does not hold of what was written, in words; empty: it holds. The timer is not judged here."""
    odd: list[str] = []
    for path, wanted in overlay.items():
        if path == state.function.timer:
            continue
        held = state.number(path)
        allowed = 0
        value = state.value(path)
        if path in state.function.tolerant and value is not None:
            per_watt = path in ("WSet", "WSetRvrt")
            full_w = reference_w or 0
            allowed = abs(
                scaled_raw(full_w * TOLERANCE_PERCENT // FULL_PERCENT, None, value.factor)
                if per_watt
                else scaled_raw(TOLERANCE_PERCENT, FULL_PERCENT, value.factor)
            )
        if held is None or abs(held - wanted) > allowed:
            odd.append(f"{path} holds {held} instead of {wanted}")
    return odd


def timer_runs(state: FunctionState) -> bool:
    """Whether a read-back shows that the device kept the revert time."""
    return bool(state.number(state.function.timer))
