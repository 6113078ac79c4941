"""Every shipped register map against a server that plays its device; the tests pack the registers by themselves."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from drivers.device import DeviceKind
from drivers.modbus import MapDevice, load_map, shipped_maps
from drivers.modbus.server import Refusal, RegisterRefusedError
from drivers.sunspec import ConnectionPool
from hil_tests.rig.site.modbus import ModbusTcpServer

UNIT = 5


@dataclass
class Played:
    """Registers of a device: nothing exists but what is given, and no more than `most` are read at once."""

    words: Mapping[int, int]
    most: int = 125

    def read(self, address: int, count: int) -> list[int]:
        if count > self.most or any(at not in self.words for at in range(address, address + count)):
            raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{address}+{count}")
        return [self.words[at] for at in range(address, address + count)]

    def write(self, address: int, words: list[int]) -> None:
        raise AssertionError(f"{len(words)} registers written at {address}")


def packed(values: Mapping[int, bytes], *, swapped: bool = False) -> dict[int, int]:
    """Registers from the bytes of values at their addresses; `swapped`: least significant register first."""
    found: dict[int, int] = {}
    for address, data in values.items():
        words = struct.unpack(f">{len(data) // 2}H", data)
        found |= dict(enumerate(words[::-1] if swapped else words, address))
    return found


def f32(value: float) -> bytes:
    return struct.pack(">f", value)


def i32(value: int) -> bytes:
    return struct.pack(">i", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


@dataclass
class Case:
    """A device that imports 1234.5 W: 230.2 V, 49.98 or 50.0 Hz, 12345.5 kWh in and 678.25 out, as near as it tells."""

    holding: Mapping[int, int]
    inputs: Mapping[int, int]
    most: int
    meter_id: str
    frequency_millihertz: int
    import_milliwatt_hours: int
    export_milliwatt_hours: int


GAVAZZI = packed(
    {
        0x00: i32(2302),
        0x02: i32(2302),
        0x04: i32(2302),
        0x12: i32(4000),
        0x14: i32(-500),
        0x16: i32(8845),
        0x28: i32(12345),
        0x34: i32(123455),
        0x4E: i32(6782),
    },
    swapped=True,
) | {0x33: 500}
CASES = {
    # Eastron SDM320Y user manual, page 43: 43 66 33 34 is 230.2 V.
    "eastron-sdm630": Case(
        {},
        packed(
            {
                0x0C: f32(400),
                0x0E: f32(-50),
                0x10: f32(884.5),
                0x34: f32(1234.5),
                0x46: f32(49.98),
                0x2A: bytes.fromhex("43663334"),
                0x48: f32(12345.5),
                0x4A: f32(678.25),
            }
        ),
        60,
        "Eastron SDM630/-/{place}",
        49_980,
        12_345_500_000,
        678_250_000,
    ),
    "abb-b23-b24": Case(
        packed(
            {
                0x5B00: i32(2302),
                0x5B02: i32(2302),
                0x5B04: i32(2302),
                0x5B2C: struct.pack(">H", 4998),
                0x5B14: i32(123450),
                0x5B16: i32(40000),
                0x5B18: i32(-5000),
                0x5B1A: i32(88450),
                0x5000: u64(1234550),
                0x5004: u64(67825),
                0x8900: struct.pack(">I", 4711),
            }
        ),
        {},
        125,
        "ABB B23_B24/4711",
        49_980,
        12_345_500_000,
        678_250_000,
    ),
    "carlo-gavazzi-em340": Case(
        {}, GAVAZZI, 50, "Carlo Gavazzi EM330_EM340/-/{place}", 50_000, 12_345_500_000, 678_200_000
    ),
    "carlo-gavazzi-em24-ethernet": Case(
        GAVAZZI | packed({0x5000: b"BX1234567890A\0"}),
        {},
        50,
        "Carlo Gavazzi EM24 Ethernet/BX1234567890A",
        50_000,
        12_345_500_000,
        678_200_000,
    ),
    "schneider-iem3000": Case(
        packed(
            {
                3059: f32(1.2345),
                3053: f32(0.4),
                3055: f32(-0.05),
                3057: f32(0.8845),
                3035: f32(230.2),
                3109: f32(49.98),
                3203: u64(12_345_500),
                3207: u64(678_250),
                129: struct.pack(">I", 815),
            }
        ),
        {},
        125,
        "Schneider iEM3000/815",
        49_980,
        12_345_500_000,
        678_250_000,
    ),
    "janitza-umg604": Case(
        dict.fromkeys(range(19000, 19118), 0)
        | packed(
            {
                19000: f32(230.2),
                19002: f32(230.2),
                19004: f32(230.2),
                19050: f32(49.98),
                19020: f32(400),
                19022: f32(-50),
                19024: f32(884.5),
                19026: f32(1234.5),
                19068: f32(12_345_500),
                19076: f32(678_250),
            }
        ),
        {},
        125,
        "Janitza UMG 604/-/{place}",
        49_980,
        12_345_500_000,
        678_250_000,
    ),
}


@asynccontextmanager
async def played(name: str) -> AsyncIterator[MapDevice]:
    case = CASES[name]
    inputs = Played(case.inputs, case.most)
    server = ModbusTcpServer(Played(case.holding, case.most), unit=UNIT, monotonic_s=time.monotonic, inputs=inputs)
    await server.start("127.0.0.1", 0)
    pool = ConnectionPool(time.monotonic)
    try:
        yield MapDevice(
            "grid",
            DeviceKind.METER,
            f"tcp://127.0.0.1:{server.port}",
            UNIT,
            load_map(name),
            period_s=1.0,
            timeout_s=5.0,
            connections=pool,
            monotonic_s=time.monotonic,
        )
    finally:
        pool.close()
        await server.stop()


def test_every_shipped_map_has_a_device_to_play() -> None:
    assert set(CASES) == set(shipped_maps())


@pytest.mark.parametrize("name", CASES)
async def test_a_played_device_reads_as_its_published_table_says(name: str) -> None:
    case = CASES[name]
    async with played(name) as device:
        sample = await device.look()
        capabilities = device.status().capabilities
        place = device.status().detail.split(" at ")[1]
    assert sample.power_w in (1234, 1235), "1234.5 W, or the nearest float32 in kW"
    assert sample.phase_power_w == pytest.approx((400, -50, 884), abs=1)
    assert sample.voltage_millivolts == 230_200
    assert sample.frequency_millihertz == case.frequency_millihertz
    assert sample.import_register_milliwatt_hours == case.import_milliwatt_hours
    assert sample.export_register_milliwatt_hours == case.export_milliwatt_hours
    assert sample.meter_id == case.meter_id.format(place=place)
    assert capabilities is not None
    assert not [note for note in capabilities.notes if "refuses" in note], "every register of the map was read"
