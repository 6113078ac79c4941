"""SAFETY 1 and 13 over the real store: a STOP button and ripple control on a chip that a test plays, above commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import InputSettings
from agent.evidence.statements import Alarm, CommandState
from hil_tests.test_control_controller import Site, command, running


class Chip:
    """A folder of lines, as `drivers.gpio` reads them; all contacts closed to ground at first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for line in (17, 27):
            self.set(line, high=False)
        self.inputs = (
            InputSettings(name="button", chip=folder, line=17, stop=True, debounce_s=0.05),
            InputSettings(name="ripple", chip=folder, line=27, export_limit_w=6_000, debounce_s=0.05),
        )

    def set(self, line: int, *, high: bool) -> None:
        part = self.folder / f"{line}.part"
        part.write_text("1" if high else "0")
        part.replace(self.folder / str(line))

    def cut(self, line: int) -> None:
        (self.folder / str(line)).unlink()


@pytest.fixture
def chip(tmp_path: Path) -> Chip:
    return Chip(tmp_path / "chip")


def said(site: Site) -> list[str]:
    return [statement.code for statement in site.desk.taken if isinstance(statement, Alarm)]


async def test_a_button_stops_everything_until_it_is_cleared_by_hand_over_a_restart_too(
    tmp_path: Path, chip: Chip
) -> None:
    async with running(tmp_path, inputs=chip.inputs) as site:
        message = await command(site.clock, "c1", 600)
        await site.give(message)
        battery = site.devices["battery"]
        await site.until(lambda: battery.power_w == -5_000)
        chip.set(17, high=True)
        await site.until(lambda: battery.power_w == 0 and site.devices["pv"].power_w == 0)
        assert site.controller.snapshot().stopped_by == "input button"
        await site.until(lambda: "input.active" in said(site) and "site.stop" in said(site))
        site.controller.clear_stop("me")
        await site.until(lambda: site.controller.snapshot().stopped_by == "input button")  # it is still pressed
        chip.set(17, high=False)
        await site.until(lambda: "input.inactive" in said(site))
        assert battery.power_w == 0
        await site.until(lambda: (tmp_path / "STOP").exists())
    async with running(tmp_path, inputs=chip.inputs) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        assert "input button" in (site.controller.snapshot().stopped_by or "")
        site.controller.clear_stop("me")
        await site.until(lambda: site.devices["battery"].power_w == -5_000)


async def test_ripple_control_bounds_a_command_and_a_cut_wire_is_on_the_safe_side(tmp_path: Path, chip: Chip) -> None:
    async with running(tmp_path, inputs=chip.inputs) as site:
        battery, pv = site.devices["battery"], site.devices["pv"]
        pv.power_w = 0
        site.devices["grid"].power_w = 0
        message = await command(site.clock, "c1", 600, power_w=9_000)
        await site.give(message)
        await site.until(lambda: battery.power_w == -9_000)
        for cut in (False, True):
            site.devices["grid"].power_w = -9_000
            if cut:
                chip.cut(27)
            else:
                chip.set(27, high=True)
            await site.until(lambda: battery.power_w >= -6_000)
            device = next(d for d in site.controller.snapshot().devices if d.device_id == "battery")
            assert "hard-wired input" in device.bound_by
            chip.set(27, high=False)
            site.devices["grid"].power_w = battery.power_w
            await site.until(lambda: site.controller.snapshot().inputs[1].active is False)
            await site.until(lambda: battery.power_w == -9_000)
        assert "input.unreadable" in said(site)
        assert CommandState.REJECTED not in site.states(message)


async def test_a_box_without_its_chip_starts_on_the_safe_side_and_says_what_to_do(tmp_path: Path) -> None:
    wired = InputSettings(name="relay", chip=tmp_path / "gpiochip0", line=1, import_limit_w=0, export_limit_w=0)
    async with running(tmp_path, inputs=(wired,)) as site:
        await site.until(lambda: "input.unreadable" in said(site))
        (state,) = site.controller.snapshot().inputs
        assert state.active
        assert "gpiodetect" in state.trouble
        await site.until(lambda: site.devices["pv"].setpoint is not None)
