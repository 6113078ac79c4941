"""What happens in a simulation, line by line (JSON): commands, schedules, cars, sun and house, faults, STOP.

    {"at": "2027-06-01T17:00:00Z", "command": {"id": "c1", "type": "DISCHARGE", "power_w": 4000, "duration_s": 3600}}
    {"at": "2027-06-01T00:00:00Z", "schedule": {"steps": [null, -2000, -2000], "targets": ["battery-1"]}}
    {"at": "2027-06-01T08:00:00Z", "car": {"device": "car-1", "soc_percent": 40, "needs_wh": 20000, "stays_s": 28800}}
    {"at": "2027-06-01T12:00:00Z", "world": {"house_w": 900, "sun_percent": 80}}
    {"at": "2027-06-01T13:00:00Z", "fault": {"device": "battery-1", "silent": true}}
    {"at": "2027-06-01T14:00:00Z", "stop": true}

`command` takes the fields of proto/COMMANDS.md section 2 that differ from their defaults: mode setpoint, import_limit
or export_limit, point connection or device, targets, max_energy_wh, price_micro_per_kwh with currency, start_in_s,
issuer, priority, resume. `car`: it leaves by itself when its `stays_s` are over. `world`: null gives the house or the
sun back to its own course of the day.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final, TypeAlias, TypeVar

from agent.control.command import MAX_TIME_US, Command, CommandType, Mode, Point, Price, Priority
from agent.control.errors import CommandFormatError, ControlError, quoted
from agent.control.schedule import STEP_US, Schedule
from agent.control.signers import RefusalError, resolved
from drivers.device import DeviceKind

_Enum = TypeVar("_Enum", bound=IntEnum)

AUDIENCE: Final = "zone:simulation"
MOST_LINES: Final = 100_000


class ScenarioError(ControlError):
    """A line that cannot be meant. Says which, and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    command_id: str
    command: Command


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class CarLine:
    """A car comes, or goes."""

    device: str
    gone: bool = False
    token: str | None = None
    soc_permille: int | None = None
    capacity_wh: int = 60_000
    needs_wh: int | None = None
    stays_s: float | None = None
    """Until its departure; None: nobody told, and it stays."""
    charge_w: int | None = None
    discharge_w: int | None = None
    charge_now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldLine:
    """None: it goes its own course of the day."""

    house_w: int | None = None
    sun_permille: int | None = None


@dataclass(frozen=True, slots=True)
class FaultLine:
    device: str
    silent: bool


@dataclass(frozen=True, slots=True)
class StopLine:
    on: bool


Line: TypeAlias = CommandLine | ScheduleLine | CarLine | WorldLine | FaultLine | StopLine


@dataclass(frozen=True, slots=True)
class Event:
    """One line and its moment."""

    at_us: int
    what: Line


