"""What pysunspec2's own classes make of registers: the peer that our decoding is held against, point by point."""

from __future__ import annotations

import ipaddress
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sunspec2.device

from drivers.sunspec.codec import LARGEST_FACTOR, Raw
from drivers.sunspec.models import Model


@dataclass(frozen=True, slots=True)
class Theirs:
    """One point as pysunspec2 has it, and as it must be for us where pysunspec2 cannot tell."""

    raw: Raw | None
    """None: not implemented."""
    scaled: Raw | None
    has_factor: bool = False
    factor: int | None = None
    """As the device says it."""

    @property
    def expected(self) -> Raw | None:
        """TRAPS: a factor that is not implemented or impossible makes its value so; so does an infinite float."""
        if self.has_factor and (self.factor is None or abs(self.factor) > LARGEST_FACTOR):
            return None
        if isinstance(self.raw, float) and not math.isfinite(self.raw):
            return None
        return self.raw


def as_pysunspec2_reads(model: Model, words: Sequence[int]) -> dict[str, Theirs]:
    """Every point that it finds in the registers of one model, by our paths."""
    length = words[1]
    while True:
        data = struct.pack(f">{length + 2}H", *words[: length + 2])
        try:
            device = sunspec2.device.Model(model.number, data=data, model_len=length)
            break
        except sunspec2.device.ModelError:
            # It refuses a length that ends amid a repeating group: shown without the broken one.
            length -= 1
    found = dict(_walk(device, device, ""))
    # The definition fixes ID, and pysunspec2 puts its own length into L.
    return found | {"ID": Theirs(words[0], words[0]), "L": Theirs(words[1], words[1])}


def _walk(device: Any, group: Any, prefix: str) -> Iterator[tuple[str, Theirs]]:
    for name, point in group.points.items():
        if point.pdef["type"] == "pad":
            continue
        raw = _same_form(point.pdef["type"], point.value)
        factor: int | None = point.sf_value
        if point.sf is not None:
            holder = group.points.get(point.sf) or device.points[point.sf]
            factor = holder.value
        scaled: Raw | None = raw
        if factor is not None and isinstance(raw, int) and abs(factor) <= LARGEST_FACTOR:
            scaled = point.cvalue
        yield prefix + name, Theirs(raw, scaled, point.sf_required, factor)
    for name, child in group.groups.items():
        if isinstance(child, list):
            for index, one in enumerate(child, start=1):
                yield from _walk(device, one, f"{prefix}{name}[{index}].")
        else:
            yield from _walk(device, child, f"{prefix}{name}.")


def _same_form(kind: str, value: Any) -> Raw | None:
    """The same text for the same thing: addresses are written differently, padding of both kinds is cut."""
    if value is None:
        return None
    if kind == "string":
        return value.split("\0")[0].strip() or None
    if kind == "ipaddr":
        return str(ipaddress.IPv4Address(value))
    if kind == "ipv6addr":
        return str(ipaddress.IPv6Address(int(value.replace(":", ""), 16)))
    known: Raw = value
    return known
