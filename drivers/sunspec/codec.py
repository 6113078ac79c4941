"""Registers to values: where each point of a model lies, and what its words mean. Pure.

A layout depends on the model, its length on the device, and the counts of its repeating groups; it is compiled once
and then decodes any stretch of registers that was read. What lies beyond the device's length is absent; what a device
marks as not implemented is absent too, and never 0.
"""

from __future__ import annotations

import ipaddress
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.sunspec.models import HEADER_SIZE, Group, Model, Point, PointKind

MAX_FIELDS: Final = 10_000
"""More points than any model can have within 16 bits of length: a guard against nonsense counts."""
_NO_FACTOR: Final = -32768
_LARGEST_FACTOR: Final = 10
"""SunSpec: scale factors are -10 to 10. Anything else is noise, and its value is not implemented."""

Raw = int | float | str


@dataclass(frozen=True, slots=True)
class Value:
    """One implemented point: the registers' own number or text, and the decimal exponent to read it with."""

    raw: Raw
    factor: int = 0

    def scaled(self) -> Raw:
        """For people: in the point's unit. A float where the factor makes one."""
        if isinstance(self.raw, str) or self.factor == 0:
            return self.raw
        power: int = 10 ** abs(self.factor)
        return self.raw * power if self.factor > 0 else self.raw / power

    def in_parts(self, parts_per_unit: int) -> int:
        """For us: exact integer arithmetic, in 1/`parts_per_unit` of the point's unit, ties to even.

        Raises TypeError on a text, which no caller asks for.
        """
        if isinstance(self.raw, str):
            raise TypeError(f"a text has no parts: {self.raw!r}")
        if isinstance(self.raw, float):
            return round(self.raw * parts_per_unit * 10.0**self.factor)
        power: int = 10 ** abs(self.factor)
        if self.factor >= 0:
            return self.raw * parts_per_unit * power
        whole, rest = divmod(self.raw * parts_per_unit, power)
        return whole + (rest * 2 > power or (rest * 2 == power and whole % 2 == 1))


@dataclass(frozen=True, slots=True)
class Field:
    """One point in its place."""

    path: str
    """The point's name; inside groups "Crv[1].Pt[2].V", counted from 1 as in the specification."""
    point: Point
    offset: int
    """Registers from the model's ID register."""
    factor_offset: int | None
    """Where its scale factor is; None when it has none or a constant one."""
    constant_factor: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.point.size

    @property
    def span(self) -> tuple[int, int]:
        """First and past-the-last offset of what must be read in one request: the value with its scale factor."""
        if self.factor_offset is None:
            return self.offset, self.end
        return min(self.offset, self.factor_offset), max(self.end, self.factor_offset + 1)


class Layout:
    """The fields of one model on one device."""

    def __init__(self, model: Model, length: int, fields: Iterable[Field]) -> None:
        self.model = model
        self.length = length
        """As the device states it in L: registers after the header."""
        self.fields: Mapping[str, Field] = {field.path: field for field in fields}

    def decode(self, words: Sequence[int], first: int = 0) -> dict[str, Value]:
        """Every implemented point of which all registers (and the scale factor's) are among `words`.

        `first` is the offset of words[0] from the model's ID register.
        """
        packed = struct.pack(f">{len(words)}H", *words)
        last = first + len(words)
        found: dict[str, Value] = {}
        for path, field in self.fields.items():
            start, end = field.span
            if start < first or end > last:
                continue
            value = _decode_field(field, packed, first)
            if value is not None:
                found[path] = value
        return found

    def decoder(self, paths: Iterable[str], first: int, count: int) -> Callable[[Sequence[int]], dict[str, Value]]:
        """As `decode`, compiled for certain points of one stretch: what a poll calls every second.

        Paths that are not in the model, or not wholly in the stretch, are left out.
        """
        chosen = [
            field
            for path in paths
            if (field := self.fields.get(path)) is not None
            and field.span[0] >= first
            and field.span[1] <= first + count
        ]
        part = Layout(self.model, self.length, chosen)
        return lambda words: part.decode(words, first)


def layout(model: Model, length: int, words: Sequence[int] = ()) -> Layout:
    """Where each point of a model lies on a device whose L says `length`.

    `words` are the model's registers from its ID on, as far as they were read: the counts of repeating groups are
    looked up in them (absent or not implemented counts as 0). Points beyond the length are left out.
    """
    placer = _Placer(length + HEADER_SIZE, words)
    placer.place_top(model.group)
    return Layout(model, length, placer.fields)


