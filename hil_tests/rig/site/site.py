"""The whole simulated site running in real time: world, Modbus servers, chargers, truth file, orders."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TextIO

import structlog

from .car import Car, Evse
from .charger import Charger, ChargerSettings
from .inverters import BatteryDevice, PvDevice, SunSpecDevice
from .meter import MeterDevice
from .modbus import ModbusTcpServer
from .orders import Order, OrderError
from .serial_line import PtyLine, RtuBus, RtuTcpServer, RtuUnit
from .session import ChargerSession
from .world import PlantSettings, World

METER, PV, BATTERY, V2G, PLAIN = "meter-1", "pv-1", "battery-1", "charger-1", "charger-2"
"""Device ids, in the ready line, orders and the truth file. `charger-1` is the bidirectional one."""
UNIT: Final = 1
"""Of every device that has a port of its own."""
UNITS_OF_A_LINE: Final = {METER: 1, PV: 2, BATTERY: 3}
LineKind = Literal["tcp", "rtu", "rtutcp"]
LONGEST_STEP_US: Final = 500_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """How to run the site."""

    plant: PlantSettings = field(default_factory=PlantSettings)
    host: str = "127.0.0.1"
    ports: Mapping[str, int] | None = None
    """Modbus port by device id (meter-1, pv-1, battery-1); 0 or absent: the system chooses."""
    line: LineKind = "tcp"
    """tcp: a Modbus TCP port for each device. rtu, rtutcp: all on one serial line, on a pty or behind TCP."""
    line_port: int = 0
    """TCP port of an rtutcp line; 0: the system chooses."""
    serial_port: Path | None = None
    """Where the pseudo-terminal of an rtu line appears; None: somewhere temporary."""
    v2g: ChargerSettings | None = None
    """None: this charger does not exist for the CSMS, its car does not charge."""
    plain: ChargerSettings | None = None
    speed: float = 1.0
    """Physics runs so many times faster: sun, energy, ramps. Timers of the protocols stay in real time."""
    step_s: float = 0.1
    truth: Path | None = None
    truth_period_s: float = 1.0


class Site:
    """Async context: servers listen and physics runs inside it. `addresses` and `world` are for whoever uses it."""

    def __init__(self, settings: SiteSettings) -> None:
        plant = settings.plant
        self.settings = settings
        self.world = World(plant, start_s=time.time())
        grid = self.world.grid
        largest_w = 2 * (plant.pv_rated_w + plant.battery_rated_w + 2 * plant.charger_rated_w + plant.house_highest_w)
        serial = f"RIG{plant.seed:05d}"
        self.pv = PvDevice(self.world.pv, grid, serial=f"{serial}P", monotonic_s=time.monotonic)
        self.battery = BatteryDevice(self.world.battery, grid, serial=f"{serial}B", monotonic_s=time.monotonic)
        self.meter = MeterDevice(grid, largest_w=largest_w, serial=f"{serial}M", monotonic_s=time.monotonic)
        self.devices: dict[str, SunSpecDevice] = {METER: self.meter, PV: self.pv, BATTERY: self.battery}
        self.servers: dict[str, ModbusTcpServer] = {}
        """Of a tcp site, by device."""
        self.line_units: dict[str, RtuUnit] = {}
        """Of an rtu or rtutcp site, by device."""
        for name, device in self.devices.items():
            if settings.line == "tcp":
                self.servers[name] = ModbusTcpServer(device, unit=UNIT, monotonic_s=time.monotonic)
            else:
                unit = UNITS_OF_A_LINE[name]
                self.line_units[name] = RtuUnit(device, unit=unit, monotonic_s=time.monotonic)
        self.bus = RtuBus({unit.unit: unit for unit in self.line_units.values()})
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.pty: PtyLine | None = None
        """Of an rtu site, inside the context."""
        self._converter = RtuTcpServer(self.bus)
        self.evses: dict[str, Evse] = {V2G: self.world.v2g, PLAIN: self.world.plain}
        self.sessions: dict[str, ChargerSession] = {
            name: ChargerSession(
                Charger(chosen, self.evses[name], grid, time.time()),
                seed=plant.seed,
                monotonic_s=time.monotonic,
                wall_s=time.time,
            )
            for name, chosen in ((V2G, settings.v2g), (PLAIN, settings.plain))
            if chosen is not None
        }
        self.away: dict[str, Car] = {}
        """Cars that were unplugged, by charger."""
        self._running: asyncio.Task[None] | None = None
        self._truth: TextIO | None = None
        self._next_truth_s = 0.0
        self._reached_s = time.time()

    @property
    def addresses(self) -> dict[str, str]:
        """Modbus addresses by device id, as a gateway's configuration spells them."""
        if self.settings.line == "tcp":
            return {name: f"tcp://{self.settings.host}:{server.port}" for name, server in self.servers.items()}
        if self.pty is not None:
            return dict.fromkeys(self.line_units, f"rtu://{self.pty.path}?baudrate=115200")
        return dict.fromkeys(self.line_units, f"rtutcp://{self.settings.host}:{self._converter.port}")

    @property
    def units(self) -> dict[str, int]:
        """Modbus unit ids by device id."""
        return dict.fromkeys(self.servers, UNIT) | {name: unit.unit for name, unit in self.line_units.items()}

    async def __aenter__(self) -> Self:
        if self.settings.truth is not None:
            # Line-buffered: a reader sees whole lines, and a killed process loses none.
            self._truth = self.settings.truth.open("a", encoding="utf-8", buffering=1)
        try:
            await self._start_servers()
        except OSError:
            await self._stop_servers()
            raise
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        try:
            await self._running
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
        finally:
            await self._stop_servers()

    async def wait(self) -> None:
        """Until the site fails; it does not end by itself. Raises what made it fail."""
        assert self._running is not None
        await asyncio.shield(self._running)

    def order(self, order: Order) -> None:
        """Do what an order says. Raises OrderError when it makes no sense here."""
        order.carry_out(self)
        _log.info("order_done", order=order.name)

    def truth(self) -> dict[str, object]:
        """What really is, at the end of the last step: a line of the truth file."""
        grid = self.world.grid
        battery = self.world.battery
        devices: dict[str, dict[str, object]] = {
            METER: _measured(grid.power_w, grid.energy.import_milliwatt_hours, grid.energy.export_milliwatt_hours),
        }
        for name, part in ((PV, self.world.pv), (BATTERY, battery)):
            devices[name] = _measured(
                part.power_w, part.energy.import_milliwatt_hours, part.energy.export_milliwatt_hours
            )
        devices[PV]["available_w"] = round(self.world.pv.available_w, 3)
        devices[BATTERY]["soc_percent"] = round(battery.storage.state_of_charge_percent, 4)
        for name, evse in self.evses.items():
            charging = _measured(evse.power_w, evse.energy.import_milliwatt_hours, evse.energy.export_milliwatt_hours)
            session = self.sessions.get(name)
            transaction = None if session is None else session.charger.transaction
            charging["connected"] = evse.car is not None
            charging["soc_percent"] = None if evse.car is None else round(evse.car.storage.state_of_charge_percent, 4)
            charging["limit_w"] = evse.limit_w
            charging["transaction"] = None if transaction is None else transaction.transaction_id
            charging["online"] = session is not None and session.charger.online
            devices[name] = charging
        house = self.world.house_energy
        return {
            "t": round(self._reached_s, 6),
            "grid": {
                **devices[METER],
                "phase_power_w": [power / 1000 for power in grid.phase_power_milliwatts],
                "frequency_hertz": round(grid.frequency_hz, 4),
                "voltages_v": [round(volts, 3) for volts in grid.voltages_v],
                "islanded": grid.islanded,
            },
            "house": _measured(self.world.house.power_w, house.import_milliwatt_hours, house.export_milliwatt_hours),
            "devices": devices,
        }

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._physics())
                for session in self.sessions.values():
                    tasks.create_task(session.run())
        finally:
            self._write_truth()
            if self._truth is not None:
                self._truth.close()
                self._truth = None

    async def _physics(self) -> None:
        """Step by the time that has really passed, so that energy is power times real time on a busy machine too."""
        last_ns = time.monotonic_ns()
        while True:
            await asyncio.sleep(self.settings.step_s)
            now_ns = time.monotonic_ns()
            self.advance(round((now_ns - last_ns) / 1000 * self.settings.speed))
            last_ns = now_ns
            if time.monotonic() >= self._next_truth_s:
                self._next_truth_s = time.monotonic() + self.settings.truth_period_s - self.settings.step_s / 2
                self._write_truth()

    def advance(self, duration_us: int) -> None:
        """Move the world by so much simulated time, with controls before and measurements after each step."""
        left_us = duration_us
        while left_us > 0:
            step_us = min(left_us, LONGEST_STEP_US)
            left_us -= step_us
            for device in self.devices.values():
                device.before_step(time.monotonic())
            for session in self.sessions.values():
                session.charger.before_step(time.time())
            self.world.step(step_us)
            for device in self.devices.values():
                device.after_step()
            for session in self.sessions.values():
                session.charger.after_step(time.time())
        self._reached_s = time.time()

    def _write_truth(self) -> None:
        if self._truth is not None:
            self._truth.write(json.dumps(self.truth(), separators=(",", ":")) + "\n")

    async def _start_servers(self) -> None:
        ports = self.settings.ports or {}
        for name, server in self.servers.items():
            await server.start(self.settings.host, ports.get(name, 0))
        if self.settings.line == "rtutcp":
            await self._converter.start(self.settings.host, self.settings.line_port)
        elif self.settings.line == "rtu":
            path = self.settings.serial_port
            if path is None:
                self._folder = tempfile.TemporaryDirectory(prefix="rig-line-")
                path = Path(self._folder.name) / "ttyRIG0"
            self.pty = PtyLine(self.bus, path)
            await self.pty.start()

    async def _stop_servers(self) -> None:
        for server in self.servers.values():
            await server.stop()
        await self._converter.stop()
        if self.pty is not None:
            await self.pty.stop()
        if self._folder is not None:
            self._folder.cleanup()


def _measured(power_w: float, import_milliwatt_hours: int, export_milliwatt_hours: int) -> dict[str, object]:
    return {
        "power_w": round(power_w, 3),
        "import_milliwatt_hours": import_milliwatt_hours,
        "export_milliwatt_hours": export_milliwatt_hours,
    }


__all__ = ["BATTERY", "METER", "PLAIN", "PV", "V2G", "Order", "OrderError", "Site", "SiteSettings"]
