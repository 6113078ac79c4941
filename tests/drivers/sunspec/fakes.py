"""A Modbus device in memory, maps composed from model definitions, and the fixtures of real devices."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drivers.sunspec.codec import layout
from drivers.sunspec.connection import ConnectionPool
from drivers.sunspec.errors import ModbusExceptionError, NoAnswerError
from drivers.sunspec.models import Model, PointKind, model_definition
from drivers.sunspec.pdu import octets_of
from drivers.sunspec.transport import Endpoint, Line

FIXTURES = next(
    (
        found
        for folder in Path(__file__).resolve().parents
        if (found := folder / "shared" / "fixtures" / "sunspec").is_dir()
    ),
    Path("../shared/fixtures/sunspec"),
)
"""Beside the project; from a worktree, beside a folder further up."""
ADDRESS = "tcp://192.0.2.10:502"

_UNIMPLEMENTED = {
    PointKind.INT16: b"\x80\x00",
    PointKind.SUNSSF: b"\x80\x00",
    PointKind.INT32: b"\x80\x00\x00\x00",
    PointKind.INT64: b"\x80" + b"\x00" * 7,
    PointKind.FLOAT32: b"\x7f\xc0\x00\x00",
    PointKind.FLOAT64: b"\x7f\xf8" + b"\x00" * 6,
    **dict.fromkeys((PointKind.ACC32, PointKind.IPADDR), b"\0" * 4),
    PointKind.ACC16: b"\0\0",
    PointKind.PAD: b"\x80\x00",
    PointKind.ACC64: b"\0" * 8,
    PointKind.IPV6ADDR: b"\0" * 16,
}


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class MemoryJournal:
    """A Journal that survives as long as the test; `broken` makes it fail."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.broken = False

    async def remember(self, key: str, value: bytes) -> None:
        self._check()
        self.kept[key] = value

    async def recall(self, key: str) -> bytes | None:
        self._check()
        return self.kept.get(key)

    def _check(self) -> None:
        if self.broken:
            raise OSError("the disk is full")


@dataclass
class FakeDevice:
    """Holding registers and their habits."""

    registers: dict[int, int]
    unreadable: set[int] = field(default_factory=set)
    refused_functions: set[int] = field(default_factory=set)
    refuses_writes_across: set[int] = field(default_factory=set)
    """A write that covers one of these and others is answered with exception 2."""
    deaf: bool = False
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    on_write: Callable[[FakeDevice, int, tuple[int, ...]], None] | None = None
    inputs: dict[int, int] | None = None
    """Input registers; None: the device does not know function 4."""
    input_reads: list[tuple[int, int]] = field(default_factory=list)

    def read(self, address: int, count: int) -> list[int]:
        self.reads.append((address, count))
        wanted = range(address, address + count)
        if any(at not in self.registers or at in self.unreadable for at in wanted):
            raise ModbusExceptionError(f"reading {count} at {address}", 2)
        return [self.registers[at] for at in wanted]

    def read_input(self, address: int, count: int) -> list[int]:
        if self.inputs is None:
            raise ModbusExceptionError(f"reading {count} input registers at {address}", 1)
        self.input_reads.append((address, count))
        if any(at not in self.inputs for at in range(address, address + count)):
            raise ModbusExceptionError(f"reading {count} input registers at {address}", 2)
        return [self.inputs[at] for at in range(address, address + count)]

    def write(self, function: int, address: int, words: tuple[int, ...]) -> None:
        if function in self.refused_functions:
            raise ModbusExceptionError(f"writing at {address}", 1)
        covered = set(range(address, address + len(words)))
        if len(covered) > 1 and covered & self.refuses_writes_across:
            raise ModbusExceptionError(f"writing {len(words)} at {address}", 2)
        self.writes.append((address, words))
        if self.on_write is not None:
            self.on_write(self, address, words)
        else:
            self.store(address, words)

    def store(self, address: int, words: Sequence[int]) -> None:
        self.registers.update({address + index: word for index, word in enumerate(words)})

    def written_registers(self) -> set[int]:
        return {address + index for address, words in self.writes for index in range(len(words))}


