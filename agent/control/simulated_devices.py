"""Devices of a simulation with simple physics: they obey their bands at once, as far as sun, battery and car allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from agent.config import DeviceSettings, Settings
from agent.control.losses import MICRO, losses_of
from agent.control.scenario import CarLine, WorldLine
from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceKind,
    DeviceStatus,
    LinkState,
    Sample,
    Setpoint,
    VehicleSession,
)

BATTERY_WH: Final = 10_000
RATINGS: Final = {DeviceKind.PV: (0, 8_000), DeviceKind.BATTERY: (5_000, 5_000), DeviceKind.CHARGER: (11_000, 11_000)}
"""(import, export), W: of devices whose configuration names none."""
LEAST_A: Final = 6
DAY_US: Final = 86_400 * 1_000_000
TAPER_PERMILLE: Final = 900
"""Above this a battery takes less and less."""


@dataclass(slots=True)
class SimulatedDevice:
    """One device; fulfils `drivers.device.Device` as far as looking at it goes."""

    settings: DeviceSettings
    capabilities: Capabilities | None
    power_w: int = 0
    band: tuple[int | None, int | None] = (None, None)
    silent: bool = False
    capacity_wh: int = 0
    stored_wh: float = 0.0
    import_milliwatt_hours: int = 0
    export_milliwatt_hours: int = 0
    lost_wh: float = 0.0
    """By converting, as its loss curve says; what is stored is counted without it."""
    now_s: float = 0.0
    car: VehicleSession | None = None
    cars: int = 0

    @property
    def device_id(self) -> str:
        return self.settings.id

    @property
    def kind(self) -> DeviceKind:
        return self.settings.kind

    @property
    def soc_permille(self) -> int | None:
        """Of the battery, or of the car that is here."""
        if self.capacity_wh == 0 or (self.kind is DeviceKind.CHARGER and self.car is None):
            return None
        return round(self.stored_wh * 1000 / self.capacity_wh)

    def plug(self, line: CarLine, at_us: int) -> None:
        """A car comes or goes."""
        if line.gone:
            self.car, self.capacity_wh = None, 0
            return
        self.cars += 1
        self.capacity_wh, self.stored_wh = line.capacity_wh, line.capacity_wh * (line.soc_permille or 0) / 1000
        self.car = VehicleSession(
            transaction_id=f"simulated-{self.cars}",
            token_id=line.token,
            charge_now=line.charge_now,
            battery_capacity_wh=line.capacity_wh,
            energy_needed_wh=line.needs_wh,
            departure_timestamp_us=None if line.stays_s is None else at_us + round(line.stays_s * 1e6),
            max_charge_w=line.charge_w,
            max_discharge_w=line.discharge_w,
        )

    def leave(self, now_us: int) -> None:
        """The car goes, if its time has come."""
        departure_us = None if self.car is None else self.car.departure_timestamp_us
        if departure_us is not None and now_us >= departure_us:
            self.car, self.capacity_wh = None, 0

    def look(self, monotonic_s: float) -> None:
        """It is asked for its values now; a silent one does not answer."""
        if not self.silent:
            self.now_s = monotonic_s

    def move(self, wanted_w: float, duration_s: float) -> None:
        """To the power that is wanted, within its band, its rating and what is stored."""
        low, high = self.band
        power_w = max(wanted_w, low) if low is not None else wanted_w
        power_w = min(power_w, high) if high is not None else power_w
        if self.capabilities is not None:
            power_w = min(max(power_w, -self.capabilities.rated_export_w), self.capabilities.rated_import_w)
            if 0 < power_w < self.capabilities.minimum_import_w:
                power_w = 0
        if self.capacity_wh and duration_s:
            room_w = (self.capacity_wh - self.stored_wh) * 3600 / duration_s
            power_w = min(max(power_w, -self.stored_wh * 3600 / duration_s), room_w)
        elif self.kind is DeviceKind.CHARGER:
            power_w = 0
        self.power_w = round(power_w)

    def count(self, duration_s: float) -> None:
        """Energy of a step."""
        energy = round(abs(self.power_w) * duration_s * 1000 / 3600)
        if self.power_w >= 0:
            self.import_milliwatt_hours += energy
        else:
            self.export_milliwatt_hours += energy
        self.lost_wh += self._lost_w() * duration_s / 3600
        if self.capacity_wh:
            self.stored_wh = min(self.capacity_wh, max(0.0, self.stored_wh + self.power_w * duration_s / 3600))

    def _lost_w(self) -> float:
        settings, able = self.settings, self.capabilities
        if able is None or settings.kind not in (DeviceKind.BATTERY, DeviceKind.CHARGER):
            return 0.0
        losses = losses_of(settings.kind, settings.efficiency_percent, settings.fixed_loss_w)
        rated_w = able.rated_import_w if self.power_w > 0 else able.rated_export_w
        return losses.lost(self.power_w, rated_w) / MICRO

    def most_charge_w(self) -> float:
        """What battery or car takes by itself: less and less when it is nearly full."""
        rated_w = self.capabilities.rated_import_w if self.capabilities is not None else 0
        if self.car is not None and self.car.max_charge_w is not None:
            rated_w = min(rated_w, self.car.max_charge_w)
        charge = self.soc_permille or 0
        return rated_w * min(1.0, max(0.05, (1000 - charge) / (1000 - TAPER_PERMILLE)))

    def status(self) -> DeviceStatus:
        car = self.car
        if car is not None:
            car = VehicleSession(
                transaction_id=car.transaction_id,
                token_id=car.token_id,
                charge_now=car.charge_now,
                state_of_charge_permille=self.soc_permille,
                state_of_charge_monotonic_s=self.now_s,
                battery_capacity_wh=car.battery_capacity_wh,
                energy_needed_wh=car.energy_needed_wh,
                departure_timestamp_us=car.departure_timestamp_us,
                max_charge_w=car.max_charge_w,
                max_discharge_w=car.max_discharge_w,
            )
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.SILENT if self.silent else LinkState.ONLINE,
            detail="simulated",
            capabilities=self.capabilities,
            last_sample=Sample(
                device_id=self.device_id,
                monotonic_s=self.now_s,
                power_w=self.power_w,
                import_register_milliwatt_hours=self.import_milliwatt_hours,
                export_register_milliwatt_hours=self.export_milliwatt_hours,
                meter_id=self.device_id,
                state_of_charge_permille=self.soc_permille if self.kind is DeviceKind.BATTERY else None,
            ),
            vehicle=car,
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        """It has no life of its own: the world moves it."""

    async def apply(self, setpoint: Setpoint) -> None:
        self.band = (setpoint.lowest_w, setpoint.highest_w)

    async def release(self) -> None:
        self.band = (None, None)


@dataclass(slots=True)
class World:
    """Sun and house, in their own course of the day or as the scenario tells."""

    told: WorldLine = field(default_factory=WorldLine)
    house_now_w: int = 0
    connection_w: int = 0

    def tell(self, line: WorldLine) -> None:
        self.told = line

    def step(self, devices: Iterable[SimulatedDevice], now_us: int, duration_s: float) -> None:
        """All devices for one step; batteries in their own control see what the others did."""
        devices = list(devices)
        sun = self.told.sun_permille / 1000 if self.told.sun_permille is not None else sun_at(now_us)
        self.house_now_w = self.told.house_w if self.told.house_w is not None else house_at(now_us)
        others_w = self.house_now_w
        for device in devices:
            if device.kind is DeviceKind.PV and device.capabilities is not None:
                device.move(-device.capabilities.rated_export_w * sun, duration_s)
            elif device.kind is DeviceKind.CHARGER:
                device.move(device.most_charge_w() if device.car is not None else 0.0, duration_s)
        others_w += sum(d.power_w for d in devices if d.kind in (DeviceKind.PV, DeviceKind.CHARGER))
        for device in devices:
            if device.kind is DeviceKind.BATTERY:
                device.move(min(-others_w, device.most_charge_w()), duration_s)
                others_w += device.power_w
        self.connection_w = others_w
        for device in devices:
            if device.kind is DeviceKind.METER:
                device.power_w = others_w
            device.count(duration_s)


def sun_at(now_us: int) -> float:
    """A clear day in early summer, by UTC: nothing before 5 and after 21 hours."""
    hour = now_us % DAY_US / 3_600_000_000
    return max(0.0, math.sin((hour - 5) / 16 * math.pi)) * 0.85 if 5 <= hour <= 21 else 0.0


def house_at(now_us: int) -> int:
    """A house with a breakfast and an evening."""
    hour = now_us % DAY_US / 3_600_000_000
    breakfast, evening = math.exp(-(((hour - 7.5) / 1.2) ** 2)), math.exp(-(((hour - 19.5) / 2.0) ** 2))
    return round(350 + 900 * breakfast + 1_900 * evening)


def make_devices(settings: Settings) -> dict[str, SimulatedDevice]:
    """The devices of a configuration; a battery begins half full."""
    made = {}
    for device in settings.device:
        simulated = SimulatedDevice(device, _capabilities(device, settings))
        if device.kind is DeviceKind.BATTERY:
            capacity_wh = device.capacity_wh or BATTERY_WH
            simulated.capacity_wh, simulated.stored_wh = capacity_wh, capacity_wh / 2
        made[device.id] = simulated
    return made


def _capabilities(device: DeviceSettings, settings: Settings) -> Capabilities | None:
    if device.kind is DeviceKind.METER:
        return None
    import_w, export_w = RATINGS[device.kind]
    import_w = import_w if device.rated_import_w is None else device.rated_import_w
    export_w = export_w if device.rated_export_w is None else device.rated_export_w
    if device.kind is DeviceKind.CHARGER and device.discharge == "never":
        export_w = 0
    return Capabilities(
        rated_import_w=import_w,
        rated_export_w=export_w,
        limits_import=device.kind is not DeviceKind.PV,
        limits_export=device.kind is DeviceKind.PV or export_w > 0,
        follows_setpoint=device.kind is not DeviceKind.PV and export_w > 0,
        dead_man=DeadMan.REVERTS_TO_FALLBACK,
        fallback_lowest_w=0,
        fallback_highest_w=device.fallback_import_w or 0,
        energy_capacity_wh=(device.capacity_wh or BATTERY_WH) if device.kind is DeviceKind.BATTERY else None,
        minimum_import_w=(
            LEAST_A * settings.site.nominal_voltage_v * len(device.phases) if device.kind is DeviceKind.CHARGER else 0
        ),
        phases=tuple(device.phases),
    )
