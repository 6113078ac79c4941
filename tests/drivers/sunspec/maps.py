"""Synthetic SunSpec maps, one per trap of the field: what a device that only nearly conforms looks like."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from drivers.sunspec.codec import layout
from drivers.sunspec.models import PointKind
from tests.drivers.sunspec.fakes import FakeDevice, address_of, common, definition, device_of, model_words

END: Final = (0xFFFF, 0)


def filled(number: int, length: int | None = None, counts: Mapping[str, int] | None = None, seed: int = 1) -> list[int]:
    """One model with something in every register: any bits, but text in texts and possible scale factors."""
    model, draw = definition(number), random.Random(f"{number} {seed}")
    size = model.group.size - 2 if length is None else length
    words = [number, size, *[draw.randrange(1 << 16) for _ in range(size)]]
    for place, name in model.count_places.items():
        words[place] = (counts or {})[name]
    for field in layout(model, size, words).fields.values():
        if field.point.kind is PointKind.SUNSSF:
            words[field.offset] = draw.randint(-3, 2) & 0xFFFF
        elif field.point.kind is PointKind.STRING:
            text = "".join(draw.choices("AZaz09 -._", k=draw.randint(1, 2 * field.point.size))).strip() or "x"
            packed = text.encode().ljust(2 * field.point.size, b"\0")
            words[field.offset : field.end] = struct.unpack(f">{field.point.size}H", packed)
    return words


def with_holes(device: FakeDevice, *points: tuple[int, str]) -> FakeDevice:
    for number, path in points:
        device.unreadable.add(address_of(device, number, path))
    return device


def every_kind(fill: Callable[[int, int], list[int]]) -> FakeDevice:
    """Models that have a point of every kind between them, by number and length. 63001 is SunSpec's own for tests."""
    sizes = ((101, 50), (111, 60), (701, 153), (122, 44), (11, 13), (160, 28), (305, 36), (502, 28), (63001, 152))
    return device_of([common(), *(fill(number, length) for number, length in sizes)])


def phantom_storage(rating: int = 0, charge: int = 0xFFFF) -> list[list[int]]:
    """Storage models of an inverter that has no storage."""
    return [
        model_words(713, {"WHRtg": rating, "SoC": charge, "WH_SF": 0, "Pct_SF": -1}),
        model_words(802, {"WHRtg": rating, "SoC": charge, "WHRtg_SF": 0, "SoC_SF": 0}),
        model_words(124, {"WChaMax": rating, "ChaState": charge, "WChaMax_SF": 0, "ChaState_SF": 0}),
    ]


def meters_behind_an_inverter() -> FakeDevice:
    """As SolarEdge shows it: an inverter, then each meter with a model 1 of its own."""
    return device_of(
        [
            common("INV-1", "Inverter", 65),
            filled(103),
            common("MET-1", "Meter", 65),
            filled(203),
            common("MET-2", "Meter", 65),
            filled(203, seed=2),
        ]
    )


def nonsense_after(models: Sequence[list[int]], *words: int) -> FakeDevice:
    return device_of(models, end=words)


MAPS: Final[Mapping[str, Callable[[], FakeDevice]]] = {
    "model 1 of 65": lambda: device_of([common(length=65), filled(103)]),
    "model 1 of 66": lambda: device_of([common(length=66), filled(103)]),
    "shorter than the standard": lambda: device_of(
        [common(length=50), filled(103, 20), filled(701, 121), filled(203, 60), filled(120, 25), filled(160, 40)]
    ),
    "longer than the standard": lambda: device_of(
        [common(length=70), filled(103, 60), filled(701, 170), filled(213, 130), filled(702, 58), filled(123, 30)]
    ),
    "end 0x0000": lambda: device_of([common(), filled(102)], end=(0, 0)),
    "no end": lambda: device_of([common(), filled(102)], end=()),
    "end of one register": lambda: device_of([common(), filled(102)], end=(0xFFFF,)),
    "end of nonsense": lambda: nonsense_after([common(), filled(102)], 64999, 60000, 7),
    "base 0": lambda: device_of([common(), filled(103)], base=0),
    "base 50000": lambda: device_of([common(), filled(103)], base=50000),
    "base 40001": lambda: device_of([common(), filled(103)], base=40001),
    "hole inside models": lambda: with_holes(
        device_of([common(), filled(103), filled(203), filled(126, 64)]), (103, "PF"), (203, "Hz"), (126, "curve[1].V4")
    ),
    "scale factors out of range": lambda: device_of(
        [common(), model_words(103, {"W": 5, "W_SF": 11, "Hz": 5000, "Hz_SF": -11, "A": 1, "WH": 9, "WH_SF": 3})]
    ),
    "nothing implemented": lambda: every_kind(lambda number, length: model_words(number, {}, length)),
    "everything implemented": lambda: every_kind(filled),
    "phantom storage": lambda: device_of([common(), filled(103), *phantom_storage()]),
    "models twice": lambda: device_of([common(), filled(103), filled(103, seed=2), filled(120), filled(120, seed=2)]),
    "meters behind an inverter": meters_behind_an_inverter,
    "vendor models": lambda: device_of([common(), [64999, 3, 1, 2, 3], filled(111), [63999, 1, 9], filled(211)]),
    "counters 0 on waking": lambda: device_of(
        [
            common(),
            model_words(103, {"W": 0, "W_SF": 0, "WH": 0, "WH_SF": 0, "St": 3}),
            model_words(203, {"W": 0, "W_SF": 0, "TotWhImp": 0, "TotWhExp": 0, "TotWh_SF": 0}),
        ]
    ),
    "groups and groups in groups": lambda: device_of(
        [
            common(),
            filled(160, 8 + 20 * 10),
            filled(705, 200, {"NCrv": 3, "NPt": 4}),
            filled(707, 105, {"NCrvSet": 2, "NPt": 4}),
            filled(711, 10 + 3 * 12, {"NCtl": 3}),
            filled(714, 18 + 25 * 2, {"NPrt": 2}),
            filled(803, 100, {"NStr": 2}),
        ]
    ),
    "counts beyond the length": lambda: device_of(
        [common(), filled(705, 60, {"NCrv": 300, "NPt": 3}), filled(714, 70, {"NPrt": 9})]
    ),
}
"""By trap."""
