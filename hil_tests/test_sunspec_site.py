"""The SunSpec driver against the rig's site: what is ordered happens in its physics, and ends when we fall silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from drivers.device import DeadMan, DeviceKind, Setpoint
from drivers.sunspec import ConnectionPool, SunSpecDevice, discover
from hil_tests.rig.site.site import BATTERY, METER, PV, Site, SiteSettings
from tests.drivers.sunspec.fakes import MemoryJournal

KINDS = {METER: DeviceKind.METER, PV: DeviceKind.PV, BATTERY: DeviceKind.BATTERY}


@asynccontextmanager
async def gateway_side(**fallback: int) -> AsyncIterator[tuple[Site, dict[str, SunSpecDevice]]]:
    """A running site and one driver per Modbus device, polled by the test."""
    pool = ConnectionPool(time.monotonic)
    async with Site(SiteSettings()) as site:
        try:
            yield (
                site,
                {
                    name: SunSpecDevice(
                        name,
                        KINDS[name],
                        address,
                        1,
                        period_s=1.0,
                        timeout_s=1.0,
                        connections=pool,
                        monotonic_s=time.monotonic,
                        journal=MemoryJournal(),
                        fallback_export_w=fallback.get("fallback_export_w"),
                    )
                    for name, address in site.addresses.items()
                },
            )
        finally:
            pool.close()


async def measured_until(device: SunSpecDevice, condition: Callable[[int], bool], within_s: float = 20.0) -> int:
    """The metered power, once it is as expected."""
    power_w: int | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                power_w = (await device.look()).power_w
                if power_w is not None and condition(power_w):
                    return power_w
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{device.device_id} stays at {power_w} W; {device.status().detail}") from None


def order(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")


async def test_every_device_of_the_site_is_discovered_and_measured() -> None:
    async with gateway_side() as (site, devices):
        for name, device in devices.items():
            found = await discover(site.addresses[name], 1, timeout_s=1.0)
            assert found.notes == ()
            assert found.serial
            sample = await device.look()
            assert sample.power_w is not None
            assert sample.import_register_milliwatt_hours is not None or name == PV
            assert sample.frequency_millihertz in range(49_000, 51_000)
            assert sample.voltage_millivolts in range(200_000, 260_000)
            assert len(sample.phase_power_w) == 3
            assert abs(sum(sample.phase_power_w) - sample.power_w) <= 3
        assert (await devices[BATTERY].look()).state_of_charge_permille in range(500, 700)


async def test_a_battery_follows_setpoints_both_ways_and_goes_back_to_itself() -> None:
    async with gateway_side() as (_, devices):
        battery = devices[BATTERY]
        await battery.look()
        capabilities = battery.status().capabilities
        assert capabilities is not None
        assert capabilities.follows_setpoint
        assert capabilities.dead_man is DeadMan.REVERTS_UNLIMITED
        assert capabilities.energy_capacity_wh == 9_900, "10 kWh by model 713, 99 % of it left"
        await battery.apply(order(-3000, -3000))
        await measured_until(battery, lambda watts: abs(watts + 3000) <= 100)
        await battery.apply(order(2000, 2000))
        await measured_until(battery, lambda watts: abs(watts - 2000) <= 100)
        await battery.release()
        await measured_until(battery, lambda watts: abs(watts - 2000) > 500)


async def test_a_setpoint_that_nobody_renews_ends_in_the_device() -> None:
    async with gateway_side(fallback_export_w=0) as (_, devices):
        battery = devices[BATTERY]
        await battery.look()
        await battery.apply(order(-3000, -3000, lease_s=6.0))
        await measured_until(battery, lambda watts: abs(watts + 3000) <= 100, within_s=5.5)
        # Nobody renews and nobody calls end_leases: as if the gateway were gone.
        await measured_until(battery, lambda watts: abs(watts) <= 100)


async def test_a_curtailed_inverter_reverts_to_its_share_when_we_fall_silent() -> None:
    async with gateway_side(fallback_export_w=1500) as (_, devices):
        pv = devices[PV]
        full_w = await measured_until(pv, lambda watts: watts < -2500)
        await pv.apply(order(-500, None, lease_s=6.0))
        await measured_until(pv, lambda watts: -520 <= watts <= -450, within_s=5.5)
        await measured_until(pv, lambda watts: -1550 <= watts <= -1400)
        await pv.release()
        await measured_until(pv, lambda watts: watts < full_w // 2)


async def test_registers_of_the_meter_move_with_its_power() -> None:
    async with gateway_side() as (_, devices):
        meter = devices[METER]
        first = await meter.look()
        async with asyncio.timeout(30):
            while True:
                last = await meter.look()
                moved = (
                    (last.import_register_milliwatt_hours or 0) - (first.import_register_milliwatt_hours or 0),
                    (last.export_register_milliwatt_hours or 0) - (first.export_register_milliwatt_hours or 0),
                )
                if any(moved):
                    break
                await asyncio.sleep(0.2)
        assert min(moved) >= 0
