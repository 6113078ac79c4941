"""What to ask a mapped device for, and what its answers mean. Pure.

Registers that lie side by side are read together, within what the device takes in one read. A gap is read through only
where the map says that it may be: on some devices one register that does not exist costs the whole answer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.modbus.register_map import PHASE_POWERS, PHASE_VOLTAGES, Quantity, RegisterMap
from drivers.sunspec.measurement import Measurement, sane

PLAUSIBLE_MILLIHERTZ: Final = range(40_000, 70_001)
"""Wider than any grid."""
_CODES: Final = {
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
Number = int | float
Values = Mapping[Quantity, int]


@dataclass(frozen=True, slots=True)
class Request:
    """One read of adjoining registers."""

    function: int
    address: int
    count: int
    points: tuple[Quantity, ...]

    @property
    def end(self) -> int:
        return self.address + self.count


def plan(register_map: RegisterMap, wanted: Iterable[Quantity], *, alone: bool = False) -> tuple[Request, ...]:
    """Requests for these points: those of power first, then in order of address. `alone`: each by itself."""
    found: list[Request] = []
    for quantity in sorted(wanted, key=lambda name: (register_map.function(name), register_map.points[name].address)):
        point = register_map.points[quantity]
        new = Request(register_map.function(quantity), point.address, point.size, (quantity,))
        joined = _joined(register_map, found[-1], new) if found and not alone else None
        if joined is None:
            found.append(new)
        else:
            found[-1] = joined
    powers = {Quantity.POWER, *PHASE_POWERS}
    return tuple(sorted(found, key=lambda request: not powers.intersection(request.points)))


def _joined(register_map: RegisterMap, last: Request, new: Request) -> Request | None:
    end = max(last.end, new.end)
    if new.function != last.function or end - last.address > register_map.most_registers:
        return None
    if new.address > last.end and not _may_be_read_through(register_map, new.function, last.end, new.address):
        return None
    return Request(last.function, last.address, end - last.address, (*last.points, *new.points))


def _may_be_read_through(register_map: RegisterMap, function: int, first: int, end: int) -> bool:
    is_default = any(
        point.registers is None and register_map.function(name) == function
        for name, point in register_map.points.items()
    )
    return is_default and any(start <= first and end - 1 <= last for start, last in register_map.readable)


def decode(register_map: RegisterMap, quantity: Quantity, words: Sequence[int]) -> Number | str | None:
    """The registers' own number or text; None: not implemented. `words` are exactly the point's."""
    point = register_map.points[quantity]
    ordered = words[::-1] if point.type != "string" and register_map.words_are_swapped(quantity) else words
    data = struct.pack(f">{len(ordered)}H", *ordered)
    if point.type == "string":
        # Printable ASCII alone: it goes into readings and onto terminals.
        text = data.split(b"\0", 1)[0].decode("ascii", "replace")
        return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text).strip() or None
    if int.from_bytes(data, "big") in point.not_implemented:
        return None
    number: Number = struct.unpack(f">{_CODES[point.type]}", data)[0]
    return number if math.isfinite(number) else None


def scaled(register_map: RegisterMap, quantity: Quantity, number: Number) -> int:
    """In our units (W, mWh, mV, mHz, permille, Wh) and sign, exactly, ties to even."""
    factor = register_map.factor(quantity)
    top, bottom = number.as_integer_ratio()
    return _divided(top * factor.numerator, bottom * factor.denominator)


def _divided(top: int, bottom: int) -> int:
    whole, rest = divmod(top, bottom)
    return whole + (rest * 2 > bottom or (rest * 2 == bottom and whole % 2 == 1))


def values_of(register_map: RegisterMap, request: Request, words: Sequence[int]) -> dict[Quantity, int]:
    """The implemented measurements of one answer, in our units. Texts are not among them."""
    found: dict[Quantity, int] = {}
    for quantity in request.points:
        point = register_map.points[quantity]
        at = point.address - request.address
        raw = decode(register_map, quantity, words[at : at + point.size])
        if raw is not None and not isinstance(raw, str) and quantity is not Quantity.SERIAL:
            found[quantity] = scaled(register_map, quantity, raw)
    return found


def measurement(register_map: RegisterMap, values: Values) -> Measurement:
    """As `drivers.device.Sample`, of one look, without what makes no sense.

    A power that the device does not sum is the sum of its phases.
    """
    phases = tuple(values[name] for name in PHASE_POWERS if name in values)
    mapped = sum(name in register_map.points for name in PHASE_POWERS)
    if len(phases) != mapped:
        phases = ()  # one is missing: whose the others are would be a guess
    power_w = values.get(Quantity.POWER)
    if power_w is None and Quantity.POWER not in register_map.points and phases:
        power_w = sum(phases)
    voltages = [values[name] for name in PHASE_VOLTAGES if values.get(name)]
    voltage = values.get(Quantity.VOLTAGE)
    if voltage is None and voltages:
        voltage = sum(voltages) // len(voltages)
    frequency = values.get(Quantity.FREQUENCY)
    return sane(
        Measurement(
            power_w=power_w,
            import_register_milliwatt_hours=values.get(Quantity.IMPORT_ENERGY),
            export_register_milliwatt_hours=values.get(Quantity.EXPORT_ENERGY),
            phase_power_w=phases,
            voltage_millivolts=voltage,
            frequency_millihertz=frequency if frequency in PLAUSIBLE_MILLIHERTZ else None,
            rolls_over_milliwatt_hours=_rolls_over(register_map),
        )
    )


def state_of_charge_permille(values: Values) -> int | None:
    """None when not told, or no part of a whole."""
    permille = values.get(Quantity.STATE_OF_CHARGE)
    return permille if permille is not None and 0 <= permille <= 1000 else None


def _rolls_over(register_map: RegisterMap) -> int | None:
    """Where the energies start again at 0, when that is one place: a 32-bit counter is full some day."""
    limits = {
        scaled(register_map, name, 1 << 32) if register_map.points[name].type == "uint32" else None
        for name in (Quantity.IMPORT_ENERGY, Quantity.EXPORT_ENERGY)
        if name in register_map.points
    }
    return limits.pop() if len(limits) == 1 else None
