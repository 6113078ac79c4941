"""SunSpec model definitions: which points a model has, from the official files that the pysunspec2 package ships.

Only its data files are used, never its code. A definition is read once, when a device first shows the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Final


class PointKind(StrEnum):
    """How the registers of a point are read. SunSpec Information Model Specification, section 4.4."""

    INT16 = "int16"
    UINT16 = "uint16"
    COUNT = "count"
    ACC16 = "acc16"
    ENUM16 = "enum16"
    BITFIELD16 = "bitfield16"
    PAD = "pad"
    INT32 = "int32"
    UINT32 = "uint32"
    ACC32 = "acc32"
    ENUM32 = "enum32"
    BITFIELD32 = "bitfield32"
    IPADDR = "ipaddr"
    INT64 = "int64"
    UINT64 = "uint64"
    ACC64 = "acc64"
    BITFIELD64 = "bitfield64"
    IPV6ADDR = "ipv6addr"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    SUNSSF = "sunssf"
    EUI48 = "eui48"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a model."""

    name: str
    kind: PointKind
    size: int
    """Registers."""
    factor: str | int | None
    """Decimal exponent: a number, or the name of the sunssf point that holds it."""
    units: str
    symbols: Mapping[int, str]
    """Names of enumerated values, or of bits."""


@dataclass(frozen=True, slots=True)
class Group:
    """Points, then groups. `count`: None is one; a name is the point that says how many; 0 is as many as fit."""

    name: str
    points: tuple[Point, ...]
    groups: tuple[Group, ...]
    count: str | int | None

    @property
    def points_size(self) -> int:
        """Registers of the group's own points."""
        return sum(point.size for point in self.points)

    @property
    def size(self) -> int:
        """Registers of one instance; what repeats by a count on the device is not in it."""
        return self.points_size + sum(
            group.size * (1 if group.count is None else group.count)
            for group in self.groups
            if not isinstance(group.count, str)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One SunSpec model, with its two header registers ID and L as its first points. Equal only to itself."""

    number: int
    name: str
    label: str
    group: Group
    count_places: Mapping[int, str]
    """Registers from ID to the points that say how often groups repeat, and their names."""


HEADER_SIZE: Final = 2
"""Registers of ID and L, which L itself does not count."""


@cache
def model_definition(number: int) -> Model | None:
    """The official definition of a model; None for one that is unknown (a vendor's own)."""
    file = resources.files("sunspec2").joinpath("models", "json", f"model_{number}.json")
    try:
        content: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    definition = _mapping(content)
    top = _mapping(definition["group"])
    return model_of(number, str(top["name"]), str(top.get("label", top["name"])), _group(top))


def model_of(number: int, name: str, label: str, group: Group) -> Model:
    """A model whose groups repeat by points of its top group, as in all official definitions."""
    counts = _count_names(group)
    places: dict[int, str] = {}
    offset = 0
    for point in group.points:
        if point.name in counts:
            places[offset] = point.name
        offset += point.size
    return Model(number, name, label, group, places)


def _count_names(group: Group) -> set[str]:
    own = {child.count for child in group.groups if isinstance(child.count, str)}
    return own.union(*(_count_names(child) for child in group.groups))


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _entries(value: object) -> list[dict[str, object]]:
    assert isinstance(value, list)
    return [_mapping(entry) for entry in value]


def _whole(value: object) -> int:
    assert isinstance(value, int | str)
    return int(value)


def _group(raw: dict[str, object]) -> Group:
    count = raw.get("count")
    return Group(
        name=str(raw["name"]),
        points=tuple(_point(point) for point in _entries(raw.get("points", []))),
        groups=tuple(_group(group) for group in _entries(raw.get("groups", []))),
        count=None if count is None else _number_or_name(count),
    )


def _point(raw: dict[str, object]) -> Point:
    factor = raw.get("sf")
    return Point(
        name=str(raw["name"]),
        kind=PointKind(str(raw["type"])),
        size=_whole(raw["size"]),
        factor=None if factor is None else _number_or_name(factor),
        units=str(raw.get("units", "")),
        symbols={_whole(symbol["value"]): str(symbol["name"]) for symbol in _entries(raw.get("symbols", []))},
    )


def _number_or_name(value: object) -> str | int:
    text = str(value)
    return int(text) if text.lstrip("-").isdigit() else text
