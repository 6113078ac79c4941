"""Ratings that a device hides and shows later, or that come with a map that grows: the plan has them once told."""

from __future__ import annotations

import pytest

from drivers.device import Capabilities, DeviceKind, Setpoint
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.contact import STANDING_PERIOD_S
from drivers.sunspec.nameplate import RATINGS_PERIOD_S
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    address_of,
    common,
    device_of,
    model_words,
    point,
    pool_of,
    set_point,
)

BASIC = {"WMaxLimPct": 100, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0, "WMaxLimPct_SF": 0, "Conn": 1}


def words_120(watts: int) -> list[int]:
    return model_words(120, {"WRtg": watts, "WRtg_SF": 0})


def inverter(serial: str = "S-1", watts: int = 6000) -> FakeDevice:
    measured = model_words(103, {"W": 500, "W_SF": 0, "WH": 9, "WH_SF": 0, "St": 4})
    return device_of([common(serial), measured, words_120(watts), model_words(123, BASIC)])


class Gateway:
    """One driver on a line to one device, and the time."""

    def __init__(self, device: FakeDevice, journal: MemoryJournal | None = None) -> None:
        self.time = Time()
        self.line = FakeLine({1: device})
        self.driver = SunSpecDevice(
            "pv-1",
            DeviceKind.PV,
            ADDRESS,
            1,
            period_s=1.0,
            timeout_s=1.0,
            connections=pool_of(self.line, self.time),
            monotonic_s=self.time,
            journal=MemoryJournal() if journal is None else journal,
        )

    async def after(self, seconds: float, step_s: float = STANDING_PERIOD_S + 1) -> Capabilities:
        """What the plan sees after so long of polling."""
        ends_s = self.time.now_s + seconds
        await self.driver.look()
        while self.time.now_s < ends_s:
            self.time.now_s += step_s
            await self.driver.look()
        found = self.driver.status().capabilities
        assert found is not None
        return found


def hide(device: FakeDevice, number: int) -> set[int]:
    """The registers of a model but its header, refused from now on."""
    at = address_of(device, number, "ID")
    device.unreadable = set(range(at + 2, at + 2 + device.registers[at + 1]))
    return device.unreadable


def cut_before(device: FakeDevice, number: int) -> dict[int, int]:
    """Takes a model and all that follow away: the chain ends in an exception. Returns them."""
    at = address_of(device, number, "ID")
    gone = {address: word for address, word in device.registers.items() if address >= at}
    for address in gone:
        del device.registers[address]
    return gone


async def test_ratings_that_were_hidden_at_first_contact_count_once_they_are_shown() -> None:
    device = inverter()
    hide(device, 120)
    gateway = Gateway(device)
    found = await gateway.after(0)
    assert (found.rated_export_w, found.limits_export) == (0, False)
    assert any("does not say its rating" in note for note in found.notes)
    device.unreadable = set()
    found = await gateway.after(RATINGS_PERIOD_S)
    assert (found.rated_export_w, found.limits_export) == (6000, True)
    assert not any("rating" in note or "100 %" in note for note in found.notes)
    await gateway.driver.apply(Setpoint(lowest_w=-1500, highest_w=None, lease_s=60.0, reason="test"))
    assert point(device, 123, "WMaxLimPct") == 25


async def test_ratings_that_are_hidden_again_at_night_are_still_known() -> None:
    device = inverter()
    gateway = Gateway(device)
    await gateway.after(0)
    hide(device, 120)
    found = await gateway.after(2 * RATINGS_PERIOD_S)
    assert (found.rated_export_w, found.limits_export) == (6000, True)


async def test_a_setting_that_an_installer_changes_is_what_100_percent_means_from_then_on() -> None:
    device = inverter()
    gateway = Gateway(device)
    await gateway.after(0)
    set_point(device, 120, "WRtg", 3000)
    await gateway.after(RATINGS_PERIOD_S)
    await gateway.driver.apply(Setpoint(lowest_w=-1500, highest_w=None, lease_s=60.0, reason="test"))
    assert point(device, 123, "WMaxLimPct") == 50


async def test_models_that_appear_behind_the_end_of_the_chain_are_found_while_nothing_says_the_rating() -> None:
    device = inverter()
    hidden = cut_before(device, 120)
    gateway = Gateway(device)
    found = await gateway.after(RATINGS_PERIOD_S)
    assert (found.rated_export_w, found.limits_export) == (0, False)
    device.registers |= hidden
    found = await gateway.after(2 * RATINGS_PERIOD_S)
    assert (found.rated_export_w, found.limits_export) == (6000, True)
    assert device.writes == []


async def test_models_that_appeared_between_two_starts_are_found_by_the_second() -> None:
    device, journal = inverter(), MemoryJournal()
    hidden = cut_before(device, 120)
    assert (await Gateway(device, journal).after(0)).rated_export_w == 0
    device.registers |= hidden
    assert (await Gateway(device, journal).after(0)).rated_export_w == 6000


@pytest.mark.parametrize("end", [(0xFFFF, 0), (0, 0), (9, 0), (9, 0xFFFF), ()])
async def test_a_chain_that_only_ends_is_not_walked_again_and_again(end: tuple[int, ...]) -> None:
    device = inverter()
    at = min(cut_before(device, 120))
    device.store(at, end)
    gateway = Gateway(device)
    await gateway.after(0)
    device.reads.clear()
    await gateway.after(2 * RATINGS_PERIOD_S)
    assert (40000, 2) not in device.reads, "nobody looks for the map"


async def test_a_device_of_another_size_in_the_same_place_has_its_own_ratings() -> None:
    gateway = Gateway(inverter("OLD", 6000))
    assert (await gateway.after(0)).rated_export_w == 6000
    gateway.line.units[1] = inverter("NEW", 4000)
    gateway.line.close()
    found = await gateway.after(0)
    assert found.rated_export_w == 4000
    await gateway.driver.apply(Setpoint(lowest_w=-1000, highest_w=None, lease_s=60.0, reason="test"))
    assert point(gateway.line.units[1], 123, "WMaxLimPct") == 25
