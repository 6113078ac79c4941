"""How a device is, apart from what it measures: operating state, alarms, grid connection, droop, strings, battery.

For the plan (its own droop, its reconnect delay), and for people. Nothing of it is evidence. It is looked at slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from drivers.sunspec.codec import Layout, Value
from drivers.sunspec.description import DeviceDescription, FoundModel
from drivers.sunspec.models import Point, model_definition
from drivers.sunspec.registers import NO_REFUSALS, MapPoll, Read, Refusals, layout_of

Values = Mapping[str, Value]

MOST_STRINGS: Final = 32
"""Strings that are shown: more than any inverter on a house or a shop has."""


class OperatingState(StrEnum):
    """What a device is doing. Models 101-113 (St) and 701 (InvSt) number these differently."""

    OFF = "off"
    SLEEPING = "sleeping"
    STARTING = "starting"
    RUNNING = "running"
    THROTTLED = "throttled"
    SHUTTING_DOWN = "shutting down"
    FAULT = "fault"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class DcString:
    """One DC input: a string of panels, a battery port. Absent is None."""

    name: str
    power_w: int | None
    """As the device says it: positive where it feeds the inverter."""
    voltage_millivolts: int | None
    current_milliamperes: int | None
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """A battery behind the device. Absent is None."""

    capacity_wh: int | None
    available_wh: int | None
    state_of_health_permille: int | None
    state: str | None
    """In SunSpec's words: charging, full, holding..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a device is. None and empty: it does not say."""

    operating: OperatingState | None = None
    alarms: tuple[str, ...] = ()
    """In SunSpec's names, lower case: "ground fault"; "bit 17" where it has none."""
    connected: bool | None = None
    """To the grid."""
    islanded: bool | None = None
    """Grid-forming, or running without a grid (SAFETY 6)."""
    own_droop: bool = False
    """It answers the frequency by itself (models 711, 127, 134): the plan adds nothing to that (SAFETY 5)."""
    reconnect_delay_s: int | None = None
    """From grid return until it feeds again (SAFETY 7), the device's own random part at its longest."""
    reconnect_ramp_s: int | None = None
    reconnect_remaining_s: int | None = None
    """Of a delay that runs now."""
    strings: tuple[DcString, ...] = ()
    battery: Battery | None = None

    def in_words(self) -> str:
        """What a person must know of it, to follow the name of the device; empty when all is well."""
        fault = [] if self.operating is not OperatingState.FAULT else ["is in its state of fault"]
        alarms = [] if not self.alarms else [f"reports {', '.join(self.alarms)}"]
        return "".join(f"; {text}" for text in fault + alarms)


UNKNOWN_STANDING: Final = Standing()
"""Nothing was read, or nothing is said."""

_INVERTERS_10X: Final = (101, 102, 103, 111, 112, 113)
_METERS: Final = (201, 202, 203, 204, 211, 212, 213, 214)
_PATHS: Final[Mapping[int, tuple[str, ...]]] = {
    701: ("InvSt", "St", "ConnSt", "Alrm", "DERMode"),
    **dict.fromkeys(_INVERTERS_10X, ("St", "Evt1")),
    **dict.fromkeys(_METERS, ("Evt",)),
    122: ("ECPConn", "StActCtl"),
    711: ("Ena",),
    127: ("ModEna",),
    134: ("ModEna",),
    703: ("ESDlyTms", "ESRndTms", "ESRmpTms", "ESDlyRemTms"),
    713: ("WHRtg", "WHAvail", "SoH", "Sta"),
    802: ("WHRtg", "SoC", "SoH", "ChaSt", "State", "Evt1"),
    124: ("ChaSt",),
    160: ("N",),
    714: ("NPrt",),
}
_ALARM_POINTS: Final = {
    701: "Alrm",
    802: "Evt1",
    **dict.fromkeys(_INVERTERS_10X, "Evt1"),
    **dict.fromkeys(_METERS, "Evt"),
}
_STRINGS: Final = {160: ("module", "DCEvt"), 714: ("Prt", "DCAlrm")}
_STRING_POINTS: Final = ("IDStr", "ID", "DCW", "DCV", "DCA")

