"""Bench `tracking`: an hour of targets at the connection with a changing house, and the answer to 49.7 Hz.

The real controller with its dispatcher, clock and signed commands over the rig's physics; the waiting between events is
left out (`_virtual_time`), nothing else, so an hour takes half a minute. Every five minutes another target; the house
wanders and switches kettles. Judged at the connection each second from a target's first being reached on (within 90 %
of its way). Fuse: a phase beyond it, either way, for longer than the 5 s that SAFETY 8 gives; shall be 0.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent.clock import Clock
from agent.config import ControlSettings, DeviceSettings, FrequencySettings, MandateSettings, SiteSettings
from agent.control.authorization import authorize
from agent.control.command import CommandType, Point, grid_command
from agent.control.controller import Controller
from agent.evidence.statements import Statement
from drivers.device import DeviceKind
from hil_tests.bench._tracking_site import Plant, devices_of
from hil_tests.bench._virtual_time import run_virtually
from tests.agent.control.support import GATEWAY, OPERATOR, SOME_COMMAND, rights, trust_list

HOUR_S: Final = 3600
EACH_S: Final = 300
TARGETS_W: Final = (-8_000, 6_000, 14_000, -4_000, 10_000, -12_000, 4_000, 30_000, -6_000, 8_000, 12_000, -10_000)
BEYOND_W: Final = 20_000
"""A target above is more than what the fuse lets through: it is there for the fuse, and is not judged by itself."""
WARM_UP_S: Final = 60
FUSE_A: Final = 32
VOLTS: Final = 230
GRACE_S: Final = 5
EPOCH_US: Final = 1_800_000_000_000_000
COMMIT_S: Final = 0.005
"""What the store takes."""
STEP_HERTZ: Final = 49.7
FREQUENCY_S: Final = 40
FULL: Final = 0.95


class _Desk:
    """A store that takes its time and forgets."""

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        await asyncio.sleep(COMMIT_S)

    async def notes(self, prefix: str) -> Mapping[str, bytes]:
        return {}


@dataclass(slots=True)
class Judged:
    """What the meter said of all targets."""

    reached_s: list[float] = field(default_factory=list)
    errors: list[tuple[float, float]] = field(default_factory=list)
    """(W beside the target, the target) of each second since it was reached."""


def run(progress: Callable[[str], None], *, targets_w: Sequence[int] = TARGETS_W) -> dict[str, float]:
    """The figures, by the names that the README has."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        return run_virtually(_hour(progress, Path(folder), targets_w))


async def _hour(progress: Callable[[str], None], folder: Path, targets_w: Sequence[int]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    clock = Clock(
        realtime_us=lambda: EPOCH_US + round(loop.time() * 1e6), monotonic_s=loop.time, kernel_error_us=lambda: 1_000
    )
    plant = Plant(loop.time)
    devices = devices_of(plant, "owner")
    controller = Controller(
        devices=devices,
        device_settings=_settings(),
        site=SiteSettings(
            fuse_a=FUSE_A, nominal_voltage_v=VOLTS, phase_difference_a=0, import_limit_w=40_000, export_limit_w=20_000,
            house_reserve_w=7_000, discharge_permitted=True,
        ),
        control=ControlSettings(mandate=[MandateSettings(token_id="owner", minimum_soc_percent=10)]),
        frequency=FrequencySettings(response=True, droop_percent=1),
        gateway_id=lambda: GATEWAY,
        stop_file=folder / "STOP",
        clock=clock,
        trust=lambda: trust_list(rights(expires_us=2**53), expires_us=2**53),
        desk=_Desk(),
        notes=_Desk(),
    )  # fmt: skip
    fuse = _Fuse(plant)
    tasks = [asyncio.create_task(part.run()) for part in (plant, controller, fuse)]
    tasks += [asyncio.create_task(device.run(controller.on_sample)) for device in devices.values()]
    judged = Judged()
    try:
        await asyncio.sleep(WARM_UP_S)
        for number, target_w in enumerate(targets_w):
            await _follow(controller, clock, plant, number, target_w, judged)
        progress(f"{len(judged.reached_s)} targets, 90 % after {', '.join(f'{s:.0f}' for s in judged.reached_s)} s")
        await asyncio.sleep(WARM_UP_S)
        response_s = await _answer_frequency(progress, plant)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, Exception):
            raise failure
    near = [abs(beside_w) <= 0.05 * abs(target_w) for beside_w, target_w in judged.errors]
    return {
        "seconds_to_90_percent": round(statistics.median(judged.reached_s), 1),
        "rms_error_w": round(math.sqrt(statistics.fmean(beside_w**2 for beside_w, _ in judged.errors))),
        "share_within_5_percent": round(sum(near) / len(near), 4),
        "fuse_violations": fuse.violations,
        "frequency_full_response_s": round(response_s, 1),
    }


