"""The site of the bench `tracking`: the rig's physics, and devices that give samples and take orders as real ones do.

Registers and frames are left out (the rig's other benches have them); what shapes tracking is in: ramps, the age of
samples, the time that an order takes to arrive, leases that end, and a house that nobody asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from drivers.device import Capabilities, DeadMan, DeviceKind, DeviceStatus, LinkState, Sample, Setpoint, VehicleSession
from hil_tests.rig.site.car import Evse
from hil_tests.rig.site.energy import EnergyRegister
from hil_tests.rig.site.world import PlantSettings, World

STEP_S: Final = 0.1
HOUSE_LOWEST_W: Final = 800
HOUSE_HIGHEST_W: Final = 3_500
APPLIANCES_W: Final = (2_000, 3_200)
"""Kettle and hot plates: on and off at once, for minutes."""
SWITCH_EVERY_S: Final = (60.0, 240.0)
PLANT: Final = PlantSettings(
    battery_capacity_wh=40_000,
    v2g_capacity_wh=150_000,
    plain_capacity_wh=150_000,
    house_lowest_w=HOUSE_LOWEST_W,
    house_highest_w=HOUSE_HIGHEST_W,
)
"""Batteries that no hour of orders fills or empties: this is about following, not about how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How a kind of device is spoken to."""

    every_s: float
    """Between its samples."""
    order_s: float
    """Until an order has arrived and been read back."""
    response_s: float = 3.0


METER: Final = Habit(every_s=1.0, order_s=0.0)
INVERTER: Final = Habit(every_s=1.0, order_s=0.03)
CHARGER: Final = Habit(every_s=5.0, order_s=0.2, response_s=5.0)


class Plant:
    """The physics, stepped in the loop's time, and the appliances of the house."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self.world = World(PLANT, start_s=0.0)
        for evse in self.world.evses:
            evse.contactor_closed = True
        self._monotonic_s = monotonic_s
        self._random = random.Random("appliances")
        self._appliances_w = 0.0
        self._switch_s = self._random.uniform(*SWITCH_EVERY_S)
        self.each_step: list[Callable[[], None]] = []
        """Called before each step: controls whose leases end."""

    async def run(self) -> None:
        """Step for ever."""
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(STEP_S)
            elapsed_s += STEP_S
            for before_step in self.each_step:
                before_step()
            if elapsed_s >= self._switch_s:
                self._appliances_w = 0.0 if self._appliances_w else self._random.choice(APPLIANCES_W)
                self._switch_s = elapsed_s + self._random.uniform(*SWITCH_EVERY_S)
            house = self.world.house
            house.highest_w = HOUSE_HIGHEST_W + self._appliances_w
            house.lowest_w = HOUSE_LOWEST_W + self._appliances_w
            house.power_w = min(max(house.power_w, house.lowest_w), house.highest_w)
            self.world.step(round(STEP_S * 1e6))

    @property
    def phases_w(self) -> tuple[float, ...]:
        """At the connection now."""
        return tuple(power / 1000 for power in self.world.grid.phase_power_milliwatts)


