"""Inverters with the habits of real ones, over real Modbus: a trap of control ends in obedience or in plain words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from drivers.device import DeadMan, DeviceKind, DeviceRefusedError, DeviceUnreachableError
from drivers.sunspec import SunSpecDevice, contact, held
from drivers.sunspec import device as device_module
from hil_tests.rig.site.habits import Habits, PointKey, Timers
from hil_tests.rig.site.site import LineKind
from hil_tests.simulated_inverter import LINES, Simulated, order, simulated
from tests.drivers.sunspec.fakes import MemoryJournal

PV, BATTERY = DeviceKind.PV, DeviceKind.BATTERY
NO_704_LIMIT: frozenset[PointKey] = frozenset({(704, "WMaxLimPctEna")})
NO_DEAD_MAN = "no device-side dead man: without the gateway it holds the last order"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated devices are punctual: what waits for slow ones waits shortly."""
    monkeypatch.setattr(held, "COUNTS_WITHIN_S", 2.2)
    monkeypatch.setattr(device_module, "REVERSION_GRACE_S", 1.2)
    monkeypatch.setattr(contact, "SLOW_PERIOD_S", 0.0)


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - the condition is somebody else's state
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what) from None


async def obeyed(inverter: Simulated, wanted_w: float) -> None:
    await until(lambda: abs(inverter.power_w - wanted_w) <= 100, f"it stays at {inverter.power_w} W")


def dead_man(driver: SunSpecDevice) -> DeadMan:
    found = driver.status().capabilities
    assert found is not None
    assert (NO_DEAD_MAN in found.notes) == (found.dead_man is DeadMan.NONE)
    return found.dead_man


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("kind", "habits", "band", "wanted_w"),
    [
        (BATTERY, Habits(lacks=frozenset({(704, "WSet")})), (-2500, -2500), -2500),
        (BATTERY, Habits(ignores=frozenset({(704, "WSet")})), (2500, 2500), 2500),
        (PV, Habits(acts_on_switch_alone=True), (-2000, None), -2000),
        (PV, Habits(acts_on_switch_alone=True, lacks=NO_704_LIMIT), (-2000, None), -2000),
        (PV, Habits(refuses=frozenset({6})), (-2000, None), -2000),
        (PV, Habits(refuses=frozenset({16}), takes_halves=True), (-2000, None), -2000),
        (PV, Habits(timers=Timers.STUCK), (0, 0), 0),
    ],
    ids=["percent only", "watts ignored", "switch alone", "switch alone, 123", "16 only", "6 only", "stuck timer"],
)
async def test_a_device_with_a_habit_obeys_nevertheless(
    line: LineKind, kind: DeviceKind, habits: Habits, band: tuple[int, int | None], wanted_w: int
) -> None:
    async with simulated(kind, habits, line=line) as inverter:
        before = inverter.still()
        driver = inverter.driver()
        await driver.look()
        assert inverter.written == [], "nothing is written at start"
        await driver.apply(order(*band))
        await obeyed(inverter, wanted_w)
        await driver.apply(order(*band))
        await obeyed(inverter, wanted_w)
        await driver.release()
        assert inverter.still() == before


async def test_a_setpoint_in_force_is_never_torn_by_single_writes() -> None:
    async with simulated(BATTERY, Habits(refuses=frozenset({16}), takes_halves=True)) as inverter:
        driver = inverter.driver()
        await driver.look()
        await driver.apply(order(-3000, -3000))
        generated: list[float | None] = []
        write = inverter.device.write

        def watched(address: int, words: list[int]) -> None:
            write(address, words)
            generated.append(inverter.device.setpoint704.generation_w(8000))  # type: ignore[union-attr] # a battery's

        inverter.device.write = watched  # type: ignore[method-assign] # to look between two writes
        await driver.apply(order(2500, 2500))
        assert generated[-1] == -2500
        assert all(watts is not None and -2500 <= watts <= 3000 for watts in generated), generated


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("lacks", [{(704, "WMaxLimPctRvrtTms")}, {*NO_704_LIMIT, (123, "WMaxLimPct_RvrtTms")}])
async def test_a_timer_that_is_not_implemented_is_no_dead_man(lacks: set[PointKey], line: LineKind) -> None:
    async with simulated(PV, Habits(lacks=frozenset(lacks)), line=line) as inverter:
        driver = inverter.driver(fallback_export_w=1500)
        await driver.look()
        assert dead_man(driver) is DeadMan.NONE
        await driver.apply(order(-1000, None))
        await obeyed(inverter, -1000)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("lacks", [frozenset(), NO_704_LIMIT])
async def test_a_timer_that_is_forgotten_is_no_dead_man_from_the_first_order_on(
    lacks: frozenset[PointKey], line: LineKind
) -> None:
    async with simulated(PV, Habits(timers=Timers.FORGOTTEN, lacks=lacks), line=line) as inverter:
        driver = inverter.driver(fallback_export_w=1500)
        await driver.look()
        assert dead_man(driver) is not DeadMan.NONE
        await driver.apply(order(-1000, None))
        assert dead_man(driver) is DeadMan.NONE


