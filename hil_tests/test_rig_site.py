"""The simulated site keeps its promises: exact energy, honest SunSpec registers, controls that physics obeys."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient
from sunspec2.modbus import client as pysunspec

from hil_tests.rig.site.inverters import BatteryDevice, PvDevice
from hil_tests.rig.site.meter import MeterDevice
from hil_tests.rig.site.modbus import answer
from hil_tests.rig.site.registers import Refusal, RegisterMap, RegisterRefusedError
from hil_tests.rig.site.site import BATTERY, METER, PV, Site, SiteSettings
from hil_tests.rig.site.world import PlantSettings, World

STEP_US = 100_000
ROOT = Path(__file__).resolve().parent.parent


class Bench:
    """A world with its SunSpec devices on a clock that the test turns."""

    def __init__(self, settings: PlantSettings | None = None) -> None:
        self.now_us = 0
        self.world = World(settings or PlantSettings(), start_s=0.0)
        grid, clock = self.world.grid, self.clock
        self.pv = PvDevice(self.world.pv, grid, serial="P", monotonic_s=clock)
        self.battery = BatteryDevice(self.world.battery, grid, serial="B", monotonic_s=clock)
        self.meter = MeterDevice(grid, largest_w=60_000, serial="M", monotonic_s=clock)

    def clock(self) -> float:
        return self.now_us / 1e6

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1e6 / STEP_US)):
            self.now_us += STEP_US
            for device in (self.pv, self.battery, self.meter):
                device.before_step(self.clock())
            self.world.step(STEP_US)
            for device in (self.pv, self.battery, self.meter):
                device.after_step()


def write(device: PvDevice | BatteryDevice, model: int, first: str, words: list[int]) -> None:
    device.write(device.registers.points[model, first].address, words)


def test_registers_of_all_parts_sum_to_the_grid_meter_exactly() -> None:
    world = World(PlantSettings(), start_s=0.0)
    world.v2g.contactor_closed = world.plain.contactor_closed = True
    parts = (world.pv, world.battery, *world.evses)

    def net_of_parts() -> int:
        registers = [part.energy for part in parts] + [world.house_energy]
        return sum(r.import_milliwatt_microseconds - r.export_milliwatt_microseconds for r in registers)

    def net_of_grid() -> int:
        return world.grid.energy.import_milliwatt_microseconds - world.grid.energy.export_milliwatt_microseconds

    before = net_of_parts(), net_of_grid()
    for step in range(3_000):
        if step == 1_000:
            world.v2g.limit_w = -11_000.0
        world.step(77_777 + step)
        assert sum(world.grid.phase_power_milliwatts) == world.grid.power_milliwatts
    assert net_of_parts() - before[0] == net_of_grid() - before[1]


def test_same_seed_gives_the_same_site_and_another_seed_another() -> None:
    def story(seed: int) -> list[int]:
        world = World(PlantSettings(seed=seed), start_s=0.0)
        powers = []
        for _ in range(600):
            world.step(STEP_US)
            powers.append(round(world.house.power_w * 1000))
        return powers

    assert story(1) == story(1) != story(2)


@given(
    limits=st.lists(st.one_of(st.none(), st.floats(-20_000, 20_000)), min_size=1, max_size=8),
    battery_soc=st.floats(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_battery_left_to_itself_never_causes_export(limits: list[float | None], battery_soc: float) -> None:
    world = World(PlantSettings(battery_soc_percent=battery_soc), start_s=0.0)
    world.v2g.contactor_closed = world.plain.contactor_closed = True
    for limit in limits:
        world.v2g.limit_w = world.plain.limit_w = limit
        for _ in range(20):
            world.step(STEP_US)
            # Beyond what others already export it adds nothing (half a watt: rounding to milliwatts).
            assert world.battery.power_w >= -0.0 or world.grid.power_w > -0.5


def test_ac_charger_stops_below_six_amperes_and_a_dc_charger_does_not() -> None:
    world = World(PlantSettings(), start_s=0.0)
    world.v2g.contactor_closed = world.plain.contactor_closed = True
    world.v2g.limit_w = world.plain.limit_w = 4_000.0
    for _ in range(50):
        world.step(STEP_US)
    assert (world.plain.power_w, world.v2g.power_w) == (0.0, 4_000.0)


def test_car_at_its_minimum_charge_does_not_discharge() -> None:
    world = World(PlantSettings(v2g_soc_percent=20), start_s=0.0)
    world.v2g.contactor_closed = True
    world.v2g.limit_w = -5_000.0
    world.step(STEP_US)
    assert world.v2g.power_w == 0.0


def test_islanded_site_passes_nothing_and_sheds_cars_first() -> None:
    world = World(PlantSettings(), start_s=0.0)
    world.v2g.contactor_closed = world.plain.contactor_closed = True
    world.grid.islanded = True
    for _ in range(100):
        world.step(STEP_US)
    assert world.grid.power_milliwatts == 0
    assert (world.v2g.power_w, world.plain.power_w) == (0.0, 0.0)
    assert world.house.power_w > 500


def test_pv_limit_704_is_obeyed_and_falls_to_its_reversion_target() -> None:
    bench = Bench()
    bench.run(10)
    # Registers 14 to 19: on, 25 %, revert to 50 %, enabled after reversion, 20 s.
    write(bench.pv, 704, "WMaxLimPctEna", [1, 2500, 5000, 1, 0, 20])
    bench.run(5)
    assert bench.pv.registers.scaled(701, "W") == pytest.approx(2000, abs=5)
    assert bench.pv.registers.raw(704, "WMaxLimPctRvrtRem") == 15
    assert bench.pv.registers.raw(103, "St") == 5
    bench.run(20)
    assert bench.pv.registers.scaled(704, "WMaxLimPct") == 50
    assert -bench.world.pv.power_w == pytest.approx(4000, abs=5)


def test_reversion_timer_is_only_renewed_by_writing_the_enable_register() -> None:
    bench = Bench()
    write(bench.pv, 704, "WMaxLimPctEna", [1, 0, 10_000, 0, 0, 10])
    bench.run(8)
    write(bench.pv, 704, "WMaxLimPct", [0])
    bench.run(3)
    assert bench.pv.registers.raw(704, "WMaxLimPctEna") == 0
    write(bench.pv, 704, "WMaxLimPctEna", [1, 0, 10_000, 0, 0, 10])
    bench.run(8)
    write(bench.pv, 704, "WMaxLimPctEna", [1])
    bench.run(8)
    assert bench.pv.registers.raw(704, "WMaxLimPctEna") == 1


def test_meter_shows_the_sum_and_its_phases_whatever_the_scale_factor() -> None:
    for factor in (1, 10):
        bench = Bench(PlantSettings().scaled(factor))
        bench.world.v2g.contactor_closed = bench.world.plain.contactor_closed = True
        bench.world.sun = lambda _: 0.0
        write(bench.battery, 703, "ES", [0])
        bench.run(10)
        shown, unit_w = bench.meter.registers.scaled, 10 ** bench.meter.registers.raw(203, "W_SF")
        assert unit_w == factor
        assert shown(203, "W") == pytest.approx(22_000 * factor + bench.world.house.power_w, abs=unit_w)
        phases_w = [shown(203, name) for name in ("WphA", "WphB", "WphC")]
        assert sum(phases_w) == pytest.approx(shown(203, "W"), abs=2 * unit_w)


def test_pv_limit_123_reverts_to_uncurtailed() -> None:
    bench = Bench()
    write(bench.pv, 123, "WMaxLimPct", [100, 0xFFFF, 5, 0xFFFF, 1])
    bench.run(4.5)
    assert -bench.world.pv.power_w == pytest.approx(800, abs=5)
    bench.run(10)
    assert -bench.world.pv.power_w > 4000
    assert bench.pv.registers.raw(123, "WMaxLim_Ena") == 0


@pytest.mark.parametrize(("words", "power_w"), [([1, 1, 0, 4000], -4000.0), ([1, 1, 0xFFFF, 0xF448], 3000.0)])
def test_battery_setpoint_in_watts_turns_the_sign_of_generation(words: list[int], power_w: float) -> None:
    bench = Bench()
    write(bench.battery, 704, "WSetEna", words)
    bench.run(6)
    assert bench.world.battery.power_w == power_w


def test_battery_setpoint_in_percent_lapses_into_self_consumption() -> None:
    bench = Bench()
    write(bench.battery, 704, "WSetEna", [1, 0, 0, 0, 0, 0, 5000, 0, 0, 0, 15])
    bench.run(10)
    assert bench.world.battery.power_w == -5000.0
    assert bench.world.grid.power_w < -5000
    bench.run(10)
    assert bench.world.grid.power_w == pytest.approx(0, abs=1)


def test_storage_model_124_bounds_and_forces() -> None:
    bench = Bench()
    # Forced discharge at 30 %: charge bound -30 %, discharge bound 30 %.
    points = bench.battery.registers.points
    write(bench.battery, 124, "OutWRte", [3000, (-3000) & 0xFFFF])
    write(bench.battery, 124, "StorCtl_Mod", [3])
    assert points[124, "InWRte"].address == points[124, "OutWRte"].address + 1
    bench.run(6)
    assert bench.world.battery.power_w == -3000.0
    write(bench.battery, 124, "OutWRte", [0, 0])
    bench.run(6)
    assert bench.world.battery.power_w == 0.0


def test_battery_registers_follow_charge_and_discharge() -> None:
    bench = Bench()
    before = bench.battery.registers.raw(701, "TotWhInj")
    write(bench.battery, 704, "WSetEna", [1, 1, 0, 10_000])
    bench.run(63)
    moved_milliwatt_hours = bench.battery.registers.raw(701, "TotWhInj") - before
    assert moved_milliwatt_hours == pytest.approx(10_000 * 1000 * 61.5 / 3600, rel=0.01)
    assert bench.battery.registers.scaled(713, "SoC") < 58.5


def test_read_only_and_partly_written_registers_are_refused_and_nothing_changes() -> None:
    bench = Bench()
    before = bench.pv.read(40000, 480)
    with pytest.raises(RegisterRefusedError) as read_only:
        write(bench.pv, 701, "W", [1])
    # The last of these registers is the read-only remaining time: none of them may change.
    with pytest.raises(RegisterRefusedError) as mixed:
        write(bench.pv, 704, "WMaxLimPctEna", [1, 0, 0, 0, 0, 5, 0, 0])
    with pytest.raises(RegisterRefusedError) as in_part:
        write(bench.pv, 704, "WMaxLimPctRvrtTms", [1])
    with pytest.raises(RegisterRefusedError) as too_much:
        write(bench.pv, 704, "WMaxLimPct", [10_001])
    with pytest.raises(RegisterRefusedError) as no_symbol:
        write(bench.pv, 704, "WMaxLimPctEna", [2])
    codes = [refused.value.code for refused in (read_only, mixed, in_part, too_much, no_symbol)]
    assert codes == [Refusal.ILLEGAL_ADDRESS] * 2 + [Refusal.ILLEGAL_VALUE] * 3
    assert bench.pv.read(40000, 480) == before


def test_unimplemented_points_hold_their_sentinels_and_ignore_writes() -> None:
    registers = RegisterMap()
    registers.add_model(123)
    address = registers.points[123, "WMaxLimPct_WinTms"].address
    assert registers.read(address, 1) == [0xFFFF]
    assert registers.write(address, [7]) == frozenset()
    assert registers.read(address, 1) == [0xFFFF]
    assert registers.read(registers.points[123, "WMaxLimPct_SF"].address, 1) == [0x8000]


METER_DEVICE = Bench().meter


@given(st.binary(max_size=300))
def test_any_request_gets_an_answer_or_an_exception_code(request_pdu: bytes) -> None:
    response = answer(METER_DEVICE, request_pdu)
    assert 2 <= len(response) <= 253


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site(SiteSettings(plant=PlantSettings(ramp_s=0.3))) as running:
        yield running


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


async def test_pysunspec2_finds_the_models_and_reads_what_the_world_says(site: Site) -> None:
    await until(lambda: site.world.pv.power_w < -4000, "PV produces")

    def scan(name: str) -> Any:
        port = site.servers[name].port
        device = pysunspec.SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=2)
        device.scan()
        device.disconnect()
        return device

    scanned = {}
    for name, expected in ((PV, PvDevice.MODELS), (BATTERY, BatteryDevice.MODELS), (METER, MeterDevice.MODELS)):
        scanned[name] = await asyncio.to_thread(scan, name)
        assert tuple(key for key in scanned[name].models if isinstance(key, int)) == expected
        assert scanned[name].common[0].Mn.cvalue == "Rig Works"
    pv, battery, meter = scanned[PV], scanned[BATTERY], scanned[METER]
    assert pv.DERMeasureAC[0].W.cvalue == pytest.approx(-site.world.pv.power_w, abs=300)
    assert pv.inverter_three_phase[0].W.cvalue == pytest.approx(-site.world.pv.power_w, abs=300)
    assert pv.inverter_three_phase[0].Hz.cvalue == pytest.approx(50, abs=0.1)
    assert pv.mppt[0].module[1].DCV.cvalue == 590.0
    assert pv.nameplate[0].WRtg.cvalue == 8000
    assert battery.DERStorageCapacity[0].SoC.cvalue == pytest.approx(60, abs=0.5)
    assert battery.DERCtlAC[0].WSetEna.cvalue == 0
    imported_wh = meter.ac_meter_abcn[0].TotWhImp.cvalue
    assert imported_wh == pytest.approx(site.world.grid.energy.import_milliwatt_hours / 1000, abs=5)


async def test_modbus_answers_exceptions_and_refuses_another_unit(site: Site) -> None:
    client = AsyncModbusTcpClient("127.0.0.1", port=site.servers[PV].port, retries=0, timeout=2)
    assert await client.connect()
    try:
        marker = await client.read_holding_registers(40000, count=2, device_id=1)
        assert marker.registers == [0x5375, 0x6E53]
        outside = await client.read_holding_registers(100, count=2, device_id=1)
        assert outside.exception_code == 2
        stranger = await client.read_holding_registers(40000, count=2, device_id=9)
        assert stranger.exception_code == 11
        refused = await client.write_register(40000, 1, device_id=1)
        assert refused.exception_code == 2
        limit = site.pv.registers.points[704, "WMaxLimPctEna"].address
        assert not (await client.write_registers(limit, [1, 0, 10_000, 0, 0, 60], device_id=1)).isError()
        await until(lambda: site.world.pv.power_w == 0.0, "PV curtailed to nothing")
    finally:
        client.close()


async def test_dropped_device_resets_connections_and_comes_back(site: Site) -> None:
    server = site.servers[METER]
    reader, _ = await asyncio.open_connection("127.0.0.1", server.port)
    server.drop(30.0)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    reader, _ = await asyncio.open_connection("127.0.0.1", server.port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    server.dropped.end()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(bytes.fromhex("000700000006 01 03 9c40 0002"))
    assert await reader.readexactly(13) == bytes.fromhex("000700000007 01 03 04 53756e53")
    writer.close()


async def test_silent_device_keeps_its_connection_and_says_nothing(site: Site) -> None:
    server = site.servers[METER]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    server.silent.begin(30.0)
    writer.write(bytes.fromhex("000100000006 01 03 9c40 0002"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.readexactly(1)
    server.silent.end()
    writer.write(bytes.fromhex("000200000006 01 03 9c40 0002"))
    assert (await reader.readexactly(13))[:2] == b"\x00\x02"
    writer.close()


async def test_speed_makes_physics_run_faster_than_the_clock() -> None:
    async with Site(SiteSettings(speed=50.0)) as site:
        started_s = time.monotonic()
        await until(lambda: site.world.elapsed_us > 20e6, "20 s of physics")
        assert time.monotonic() - started_s < site.world.elapsed_us / 1e6
        moved = site.world.house_energy.import_milliwatt_hours
        assert moved > 0.6 * 1000 * 20 / 3.6


async def test_process_says_ready_obeys_orders_and_leaves_the_truth(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hil_tests.rig.site", "--csms", "none", "--truth", str(truth), "--end-with-stdin"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
            assert ready["ready"] is True
            assert ready["pv"].startswith("tcp://127.0.0.1:")
            for order, answered in (
                (b'{"do":"frequency","hertz":49.7}', {"done": "frequency"}),
                (b'{"do":"drop"}', "device"),
                (b'{"do":"fly"}', "unknown order"),
                (b"[1,", "not JSON"),
                (b"[1]", '"do"'),
            ):
                process.stdin.write(order + b"\n")
                line = json.loads(await process.stdout.readline())
                assert line == answered if isinstance(answered, dict) else answered in line["error"]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert lines
    assert set(lines[-1]["devices"]) == {"meter-1", "pv-1", "battery-1", "charger-1", "charger-2"}
    assert {"power_w", "import_milliwatt_hours", "export_milliwatt_hours"} <= set(lines[-1]["devices"]["pv-1"])
    assert isinstance(lines[-1]["t"], float)
