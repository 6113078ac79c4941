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
from functools import lru_cache
from itertools import compress, repeat
from operator import itemgetter, ne
from typing import Any, Final, NamedTuple

from drivers.sunspec.models import HEADER_SIZE, Group, Model, Point, PointKind
from drivers.sunspec.pdu import octets_of

MAX_FIELDS: Final = 4_000
"""More points than any device has in one model: a guard against nonsense counts."""
MOST_DECODERS: Final = 8
"""Stretches that `Layout.decode` keeps compiled."""
LARGEST_FACTOR: Final = 10
"""SunSpec: scale factors are -10 to 10. Anything else is noise, and its value is not implemented."""
_NO_COUNT: Final = 0xFFFF
"""A count that is not implemented, or was not read."""

Raw = int | float | str


class Value(NamedTuple):
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
    """The fields of one model on one device. Shared by all devices of the same build: `layout` compiles it once."""

    def __init__(self, model: Model, length: int, fields: Iterable[Field]) -> None:
        self.model = model
        self.length = length
        """As the device states it in L: registers after the header."""
        self.fields: Mapping[str, Field] = {field.path: field for field in fields}
        self._whole: dict[tuple[int, int], Decoder] = {}

    def decode(self, words: Sequence[int], first: int = 0) -> dict[str, Value]:
        """Every implemented point of which all registers (and the scale factor's) are among `words`.

        `first` is the offset of words[0] from the model's ID register.
        """
        key = (first, len(words))
        decoder = self._whole.get(key)
        if decoder is None:
            if len(self._whole) >= MOST_DECODERS:
                self._whole.clear()
            decoder = self._whole[key] = self.decoder(self.fields, first, len(words))
        return decoder(octets_of(words))

    def decoder(self, paths: Iterable[str], first: int, count: int) -> Decoder:
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
        return Decoder(chosen, first, count)


class Decoder:
    """Certain points of one stretch of registers: one `unpack` over all of it, then one pass over its points.

    The pass is made of the interpreter's own loops (`map`, `compress`): a thousand points are a fifth of a millisecond.
    """

    def __init__(self, fields: Sequence[Field], first: int, count: int) -> None:
        """`fields` lie, with their scale factors, within `count` registers from `first`, both from the model's ID."""
        starts = {field.offset: (FORMS[field.point.kind].code(field.point.size), field.point.size) for field in fields}
        starts |= {field.factor_offset: ("h", 1) for field in fields if field.factor_offset is not None}
        form, at, columns = ">", first, dict[int, int]()
        for offset in sorted(starts):
            code, size = starts[offset]
            columns[offset] = len(columns)
            form += f"{2 * (offset - at)}x{code}"
            at = offset + size
        self._unpack = struct.Struct(form).unpack_from
        constants = tuple(dict.fromkeys(field.constant_factor for field in fields))
        self._constants = constants
        """Follow the row's columns, so that every point has a column for its factor."""
        self._raws = _columns([columns[field.offset] for field in fields])
        self._factors = _columns(
            [
                len(columns) + constants.index(field.constant_factor)
                if field.factor_offset is None
                else columns[field.factor_offset]
                for field in fields
            ]
        )
        own = {field.factor_offset for field in fields if field.factor_offset is not None}
        self._own_factors = _columns([columns[offset] for offset in sorted(own)])
        forms = [FORMS[field.point.kind] for field in fields]
        self._paths = [field.path for field in fields]
        self._empties = [form.empty for form in forms]
        self._finishes = [(index, form.finish) for index, form in enumerate(forms) if form.finish is not None]

    def __call__(self, octets: bytes, at: int = 0) -> dict[str, Value]:
        """The implemented points of the stretch whose registers are in `octets` from `at` on."""
        if not self._paths:
            return {}
        row = self._unpack(octets, at)
        raws: Sequence[Raw | None] = self._raws(row)
        if self._finishes:
            raws = list(raws)
            for index, finish in self._finishes:
                raws[index] = finish(raws[index])
        factors = self._factors(row + self._constants)
        values = map(_new_value, repeat(Value), zip(raws, factors, strict=True))
        found = dict(compress(zip(self._paths, values, strict=True), map(ne, raws, self._empties)))
        own = self._own_factors(row)
        if min(own, default=0) >= -LARGEST_FACTOR and max(own, default=0) <= LARGEST_FACTOR:
            return found
        # One is impossible, or -32768, "not implemented": its values are too.
        return {path: value for path, value in found.items() if -LARGEST_FACTOR <= value.factor <= LARGEST_FACTOR}