_701_STATES: Final = dict(enumerate(OperatingState))
_10X_STATES: Final = {
    1: OperatingState.OFF,
    2: OperatingState.SLEEPING,
    3: OperatingState.STARTING,
    4: OperatingState.RUNNING,  # MPPT
    5: OperatingState.THROTTLED,
    6: OperatingState.SHUTTING_DOWN,
    7: OperatingState.FAULT,
    8: OperatingState.STANDBY,
}
_RUNNING: Final = (OperatingState.RUNNING, OperatingState.THROTTLED)
_GRID_FORMING: Final = 1 << 1  # 701 DERMode
_FREQ_WATT_ACTIVE: Final = 1 << 4 | 1 << 5  # 122 StActCtl: Freq-Watt-Param, Freq-Watt-Curve


class StandingPoll:
    """The models of one device that say how it is, read again and again."""

    def __init__(self, numbers: Sequence[int], poll: MapPoll) -> None:
        self._numbers = numbers
        self._poll = poll

    @classmethod
    async def of(
        cls, read: Read, description: DeviceDescription, known: Refusals = NO_REFUSALS, since_s: float = 0.0
    ) -> StandingPoll:
        """Finds out how many strings there are. What is `known` was so at `since_s`. Raises SunSpecErrors."""
        numbers: list[int] = []
        wanted: list[tuple[Layout, int, tuple[str, ...]]] = []
        for number, paths in _PATHS.items():
            found = description.find(number)
            if found is not None and not description.is_phantom(found):
                numbers.append(number)
                wanted.append(await _wanted(read, found, paths))
        return cls(numbers, MapPoll(wanted, (), since_s, known))

    @property
    def refusals(self) -> Refusals:
        """See MapPoll."""
        return self._poll.refusals

    async def read(self, read: Read, now_s: float) -> Standing:
        """One look: few requests. Raises SunSpecErrors, but not for what the device hides."""
        look = await self._poll.read(read, now_s)
        return standing(dict(zip(self._numbers, look.values, strict=True)))


async def _wanted(read: Read, found: FoundModel, paths: tuple[str, ...]) -> tuple[Layout, int, tuple[str, ...]]:
    definition = model_definition(found.number)
    assert definition is not None  # every model of _PATHS is an official one
    place = await layout_of(read, definition, found.address, found.length)
    if found.number in _STRINGS:
        group, alarms = _STRINGS[found.number]
        names = (*_STRING_POINTS, alarms)
        paths += tuple(f"{group}[{index}].{name}" for index in range(1, MOST_STRINGS + 1) for name in names)
    return place, found.address, paths


def standing(values: Mapping[int, Values]) -> Standing:
    """From the points that StandingPoll reads, by model number."""
    operating, connected = _operating(values), _connected(values)
    mode = _whole(values, 701, "DERMode")
    running = operating in _RUNNING
    grid_forming = mode is not None and bool(mode & _GRID_FORMING)
    delay, random = _whole(values, 703, "ESDlyTms"), _whole(values, 703, "ESRndTms")
    return Standing(
        operating=operating,
        alarms=tuple(name for number, path in _ALARM_POINTS.items() for name in _alarms(number, path, values)),
        connected=connected,
        islanded=True if grid_forming else None if connected is None else running and not connected,
        own_droop=_own_droop(values),
        reconnect_delay_s=None if delay is None else delay + (random or 0),
        reconnect_ramp_s=_whole(values, 703, "ESRmpTms"),
        reconnect_remaining_s=_whole(values, 703, "ESDlyRemTms"),
        strings=tuple(text for number in _STRINGS for text in _strings(number, values.get(number, {}))),
        battery=_battery(values),
    )


def _whole(values: Mapping[int, Values], number: int, path: str) -> int | None:
    value = values.get(number, {}).get(path)
    return value.raw if value is not None and isinstance(value.raw, int) else None


def _operating(values: Mapping[int, Values]) -> OperatingState | None:
    state = _whole(values, 701, "InvSt")
    if state is not None:
        return _701_STATES.get(state)
    states = [_whole(values, number, "St") for number in _INVERTERS_10X]
    return next((_10X_STATES.get(state) for state in states if state is not None), None)


