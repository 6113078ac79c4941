"""Control when something breaks: a driver, the planner, the gateway itself, a device that was away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.control import core as core_module
from agent.control import intake
from agent.control.command import CommandType, Mode
from agent.control.notes import decode_entry
from agent.control.plan import Plan
from agent.control.replay import decode_window
from agent.control.site import SiteView
from agent.evidence.statements import Alarm, CommandState
from drivers.device import DeviceStatus, Sample, SampleFlag
from hil_tests.test_control_controller import FakeDevice, Site, command, running


def _break(device: FakeDevice) -> None:
    def status() -> DeviceStatus:
        raise ZeroDivisionError("a fault of the driver")

    device.status = status  # type: ignore[method-assign]


async def _until_discharging(site: Site) -> None:
    await site.until(lambda: site.devices["battery"].power_w == -5_000)


async def test_a_driver_that_cannot_say_its_status_stops_neither_the_plan_nor_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        _break(site.devices["pv"])
        del site.devices["pv"]
        await site.give(await command(site.clock, "c1", 60))
        await _until_discharging(site)
        site.controller.stop("me")
        await site.until(lambda: site.devices["battery"].power_w == 0)


async def test_stop_works_while_no_plan_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as site:
        await site.give(await command(site.clock, "c1", 60))
        await _until_discharging(site)

        def broken(view: SiteView) -> Plan:
            raise ZeroDivisionError("a fault of the planner")

        monkeypatch.setattr(core_module, "make_plan", broken)
        await site.until(lambda: any(isinstance(s, Alarm) and "plan" in s.code for s in site.desk.taken))
        progress_s = site.controller.progress_s
        site.controller.stop("me")
        await site.until(lambda: site.devices["battery"].power_w == 0)
        assert site.controller.progress_s == progress_s  # the watchdog hears of it


async def test_what_a_killed_gateway_left_in_a_device_is_given_back_when_its_command_is_over(tmp_path: Path) -> None:
    """A device without a timer of its own would discharge for ever."""
    async with running(tmp_path) as site:
        message = await command(site.clock, "c1", 1.0)
        await site.give(message)
        await _until_discharging(site)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
    end_us = message.valid_until_timestamp_us
    await site.until(lambda: site.clock.now().wall_us > end_us)
    assert await _releases_in_a_run(tmp_path, 1) == 1
    assert await _releases_in_a_run(tmp_path, 0) == 0  # once is enough


async def _releases_in_a_run(folder: Path, expected: int) -> int:
    async with running(folder) as site:
        battery, given_back = site.devices["battery"], _counting_releases(site.devices["battery"])
        battery.power_w = -5_000  # it holds what it was told, and its driver knows nothing of it
        await site.until(lambda: site.controller.snapshot().restored)
        await site.until(lambda: len(given_back) >= expected)
        at_s = site.controller.progress_s
        await site.until(lambda: site.controller.progress_s > at_s + 0.3)
        await site.until(lambda: not site.controller.snapshot().unrecorded)
        assert not battery.applied
        assert not site.devices["pv"].applied
        return len(given_back)


def _counting_releases(device: FakeDevice) -> list[str]:
    released: list[str] = []

    async def release() -> None:
        released.append(device.device_id)
        device.power_w = 0

    device.release = release  # type: ignore[method-assign]
    return released


async def test_energy_that_was_used_before_the_command_is_not_in_its_receipt(tmp_path: Path) -> None:
    """The device was away: its last register is of long ago."""
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        battery = site.devices.pop("battery")
        old = replace(_sample(battery), monotonic_s=site.clock.monotonic_s() - 3_600)
        site.controller.on_sample(old)
        message = await command(site.clock, "c1", 1.5)
        await site.give(message)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
        battery.register = -20_000_000
        site.controller.on_sample(_sample(battery))
        seen = site.controller.progress_s
        await site.until(lambda: site.controller.progress_s > seen + 0.3)
        battery.register -= 3_000
        site.controller.on_sample(_sample(battery))
        # Delivered late by the device, from before: not where the register is now.
        site.controller.on_sample(
            replace(_sample(battery), export_register_milliwatt_hours=1_000, flags=SampleFlag.QUEUED)
        )
        await site.until(lambda: CommandState.COMPLETED in site.states(message))
        assert site.receipts(message)[-1].delivered_energy_wh == -3


async def test_a_curtail_that_came_again_before_the_store_was_read_keeps_its_first_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the note of the second life stays in the store, and another restart ends the command once more."""
    monkeypatch.setattr(intake, "RESTORE_PATIENCE_S", 0.0)
    async with running(tmp_path) as site:
        message = await command(
            site.clock, "c1", 60, type=CommandType.CURTAIL, mode=Mode.EXPORT_LIMIT, targets=("pv",), power_w=2_000
        )
        site.devices["pv"].power_w = -2_000
        await site.give(message)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
        key = next(key for key in await site.desk.notes("command/entry/"))
    async with running(tmp_path) as site:
        come_back = _notes_away(site)
        await site.give(message)
        pv = site.devices["pv"]
        await site.until(lambda: bool(pv.applied))  # what restricts does not wait for the store
        assert site.states(message) == []
        come_back()
        await site.until(lambda: site.controller.snapshot().restored)
        states = [receipt.state for receipt in site.controller.snapshot().commands[0].receipts]
        at_s = site.controller.progress_s
        await site.until(lambda: site.controller.progress_s > at_s + 0.3)
        await site.until(lambda: not site.controller.snapshot().unrecorded)
        assert site.states(message) == []  # all of it was said in its first life
    async with running(tmp_path) as site:
        stored = decode_entry((await site.desk.notes(key))[key])
        assert [receipt.state for receipt in stored.receipts] == states
        assert CommandState.EXECUTING in states


