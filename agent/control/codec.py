"""Any value of the plan as bytes and back, by its type: one encoding for one value, so that bytes can be compared.

CBOR with a dataclass as the array of its fields, a mapping and a set as sorted arrays, an enum as its value. (Evidence
has a stricter form of its own; ages and uptimes are floats here, and come back bit for bit.)
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any, Final, TypeVar

import cbor2

from agent.control.admission import Policy
from agent.control.bounds import Allowance
from agent.control.deviation import Deviation, DeviationBook, Quarter
from agent.control.errors import RestoreError
from agent.control.house import House
from agent.control.meter_doubt import MeterDoubt
from agent.control.meter_lag import MeterLag
from agent.control.order import Order
from agent.control.schedule_keeper import ScheduleMemory
from agent.control.site import DeviceView, Mandate, MeterView, Sharing, SiteView
from agent.control.site_watch import WatchMemory
from drivers.device import Capabilities, VehicleSession

T = TypeVar("T")
_Later = Mapping[type, tuple[Mapping[str, object], ...]]
_LATER: Final[_Later] = {
    Allowance: (
        {"energy_left_wh": None, "spent": False},
        {"charge_left_permille": None, "ramp_permille_per_s": None},
    ),
    Capabilities: ({"energy_capacity_wh": None},),
    Deviation: ({"from_us": 0, "until_us": 0},),
    DeviationBook: ({"ahead_us": None},),
    DeviceView: ({"losses": None},),
    Mandate: ({"issuers": frozenset()},),
    MeterView: (
        dict.fromkeys(("over_w", "under_w"), 0) | dict.fromkeys(("phase_over_w", "phase_under_w"), ()),
        {"house_w": None, "phase_house_w": ()},
    ),
    MeterDoubt: (
        {"same_devices_w": None, "sum_w": 0, "flips": 0, "steady": 0, "turning": False},
        {"moving_s": float("inf"), "rest_w": None}
        | dict.fromkeys(("moving_w", "moving_meter_w", "rest_meter_w", "large_contrary"), 0),
        {"since_look": None, "since_rest": None},
    ),
    Order: ({"received_uptime_us": 0},),
    Policy: ({"classes": {}},),
    Quarter: ({"from_us": 0, "first_us": {}, "last_us": {}},),
    ScheduleMemory: ({"gone": {}},),
    VehicleSession: ({"declines": False},),
    SiteView: ({"sharing": Sharing.QUARTER},),
    WatchMemory: ({"lag": MeterLag()}, {"house": House()}),
}
"""Fields that older records were written without, and what these records mean by it: by the step in which they came,
the oldest first; a record has all of a step or none, and none of those after one that it has not."""


def encode(value: object) -> bytes:
    """The bytes of a value. Raises TypeError for what has no encoding: a fault of ours."""
    return cbor2.dumps(_plain(value), canonical=True)


def decode(kind: type[T], encoded: bytes) -> T:
    """A value of a type. Raises RestoreError for bytes that are none."""
    try:
        return typing.cast(T, _typed(kind, cbor2.loads(encoded)))
    except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise RestoreError(f"no {kind.__name__}: {error}"[:200]) from error


def _plain(value: object) -> object:
    if value is None or (isinstance(value, bool | int | float | str | bytes) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        kind: type = type(value)
        return [_plain(getattr(value, name)) for name in _names(kind)]
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(value[key])] for key in sorted(value)]
    if isinstance(value, Set):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no encoding")


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _typed(kind: Any, value: Any) -> object:
    """Any: what a type hint is cannot be said in types."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value)
    if origin is typing.Literal:
        return _checked(value in arguments, value)
    if origin is tuple:
        _checked(isinstance(value, list), value)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(arguments[0], item) for item in value)
        return tuple(_typed(each, item) for each, item in zip(arguments, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_typed(arguments[0], key): _typed(arguments[1], item) for key, item in value}
    if isinstance(origin, type) and issubclass(origin, Set):
        return frozenset(_typed(arguments[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        names, hints = _names(typing.cast(type, kind)), _hints(typing.cast(type, kind))
        _checked(isinstance(value, list), value)
        missing: dict[str, object] = {}
        for later in reversed(_LATER.get(typing.cast(type, kind), ())):
            if len(value) >= len(names) - len(missing):
                break
            missing |= later
        if missing and len(value) == len(names) - len(missing):
            names = tuple(name for name in names if name not in missing)
            return typing.cast(Any, kind)(**_fields(names, hints, value), **missing)
        return typing.cast(Any, kind)(**_fields(names, hints, value))
    if kind is None or kind is type(None):
        return _checked(value is None, value)
    if issubclass(kind, Enum):
        return kind(value)
    return _checked(type(value) is kind or (kind is float and type(value) is int), value)


def _fields(names: Sequence[str], hints: Mapping[str, Any], values: Sequence[object]) -> dict[str, object]:
    return {name: _typed(hints[name], item) for name, item in zip(names, values, strict=True)}


def _one_of(kinds: tuple[Any, ...], value: Any) -> object:
    for kind in kinds:
        try:
            return _typed(kind, value)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{value!r:.40} is none of {len(kinds)} types")


def _checked(holds: bool, value: object) -> object:
    if not holds:
        raise TypeError(f"{value!r:.40} is of another type")
    return value
