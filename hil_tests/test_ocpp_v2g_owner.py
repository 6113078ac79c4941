"""SAFETY 9 on the rig: a car that the grid may use keeps its owner's minimum and what it needs at departure.

The real control drives the real driver; the charger and its car are simulated, quickly. Over OCPP 2.1 (Q03) and 2.0.1,
with TLS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.config import ControlSettings, DeviceSettings, FrequencySettings, MandateSettings, SiteSettings
from agent.control.controller import Controller
from agent.store import Store
from drivers.device import DeviceKind, Sample
from hil_tests.ocpp_station import Tls, until
from hil_tests.rig.charger.solo import CarSettings, SoloCharger
from hil_tests.rig.site.charger import OCPP_21, OCPP_201
from hil_tests.test_control_controller import FakeDevice, StoreDesk, command
from hil_tests.v2g_parts import NEGATIVE, RATED_W, SHARE_W, TOKEN, V2X, Csms, csms, solo
from tests.agent.control.support import GATEWAY, rights, trust_list

VERSIONS = [pytest.param(OCPP_21, id="2.1"), pytest.param(OCPP_201, id="2.0.1")]
MINIMUM_PERCENT = 50
DEVICES = [
    DeviceSettings(id="grid", kind=DeviceKind.METER, driver="sunspec", address="tcp://m:502"),
    DeviceSettings(
        id="car-1",
        kind=DeviceKind.CHARGER,
        driver="ocpp",
        charger_id="CP-1",
        parent="grid",
        rated_import_w=RATED_W,
        rated_export_w=10_000,
        fallback_import_w=SHARE_W,
    ),
]


@dataclass
class Owned:
    """A car, its charger, the driver and the control of the site."""

    box: Csms
    rig: SoloCharger
    controller: Controller
    clock: Clock
    meter: FakeDevice

    async def discharge(self, name: str = "c1") -> None:
        message = await command(self.clock, name, 120.0, targets=("car-1",), power_w=5_000)
        await self.controller.receive(message, None, self.clock.now())

    @property
    def soc_percent(self) -> float:
        assert self.rig.evse.car is not None
        return self.rig.evse.car.storage.state_of_charge_percent

    def reasons(self) -> str:
        """Everything that binds the car now."""
        return str(self.controller.snapshot())


@asynccontextmanager
async def owned(
    folder: Path,
    tls: Tls,
    version: str,
    car: CarSettings,
    speed: float,
    *,
    devices: Sequence[DeviceSettings] = DEVICES,
    **more: float,
) -> AsyncIterator[Owned]:
    """`more`: of [control]."""
    clock = Clock(kernel_error_us=lambda: 1_000)
    settings = V2X if version == OCPP_21 else NEGATIVE
    async with (
        await Store.open(folder) as store,
        csms(settings, ssl=tls[0]) as box,
        solo(box.server.port, version, ca=tls[1], car=car, speed=speed) as rig,
    ):
        desk, meter = StoreDesk(store), FakeDevice("grid", DeviceKind.METER, clock.monotonic_s)
        controller = Controller(
            devices={"grid": meter, "car-1": box.evse},
            device_settings=devices,
            site=SiteSettings(discharge_permitted=True, export_limit_w=30_000, import_limit_w=30_000),
            control=ControlSettings(
                interval_s=0.2,
                lease_s=5,
                mandate=[MandateSettings(token_id=TOKEN, minimum_soc_percent=MINIMUM_PERCENT)],
                **more,
            ),
            frequency=FrequencySettings(),
            gateway_id=lambda: GATEWAY,
            stop_file=folder / "STOP",
            clock=clock,
            trust=lambda: trust_list(rights(expires_us=2**53), expires_us=2**53),
            desk=desk,
            notes=desk,
        )
        await box.transaction()
        tasks = [
            asyncio.create_task(controller.run()),
            asyncio.create_task(feed(controller, meter, box)),
        ]
        try:
            yield Owned(box, rig, controller, clock, meter)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def feed(controller: Controller, meter: FakeDevice, box: Csms) -> None:
    """What the roads do with samples."""
    seen = 0
    while True:
        sample: Sample | None = meter.status().last_sample
        assert sample is not None
        controller.on_sample(sample)
        for taken in box.samples[seen:]:
            controller.on_sample(taken)
        seen = len(box.samples)
        await asyncio.sleep(0.05)


async def holds(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """It is so, all the time."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        assert condition(), what
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("version", VERSIONS)
async def test_q03_a_discharge_ends_at_the_owner_s_minimum_and_goes_no_further(
    tmp_path: Path, loopback_tls: Tls, version: str
) -> None:
    car = CarSettings(capacity_wh=20_000, state_of_charge_percent=MINIMUM_PERCENT + 1.5, discharge_w=10_000)
    async with owned(tmp_path, loopback_tls, version, car, speed=20.0) as site:
        await site.discharge()
        await until(lambda: site.rig.evse.power_w < -4_000, "the car gives", 20)
        await until(lambda: site.rig.evse.power_w >= 0, "it gives no more", 30)
        assert MINIMUM_PERCENT - 1.0 < site.soc_percent < MINIMUM_PERCENT + 1.0
        await holds(lambda: site.rig.evse.power_w >= 0, "the car gives below its minimum", 3)
        assert "minimum state of charge" in site.reasons()