def _columns(chosen: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Picks columns of a row."""
    if len(chosen) == 1:
        only = chosen[0]
        return lambda row: (row[only],)
    return itemgetter(*chosen) if chosen else lambda row: ()


_new_value: Final = tuple.__new__
"""Half the cost of Value(raw, factor), which counts where a poll makes a thousand."""


def layout(model: Model, length: int, words: Sequence[int] = ()) -> Layout:
    """Where each point of a model lies on a device whose L says `length`.

    `words` are the model's registers from its ID on, as far as they were read: the counts of repeating groups are
    looked up in them (absent or not implemented counts as 0). Points beyond the length are left out.
    """
    places = model.count_places
    return _placed(model, length, tuple(words[place] if place < len(words) else _NO_COUNT for place in places))


@lru_cache(maxsize=128)
def _placed(model: Model, length: int, counts: tuple[int, ...]) -> Layout:
    placer = _Placer(length + HEADER_SIZE, dict(zip(model.count_places.values(), counts, strict=True)))
    placer.place_top(model.group)
    return Layout(model, length, placer.fields)


class _Placer:
    """Walks a definition and gives each point its offset."""

    def __init__(self, end: int, counts: Mapping[str, int]) -> None:
        self.fields: list[Field] = []
        self._end = end
        self._counts = counts
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
                if self._offset >= self._end or len(self.fields) >= MAX_FIELDS:
                    return
                self._instance(child, f"{prefix}{child.name}[{index}].")

    def _instance(self, group: Group, prefix: str) -> None:
        self._points(group, prefix, {})
        self._groups(group, prefix)

    def _count(self, group: Group) -> int:
        if isinstance(group.count, str):
            count = self._counts.get(group.count, _NO_COUNT)
            return 0 if count == _NO_COUNT else count
        # 0 in an older definition: as many as the rest of the model's length holds.
        return group.count or max(0, self._end - self._offset) // max(1, group.size)


@dataclass(frozen=True, slots=True)
class Form:
    """How the registers of one kind of point are unpacked, and which result means that it is not implemented."""

    struct_code: str
    """"s" takes the point's own size: texts and addresses."""
    empty: int | None = None
    """SunSpec Information Model Specification, section 4.4: the value that says "not implemented"."""
    finish: Callable[[Any], Raw | None] | None = None
    """From what unpack gave to the value; None is "not implemented"."""

    def code(self, size: int) -> str:
        """For a point of `size` registers."""
        return f"{2 * size}s" if self.struct_code == "s" else self.struct_code


def _finite(number: float) -> Raw | None:
    return number if math.isfinite(number) else None


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


FORMS: Final[Mapping[PointKind, Form]] = {
    PointKind.INT16: Form("h", -0x8000),
    PointKind.UINT16: Form("H", 0xFFFF),
    PointKind.COUNT: Form("H", 0xFFFF),
    PointKind.ACC16: Form("H", 0),
    PointKind.ENUM16: Form("H", 0xFFFF),
    PointKind.BITFIELD16: Form("H", 0xFFFF),
    PointKind.PAD: Form("H"),
    PointKind.INT32: Form("i", -0x80000000),
    PointKind.UINT32: Form("I", 0xFFFFFFFF),
    PointKind.ACC32: Form("I", 0),
    PointKind.ENUM32: Form("I", 0xFFFFFFFF),
    PointKind.BITFIELD32: Form("I", 0xFFFFFFFF),
    PointKind.IPADDR: Form("s", finish=_ipv4),
    PointKind.INT64: Form("q", -0x8000000000000000),
    PointKind.UINT64: Form("Q", 0xFFFFFFFFFFFFFFFF),
    PointKind.ACC64: Form("Q", 0),
    PointKind.BITFIELD64: Form("Q", 0xFFFFFFFFFFFFFFFF),
    PointKind.IPV6ADDR: Form("s", finish=_ipv6),
    PointKind.FLOAT32: Form("f", finish=_finite),
    PointKind.FLOAT64: Form("d", finish=_finite),
    PointKind.STRING: Form("s", finish=_string),
    PointKind.SUNSSF: Form("h", -0x8000),
    PointKind.EUI48: Form("s", finish=_eui48),
}
