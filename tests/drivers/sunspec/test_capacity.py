"""How large a battery is: by models 713, 802 and 120, less what its age took, or by the installer's word."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.contact import STANDING_PERIOD_S
from drivers.sunspec.nameplate import RATINGS_PERIOD_S
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeLine,
    MemoryJournal,
    Time,
    address_of,
    capacity_702,
    common,
    device_of,
    inverter_701,
    model_words,
    pool_of,
    set_point,
)

SUNK = 0xFFFF
"""Not implemented, of an unsigned point."""


def words_713(rating: int = 1000, health: int = SUNK, scale: int = 1) -> list[int]:
    return model_words(713, {"WHRtg": rating, "WH_SF": scale, "SoC": 500, "SoH": health, "Pct_SF": -1 & 0xFFFF})


def words_802(rating: int = 800) -> list[int]:
    return model_words(802, {"WHRtg": rating, "WHRtg_SF": 1, "SoC": 50, "SoC_SF": 0, "AHRtg": 200, "AHRtg_SF": 0})


def words_120(rating: int = 700) -> list[int]:
    return model_words(120, {"WHRtg": rating, "WHRtg_SF": 1, "AhrRtg": 100, "AhrRtg_SF": 0})


class Battery:
    """One driver on a line to one battery inverter with these models."""

    def __init__(self, *models: list[int], kind: DeviceKind = DeviceKind.BATTERY, capacity_wh: int | None = None):
        self.time = Time()
        self.device = device_of([common(), inverter_701(-2000), capacity_702(10000), *models])
        self.driver = SunSpecDevice(
            "battery-1",
            kind,
            ADDRESS,
            1,
            period_s=1.0,
            timeout_s=1.0,
            connections=pool_of(FakeLine({1: self.device}), self.time),
            monotonic_s=self.time,
            journal=MemoryJournal(),
            capacity_wh=capacity_wh,
        )

    async def capacity_wh(self, after_s: float = 0.0) -> int | None:
        ends_s = self.time.now_s + after_s
        await self.driver.look()
        while self.time.now_s < ends_s:
            self.time.now_s += STANDING_PERIOD_S + 1
            await self.driver.look()
        found = self.driver.status().capabilities
        assert found is not None
        return found.energy_capacity_wh


@pytest.mark.parametrize(
    ("models", "told_wh"),
    [
        ([words_713()], 10_000),
        ([words_802()], 8_000),
        ([words_713(SUNK), words_120()], 7_000),
        ([words_713(), words_802(), words_120()], 10_000),
        ([words_713(SUNK), words_802(), words_120()], 8_000),
        ([words_713(SUNK)], None),
        ([words_713(60_000, scale=8)], None),  # 6 TWh
        ([words_713(health=900)], 9_000),
        ([words_713(health=0)], 10_000),
        ([words_713(health=1_100)], 10_000),
    ],
)
async def test_a_battery_tells_how_large_it_is(models: list[list[int]], told_wh: int | None) -> None:
    assert await Battery(*models).capacity_wh() == told_wh


async def test_the_installers_word_goes_before_the_devices() -> None:
    assert await Battery(words_713(health=900), capacity_wh=12_345).capacity_wh() == 12_345
    assert await Battery(words_713(SUNK), capacity_wh=12_345).capacity_wh() == 12_345


async def test_a_pv_inverter_with_a_storage_rating_is_no_battery() -> None:
    assert await Battery(words_120(), kind=DeviceKind.PV).capacity_wh() is None


async def test_a_capacity_that_is_hidden_later_is_still_known() -> None:
    battery = Battery(words_713())
    assert await battery.capacity_wh() == 10_000
    at = address_of(battery.device, 713, "WHRtg")
    battery.device.unreadable = {at}
    assert await battery.capacity_wh(2 * RATINGS_PERIOD_S) == 10_000


async def test_a_battery_that_ages_holds_less() -> None:
    battery = Battery(words_713(health=1000))
    assert await battery.capacity_wh() == 10_000
    set_point(battery.device, 713, "SoH", 850)
    assert await battery.capacity_wh(2 * STANDING_PERIOD_S) == 8_500
