"""The rig's devices on TCP, on one serial line and behind a converter: measured, controlled, pulled out, exchanged."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.device import DeviceKind, LinkState, Sample, Setpoint
from drivers.sunspec import ConnectionPool, SunSpecDevice, discover
from drivers.sunspec.connection import SILENCES_BEFORE_RECONNECT
from hil_tests.rig.site.site import BATTERY, METER, PV, LineKind, Site, SiteSettings
from tests.drivers.sunspec.fakes import MemoryJournal

KINDS = {METER: DeviceKind.METER, PV: DeviceKind.PV, BATTERY: DeviceKind.BATTERY}
LINES: tuple[LineKind, ...] = ("tcp", "rtu", "rtutcp")
ROOT = Path(__file__).resolve().parent.parent


@asynccontextmanager
async def site_with(line: LineKind) -> AsyncIterator[tuple[Site, dict[str, SunSpecDevice]]]:
    pool = ConnectionPool(time.monotonic)
    async with Site(SiteSettings(line=line)) as site:
        try:
            yield site, {name: driver(site, name, pool) for name in site.addresses}
        finally:
            pool.close()


def driver(site: Site, name: str, pool: ConnectionPool) -> SunSpecDevice:
    return SunSpecDevice(
        name,
        KINDS[name],
        site.addresses[name],
        site.units[name],
        period_s=0.2,
        timeout_s=0.5,
        connections=pool,
        monotonic_s=time.monotonic,
        journal=MemoryJournal(),
    )


@asynccontextmanager
async def running(*devices: SunSpecDevice) -> AsyncIterator[dict[str, list[Sample]]]:
    samples: dict[str, list[Sample]] = {device.device_id: [] for device in devices}
    tasks = [asyncio.create_task(device.run(samples[device.device_id].append)) for device in devices]
    try:
        yield samples
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
            await asyncio.sleep(0.01)


def order(lowest_w: int | None, highest_w: int | None) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=60, reason="test")


@pytest.mark.parametrize("line", LINES)
async def test_a_site_on_any_line_is_discovered_measured_and_controlled(line: LineKind) -> None:
    async with site_with(line) as (site, devices):
        assert all(address.startswith(f"{line}://") for address in site.addresses.values())
        async with running(*devices.values()) as samples:
            await until(lambda: all(len(seen) >= 3 for seen in samples.values()))
            assert {device.status().link for device in devices.values()} == {LinkState.ONLINE}
            battery, inverter = devices[BATTERY], devices[PV]
            await battery.apply(order(-2000, -2000))
            await inverter.apply(order(-700, None))
            await until(lambda: abs((samples[BATTERY][-1].power_w or 0) + 2000) <= 100)
            await until(lambda: -720 <= (samples[PV][-1].power_w or 0) <= 0)
            await battery.release()
            await inverter.release()
            await until(lambda: abs((samples[BATTERY][-1].power_w or 0) + 2000) > 300)


async def test_an_adapter_that_is_pulled_out_silences_its_devices_and_they_come_back_by_themselves() -> None:
    async with site_with("rtu") as (site, devices), running(*devices.values()) as samples:
        await until(lambda: all(samples.values()))
        assert site.pty is not None
        site.pty.unplug()
        await until(lambda: all(device.status().link is LinkState.SILENT for device in devices.values()))
        seen = {name: len(of_it) for name, of_it in samples.items()}
        site.pty.plug()
        await until(lambda: all(len(of_it) > seen[name] for name, of_it in samples.items()))


async def test_control_of_a_device_overtakes_the_polls_of_its_neighbours() -> None:
    async with site_with("rtu") as (site, devices):
        for device in devices.values():
            await device.look()

        async def polled(name: str) -> None:
            while True:
                await devices[name].look()

        # Far more polls than the line can carry: whoever queues behind them waits for all of them.
        tasks = [asyncio.create_task(polled(name)) for name in (METER, PV) for _ in range(20)]
        try:
            await until(lambda: len(site.bus.heard) > 200)
            before = len(site.bus.heard)
            await devices[BATTERY].apply(order(-2000, -2000))
            heard = site.bus.heard[before:]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    # One poll is on the line already, and one more is let in before each request of the order is made.
    between = heard[: len(heard) - heard[::-1].index(3)]
    assert between.count(3) >= 3
    assert len(between) - between.count(3) <= between.count(3) + 1


async def test_a_device_that_was_exchanged_on_an_open_line_is_not_taken_for_the_old_one() -> None:
    async with site_with("rtu") as (site, devices), running(devices[METER], devices[PV]) as samples:
        await until(lambda: all(samples[name] for name in (METER, PV)))
        old = samples[PV][-1].meter_id
        unit = site.line_units[PV]
        unit.silent.begin(60)
        await until(lambda: devices[PV].status().link is LinkState.SILENT)
        unit.requests.clear()
        unit.registers = Site(SiteSettings(plant=replace(site.settings.plant, seed=77))).pv
        await until(lambda: len(unit.requests) >= SILENCES_BEFORE_RECONNECT)
        unit.silent.end()
        seen = len(samples[PV])
        await until(lambda: len(samples[PV]) > seen)
        assert old not in {sample.meter_id for sample in samples[PV][seen:]}
        assert devices[METER].status().link is LinkState.ONLINE


async def test_the_site_as_a_process_has_its_devices_on_one_serial_line(tmp_path: Path) -> None:
    port = tmp_path / "ttyRIG0"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hil_tests.rig.site", "--csms", "none", "--end-with-stdin"),
        *("--line", "rtu", "--serial-port", str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
            assert ready["units"] == {METER: 1, PV: 2, BATTERY: 3}
            assert ready["pv"] == ready["meter"] == f"rtu://{port}?baudrate=115200"
            found = await discover(ready["battery"], ready["units"][BATTERY])
            assert found.likely_kind is DeviceKind.BATTERY
            for out in (b"true", b"false"):
                process.stdin.write(b'{"do":"pull","out":%b}\n' % out)
                assert json.loads(await process.stdout.readline()) == {"done": "pull"}
                assert port.exists() == (out == b"false")
            assert (await discover(ready["meter"], ready["units"][METER])).likely_kind is DeviceKind.METER
    finally:
        process.stdin.close()
        await process.wait()