@pytest.mark.parametrize("timers", [Timers.RUN, Timers.STUCK])
async def test_whether_a_timer_counts_down_shows_at_a_renewal(timers: Timers) -> None:
    async with simulated(PV, Habits(timers=timers)) as inverter:
        driver = inverter.driver(fallback_export_w=1500)
        await driver.look()
        await driver.apply(order(-1000, None, lease_s=30))
        assert dead_man(driver) is DeadMan.REVERTS_TO_FALLBACK, "its register kept the time"
        due_s = time.monotonic() + 2.5
        await until(lambda: time.monotonic() > due_s, "time passes")
        await driver.apply(order(-1000, None, lease_s=30))
        assert dead_man(driver) is (DeadMan.NONE if timers is Timers.STUCK else DeadMan.REVERTS_TO_FALLBACK)


@pytest.mark.parametrize(
    ("timers", "lacks", "fallback", "then_w", "expected"),
    [
        (Timers.RUN, frozenset(), {"fallback_export_w": 1500}, -1500, DeadMan.REVERTS_TO_FALLBACK),
        (Timers.STUCK, frozenset(), {"fallback_export_w": 1500}, -1500, DeadMan.NONE),
        (Timers.STUCK, NO_704_LIMIT, {}, -6000, DeadMan.NONE),
        (Timers.RUN, NO_704_LIMIT, {}, -6000, DeadMan.REVERTS_UNLIMITED),
    ],
    ids=["704 runs", "704 ignored", "123 ignored", "123 runs"],
)
async def test_a_lease_ends_in_its_fallback_whatever_the_timer_does_and_that_is_learned(
    timers: Timers, lacks: frozenset[PointKey], fallback: dict[str, int], then_w: int, expected: DeadMan
) -> None:
    async with simulated(PV, Habits(timers=timers, lacks=lacks)) as inverter:
        journal = MemoryJournal()
        driver = inverter.driver(journal, **fallback)
        await driver.look()
        await driver.apply(order(-500, None, lease_s=1))
        await obeyed(inverter, -500)
        running = asyncio.create_task(driver.run(lambda _: None))
        await obeyed(inverter, then_w)
        await until(lambda: dead_man(driver) is expected, f"it counts on {dead_man(driver)}")
        await until(
            lambda: any(b"IGNORED" in kept or b"PROVEN" in kept for kept in journal.kept.values()), "nothing is kept"
        )
        running.cancel()
        await asyncio.wait([running])
        again = inverter.driver(journal, **fallback)
        await again.look()
        assert dead_man(again) is expected, "known at the next start"


@pytest.mark.parametrize("line", LINES)
async def test_a_value_that_the_device_clamps_is_a_refusal_and_is_given_back_in_time(line: LineKind) -> None:
    async with simulated(PV, Habits(clamps={(704, "WMaxLimPct"): (1000, 10_000)}), line=line) as inverter:
        before = inverter.still()
        driver = inverter.driver()
        await driver.look()
        with pytest.raises(DeviceRefusedError, match="WMaxLimPct holds 1000 instead of 0"):
            await driver.apply(order(0, 0, lease_s=1))
        assert driver.status().setpoint is None
        running = asyncio.create_task(driver.run(lambda _: None))
        await until(lambda: inverter.still() == before, "it keeps what nobody ordered")
        running.cancel()
        await asyncio.wait([running])


async def test_a_device_that_refuses_every_write_says_so_and_one_that_is_silent_is_not_taken_for_it() -> None:
    async with simulated(PV, Habits(refuses=frozenset({6, 16}))) as inverter:
        driver = inverter.driver()
        await driver.look()
        with pytest.raises(DeviceRefusedError, match="illegal function"):
            await driver.apply(order(-1000, None))
    async with simulated(PV) as inverter:
        assert inverter.server is not None
        driver = inverter.driver()
        await driver.look()
        inverter.server.silent.begin(3600)
        with pytest.raises(DeviceUnreachableError):
            await driver.apply(order(-1000, None))
        inverter.server.silent.end()
        running = asyncio.create_task(driver.run(lambda _: None))
        await until(lambda: driver.status().link.value == "online", "it is back")
        await driver.apply(order(-1000, None))
        assert len(inverter.written[0][1]) > 1, "still a run of registers: nothing was learned from silence"
        running.cancel()
        await asyncio.wait([running])


async def test_what_was_found_survives_restarts_in_the_middle_of_orders() -> None:
    async with simulated(PV) as inverter:
        inverter.put(704, WMaxLimPctEna=1, WMaxLimPct=7000)
        before, journal = inverter.still(), MemoryJournal()
        for _ in range(3):
            driver = inverter.driver(journal)
            written = len(inverter.written)
            await driver.look()
            assert len(inverter.written) == written, "nothing is written at start"
            await driver.apply(order(-1000, None))
        await driver.release()
        assert inverter.still() == before


@pytest.mark.parametrize("kind", [PV, BATTERY])
async def test_a_disconnected_device_stops_and_comes_back_only_by_who_disconnected_it(kind: DeviceKind) -> None:
    async with simulated(kind) as inverter:
        before, journal = inverter.still(), MemoryJournal()
        driver = inverter.driver(journal)
        await driver.look()
        await until(lambda: abs(inverter.power_w) > 500, "it works")
        await driver.disconnect("test")
        await obeyed(inverter, 0)
        again = inverter.driver(journal)
        await again.look()
        assert again.is_disconnected_by_us
        await again.connect()
        await until(lambda: abs(inverter.power_w) > 500, "it works again")
        assert inverter.still() == before
        with pytest.raises(DeviceRefusedError, match="not the gateway"):
            await again.connect()