class _Fuse:
    """Looks at the phases ten times a second, as a fuse does."""

    LOOK_S = 0.1

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self.violations = 0

    async def run(self) -> None:
        over_s = 0.0
        while True:
            await asyncio.sleep(self.LOOK_S)
            over = any(abs(power_w) > FUSE_A * VOLTS for power_w in self._plant.phases_w)
            before_s, over_s = over_s, over_s + self.LOOK_S if over else 0.0
            if before_s <= GRACE_S < over_s:
                self.violations += 1


async def _follow(
    controller: Controller, clock: Clock, plant: Plant, number: int, target_w: int, judged: Judged
) -> None:
    """One command, and what the meter says for as long as it stands."""
    now = clock.now()
    command = replace(
        SOME_COMMAND,
        targets=(),
        point=Point.CONNECTION,
        type=CommandType.CHARGE if target_w > 0 else CommandType.DISCHARGE,
        power_w=abs(target_w),
        start_us=now.wall_us,
        end_us=now.wall_us + EACH_S * 1_000_000,
        sequence=number + 1,
    )
    began_w, reached_s = plant.world.grid.power_w, None
    message = grid_command(f"target {number}", command, await authorize(command, OPERATOR))
    await controller.receive(message, None, now)
    for second in range(1, EACH_S):
        await asyncio.sleep(1.0)
        power_w = plant.world.grid.power_w
        if reached_s is None and abs(power_w - target_w) <= 0.1 * abs(target_w - began_w):
            reached_s = float(second)
        if reached_s is not None and abs(target_w) < BEYOND_W:
            judged.errors.append((power_w - target_w, float(target_w)))
    await asyncio.sleep(1.0)
    if abs(target_w) < BEYOND_W:
        judged.reached_s.append(math.inf if reached_s is None else reached_s)


async def _answer_frequency(progress: Callable[[str], None], plant: Plant) -> float:
    """Seconds from the step until the devices' mean over a second (frequency is noisy) has made its full change."""
    grid = plant.world.grid
    devices_w: list[float] = []

    def look() -> None:
        devices_w.append(grid.power_w - plant.world.house.power_w - plant.world.pv.power_w)

    look()
    grid.frequency_hz = grid.frequency_target_hz = STEP_HERTZ
    for _ in range(FREQUENCY_S * 10):
        await asyncio.sleep(0.1)
        look()
    change_w = statistics.fmean(devices_w[-100:]) - devices_w[0]
    progress(f"to {STEP_HERTZ} Hz the site answers with {change_w:.0f} W")
    means_w = [statistics.fmean(devices_w[max(0, end - 10) : end]) for end in range(1, len(devices_w) + 1)]
    return [abs(mean_w - devices_w[0]) >= FULL * abs(change_w) for mean_w in means_w].index(True) / 10


def _settings() -> list[DeviceSettings]:
    def sunspec(name: str, kind: DeviceKind) -> DeviceSettings:
        parent = None if kind is DeviceKind.METER else "meter"
        return DeviceSettings(id=name, kind=kind, driver="sunspec", address=f"tcp://{name}:502", parent=parent)

    def charger(name: str) -> DeviceSettings:
        return DeviceSettings(
            id=name, kind=DeviceKind.CHARGER, driver="ocpp", charger_id=name, parent="meter", fallback_import_w=0
        )

    return [
        sunspec("meter", DeviceKind.METER),
        sunspec("pv", DeviceKind.PV),
        sunspec("battery", DeviceKind.BATTERY),
        charger("car-1"),
        charger("car-2"),
    ]