def read_scenario(lines: Iterable[str], devices: Mapping[str, str]) -> list[Event]:
    """The events of a file. `devices`: kind by id. Raises ScenarioError with the number of the line."""
    events: list[Event] = []
    ids: set[str] = set()
    for number, text in enumerate(lines, start=1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        if number > MOST_LINES:
            raise ScenarioError(f"more than {MOST_LINES} lines: split the file")
        try:
            event = _event(text, number, devices)
            if isinstance(event.what, CommandLine):
                if event.what.command_id in ids:
                    raise ScenarioError(f"command id {quoted(event.what.command_id)} stands for another one above")
                ids.add(event.what.command_id)
            events.append(event)
        except (
            ScenarioError, CommandFormatError, ValueError, TypeError, KeyError, OverflowError, RecursionError
        ) as error:  # fmt: skip
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ScenarioError(f"line {number}: {said}"[:400]) from error
    if not events:
        raise ScenarioError('there is no line in it; one is {"at": "2027-06-01T12:00:00Z", "world": {"house_w": 900}}')
    return events


def _event(text: str, number: int, devices: Mapping[str, str]) -> Event:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ScenarioError(f"is no JSON: {error}") from error
    if not isinstance(value, dict) or "at" not in value or len(value) != 2:
        raise ScenarioError('is no object of "at" and one of command, schedule, car, world, fault, stop')
    moment = datetime.fromisoformat(_text(value, "at"))
    if moment.tzinfo is None:
        raise ScenarioError(f'"at" {quoted(value["at"])} has no zone; write 2027-06-01T12:00:00Z')
    at_us = round(moment.timestamp() * 1e6)
    if not 0 <= at_us < MAX_TIME_US:
        raise ScenarioError(f'"at" {quoted(value["at"])} is before 1970 or after 2255')
    what = next(key for key in value if key != "at")
    told = value[what]
    if what == "stop":
        if not isinstance(told, bool):
            raise ScenarioError('"stop" is true or false')
        return Event(at_us, StopLine(told))
    if not isinstance(told, dict):
        raise ScenarioError(f"{quoted(what)} is not followed by an object")
    match what:
        case "command":
            return Event(at_us, _command(told, at_us, number, devices))
        case "schedule":
            return Event(at_us, _schedule(told, at_us, number, devices))
        case "car":
            return Event(at_us, _car(told, devices))
        case "world":
            return Event(at_us, _world(told))
        case "fault":
            _known(told, {"device", "silent"})
            return Event(at_us, FaultLine(_device(told, devices), _flag(told, "silent", default=True)))
    raise ScenarioError(f"{quoted(what)} is none of command, schedule, car, world, fault, stop")


def _command(told: Mapping[str, object], at_us: int, number: int, devices: Mapping[str, str]) -> CommandLine:
    _known(told, {
        "id", "type", "power_w", "duration_s", "start_in_s", "mode", "point", "targets", "max_energy_wh", "issuer",
        "price_micro_per_kwh", "currency", "priority", "resume",
    })  # fmt: skip
    type_ = _member(CommandType, _text(told, "type"))
    start_us = at_us + round(_number(told, "start_in_s", 0) * 1e6)
    default_mode = "export_limit" if type_ is CommandType.CURTAIL else "setpoint"
    energy = told.get("max_energy_wh")
    command = Command(
        audience=AUDIENCE,
        targets=_targets(told, devices),
        mode=_member(Mode, _text(told, "mode", default_mode)),
        point=_member(Point, _text(told, "point", "device")),
        type=type_,
        power_w=round(_number(told, "power_w", 0)),
        max_energy_wh=None if energy is None else round(_number(told, "max_energy_wh")),
        start_us=start_us,
        end_us=start_us + round(_number(told, "duration_s") * 1e6),
        price=_price(told),
        issuer=_text(told, "issuer", "grid"),
        sequence=number,
        priority=Priority(round(_number(told, "priority", 0))),
        resume=_flag(told, "resume", default=False),
    )
    return CommandLine(command_id=_text(told, "id"), command=command)


def _schedule(told: Mapping[str, object], at_us: int, number: int, devices: Mapping[str, str]) -> ScheduleLine:
    _known(told, {"steps", "targets", "point", "price_micro_per_kwh", "currency", "random_start_s", "issuer"})
    steps = told["steps"]
    if not isinstance(steps, list) or any(step is not None and type(step) is not int for step in steps):
        raise ScenarioError('"steps" is a list of whole watts and null, one for each quarter of an hour')
    return ScheduleLine(
        Schedule(
            audience=AUDIENCE,
            targets=_targets(told, devices),
            point=_member(Point, _text(told, "point", "device")),
            start_us=at_us // STEP_US * STEP_US,
            steps=tuple(steps),
            price=_price(told),
            random_start_s=round(_number(told, "random_start_s", 0)),
            issuer=_text(told, "issuer", "grid"),
            sequence=number,
        )
    )


def _price(told: Mapping[str, object]) -> Price | None:
    micro = _whole(told, "price_micro_per_kwh")
    return None if micro is None else Price(micro, _text(told, "currency", "EUR"))


def _car(told: Mapping[str, object], devices: Mapping[str, str]) -> CarLine:
    _known(told, {
        "device", "gone", "token", "soc_percent", "capacity_wh", "needs_wh", "stays_s", "charge_w", "discharge_w",
        "charge_now",
    })  # fmt: skip
    device = _device(told, devices)
    if devices[device] != "charger":
        raise ScenarioError(f"{quoted(device)} is no charger")
    percent = _number(told, "soc_percent", 50)
    if not 0 <= percent <= 100:
        raise ScenarioError("soc_percent is outside 0 to 100")
    return CarLine(
        device=device,
        gone=_flag(told, "gone", default=False),
        token=_text(told, "token", "") or None,
        soc_permille=round(percent * 10),
        capacity_wh=_least(told, "capacity_wh", 1) or 60_000,
        needs_wh=_least(told, "needs_wh", 0),
        stays_s=_least(told, "stays_s", 1),
        charge_w=_least(told, "charge_w", 0),
        discharge_w=_least(told, "discharge_w", 0),
        charge_now=_flag(told, "charge_now", default=False),
    )


def _world(told: Mapping[str, object]) -> WorldLine:
    _known(told, {"house_w", "sun_percent"})
    percent = None if told.get("sun_percent") is None else _number(told, "sun_percent")
    if percent is not None and not 0 <= percent <= 100:
        raise ScenarioError("sun_percent is outside 0 to 100")
    return WorldLine(house_w=_least(told, "house_w", 0), sun_permille=None if percent is None else round(percent * 10))


def _known(told: Mapping[str, object], keys: set[str]) -> None:
    unknown = sorted(set(map(str, told)) - keys)
    if unknown:
        raise ScenarioError(f"unknown keys {quoted(', '.join(unknown))}; known are {', '.join(sorted(keys))}")


def _text(told: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = told.get(key, default)
    if value is None:
        raise KeyError(key)
    if not isinstance(value, str):
        raise ScenarioError(f"{key} {quoted(value)} is no text")
    return value


def _number(told: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = told.get(key, default)
    if value is None:
        raise KeyError(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ScenarioError(f"{key} {quoted(value)} is no number that can be meant")
    return value


def _whole(told: Mapping[str, object], key: str) -> int | None:
    return None if told.get(key) is None else round(_number(told, key))


def _least(told: Mapping[str, object], key: str, least: int) -> int | None:
    value = _whole(told, key)
    if value is not None and value < least:
        raise ScenarioError(f"{key} {value} is below {least}")
    return value


def _flag(told: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = told.get(key, default)
    if not isinstance(value, bool):
        raise ScenarioError(f"{key} is true or false, not {quoted(value)}")
    return value


def _targets(told: Mapping[str, object], devices: Mapping[str, str]) -> tuple[str, ...]:
    value = told.get("targets", [])
    if not isinstance(value, list):
        raise ScenarioError(f"targets {quoted(value)} is no list of device ids")
    classes = {
        kind.value: [name for name, found in devices.items() if found == kind.value]
        for kind in (DeviceKind.BATTERY, DeviceKind.CHARGER, DeviceKind.PV)
    }
    try:
        return resolved([str(name) for name in value], classes)
    except RefusalError as error:
        raise ScenarioError(str(error)) from error


def _device(told: Mapping[str, object], devices: Mapping[str, str]) -> str:
    name = _text(told, "device")
    if name not in devices:
        raise ScenarioError(
            f"device {quoted(name)} is not in the configuration; there are {', '.join(sorted(devices))}"
        )
    return name


def _member(kind: type[_Enum], name: str) -> _Enum:
    found = {member.name: member for member in kind}.get(name.upper())
    if found is None:
        raise ScenarioError(f"{quoted(name)} is none of {', '.join(member.name for member in kind)}")
    return found