class FakeLine:
    """A Line to a few FakeDevices by unit id."""

    def __init__(self, units: Mapping[int, FakeDevice], *, refuses_connections: bool = False) -> None:
        self.units = dict(units)
        self.refuses_connections = refuses_connections
        self.connects = 0
        self._connected = False

    @property
    def connected(self) -> bool:
        return self._connected

    async def connect(self, timeout_s: float) -> None:
        if self.refuses_connections:
            raise NoAnswerError(f"no connection within {timeout_s:g} s")
        self.connects += 1
        self._connected = True

    def close(self) -> None:
        self._connected = False

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        return octets_of(self._device(unit, timeout_s).read(address, count))

    async def read_input(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        return octets_of(self._device(unit, timeout_s).read_input(address, count))

    async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
        self._device(unit, timeout_s).write(16, address, tuple(words))

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float) -> None:
        self._device(unit, timeout_s).write(6, address, (word,))

    def _device(self, unit: int, timeout_s: float) -> FakeDevice:
        device = self.units.get(unit)
        if device is None or device.deaf:
            raise NoAnswerError(f"unit {unit}: no answer within {timeout_s:g} s")
        return device


def pool_of(line: FakeLine, time: Time) -> ConnectionPool:
    def opened(endpoint: Endpoint) -> Line:
        return line

    return ConnectionPool(time, line=opened)


def definition(number: int) -> Model:
    found = model_definition(number)
    assert found is not None
    return found


def model_words(number: int, values: Mapping[str, int | float | str], length: int | None = None) -> list[int]:
    """The registers of one model, ID and L included: given raw values, everything else not implemented."""
    model = definition(number)
    size = model.group.points_size + sum(group.points_size for group in model.group.groups if group.count is None)
    length = size - 2 if length is None else length
    place = layout(model, length)
    data = bytearray(b"\xff" * (2 * (length + 2)))
    for name, at in place.fields.items():
        start = 2 * at.offset
        size_bytes = 2 * at.point.size
        kind = at.point.kind
        empty = b"\0" * size_bytes if kind is PointKind.STRING else _UNIMPLEMENTED.get(kind, b"\xff" * size_bytes)
        data[start : start + size_bytes] = empty if name not in values else _packed(kind, values[name], size_bytes)
    data[0:4] = struct.pack(">HH", number, length)
    return list(struct.unpack(f">{length + 2}H", data))


def _packed(kind: PointKind, value: int | float | str, size: int) -> bytes:
    if isinstance(value, str):
        return value.encode().ljust(size, b"\0")
    if kind is PointKind.FLOAT32:
        return struct.pack(">f", value)
    assert isinstance(value, int)
    return value.to_bytes(size, "big", signed=value < 0)


def device_of(models: Sequence[list[int]], base: int = 40000, end: Sequence[int] = (0xFFFF, 0)) -> FakeDevice:
    words = [0x5375, 0x6E53, *(word for model in models for word in model), *end]
    return FakeDevice({base + index: word for index, word in enumerate(words)})


def common(serial: str = "S-1", model: str = "Model X", length: int = 66) -> list[int]:
    return model_words(1, {"Mn": "Maker", "Md": model, "Vr": "1.0", "SN": serial}, length)


def address_of(device: FakeDevice, number: int, path: str, base: int = 40000) -> int:
    """Register address of a point."""
    at = base + 2
    while device.registers[at] != number:
        at += device.registers[at + 1] + 2
    return at + layout(definition(number), device.registers[at + 1]).fields[path].offset


def set_point(device: FakeDevice, number: int, path: str, raw: int) -> None:
    at = layout(definition(number), 1000).fields[path]
    device.store(
        address_of(device, number, path),
        struct.unpack(f">{at.point.size}H", _packed(at.point.kind, raw, 2 * at.point.size)),
    )