class _Placer:
    """Walks a definition and gives each point its offset."""

    def __init__(self, end: int, words: Sequence[int]) -> None:
        self.fields: list[Field] = []
        self._end = end
        self._words = words
        self._offset = 0
        self._top: dict[str, int] = {}

    def place_top(self, group: Group) -> None:
        self._points(group, "", self._top)
        self._groups(group, "")

    def _points(self, group: Group, prefix: str, places: dict[str, int]) -> None:
        offset = self._offset
        for point in group.points:
            places[point.name] = offset
            offset += point.size
        for point in group.points:
            self._field(point, prefix, places)
            self._offset += point.size

    def _field(self, point: Point, prefix: str, places: Mapping[str, int]) -> None:
        if point.kind is PointKind.PAD or self._offset + point.size > self._end or len(self.fields) >= MAX_FIELDS:
            return
        factor_offset: int | None = None
        constant = 0
        if isinstance(point.factor, int):
            constant = point.factor
        elif point.factor is not None:
            factor_offset = places.get(point.factor, self._top.get(point.factor))
            if factor_offset is None or factor_offset >= self._end:
                # Without its factor a value means nothing: a device that cuts the model short has neither.
                return
        self.fields.append(Field(prefix + point.name, point, self._offset, factor_offset, constant))

    def _groups(self, group: Group, prefix: str) -> None:
        for child in group.groups:
            if child.count is None:
                self._instance(child, f"{prefix}{child.name}.")
                continue
            for index in range(1, self._count(child) + 1):
                if self._offset >= self._end:
                    return
                self._instance(child, f"{prefix}{child.name}[{index}].")

    def _instance(self, group: Group, prefix: str) -> None:
        self._points(group, prefix, {})
        self._groups(group, prefix)

    def _count(self, group: Group) -> int:
        if isinstance(group.count, str):
            place = self._top.get(group.count)
            if place is None or place >= len(self._words) or self._words[place] == 0xFFFF:
                return 0
            return self._words[place]
        # 0 in an older definition: as many as the rest of the model's length holds.
        return group.count or (max(0, self._end - self._offset) // max(1, group.points_size))


def _decode_field(field: Field, packed: bytes, first: int) -> Value | None:
    start = (field.offset - first) * 2
    raw = _DECODE[field.point.kind](packed[start : start + field.point.size * 2])
    if raw is None:
        return None
    if field.factor_offset is None:
        return Value(raw, field.constant_factor)
    at = (field.factor_offset - first) * 2
    factor: int = struct.unpack_from(">h", packed, at)[0]
    if factor == _NO_FACTOR or not -_LARGEST_FACTOR <= factor <= _LARGEST_FACTOR:
        return None
    return Value(raw, factor)


def _integer(code: str, sentinel: int) -> Callable[[bytes], Raw | None]:
    form = struct.Struct(">" + code)

    def decode(data: bytes) -> Raw | None:
        number: int = form.unpack(data)[0]
        return None if number == sentinel else number

    return decode


def _float(code: str) -> Callable[[bytes], Raw | None]:
    form = struct.Struct(">" + code)

    def decode(data: bytes) -> Raw | None:
        number: float = form.unpack(data)[0]
        return number if math.isfinite(number) else None

    return decode


def _string(data: bytes) -> Raw | None:
    # Latin-1 cannot fail; devices that send UTF-8 are tried first. Trailing blanks are padding on many devices.
    text = data.split(b"\0", 1)[0]
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
    return decoded.strip() or None


def _ipv4(data: bytes) -> Raw | None:
    return str(ipaddress.IPv4Address(data)) if any(data) else None


def _ipv6(data: bytes) -> Raw | None:
    return str(ipaddress.IPv6Address(data)) if any(data) else None


def _eui48(data: bytes) -> Raw | None:
    address = data[2:]
    return None if address == b"\xff" * 6 or not any(data) else address.hex(":").upper()


_DECODE: Final[Mapping[PointKind, Callable[[bytes], Raw | None]]] = {
    PointKind.INT16: _integer("h", -0x8000),
    PointKind.UINT16: _integer("H", 0xFFFF),
    PointKind.COUNT: _integer("H", 0xFFFF),
    PointKind.ACC16: _integer("H", 0),
    PointKind.ENUM16: _integer("H", 0xFFFF),
    PointKind.BITFIELD16: _integer("H", 0xFFFF),
    PointKind.PAD: _integer("H", -1),
    PointKind.INT32: _integer("i", -0x80000000),
    PointKind.UINT32: _integer("I", 0xFFFFFFFF),
    PointKind.ACC32: _integer("I", 0),
    PointKind.ENUM32: _integer("I", 0xFFFFFFFF),
    PointKind.BITFIELD32: _integer("I", 0xFFFFFFFF),
    PointKind.IPADDR: _ipv4,
    PointKind.INT64: _integer("q", -0x8000000000000000),
    PointKind.UINT64: _integer("Q", 0xFFFFFFFFFFFFFFFF),
    PointKind.ACC64: _integer("Q", 0),
    PointKind.BITFIELD64: _integer("Q", 0xFFFFFFFFFFFFFFFF),
    PointKind.IPV6ADDR: _ipv6,
    PointKind.FLOAT32: _float("f"),
    PointKind.FLOAT64: _float("d"),
    PointKind.STRING: _string,
    PointKind.SUNSSF: _integer("h", _NO_FACTOR),
    PointKind.EUI48: _eui48,
}