@pytest.mark.parametrize("version", VERSIONS)
async def test_q03_k15_a_car_that_needs_its_energy_at_departure_is_not_discharged(
    tmp_path: Path, loopback_tls: Tls, version: str
) -> None:
    car = CarSettings(state_of_charge_percent=70.0, discharge_w=10_000, stays_s=1_800, needed_wh=5_000)
    async with owned(tmp_path, loopback_tls, version, car, speed=1.0) as site:
        await site.discharge()
        await until(lambda: "need at departure" in site.reasons(), "the reason", 20)
        await holds(lambda: site.rig.evse.power_w >= 0, "the car gives what it needs", 3)


@pytest.mark.parametrize("version", VERSIONS)
async def test_k20_a_need_that_arises_in_the_middle_of_a_discharge_ends_it_and_the_car_charges(
    tmp_path: Path, loopback_tls: Tls, version: str
) -> None:
    car = CarSettings(state_of_charge_percent=70.0, discharge_w=10_000, stays_s=36_000, needed_wh=1_000)
    async with owned(tmp_path, loopback_tls, version, car, speed=1.0) as site:
        await site.discharge()
        await until(lambda: site.rig.evse.power_w < -4_000, "the car gives", 20)
        plugged = site.rig.evse.car
        assert plugged is not None
        plugged.departure_s, plugged.energy_needed_wh = time.time() + 600, 4_000
        site.rig.charger.words.needs()
        await until(lambda: site.rig.evse.power_w > 1_000, "it charges for its departure", 30)


async def test_k22_a_driver_who_wants_to_charge_now_beats_the_grid(tmp_path: Path, loopback_tls: Tls) -> None:
    car = CarSettings(state_of_charge_percent=70.0, discharge_w=10_000)
    async with owned(tmp_path, loopback_tls, OCPP_21, car, speed=1.0) as site:
        await site.discharge()
        await until(lambda: site.rig.evse.power_w < -4_000, "the car gives", 20)
        site.rig.charger.words.press_priority(activated=True)
        # The charger follows its driver at once, by the profile that it holds for that; the plan hears of it next.
        await until(lambda: site.rig.evse.power_w > 1_000, "it charges", 30)
        await until(lambda: "charge now" in site.reasons(), "the plan says why", 30)
        await holds(lambda: site.rig.evse.power_w > 1_000, "the grid's order takes it back", 2)


async def test_q01_a_car_gives_no_more_than_it_offers(tmp_path: Path, loopback_tls: Tls) -> None:
    car = CarSettings(state_of_charge_percent=70.0, discharge_w=2_000)
    async with owned(tmp_path, loopback_tls, OCPP_21, car, speed=1.0) as site:
        await site.discharge()
        await until(lambda: site.rig.evse.power_w < -1_900, "the car gives what it offers", 20)
        await holds(lambda: (s := site.box.status.setpoint) is None or s.highest_w is None or s.highest_w >= -2_000,
                    "more is ordered than it offers", 3)  # fmt: skip
        assert not site.box.said("charger.disobeys")
