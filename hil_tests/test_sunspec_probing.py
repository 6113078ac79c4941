"""Probing revert timers on simulated inverters over real Modbus: what works is told, what was there is put back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest

from drivers.device import DeviceKind
from drivers.sunspec import probing
from drivers.sunspec.errors import NoAnswerError, WrongDeviceError
from drivers.sunspec.probing import ProbeOutcome, ProbeReport, probe
from hil_tests.rig.site.habits import Habits, Timers
from hil_tests.rig.site.site import LineKind
from hil_tests.simulated_inverter import LINES, Simulated, simulated

PV, BATTERY = DeviceKind.PV, DeviceKind.BATTERY


@pytest.fixture(autouse=True)
def punctual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated timers are: nobody waits for late ones."""
    monkeypatch.setattr(probing, "LATE_S", 1.0)


async def probed(inverter: Simulated, revert_s: int = 2, put_back_s: float = 20.0) -> ProbeReport:
    steps: list[str] = []
    report = await probe(
        inverter.unit(), inverter.kind, progress=steps.append, revert_s=revert_s, put_back_s=put_back_s
    )
    assert len(steps) >= len(report.functions)
    return report


def outcomes(report: ProbeReport) -> dict[int, ProbeOutcome]:
    """By model; of 704, the last one."""
    return {one.model: one.outcome for one in report.functions}


@pytest.mark.parametrize("line", LINES)
async def test_timers_that_run_are_found_to_work_and_everything_is_put_back(line: LineKind) -> None:
    async with simulated(PV, line=line) as inverter:
        before = inverter.still()
        report = await probed(inverter)
        assert outcomes(report) == {704: ProbeOutcome.WORKS, 123: ProbeOutcome.WORKS}
        assert all(one.reverted_after_s is not None and 1 <= one.reverted_after_s <= 4 for one in report.functions)
        assert report.is_as_found
        assert inverter.still() == before


async def test_every_function_of_a_battery_is_probed_without_moving_its_power() -> None:
    async with simulated(BATTERY) as inverter:
        before = inverter.still()
        powers: list[float] = []
        task = asyncio.create_task(probed(inverter))
        while not task.done():
            powers.append(inverter.power_w)
            await asyncio.wait({task}, timeout=0.05)
        report = task.result()
        found = {one.name: one.outcome for one in report.functions}
        assert found == {
            "active power limit (704)": ProbeOutcome.WORKS,
            "active power limit (123)": ProbeOutcome.NOT_THERE,
            "active power setpoint (704)": ProbeOutcome.WORKS,
            "storage charge and discharge limits (124)": ProbeOutcome.WORKS,
        }
        assert max(powers) - min(powers) <= 80, "a gentle order is not noticed"
        assert inverter.still() == before


@pytest.mark.parametrize("timers", [Timers.FORGOTTEN, Timers.STUCK])
async def test_a_timer_that_does_nothing_is_found_out(timers: Timers) -> None:
    async with simulated(PV, Habits(timers=timers)) as inverter:
        before = inverter.still()
        report = await probed(inverter, revert_s=1)
        assert outcomes(report) == {704: ProbeOutcome.IGNORED, 123: ProbeOutcome.IGNORED}
        assert all("no device-side dead man" in one.detail for one in report.functions)
        assert report.is_as_found
        assert inverter.still() == before


async def test_a_timer_that_is_not_implemented_is_not_there_and_nothing_is_written() -> None:
    habits = Habits(lacks=frozenset({(704, "WMaxLimPctRvrtTms"), (123, "WMaxLimPct_RvrtTms")}))
    async with simulated(PV, habits) as inverter:
        report = await probed(inverter)
        assert outcomes(report) == {704: ProbeOutcome.NOT_THERE, 123: ProbeOutcome.NOT_THERE}
        assert inverter.written == []


async def test_a_device_that_takes_no_write_at_all_refuses() -> None:
    async with simulated(PV, Habits(refuses=frozenset({6, 16}))) as inverter:
        report = await probed(inverter)
        assert outcomes(report) == {704: ProbeOutcome.REFUSED, 123: ProbeOutcome.REFUSED}
        assert report.is_as_found


async def test_a_limit_that_is_in_force_is_not_touched() -> None:
    async with simulated(PV) as inverter:
        inverter.put(704, WMaxLimPctEna=1, WMaxLimPct=7000)
        report = await probed(inverter)
        assert outcomes(report) == {704: ProbeOutcome.NOT_TESTED, 123: ProbeOutcome.WORKS}
        assert not any(address in inverter.registers_of((704, "WMaxLimPctEna")) for address, _ in inverter.written)


async def test_a_probe_that_is_cancelled_puts_everything_back_first() -> None:
    async with simulated(PV, Habits(timers=Timers.STUCK)) as inverter:
        before = inverter.still()
        task = asyncio.create_task(probed(inverter, revert_s=60))
        async with asyncio.timeout(20):
            while inverter.raw(704, "WMaxLimPctEna") != 1:  # noqa: ASYNC110 - the device's own state
                await asyncio.sleep(0.01)
        task.cancel()
        task.cancel()  # a person presses the key twice
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inverter.still() == before


async def test_a_device_that_vanishes_in_the_middle_gets_back_what_was_found_when_it_returns() -> None:
    async with simulated(PV, Habits(timers=Timers.STUCK)) as inverter:
        before = inverter.still()
        assert inverter.server is not None
        task = asyncio.create_task(probed(inverter, revert_s=1))
        async with asyncio.timeout(20):
            while inverter.raw(704, "WMaxLimPctEna") != 1:  # noqa: ASYNC110 - the device's own state
                await asyncio.sleep(0.01)
        inverter.server.drop(4)
        report = await task
        assert report.functions[0].outcome is ProbeOutcome.UNFINISHED
        assert report.is_as_found
        assert inverter.still() == before


async def test_a_device_that_stays_away_is_reported_as_not_put_back() -> None:
    async with simulated(PV, Habits(timers=Timers.STUCK)) as inverter:
        assert inverter.server is not None
        task = asyncio.create_task(probed(inverter, revert_s=1, put_back_s=1.0))
        async with asyncio.timeout(20):
            while inverter.raw(704, "WMaxLimPctEna") != 1:  # noqa: ASYNC110 - the device's own state
                await asyncio.sleep(0.01)
        inverter.server.drop(3600)
        report = await task
        assert not report.is_as_found
        assert any("was NOT put back" in line for line in report.lines())
        assert report.lines()[-1].strip() == "NOT EVERYTHING IS AS IT WAS FOUND"


async def test_a_report_is_read_by_people_and_by_programs() -> None:
    async with simulated(PV) as inverter:
        report = await probed(inverter)
        assert "active power limit (704): works; the order ended by itself" in report.lines()[1]
        assert report.lines()[-1].strip() == "everything is as it was found"
        plain = json.loads(json.dumps(asdict(report)))
        assert plain["functions"][0]["outcome"] == "works"


async def test_what_is_not_there_or_not_of_this_kind_is_an_error_and_no_report() -> None:
    async with simulated(PV) as inverter:
        with pytest.raises(WrongDeviceError, match="cannot be a meter"):
            await probe(inverter.unit(), DeviceKind.METER, progress=lambda _: None)
        assert inverter.server is not None
        inverter.server.drop(3600)
        with pytest.raises(NoAnswerError):
            await probed(inverter)
        assert inverter.written == []
