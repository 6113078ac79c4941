"""SAFETY 1 and 13 by the kernel's GPIO interface: the real code, from the open chip to the device that stops.

The chip is played below the C library, by code that is compiled against the kernel's header: an interface by a layout
that is written out by hand meets the layout itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hil_tests.rig.gpio_chip import GpioChip

PATIENCE_S = 60.0
BUTTON, RIPPLE = 17, 27
INPUT, PULL_UP, PULL_DOWN = 1 << 2, 1 << 8, 1 << 9


class Station:
    """The site's process, and what it said last."""

    def __init__(self, process: Process, chip: GpioChip) -> None:
        self.process, self.chip = process, chip
        self.shown: dict[str, Any] = {}  # Any: JSON
        self.all: list[dict[str, Any]] = []

    async def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Read on until it is so."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self.shown or not condition(self.shown):
                    line = await self.process.stdout.readline()
                    assert line, "the site has ended"
                    self.shown = json.loads(line)
                    self.all.append(self.shown)
        except TimeoutError:
            raise AssertionError(f"{what}; last: {self.shown}") from None

    async def bounced(self) -> None:
        """All bounces were seen."""
        async with asyncio.timeout(PATIENCE_S):
            while self.chip["bounces"]:  # noqa: ASYNC110 - another process counts them down
                await asyncio.sleep(0.01)

    def clear_stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"clear\n")


@pytest.fixture
def chip(tmp_path: Path) -> GpioChip:
    return GpioChip(tmp_path)


@asynccontextmanager
async def station(chip: GpioChip, folder: Path) -> AsyncIterator[Station]:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hil_tests.gpio_station", str(state), str(chip.device),
        stdin=PIPE, stdout=PIPE, env=dict(chip.environment), cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        yield Station(process, chip)
    finally:
        process.kill()
        await process.wait()


async def test_a_button_on_a_chip_stops_the_site_and_a_bounce_does_not(chip: GpioChip, tmp_path: Path) -> None:
    async with station(chip, tmp_path) as site:
        await site.until(lambda now: now["battery_w"] == -5_000, "it discharges")
        assert (chip.flags(BUTTON), chip.flags(RIPPLE)) == (INPUT | PULL_UP, INPUT | PULL_DOWN)
        assert chip["opened"] == 1 << BUTTON | 1 << RIPPLE
        chip.bounce(BUTTON, 40)
        await site.bounced()
        chip.set(RIPPLE, high=True)
        await site.until(lambda now: now["active"] == ["ripple"], "ripple control is active")
        assert not any(now["stopped_by"] for now in site.all)
        chip.set(BUTTON, high=True)
        await site.until(lambda now: now["battery_w"] == 0, "it stops")
        assert site.shown["stopped_by"] == "input button"
        chip.set(BUTTON, high=False)
        chip.set(RIPPLE, high=False)
        await site.until(lambda now: now["active"] == [], "both are at rest")
        assert site.shown["battery_w"] == 0
        site.clear_stop()
        await site.until(lambda now: now["battery_w"] == -5_000, "it goes on once it was cleared here")
        assert (chip["given"], chip["wrong"]) == (2, 0)


async def test_a_chip_that_goes_is_on_the_safe_side_and_one_that_comes_back_is_read_again(
    chip: GpioChip, tmp_path: Path
) -> None:
    async with station(chip, tmp_path) as site:
        await site.until(lambda now: now["battery_w"] == -5_000, "it discharges")
        descriptors = site.shown["descriptors"]
        chip.unplug()
        await site.until(lambda now: now["battery_w"] == 0, "without the chip it stops")
        assert site.shown["active"] == ["button", "ripple"]
        assert any("gpiochip0" in trouble for trouble in site.shown["trouble"])
        await site.until(lambda now: "input.unreadable" in now["alarms"], "it is an alarm")
        chip.plug_again()
        await site.until(lambda now: now["active"] == [] and not now["trouble"], "it is read again")
        await site.until(lambda now: "input.readable" in now["alarms"], "that is said")
        assert site.shown["descriptors"] <= descriptors
        assert chip["opened"] == 1 << BUTTON | 1 << RIPPLE
        assert chip["wrong"] == 0


async def test_a_line_that_somebody_else_has_is_named_and_taken_once_it_is_free(chip: GpioChip, tmp_path: Path) -> None:
    chip["busy"] = 1 << BUTTON
    async with station(chip, tmp_path) as site:
        await site.until(lambda now: now["stopped_by"] == "input button" and now["trouble"], "it counts as pressed")
        (trouble,) = site.shown["trouble"]
        assert "line 17 of" in trouble
        assert "Device or resource busy; has somebody else got it?" in trouble
        assert site.shown["active"] == ["button"]
        chip["busy"] = 0
        await site.until(lambda now: not now["trouble"] and now["active"] == [], "it has it now")
        assert chip["wrong"] == 0