class PlayedDevice:
    """One device of the plant; fulfils `drivers.device.Device`."""

    def __init__(
        self,
        name: str,
        kind: DeviceKind,
        habit: Habit,
        plant: Plant,
        *,
        power_w: Callable[[], float],
        energy: EnergyRegister,
        capabilities: Capabilities | None = None,
        soc_percent: Callable[[], float] | None = None,
        obey: Callable[[int | None, int | None], None] = lambda low, high: None,
        token_id: str | None = None,
    ) -> None:
        self.device_id, self.kind, self._habit, self._plant = name, kind, habit, plant
        self._power_w, self._energy, self._soc_percent, self._obey = power_w, energy, soc_percent, obey
        self._capabilities = capabilities
        self._token_id = token_id
        self._now_s = plant._monotonic_s
        self._sample: Sample | None = None
        self._setpoint: Setpoint | None = None
        self._ends_s = float("inf")
        plant.each_step.append(self._end_lease)

    def status(self) -> DeviceStatus:
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.ONLINE,
            detail="",
            capabilities=self._capabilities,
            last_sample=self._sample,
            setpoint=self._setpoint,
            vehicle=self._vehicle() if self.kind is DeviceKind.CHARGER else None,
        )

    def _vehicle(self) -> VehicleSession:
        return VehicleSession(
            transaction_id="t",
            token_id=self._token_id,
            state_of_charge_permille=None if self._sample is None else self._sample.state_of_charge_permille,
            state_of_charge_monotonic_s=None if self._sample is None else self._sample.monotonic_s,
            battery_capacity_wh=150_000,
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        while True:
            grid = self._plant.world.grid
            meter = self.kind is DeviceKind.METER
            self._sample = Sample(
                device_id=self.device_id,
                monotonic_s=self._now_s(),
                power_w=round(self._power_w()),
                import_register_milliwatt_hours=self._energy.import_milliwatt_hours,
                export_register_milliwatt_hours=self._energy.export_milliwatt_hours,
                phase_power_w=tuple(round(power_w) for power_w in self._plant.phases_w) if meter else (),
                frequency_millihertz=round(grid.frequency_hz * 1000) if self._habit is not CHARGER else None,
                state_of_charge_permille=None if self._soc_percent is None else round(self._soc_percent() * 10),
            )
            emit(self._sample)
            await asyncio.sleep(self._habit.every_s)

    async def apply(self, setpoint: Setpoint) -> None:
        await asyncio.sleep(self._habit.order_s)
        self._setpoint, self._ends_s = setpoint, self._now_s() + setpoint.lease_s
        self._obey(setpoint.lowest_w, setpoint.highest_w)

    async def release(self) -> None:
        await asyncio.sleep(self._habit.order_s)
        self._setpoint, self._ends_s = None, float("inf")
        self._obey(None, None)

    def _end_lease(self) -> None:
        if self._now_s() >= self._ends_s:
            self._setpoint, self._ends_s = None, float("inf")
            self._obey(0, 0)


def devices_of(plant: Plant, token_id: str) -> dict[str, PlayedDevice]:
    """Meter, PV, battery, a V2G charger whose car `token_id` may discharge, and a plain one."""
    world = plant.world

    def meter_w() -> float:
        return world.grid.power_w

    def bound_pv(low: int | None, high: int | None) -> None:
        world.pv.limit_w = float("inf") if low is None else -low

    def bound_battery(low: int | None, high: int | None) -> None:
        world.battery.lowest_w, world.battery.highest_w = low, high

    def charger(name: str, evse: Evse, rated_export_w: int) -> PlayedDevice:
        car = evse.car
        assert car is not None

        def bound(low: int | None, high: int | None) -> None:
            evse.limit_w = low if low is not None and low < 0 else high

        return PlayedDevice(
            name, DeviceKind.CHARGER, CHARGER, plant, power_w=lambda: evse.power_w, energy=evse.energy,
            capabilities=_capabilities(
                CHARGER, import_w=11_000, export_w=rated_export_w, minimum_w=0 if rated_export_w else 4_140
            ),
            soc_percent=lambda: car.storage.state_of_charge_percent, obey=bound, token_id=token_id,
        )  # fmt: skip

    return {
        "meter": PlayedDevice(
            "meter", DeviceKind.METER, METER, plant, power_w=meter_w, energy=world.grid.energy
        ),
        "pv": PlayedDevice(
            "pv", DeviceKind.PV, INVERTER, plant, power_w=lambda: world.pv.power_w, energy=world.pv.energy,
            capabilities=_capabilities(INVERTER, import_w=0, export_w=8_000, exactly=False), obey=bound_pv,
        ),
        "battery": PlayedDevice(
            "battery", DeviceKind.BATTERY, INVERTER, plant, power_w=lambda: world.battery.power_w,
            energy=world.battery.energy, capabilities=_capabilities(INVERTER, import_w=10_000, export_w=10_000),
            soc_percent=lambda: world.battery.storage.state_of_charge_percent, obey=bound_battery,
        ),
        "car-1": charger("car-1", world.v2g, 11_000),
        "car-2": charger("car-2", world.plain, 0),
    }  # fmt: skip


def _capabilities(
    habit: Habit, *, import_w: int, export_w: int, minimum_w: int = 0, exactly: bool = True
) -> Capabilities:
    return Capabilities(
        rated_import_w=import_w,
        rated_export_w=export_w,
        limits_import=import_w > 0,
        limits_export=True,
        follows_setpoint=exactly,
        dead_man=DeadMan.REVERTS_TO_FALLBACK,
        fallback_lowest_w=0,
        fallback_highest_w=0,
        minimum_import_w=minimum_w,
        response_s=habit.response_s,
    )