class StoreUnavailableError(Exception):
    """The store is away."""


def _notes_away(site: Site) -> Callable[[], None]:
    """What is stored cannot be read until the returned function is called."""
    notes, away = site.desk.notes, True

    async def notes_or_not(prefix: str) -> Mapping[str, bytes]:
        if away:
            raise StoreUnavailableError("away")
        return await notes(prefix)

    def come_back() -> None:
        nonlocal away
        away = False

    site.desk.notes = notes_or_not  # type: ignore[method-assign]
    return come_back


async def test_what_was_used_before_a_start_stays_used_although_a_command_came_before_the_store_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "RESTORE_PATIENCE_S", 0.0)
    async with running(tmp_path) as site:
        used = await command(site.clock, "used", 60)
        await site.give(used)
        await _until_discharging(site)
        windows = await site.desk.notes("command/window/")
    async with running(tmp_path) as site:
        early = await command(
            site.clock, "early", 60, type=CommandType.CURTAIL, mode=Mode.EXPORT_LIMIT, targets=("pv",), sequence=1
        )  # below all that is used
        come_back = _notes_away(site)
        await site.give(early)
        await site.until(lambda: bool(site.devices["pv"].applied))
        come_back()
        await site.until(lambda: CommandState.ACCEPTED in site.states(early))
        await site.until(lambda: not site.controller.snapshot().unrecorded)
        later = await site.desk.notes("command/window/")
    (before,) = (decode_window(note) for note in windows.values())
    (after,) = (decode_window(note) for note in later.values())
    assert after.highest == before.highest


async def test_a_control_that_is_run_anew_goes_on_with_what_it_knows_and_not_with_what_the_store_knew(
    tmp_path: Path,
) -> None:
    """A final receipt that waits for the store must not be given a second time."""
    async with running(tmp_path) as site:
        message = await command(site.clock, "c1", 1.0)
        await site.give(message)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
        site.desk.full = True
        await site.until(lambda: site.controller.snapshot().commands[0].state is CommandState.COMPLETED)
        await site.run_again()
        site.desk.full = False
        await site.until(lambda: CommandState.COMPLETED in site.states(message))
        at_s = site.controller.progress_s
        await site.until(lambda: site.controller.progress_s > at_s + 0.3)
        assert site.states(message).count(CommandState.COMPLETED) == 1


def _sample(device: FakeDevice) -> Sample:
    sample = device.status().last_sample
    assert sample is not None
    return sample
