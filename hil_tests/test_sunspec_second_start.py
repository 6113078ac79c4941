"""A gateway that starts again knows its devices, over Modbus TCP: they are verified, and exchanged ones noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from drivers.device import DeviceKind, LinkState, Sample
from drivers.sunspec import SunSpecDevice, SunSpecError, contact, pace
from hil_tests.rig.site.habits import Habits
from hil_tests.simulated_inverter import Simulated, order, simulated
from tests.drivers.sunspec.fakes import MemoryJournal

PV, BATTERY = DeviceKind.PV, DeviceKind.BATTERY
HOLES = Habits(
    hidden=frozenset(
        {
            *((103, name) for name in ("PF", "DCA", "TmpSnk", "Evt1")),
            *((701, name) for name in ("Alrm", "TmpCab", "VL2", "MnAlrmInfo")),
            *((160, f"module.{index}.{name}") for index in (0, 1) for name in ("Tmp", "DCSt", "DCA")),
            (122, "StSetLimMsk"),
        }
    )
)


@pytest.fixture(autouse=True)
def everything_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "SLOW_PERIOD_S", 0.0)


async def started(inverter: Simulated, journal: MemoryJournal) -> tuple[SunSpecDevice, int]:
    """A driver after its first look, and the requests that it took."""
    assert inverter.server is not None
    before = inverter.server.requests
    driver = inverter.driver(journal)
    await driver.look()
    took = inverter.server.requests - before
    await driver.look()
    return driver, took


async def looked(driver: SunSpecDevice) -> Sample | None:
    """None: the connection turned out to be lost."""
    try:
        return await driver.look()
    except SunSpecError:
        await asyncio.sleep(0.1)
        return None


async def looked_until(driver: SunSpecDevice, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await looked(driver)


@pytest.mark.parametrize(
    ("kind", "habits", "at_most"),
    [(PV, Habits(), 0.8), (BATTERY, Habits(), 0.8), (PV, HOLES, 0.5)],
    ids=["pv", "battery", "with holes"],
)
async def test_a_second_start_makes_fewer_requests_and_far_fewer_where_there_was_much_to_learn(
    kind: DeviceKind, habits: Habits, at_most: float
) -> None:
    async with simulated(kind, habits) as inverter:
        journal = MemoryJournal()
        first, took = await started(inverter, journal)
        second, took_again = await started(inverter, journal)
        assert took_again <= took * at_most, f"{took} requests, then {took_again}"
        assert second.description == first.description
        assert second.status().link is LinkState.ONLINE
        assert inverter.written == []


async def test_the_pace_that_a_device_needs_is_found_and_kept() -> None:
    async with simulated(PV, Habits(deaf_after_answer_s=0.03)) as inverter:
        assert inverter.server is not None
        journal = MemoryJournal()
        driver = inverter.driver(journal)
        async with asyncio.timeout(60):
            while inverter.pools[-1].connection(inverter.address).pace.learned_s != 0.05:
                await looked(driver)
        async with asyncio.timeout(20):
            while not any(b'"gap_s":0.05' in kept for kept in journal.kept.values()):
                await looked(driver)
        lost = inverter.server.unheard
        for _ in range(10):
            assert await looked(driver) is not None
        assert inverter.server.unheard == lost, "no request is lost any more"
        await started(inverter, journal)
        assert inverter.server.unheard <= lost + 1, "nor at the next start"


async def test_a_pause_that_is_needed_no_more_goes_again_and_one_that_is_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "LONG_RUN", 10)
    monkeypatch.setattr(pace, "TRIAL", 10)
    async with simulated(PV, Habits(deaf_after_answer_s=0.03)) as inverter:
        assert inverter.server is not None
        driver = inverter.driver()
        await looked(driver)
        learned = inverter.pools[-1].connection(inverter.address).pace
        learned.known(0.05)
        await looked_until(driver, lambda: learned.is_on_trial)
        await looked_until(driver, lambda: not learned.is_on_trial)
        assert learned.gap_s == learned.learned_s == 0.05, "it does not hear a request after 20 ms"
        inverter.server.deaf_s = 0.0
        await looked_until(driver, lambda: learned.learned_s is None)
        assert learned.gap_s == 0.0


async def test_an_inverter_exchanged_between_two_starts_is_noticed_and_starts_a_new_epoch() -> None:
    journal = MemoryJournal()
    async with simulated(PV, serial="OLD-1") as old:
        driver, _ = await started(old, journal)
        await driver.apply(order(-1000, None))
        meter_id = (await driver.look()).meter_id
        assert old.server is not None
        port = old.server.port
    async with simulated(PV, serial="NEW-2", port=port) as new:
        before = new.still()
        driver, _ = await started(new, journal)
        assert (await driver.look()).meter_id != meter_id
        assert f"took the place of {meter_id}" in driver.status().detail
        assert driver.status().setpoint is None
        await driver.release()
        assert new.written == []
        assert new.still() == before


async def test_an_inverter_exchanged_while_the_gateway_runs_is_noticed_too() -> None:
    journal = MemoryJournal()
    async with simulated(PV, serial="OLD-1") as old:
        driver, _ = await started(old, journal)
        await driver.apply(order(-1000, None))
        meter_id = (await driver.look()).meter_id
        assert old.server is not None
        port = old.server.port
        await old.server.stop()
        async with simulated(BATTERY, serial="NEW-2", port=port) as new:
            await started(new, MemoryJournal())  # it is up
            async with asyncio.timeout(20):
                while (sample := await looked(driver)) is None:
                    pass
            assert sample.meter_id != meter_id
            assert f"took the place of {meter_id}" in driver.status().detail
            assert driver.status().setpoint is None
            assert new.written == []