def point(device: FakeDevice, number: int, path: str) -> int:
    """Raw number of an integer point, signed by its kind."""
    at = layout(definition(number), 1000).fields[path].point
    start = address_of(device, number, path)
    data = b"".join(struct.pack(">H", device.registers[start + index]) for index in range(at.size))
    return int.from_bytes(data, "big", signed=at.kind.value.startswith(("int", "sunssf")))


def real_device(name: str) -> tuple[FakeDevice, list[tuple[int, int, int]], int]:
    """(device, models as (number, address, length), base) of a fixture; skips the test where it is absent."""
    path = FIXTURES / f"{name}.json"
    if not path.exists():
        pytest.skip(f"fixtures of real devices are not here: {path}")
    dump = json.loads(path.read_text(encoding="utf-8"))
    device = FakeDevice({int(at): word for at, word in dump["regs"].items()}, set(dump["unreadable"]))
    return device, [(number, at, length) for number, at, length in dump["models"]], dump["base"]


REAL_DEVICES = ("solaredge-se3000h", "sma-sb3.6-2025-06", "sma-sb3.6-night-holes", "dersec-1547-emulator")


def inverter_701(power_w: int = 5000, **more: int) -> list[int]:
    """Model 701 of a three-phase inverter: energy in Wh, power in W, voltage in tenths, frequency in thousandths."""
    values = {
        "ACType": 2,
        "St": 1,
        "InvSt": 3,
        "ConnSt": 1,
        "DERMode": 1,
        "W": power_w,
        "LNV": 2301,
        "Hz": 50012,
        "TotWhInj": 123456,
        "TotWhAbs": 789,
        "WL1": power_w // 2,
        "WL2": power_w // 4,
        "WL3": power_w - power_w // 2 - power_w // 4,
        "V_SF": -1,
        "Hz_SF": -3,
        "W_SF": 0,
        "TotWh_SF": 0,
    }
    return model_words(701, values | more)


def capacity_702(power_w: int = 8000) -> list[int]:
    names = ("WMaxRtg", "WChaRteMaxRtg", "WDisChaRteMaxRtg", "WMax", "WChaRteMax", "WDisChaRteMax")
    return model_words(702, dict.fromkeys(names, power_w) | {"W_SF": 0})


def controls_704(**more: int) -> list[int]:
    """Model 704, everything of active power implemented and off."""
    values = {
        "WMaxLimPctEna": 0,
        "WMaxLimPct": 1000,
        "WMaxLimPctRvrt": 1000,
        "WMaxLimPctEnaRvrt": 0,
        "WMaxLimPctRvrtTms": 0,
        "WMaxLimPctRvrtRem": 0,
        "WSetEna": 0,
        "WSetMod": 0,
        "WSet": 0,
        "WSetRvrt": 0,
        "WSetPct": 0,
        "WSetPctRvrt": 0,
        "WSetEnaRvrt": 0,
        "WSetRvrtTms": 0,
        "WSetRvrtRem": 0,
        "AntiIslEna": 1,
        "WMaxLimPct_SF": -1,
        "WSet_SF": 0,
        "WSetPct_SF": -1,
    }
    return model_words(704, values | more)


def pv(serial: str = "S-1", **controls: int) -> FakeDevice:
    return device_of([common(serial), inverter_701(), capacity_702(), controls_704(**controls)])


def battery(serial: str = "B-1", **controls: int) -> FakeDevice:
    gauge = model_words(713, {"WHRtg": 10000, "SoC": 605, "WH_SF": 0, "Pct_SF": -1})
    return device_of([common(serial), inverter_701(-2000), capacity_702(10000), controls_704(**controls), gauge])


def meter(serial: str = "M-1") -> FakeDevice:
    values = {
        "W": -1500,
        "WphA": -500,
        "WphB": -400,
        "WphC": -600,
        "W_SF": 0,
        "PhV": 2298,
        "V_SF": -1,
        "Hz": 4998,
        "Hz_SF": -2,
        "TotWhExp": 4321,
        "TotWhImp": 98765,
        "TotWh_SF": 1,
    }
    return device_of([common(serial), model_words(203, values)])
