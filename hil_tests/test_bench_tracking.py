"""The bench `tracking` gives its figures by their names, and its judge sees what it is there for."""

from __future__ import annotations

import asyncio

from hil_tests.bench import tracking
from hil_tests.bench._tracking_site import Plant
from hil_tests.bench._virtual_time import run_virtually


def test_tracking_judges_targets_that_can_be_reached_and_the_answer_to_frequency() -> None:
    figures = tracking.run(lambda _: None, targets_w=(-8_000, 30_000))
    assert set(figures) == {
        "seconds_to_90_percent",
        "rms_error_w",
        "share_within_5_percent",
        "fuse_violations",
        "frequency_full_response_s",
    }
    assert 0 < figures["seconds_to_90_percent"] < 120
    assert figures["rms_error_w"] > 0
    assert 0 < figures["share_within_5_percent"] <= 1
    assert figures["fuse_violations"] == 0
    assert 0 < figures["frequency_full_response_s"] < tracking.FREQUENCY_S


def test_a_phase_that_stays_above_its_fuse_is_seen_once_and_a_short_peak_is_not() -> None:
    async def violations(seconds: float) -> int:
        plant = Plant(asyncio.get_running_loop().time)
        fuse = tracking._Fuse(plant)
        watching = asyncio.create_task(fuse.run())
        plant.world.grid.phase_power_milliwatts = (0, -10_000_000, 0)
        await asyncio.sleep(seconds)
        plant.world.grid.phase_power_milliwatts = (0, 0, 0)
        await asyncio.sleep(1)
        watching.cancel()
        return fuse.violations

    assert run_virtually(violations(4.0)) == 0
    assert run_virtually(violations(20.0)) == 1
