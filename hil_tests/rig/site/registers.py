"""SunSpec registers composed from the official model definitions: layout, sentinels, scale factors, write protection.

Knows nothing of the gateway's own codec. Source of the layouts: the JSON model definitions that pysunspec2 ships.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from drivers.modbus.server import Refusal, RegisterRefusedError

from .habits import CONFORMING, Habits, PointKey

__all__ = [
    "BASE_ADDRESS",
    "PointKey",
    "Refusal",
    "RegisterMap",
    "RegisterRefusedError",
    "scale_factor_for",
]

BASE_ADDRESS: Final = 40000
SUNS: Final = (0x5375, 0x6E53)
"""Marker "SunS" at the base address."""

SIGNED: Final = frozenset({"int16", "int32", "int64", "sunssf"})
SENTINELS: Final[Mapping[str, bytes]] = {
    "int16": b"\x80\x00",
    "sunssf": b"\x80\x00",
    "pad": b"\x80\x00",
    "uint16": b"\xff\xff",
    "enum16": b"\xff\xff",
    "bitfield16": b"\xff\xff",
    "count": b"\xff\xff",
    "int32": b"\x80\x00\x00\x00",
    "uint32": b"\xff\xff\xff\xff",
    "enum32": b"\xff\xff\xff\xff",
    "bitfield32": b"\xff\xff\xff\xff",
    "acc32": b"\x00\x00\x00\x00",
    "uint64": b"\xff" * 8,
    "acc64": b"\x00" * 8,
}
"""Not implemented, by type (SunSpec Device Information Model Specification, "Unimplemented")."""


@dataclass(frozen=True, slots=True)
class Point:
    """One named value of one model in the map."""

    model: int
    name: str
    """As in the definition; inside groups "PFWInj.PF", inside repeating ones "module.0.DCW"."""
    address: int
    size: int
    kind: str
    scale_point: str | None
    writable: bool
    symbols: frozenset[int]


@cache
def _definition(model: int) -> Mapping[str, Any]:
    path = resources.files("sunspec2").joinpath("models", "json", f"model_{model}.json")
    group = json.loads(path.read_text(encoding="utf-8"))["group"]
    assert isinstance(group, dict)
    return group


def _flatten(group: Mapping[str, Any], prefix: str, repeats: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    for point in group["points"]:
        yield prefix + point["name"], point
    for inner in group.get("groups", ()):
        name = inner["name"]
        if "count" not in inner:
            yield from _flatten(inner, f"{prefix}{name}.", repeats)
        else:
            for index in range(repeats.get(name, 0)):
                yield from _flatten(inner, f"{prefix}{name}.{index}.", repeats)


class RegisterMap:
    """The registers of one device. A point that was never set reads as not implemented."""

    def __init__(self, habits: Habits = CONFORMING) -> None:
        self.habits = habits
        self.points: dict[PointKey, Point] = {}
        self._words: list[int] = list(SUNS)
        self._owner: list[Point | None] = [None, None]
        self._implemented: set[PointKey] = set()
        self._bounds: dict[PointKey, tuple[int, int]] = {}

    def add_model(self, model: int, repeats: Mapping[str, int] | None = None) -> None:
        """Append a model, all points unimplemented. `repeats` gives the number of each repeating group."""
        start = len(self._words)
        for name, definition in _flatten(_definition(model), "", repeats or {}):
            scale = definition.get("sf")
            point = Point(
                model,
                name,
                BASE_ADDRESS + len(self._words),
                int(definition["size"]),
                str(definition["type"]),
                scale if isinstance(scale, str) else None,
                definition.get("access") == "RW",
                frozenset(int(symbol["value"]) for symbol in definition.get("symbols", ())),
            )
            self.points[model, name] = point
            sentinel = SENTINELS.get(point.kind, b"\x00\x00" * point.size)
            self._words += _to_words(sentinel)
            self._owner += [point] * point.size
        self.put(model, ID=model, L=len(self._words) - start - 2)

    def add_end(self) -> None:
        """Append the end model: 0xFFFF, length 0."""
        self._words += [0xFFFF, 0]
        self._owner += [None, None]

    def put(self, model: int, **values: int | str) -> None:
        """Set points to raw values (integers before the scale factor, or text)."""
        for name, value in values.items():
            self.put_raw((model, name), value)

    def put_raw(self, key: PointKey, value: int | str) -> None:
        """Set one point to its raw value. Integers beyond the type saturate just short of the sentinel.

        What the device lacks by habit stays not implemented.
        """
        if key in self.habits.lacks:
            return
        point = self.points[key]
        length = 2 * point.size
        if isinstance(value, str):
            encoded = value.encode("ascii")[:length].ljust(length, b"\0")
        else:
            encoded = _saturated(value, point.kind, length).to_bytes(length, "big", signed=point.kind in SIGNED)
        self._implemented.add(key)
        self._store(point, _to_words(encoded))

    def put_scaled(self, model: int, **values: float) -> None:
        """Set points to values in their units, rounded to what their scale factors (set before) can say."""
        for name, value in values.items():
            self.put_raw((model, name), round(value * 10 ** -self._scale(self.points[model, name])))

    def implements(self, model: int, name: str) -> bool:
        """Whether the point has ever been set."""
        return (model, name) in self._implemented

    def raw(self, model: int, name: str) -> int:
        """The raw integer of an implemented point."""
        point = self.points[model, name]
        start = point.address - BASE_ADDRESS
        words = self._words[start : start + point.size]
        return int.from_bytes(b"".join(w.to_bytes(2, "big") for w in words), "big", signed=point.kind in SIGNED)

    def scaled(self, model: int, name: str) -> float:
        """The value of an implemented point in its unit."""
        return float(self.raw(model, name) * 10.0 ** self._scale(self.points[model, name]))

    def bound(self, model: int, name: str, lowest: int, highest: int) -> None:
        """Writes of other raw values are refused with exception 3."""
        self._bounds[model, name] = (lowest, highest)

    def read(self, address: int, count: int) -> list[int]:
        """`count` words from `address`. Raises RegisterRefusedError outside the map."""
        start = address - BASE_ADDRESS
        if start < 0 or start + count > len(self._words):
            raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{address}+{count} is outside the map")
        for point in self._owner[start : start + count] if self.habits.hidden else ():
            if point is not None and (point.model, point.name) in self.habits.hidden:
                raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{point.model}.{point.name} is hidden at present")
        return self._words[start : start + count]

    def image(self) -> list[int]:
        """Every register from the base address on, hidden ones too."""
        return list(self._words)

    def write(self, address: int, words: list[int]) -> frozenset[PointKey]:
        """Write whole points, all or none; returns the points. Raises RegisterRefusedError and then nothing changed.

        Not implemented points that the definition calls writable take any value and ignore it, as devices do.
        """
        self.read(address, len(words))
        start = address - BASE_ADDRESS
        owners = self._owner[start : start + len(words)]
        accepted: dict[Point, list[int]] = {}
        if self.habits.takes_halves and len(words) == 1 and owners[0] is not None and owners[0].size == 2:
            return self._write_half(owners[0], address, words[0])
        for point in owners:
            if point is None or not point.writable:
                name = "marker" if point is None else f"{point.model}.{point.name}"
                raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{name} is read-only")
            offset = point.address - address
            if offset < 0 or offset + point.size > len(words):
                raise RegisterRefusedError(
                    Refusal.ILLEGAL_VALUE, f"{point.model}.{point.name} has {point.size} registers, written in part"
                )
            accepted[point] = words[offset : offset + point.size]
        implemented = {p: self._as_kept(p, w) for p, w in accepted.items() if (p.model, p.name) in self._implemented}
        for point, value in implemented.items():
            self._check(point, value)
        for point, value in implemented.items():
            self._store(point, value)
        return frozenset((point.model, point.name) for point in implemented)

    def _write_half(self, point: Point, address: int, word: int) -> frozenset[PointKey]:
        if not point.writable:
            raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{point.model}.{point.name} is read-only")
        if not self.implements(point.model, point.name):
            return frozenset()
        start = point.address - BASE_ADDRESS
        whole = self._words[start : start + point.size]
        whole[address - point.address] = word
        self._store(point, self._as_kept(point, whole))
        return frozenset({(point.model, point.name)})

    def _as_kept(self, point: Point, words: list[int]) -> list[int]:
        """What the device makes of words that are written to a point."""
        key, start = (point.model, point.name), point.address - BASE_ADDRESS
        if key in self.habits.ignores:
            return self._words[start : start + point.size]
        if key not in self.habits.clamps:
            return words
        is_signed = point.kind in SIGNED
        value = int.from_bytes(b"".join(w.to_bytes(2, "big") for w in words), "big", signed=is_signed)
        lowest, highest = self.habits.clamps[key]
        return _to_words(min(highest, max(lowest, value)).to_bytes(2 * point.size, "big", signed=is_signed))

    def _check(self, point: Point, words: list[int]) -> None:
        value = int.from_bytes(b"".join(w.to_bytes(2, "big") for w in words), "big", signed=point.kind in SIGNED)
        lowest, highest = self._bounds.get((point.model, point.name), (value, value))
        is_enum = point.kind.startswith("enum") and bool(point.symbols)
        if not lowest <= value <= highest or (is_enum and value not in point.symbols):
            raise RegisterRefusedError(Refusal.ILLEGAL_VALUE, f"{point.model}.{point.name} cannot be {value}")

    def _scale(self, point: Point) -> int:
        return 0 if point.scale_point is None else self.raw(point.model, point.scale_point)

    def _store(self, point: Point, words: list[int]) -> None:
        start = point.address - BASE_ADDRESS
        self._words[start : start + point.size] = words


def scale_factor_for(largest: float, *, most: int = 32_000) -> int:
    """The smallest scale factor, zero or above, with which `largest` fits a register that holds up to `most`."""
    scale = 0
    while largest / 10**scale > most:
        scale += 1
    return scale


def _to_words(encoded: bytes) -> list[int]:
    return [int.from_bytes(encoded[i : i + 2], "big") for i in range(0, len(encoded), 2)]


def _saturated(value: int, kind: str, length: int) -> int:
    bits = 8 * length
    if kind in SIGNED:
        return min((1 << bits - 1) - 1, max(1 - (1 << bits - 1), value))
    if kind.startswith("acc"):
        return value % (1 << bits)
    return min((1 << bits) - 2, max(0, value))