def _connected(values: Mapping[int, Values]) -> bool | None:
    state = _whole(values, 701, "ConnSt")
    if state is not None:
        return state == 1
    bits = _whole(values, 122, "ECPConn")
    # The definition has bits for both, devices write 0 and 1: whatever is not 0 is a connection.
    return None if bits is None else bits != 0


def _own_droop(values: Mapping[int, Values]) -> bool:
    old_style = any((_whole(values, number, "ModEna") or 0) & 1 for number in (127, 134))
    active = (_whole(values, 122, "StActCtl") or 0) & _FREQ_WATT_ACTIVE
    return _whole(values, 711, "Ena") == 1 or old_style or bool(active)


def _alarms(number: int, path: str, values: Mapping[int, Values]) -> tuple[str, ...]:
    bits = _whole(values, number, path)
    return () if not bits else names_of_bits(_point(number, path), bits)


def names_of_bits(point: Point | None, bits: int) -> tuple[str, ...]:
    """The names of the bits that are set, as a person reads them."""
    symbols = {} if point is None else point.symbols
    return tuple(_in_words(symbols.get(bit, f"bit {bit}")) for bit in range(bits.bit_length()) if bits >> bit & 1)


def _in_words(name: str) -> str:
    # Meters call their alarms M_EVENT_Power_Failure.
    return name.removeprefix("M_EVENT_").replace("_", " ").lower()


def _symbol(number: int, path: str, values: Mapping[int, Values]) -> str | None:
    raw, point = _whole(values, number, path), _point(number, path)
    name = None if raw is None or point is None else point.symbols.get(raw)
    return None if name is None else _in_words(name)


def _point(number: int, path: str) -> Point | None:
    """By the last name of a path: in groups, the point of the group."""
    definition = model_definition(number)
    if definition is None:
        return None
    name = path.rsplit(".", 1)[-1]
    groups = (definition.group, *definition.group.groups)
    inside = groups[1:] if "." in path else groups[:1]
    return next((point for group in inside for point in group.points if point.name == name), None)


def _strings(number: int, values: Values) -> tuple[DcString, ...]:
    group, alarm = _STRINGS[number]
    count = values.get("N")
    most = count.raw if count is not None and isinstance(count.raw, int) and count.raw else MOST_STRINGS
    found: list[DcString] = []
    for index in range(1, min(most, MOST_STRINGS) + 1):
        own = {name: values.get(f"{group}[{index}].{name}") for name in (*_STRING_POINTS, alarm)}
        if own["DCW"] is None and own["DCV"] is None and own["DCA"] is None:
            continue
        name, bits = own["IDStr"], own[alarm]
        found.append(
            DcString(
                name=str(index) if name is None else "".join(c if c.isprintable() else "?" for c in str(name.raw)),
                power_w=_parts(own["DCW"], 1),
                voltage_millivolts=_parts(own["DCV"], 1000),
                current_milliamperes=_parts(own["DCA"], 1000),
                alarms=()
                if bits is None or not isinstance(bits.raw, int)
                else names_of_bits(_point(number, f"{group}[{index}].{alarm}"), bits.raw),
            )
        )
    return tuple(found)


def _battery(values: Mapping[int, Values]) -> Battery | None:
    if not any(number in values for number in (713, 802, 124)):
        return None

    def first(parts: int, *places: tuple[int, str]) -> int | None:
        found = (_parts(values.get(number, {}).get(path), parts) for number, path in places)
        return next((number for number in found if number is not None), None)

    return Battery(
        capacity_wh=first(1, (713, "WHRtg"), (802, "WHRtg")),
        available_wh=first(1, (713, "WHAvail")),
        state_of_health_permille=first(10, (713, "SoH"), (802, "SoH")),
        state=_symbol(802, "ChaSt", values) or _symbol(124, "ChaSt", values) or _symbol(713, "Sta", values),
    )


def _parts(value: Value | None, parts_per_unit: int) -> int | None:
    return None if value is None else value.in_parts(parts_per_unit)
