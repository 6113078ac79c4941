"""A charger, its car and the grid point that it hangs on, stepped in real time and connected to a CSMS."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from hil_tests.rig.site.car import Car, Evse
from hil_tests.rig.site.charger import Charger, ChargerSettings
from hil_tests.rig.site.energy import EnergyRegister, Storage
from hil_tests.rig.site.session import ChargerSession
from hil_tests.rig.site.world import GridPoint

STEP_S: Final = 0.05
LONGEST_STEP_US: Final = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CarSettings:
    """The car that is plugged in."""

    capacity_wh: float = 60_000
    state_of_charge_percent: float = 60.0
    minimum_percent: float = 20.0
    """The car itself gives nothing below this."""
    charge_w: float = 11_000
    discharge_w: float = 0.0
    """Zero: it cannot."""
    stays_s: float | None = None
    """Until it wants to leave; None: it does not say."""
    needed_wh: float = 0.0
    """What its driver wants by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoloSettings:
    """The charger alone."""

    charger: ChargerSettings
    car: CarSettings | None = field(default_factory=CarSettings)
    """None: nothing is plugged in."""
    rated_w: float = 11_000
    bidirectional: bool = False
    minimum_a: float = 6.0
    ramp_s: float = 2.0
    speed: float = 1.0
    """Physics runs so many times faster; the protocol stays in real time."""
    seed: int = 1


class SoloCharger:
    """Async context: the charger connects, and comes back, as long as it lasts."""

    def __init__(self, settings: SoloSettings) -> None:
        now_s = time.time()
        self.settings = settings
        self.grid = GridPoint()
        self.evse = Evse(
            settings.rated_w,
            settings.ramp_s,
            bidirectional=settings.bidirectional,
            minimum_a=0.0 if settings.bidirectional else settings.minimum_a,
            car=None if settings.car is None else _car(settings.car, now_s),
            energy=EnergyRegister.starting_at(import_wh=1_000_000, export_wh=100_000),
        )
        self.charger = Charger(settings.charger, self.evse, self.grid, now_s)
        self.session = ChargerSession(self.charger, seed=settings.seed, monotonic_s=time.monotonic, wall_s=time.time)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled() and (problem := running.exception()) is not None:
            raise problem

    async def wait(self) -> None:
        """Until it fails; it does not end by itself. Raises what made it fail."""
        assert self._running is not None
        await asyncio.shield(self._running)

    def look(self) -> dict[str, object]:
        """How things are now."""
        charger, evse, car = self.charger, self.evse, self.evse.car
        transaction = charger.transaction
        return {
            "online": charger.online,
            "version": charger.version if self.session.connections else None,
            "connections": self.session.connections,
            "trouble": None if charger.online else self.session.trouble or None,
            "transaction": None if transaction is None else transaction.transaction_id,
            "state": None if transaction is None else transaction.state.value,
            "mode": None if transaction is None else transaction.mode.value,
            "limit_w": None if evse.limit_w is None else round(evse.limit_w, 1),
            "power_w": round(evse.power_w, 1),
            "import_milliwatt_hours": evse.energy.import_milliwatt_hours,
            "export_milliwatt_hours": evse.energy.export_milliwatt_hours,
            "soc_percent": None if car is None else round(car.storage.state_of_charge_percent, 2),
        }

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._physics())
            tasks.create_task(self.session.run())

    async def _physics(self) -> None:
        """Step by the time that has really passed, so that energy is power times real time on a busy machine too."""
        last_ns = time.monotonic_ns()
        while True:
            await asyncio.sleep(STEP_S)
            now_ns = time.monotonic_ns()
            self.advance(round((now_ns - last_ns) / 1000 * self.settings.speed))
            last_ns = now_ns

    def advance(self, duration_us: int) -> None:
        """Move charger and car by so much simulated time."""
        left_us = duration_us
        while left_us > 0:
            step_us = min(left_us, LONGEST_STEP_US)
            left_us -= step_us
            self.charger.before_step(time.time())
            self.evse.decide(step_us / 1e6)
            self.evse.energy.add(round(self.evse.power_w * 1000), step_us)
            if self.evse.car is not None:
                self.evse.car.storage.add(self.evse.power_w, step_us / 1e6)
            self.charger.after_step(time.time())


def _car(settings: CarSettings, now_s: float) -> Car:
    storage = Storage(settings.capacity_wh, 0.0)
    storage.set_state_of_charge(settings.state_of_charge_percent)
    return Car(
        storage,
        max_charge_w=settings.charge_w,
        max_discharge_w=settings.discharge_w,
        minimum_soc_percent=settings.minimum_percent,
        departure_s=None if settings.stays_s is None else now_s + settings.stays_s,
        energy_needed_wh=settings.needed_wh,
    )
