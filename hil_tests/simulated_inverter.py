"""One simulated inverter on real Modbus, with its habits: what tests of the SunSpec driver talk to."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drivers.device import DeviceKind, Setpoint
from drivers.sunspec import ConnectionPool, SunSpecDevice
from drivers.sunspec.connection import Unit
from hil_tests.rig.site.energy import Storage
from hil_tests.rig.site.habits import CONFORMING, Habits
from hil_tests.rig.site.inverters import BatteryDevice, PvDevice
from hil_tests.rig.site.modbus import ModbusTcpServer
from hil_tests.rig.site.plant import BatteryInverter, PvInverter
from hil_tests.rig.site.registers import BASE_ADDRESS, PointKey
from hil_tests.rig.site.serial_line import PtyLine, RtuBus, RtuTcpServer, RtuUnit
from hil_tests.rig.site.site import LineKind
from hil_tests.rig.site.world import GridPoint
from tests.drivers.sunspec.fakes import MemoryJournal

LINES: tuple[LineKind, ...] = ("tcp", "rtu", "rtutcp")
RATED_W = 8000
STEP_S = 0.02
MEASURED_MODELS = frozenset({103, 122, 160, 701, 713})
"""What moves by itself."""
COUNTDOWNS = frozenset({(704, "WMaxLimPctRvrtRem"), (704, "WSetRvrtRem"), (124, "ChaState"), (124, "ChaSt")})


class Simulated:
    """A PV or battery inverter in sunshine, its registers, and the driver's side of it."""

    def __init__(self, kind: DeviceKind, habits: Habits, serial: str) -> None:
        self.kind = kind
        self.address = ""
        self.server: ModbusTcpServer | None = None
        self.written: list[tuple[int, list[int]]] = []
        grid = GridPoint()
        self._pv = PvInverter(RATED_W, 0.2)
        self._battery = BatteryInverter(RATED_W, 0.2, Storage(10_000, 6_000))
        self.device: PvDevice | BatteryDevice = (
            PvDevice(self._pv, grid, serial=serial, monotonic_s=time.monotonic, habits=habits)
            if kind is DeviceKind.PV
            else BatteryDevice(self._battery, grid, serial=serial, monotonic_s=time.monotonic, habits=habits)
        )
        self.pools: list[ConnectionPool] = []

    def read(self, address: int, count: int) -> list[int]:
        return self.device.read(address, count)

    def write(self, address: int, words: list[int]) -> None:
        self.device.write(address, words)
        self.written.append((address, words))

    async def live(self) -> None:
        """Let time pass in it."""
        while True:
            now_s = time.monotonic()
            self.device.before_step(now_s)
            self._pv.decide(STEP_S, 0.75)
            self._battery.decide(STEP_S, 700)
            self.device.after_step()
            await asyncio.sleep(STEP_S)

    @property
    def power_w(self) -> float:
        """As its physics has it, + import."""
        return self._pv.power_w if self.kind is DeviceKind.PV else self._battery.power_w

    def raw(self, model: int, name: str) -> int:
        return self.device.registers.raw(model, name)

    def put(self, model: int, **values: int) -> None:
        """As another master, or a person at its panel, would set it."""
        self.device.registers.put(model, **values)

    def still(self) -> dict[int, int]:
        """Every register that does not move by itself, by address."""
        points = self.device.registers.points
        moving = {
            point.address + index
            for key, point in points.items()
            for index in range(point.size)
            if point.model in MEASURED_MODELS or key in COUNTDOWNS
        }
        image = dict(enumerate(self.device.registers.image(), BASE_ADDRESS))
        return {at: word for at, word in image.items() if at not in moving}

    def registers_of(self, *points: PointKey) -> set[int]:
        found = (self.device.registers.points[point] for point in points)
        return {point.address + index for point in found for index in range(point.size)}

    def pool(self) -> ConnectionPool:
        pool = ConnectionPool(time.monotonic)
        self.pools.append(pool)
        return pool

    def unit(self) -> Unit:
        return Unit(self.pool().connection(self.address), 1, 0.5)

    def driver(self, journal: MemoryJournal | None = None, **fallback: int) -> SunSpecDevice:
        """A gateway that starts: with a connection of its own."""
        return SunSpecDevice(
            "inverter",
            self.kind,
            self.address,
            1,
            period_s=0.2,
            timeout_s=0.5,
            connections=self.pool(),
            monotonic_s=time.monotonic,
            journal=MemoryJournal() if journal is None else journal,
            fallback_export_w=fallback.get("fallback_export_w"),
        )


@asynccontextmanager
async def simulated(
    kind: DeviceKind,
    habits: Habits = CONFORMING,
    *,
    serial: str = "SIM-1",
    port: int = 0,
    line: LineKind = "tcp",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Simulated]:
    """A running inverter on Modbus TCP, on a serial line ("rtu", a pseudo-terminal), or on one behind a converter.

    `tls`: what it shows of itself, on Modbus/TCP Security.
    """
    inverter = Simulated(kind, habits, serial)
    living = asyncio.create_task(inverter.live())
    try:
        bus = RtuBus({1: RtuUnit(inverter, unit=1, monotonic_s=time.monotonic, refuses=habits.refuses)})
        if line == "rtu":
            with tempfile.TemporaryDirectory() as folder:
                pty = PtyLine(bus, Path(folder) / "line")
                await pty.start()
                inverter.address = f"rtu://{pty.path}?baudrate=115200"
                try:
                    yield inverter
                finally:
                    await pty.stop()
        elif line == "rtutcp":
            converter = RtuTcpServer(bus)
            await converter.start("127.0.0.1", port)
            inverter.address = f"rtutcp://127.0.0.1:{converter.port}"
            try:
                yield inverter
            finally:
                await converter.stop()
        else:
            server = ModbusTcpServer(
                inverter,
                unit=1,
                monotonic_s=time.monotonic,
                refuses=habits.refuses,
                deaf_after_answer_s=habits.deaf_after_answer_s,
            )
            await server.start("127.0.0.1", port, tls)
            scheme = "tcp" if tls is None else "tls"
            inverter.server, inverter.address = server, f"{scheme}://127.0.0.1:{server.port}"
            try:
                yield inverter
            finally:
                await server.stop()
    finally:
        living.cancel()
        await asyncio.wait([living])
        for pool in inverter.pools:
            pool.close()


def order(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")
