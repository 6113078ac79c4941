"""SAFETY 4 and 2, function by function, on simulated inverters over Modbus TCP, RTU, and RTU behind a converter.

No register outside a function's own set ever changes, in either way of writing, and what makes an order lapse is in the
device before the order is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from drivers.device import DeviceKind
from drivers.sunspec import SunSpecDevice
from hil_tests.rig.site.habits import Habits, PointKey
from hil_tests.rig.site.site import LineKind
from hil_tests.simulated_inverter import LINES, Simulated, order, simulated

Act = Callable[[SunSpecDevice], Awaitable[None]]


def band(lowest_w: int | None, highest_w: int | None) -> Act:
    async def act(device: SunSpecDevice) -> None:
        await device.apply(order(lowest_w, highest_w))

    return act


def disconnect(device: SunSpecDevice) -> Awaitable[None]:
    return device.disconnect("test")


def connect(device: SunSpecDevice) -> Awaitable[None]:
    return device.connect()


def release(device: SunSpecDevice) -> Awaitable[None]:
    return device.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One function, the device on which it is the one that is used, and what to do with it."""

    kind: DeviceKind
    model: int
    own: tuple[str, ...]
    first: tuple[str, ...]
    """Must be in the device before any of `then` is written, or with it in one request."""
    then: tuple[str, ...]
    engaged: tuple[str, int]
    """A register that says that the order stands."""
    orders: tuple[Act, ...]
    back: Act = release
    lacks: frozenset[PointKey] = frozenset()
    ignores: frozenset[PointKey] = field(default_factory=frozenset)

    def points(self, names: tuple[str, ...]) -> tuple[PointKey, ...]:
        return tuple((self.model, name) for name in names)


LIMIT_704 = ("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPctRvrt", "WMaxLimPctEnaRvrt", "WMaxLimPctRvrtTms")
LIMIT_123 = ("WMaxLimPct", "WMaxLimPct_WinTms", "WMaxLimPct_RvrtTms", "WMaxLimPct_RmpTms", "WMaxLim_Ena")
SETPOINT_704 = (
    *("WSetEna", "WSetMod", "WSet", "WSetRvrt", "WSetPct", "WSetPctRvrt"),
    *("WSetEnaRvrt", "WSetRvrtTms"),
)
STORAGE_124 = ("OutWRte", "InWRte", "InOutWRte_WinTms", "InOutWRte_RvrtTms", "InOutWRte_RmpTms", "StorCtl_Mod")
BOTH_WAYS = (band(-3000, -3000), band(2500, 2500), band(0, 0))
CASES = {
    "limit 704": Case(
        kind=DeviceKind.PV,
        model=704,
        own=LIMIT_704,
        first=("WMaxLimPctRvrtTms", "WMaxLimPctRvrt", "WMaxLimPctEnaRvrt"),
        then=("WMaxLimPct", "WMaxLimPctEna"),
        engaged=("WMaxLimPctEna", 1),
        orders=(band(-2000, None), band(-2000, None), band(0, 0), band(-500, 0)),
    ),
    "limit 123": Case(
        kind=DeviceKind.PV,
        model=123,
        own=LIMIT_123,
        first=("WMaxLimPct_RvrtTms",),
        then=("WMaxLimPct", "WMaxLim_Ena"),
        engaged=("WMaxLim_Ena", 1),
        orders=(band(-2000, None), band(-2000, None), band(0, 0), band(-500, 0)),
        lacks=frozenset({(704, "WMaxLimPctEna")}),
    ),
    "storage 704 in watts": Case(
        kind=DeviceKind.BATTERY,
        model=704,
        own=SETPOINT_704,
        first=("WSetRvrtTms", "WSetRvrt", "WSetEnaRvrt"),
        then=("WSet", "WSetMod", "WSetEna"),
        engaged=("WSetEna", 1),
        orders=BOTH_WAYS,
    ),
    "storage 704 in percent": Case(
        kind=DeviceKind.BATTERY,
        model=704,
        own=SETPOINT_704,
        first=("WSetRvrtTms", "WSetPctRvrt", "WSetEnaRvrt"),
        then=("WSetPct", "WSetMod", "WSetEna"),
        engaged=("WSetMod", 0),
        orders=BOTH_WAYS,
        lacks=frozenset({(704, "WSet"), (704, "WSetRvrt")}),
    ),
    "storage 704 that ignores watts": Case(
        kind=DeviceKind.BATTERY,
        model=704,
        own=SETPOINT_704,
        first=("WSetRvrtTms", "WSetEnaRvrt"),
        then=("WSet", "WSetPct", "WSetMod", "WSetEna"),
        engaged=("WSetMod", 0),
        orders=BOTH_WAYS[:2],
        ignores=frozenset({(704, "WSet")}),
    ),
    "storage 124": Case(
        kind=DeviceKind.BATTERY,
        model=124,
        own=STORAGE_124,
        first=("InOutWRte_RvrtTms",),
        then=("OutWRte", "InWRte", "StorCtl_Mod"),
        engaged=("StorCtl_Mod", 3),
        orders=BOTH_WAYS,
        lacks=frozenset({(704, "WSetEna")}),
    ),
    "connect 123": Case(
        kind=DeviceKind.PV,
        model=123,
        own=("Conn_WinTms", "Conn_RvrtTms", "Conn"),
        first=("Conn_RvrtTms",),
        then=("Conn",),
        engaged=("Conn", 0),
        orders=(disconnect, disconnect),
        back=connect,
    ),
    "connect 703": Case(
        kind=DeviceKind.BATTERY,
        model=703,
        own=("ES",),
        first=(),
        then=("ES",),
        engaged=("ES", 0),
        orders=(disconnect, disconnect),
        back=connect,
    ),
}
WAYS = {"function 16": frozenset({6}), "function 6": frozenset({16})}


def outside(inverter: Simulated, case: Case) -> dict[int, int]:
    own = inverter.registers_of(*case.points(case.own))
    return {at: word for at, word in inverter.still().items() if at not in own}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("refused", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_no_register_but_the_functions_own_changes_and_what_lapses_is_there_first(
    case: Case, refused: frozenset[int], line: LineKind
) -> None:
    habits = Habits(refuses=refused, takes_halves=16 in refused, lacks=case.lacks, ignores=case.ignores)
    async with simulated(case.kind, habits, line=line) as inverter:
        before, before_outside = inverter.still(), outside(inverter, case)
        own = inverter.registers_of(*case.points(case.own))
        driver = inverter.driver(fallback_export_w=1000)
        await driver.look()
        assert inverter.written == [], "nothing is written at start"
        for act in case.orders:
            inverter.written.clear()
            await act(driver)
            assert inverter.raw(case.model, case.engaged[0]) == case.engaged[1]
            assert outside(inverter, case) == before_outside
            check_order(inverter, case)
        await case.back(driver)
        assert {at for address, words in inverter.written for at in range(address, address + len(words))} <= own
        assert inverter.still() == before


def check_order(inverter: Simulated, case: Case) -> None:
    """Of the writes since the last order: the timer and its target are there when the order comes."""
    first, then = (inverter.registers_of(*case.points(names)) for names in (case.first, case.then))
    there: set[int] = set()
    assert inverter.written
    for address, words in inverter.written:
        covered = set(range(address, address + len(words)))
        there |= covered
        if covered & then:
            assert first <= there, f"the write at {address} comes before what makes it lapse"
