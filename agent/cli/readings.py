"""`v2g-gateway read`: a device's points with names, units and values, for people and for machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.cli.lines import Target, TargetError
from agent.cli.output import field as member
from drivers.modbus.device import MapReader
from drivers.modbus.register_map import Quantity, RegisterMap
from drivers.sunspec.codec import Field, Value
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import DeviceDescription, describe
from drivers.sunspec.errors import NotSunSpecError
from drivers.sunspec.models import PointKind
from drivers.sunspec.survey import ModelReading, Survey

NOT_IMPLEMENTED: Final = "not implemented"
REFUSED: Final = "refused by the device"
_BITFIELDS: Final = frozenset({PointKind.BITFIELD16, PointKind.BITFIELD32, PointKind.BITFIELD64})
_OUR_UNITS: Final[Mapping[str, tuple[str, int]]] = {
    "power": ("W", 1),
    "energy": ("kWh", 1_000_000),
    "voltage": ("V", 1000),
    "frequency": ("Hz", 1000),
    "charge": ("%", 10),
}
"""Unit for people, and how many of ours make one."""


@dataclass(frozen=True, slots=True)
class PointReading:
    """One point as it is now."""

    name: str
    value: int | float | str | None
    """Scaled; None where there is none, and `text` says why."""
    text: str
    units: str

    def as_json(self) -> dict[str, object]:
        return {"point": self.name, "value": self.value, "text": self.text, "units": self.units or None}


@dataclass(frozen=True, slots=True)
class Section:
    """Points that belong together: a model, or a register map."""

    number: int | None
    title: str
    points: tuple[PointReading, ...]

    def as_json(self) -> dict[str, object]:
        return {"model": self.number, "title": self.title, "points": [point.as_json() for point in self.points]}

    def rows(self) -> list[list[str]]:
        return [[point.name, point.text, point.units] for point in self.points]


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at one device."""

    device: str
    title: str
    source: str
    """"device": its registers; "agent": what the running agent measured last."""
    sections: tuple[Section, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "ok": True,
            "device": self.device,
            "title": self.title,
            "source": self.source,
            "sections": [section.as_json() for section in self.sections],
        }


async def looks(target: Target, unit: Unit, models: Sequence[int], period_s: float) -> AsyncGenerator[Readings, None]:
    """One look after the other, for as long as they are asked for. Raises SunSpecErrors, and TargetError for a model
    that the device does not have.
    """
    clock = asyncio.get_running_loop().time
    mapped = target.register_map
    if mapped is not None:
        if models:
            raise TargetError(f"{target.name} is read by a register map and has no models; leave {models[0]} out")
        reader = MapReader(mapped)
        serial = await reader.serial(unit)
        while True:
            look = await reader.read(unit, clock())
            points = _mapped_points(mapped, look.values, look.refused, serial)
            yield Readings(target.name, mapped.title, "device", (Section(None, mapped.title, points),))
            await asyncio.sleep(period_s)
    try:
        description = await describe(unit)
    except NotSunSpecError as error:
        raise TargetError(f"{error}; for a meter with a register map name it: --map eastron-sdm630") from error
    had = {found.number for found in description.models}
    for number in models:
        if number not in had:
            raise TargetError(f"{target.name} has no model {number}; it has {', '.join(map(str, sorted(had)))}")
    survey = Survey(unit, description, models)
    while True:
        sections = tuple(section(reading) for reading in await survey.read(clock()))
        yield Readings(target.name, _title(description), "device", sections)
        await asyncio.sleep(period_s)


def _title(description: DeviceDescription) -> str:
    return f"{description.title}, firmware {description.version or '?'}, serial {description.serial or '?'}"


def section(reading: ModelReading) -> Section:
    """A model for people: every point that it could have, in order."""
    found = reading.found
    title = f"{found.number} {found.label}, {found.length} registers at {found.address}"
    if reading.is_phantom:
        title += " (empty: nothing is there that it describes)"
    points = tuple(_point(field, reading.values, reading.refused) for field in reading.fields)
    return Section(found.number, title, points)


def _point(field: Field, values: Mapping[str, Value], refused: frozenset[str]) -> PointReading:
    value = values.get(field.path)
    units = field.point.units
    if value is None:
        return PointReading(field.path, None, REFUSED if field.path in refused else NOT_IMPLEMENTED, units)
    scaled = value.scaled()
    return PointReading(field.path, scaled, _said(field, value), units)


def _said(field: Field, value: Value) -> str:
    """The value in words where the model has words for it."""
    symbols, raw = field.point.symbols, value.raw
    if not isinstance(raw, int):
        return str(value.scaled())
    if field.point.kind in _BITFIELDS:
        names = [symbols.get(bit, f"bit {bit}") for bit in range(raw.bit_length()) if raw >> bit & 1]
        return f"{raw:#x} ({', '.join(names)})" if names else "0 (none)"
    if raw in symbols:
        return f"{raw} ({symbols[raw]})"
    return f"{value.scaled():.{-value.factor}f}" if value.factor < 0 else str(value.scaled())


def _mapped_points(
    mapped: RegisterMap, values: Mapping[Quantity, int], refused: frozenset[Quantity], serial: str
) -> tuple[PointReading, ...]:
    points = []
    for quantity in mapped.points:
        if quantity is Quantity.SERIAL:
            points.append(PointReading(quantity, serial or None, serial or NOT_IMPLEMENTED, ""))
            continue
        units, ours = next(of for word, of in _OUR_UNITS.items() if word in quantity)
        number = values.get(quantity)
        if number is None:
            points.append(PointReading(quantity, None, REFUSED if quantity in refused else NOT_IMPLEMENTED, units))
        else:
            value = number if ours == 1 else number / ours
            points.append(PointReading(quantity, value, str(value), units))
    return tuple(points)


def of_agent(device_id: str, line: object) -> Readings:
    """What the running agent says of a device whose line it holds."""
    rows = (
        ("power", "power_w", "W"),
        ("import_energy", "import_wh", "Wh"),
        ("export_energy", "export_wh", "Wh"),
        ("state_of_charge", "state_of_charge_percent", "%"),
    )
    points = []
    for name, key, units in rows:
        value = member(line, key)
        number = value if isinstance(value, int | float) else None
        points.append(PointReading(name, number, "not told" if number is None else str(number), units))
    link = PointReading("link", str(member(line, "link")), str(member(line, "link")), "")
    title = str(member(line, "detail") or "")
    return Readings(device_id, title, "agent", (Section(None, "as the running agent measured it", (link, *points)),))
