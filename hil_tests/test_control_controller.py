"""Control end to end over the real store: commands in, orders out, receipts kept; over failures and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.config import (
    BoundsSettings,
    ControlSettings,
    DeviceSettings,
    FrequencySettings,
    InputSettings,
    MandateSettings,
    SiteSettings,
)
from agent.control.authorization import authorize
from agent.control.command import Command, CommandType, Mode, Point, grid_command
from agent.control.controller import Controller
from agent.control.feed_keeper import FeedKeeper
from agent.evidence.statements import Alarm, CommandReceipt, CommandState, Statement, decode
from agent.roads.desk import row_of
from agent.store import Store, StoreFullError
from drivers.device import (
    DeviceKind,
    DeviceStatus,
    DeviceUnreachableError,
    LinkState,
    Sample,
    Setpoint,
)
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.support import GATEWAY, OPERATOR, SOME_COMMAND, capabilities, rights, trust_list

DEVICES = [
    DeviceSettings(id="grid", kind=DeviceKind.METER, driver="sunspec", address="tcp://m:502"),
    DeviceSettings(id="battery", kind=DeviceKind.BATTERY, driver="sunspec", address="tcp://b:502", parent="grid"),
    DeviceSettings(id="pv", kind=DeviceKind.PV, driver="sunspec", address="tcp://p:502", parent="grid"),
]


class FakeDevice:
    """Obeys at once, and shows what it was told; can be made silent."""

    def __init__(self, name: str, kind: DeviceKind, monotonic_s: Callable[[], float]) -> None:
        self.device_id, self.kind, self._monotonic_s = name, kind, monotonic_s
        self.setpoint: Setpoint | None = None
        self.power_w = {DeviceKind.METER: 1_000, DeviceKind.PV: -5_000}.get(kind, 0)
        self.register = 0
        self.silent = False
        self.applied: list[Setpoint] = []

    def status(self) -> DeviceStatus:
        export_w = 0 if self.kind is DeviceKind.METER else 10_000
        sample = Sample(
            device_id=self.device_id,
            monotonic_s=self._monotonic_s(),
            power_w=self.power_w,
            import_register_milliwatt_hours=max(0, self.register),
            export_register_milliwatt_hours=max(0, -self.register),
            state_of_charge_permille=600,
        )
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.SILENT if self.silent else LinkState.ONLINE,
            detail="",
            capabilities=capabilities(10_000 if self.kind is DeviceKind.BATTERY else 0, export_w),
            last_sample=sample,
            setpoint=self.setpoint,
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        await asyncio.Event().wait()

    async def apply(self, setpoint: Setpoint) -> None:
        if self.silent:
            raise DeviceUnreachableError(f"{self.device_id}: no answer")
        self.applied.append(setpoint)
        self.setpoint = setpoint
        if setpoint.lowest_w is not None and setpoint.lowest_w == setpoint.highest_w:
            self.power_w = setpoint.lowest_w

    async def release(self) -> None:
        self.setpoint, self.power_w = None, 0


class StoreDesk:
    """Statements into the real store; can be made to fail as a full disk does."""

    def __init__(self, store: Store) -> None:
        self.store, self.full = store, False
        self.taken: list[Statement] = []

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        if self.full:
            raise StoreFullError("the disk is full; make room")
        await self.store.put([row_of(s) for s in taken], notes)
        self.taken += taken

    async def notes(self, prefix: str) -> Mapping[str, bytes]:
        return await self.store.notes(prefix)


class Site:
    """A running controller with its parts."""

    def __init__(self, controller: Controller, devices: dict[str, FakeDevice], desk: StoreDesk, clock: Clock) -> None:
        self.controller, self.devices, self.desk, self.clock = controller, devices, desk, clock
        self.task = asyncio.create_task(controller.run())

    async def end(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task

    async def run_again(self) -> None:
        """As its supervisor does."""
        await self.end()
        self.task = asyncio.create_task(self.controller.run())

    def states(self, message: GridCommand) -> list[CommandState]:
        return [s.state for s in self.receipts(message)]

    def receipts(self, message: GridCommand) -> list[CommandReceipt]:
        found = [s for s in self.desk.taken if isinstance(s, CommandReceipt)]
        return [s for s in found if s.command_id == message.command_id]

    async def give(self, message: GridCommand, stream: str | None = None) -> None:
        await self.controller.receive(message, stream, self.clock.now())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                for device in self.devices.values():
                    sample = device.status().last_sample
                    assert sample is not None
                    self.controller.on_sample(sample)
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    clock: Clock | None = None,
    full: bool = False,
    bounds: BoundsSettings | None = None,
    feeds: FeedKeeper | None = None,
    inputs: Sequence[InputSettings] = (),
    record_folder: Path | None = None,
) -> AsyncIterator[Site]:
    clock = clock or Clock(kernel_error_us=lambda: 1_000)
    devices = {d.id: FakeDevice(d.id, d.kind, clock.monotonic_s) for d in DEVICES}
    async with await Store.open(folder) as store:
        desk = StoreDesk(store)
        desk.full = full
        controller = Controller(
            devices=devices,
            device_settings=DEVICES,
            site=SiteSettings(discharge_permitted=True, export_limit_w=30_000),
            control=ControlSettings(interval_s=0.1, lease_s=5, mandate=[MandateSettings(token_id="owner")]),
            frequency=FrequencySettings(),
            gateway_id=lambda: GATEWAY,
            stop_file=folder / "STOP",
            clock=clock,
            trust=lambda: trust_list(rights(expires_us=2**53), expires_us=2**53),
            desk=desk,
            notes=desk,
            bounds=bounds,
            feeds=feeds,
            inputs=inputs,
            record_folder=record_folder,
        )
        site = Site(controller, dict(devices), desk, clock)
        try:
            yield site
        finally:
            await site.end()


async def command(site_clock: Clock, name: str, seconds: float, **changes: object) -> GridCommand:
    now_us = site_clock.now().wall_us
    base = replace(SOME_COMMAND, start_us=now_us - 1, end_us=now_us + round(seconds * 1e6), sequence=now_us)
    made: Command = replace(base, **changes)  # type: ignore[arg-type]  # fields of Command
    return grid_command(name, made, await authorize(made, OPERATOR))


async def test_a_command_is_obeyed_and_ends_in_one_final_receipt_with_its_energy(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        message = await command(site.clock, "c1", 1.5)
        await site.give(message)
        await site.give(message, "battery")
        battery = site.devices["battery"]
        await site.until(lambda: battery.power_w == -5_000)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
        assert site.controller.snapshot().commands[0].in_force
        battery.register = -7_000
        await site.until(lambda: CommandState.COMPLETED in site.states(message))
        assert site.states(message) == [
            CommandState.RECEIVED, CommandState.ACCEPTED, CommandState.EXECUTING, CommandState.COMPLETED,
        ]  # fmt: skip
        assert site.receipts(message)[-1].delivered_energy_wh == -7
        await site.until(lambda: battery.setpoint is None)  # given back to itself


async def test_a_local_bound_holds_over_a_restart_and_the_receipt_names_it(tmp_path: Path) -> None:
    """SAFETY 10: two commands an hour, whoever issues them."""
    two = BoundsSettings(events_per_hour=2)
    async with running(tmp_path, bounds=two) as site:
        for number in range(2):
            message = await command(site.clock, f"c{number}", 60, power_w=3_000 + 1_000 * number)
            await site.give(message)
            await site.until(lambda: site.devices["battery"].power_w == -3_000 - 1_000 * number)  # noqa: B023
    async with running(tmp_path, bounds=two) as site:
        await site.until(lambda: site.devices["battery"].power_w == -4_000)  # what has begun goes on
        message = await command(site.clock, "c2", 60, power_w=5_000)
        await site.give(message)
        await site.until(lambda: CommandState.PARTIAL in site.states(message))
        assert "discrete events per hour" in site.receipts(message)[-1].reason
        assert site.devices["battery"].power_w != -5_000
        idle = await command(site.clock, "idle", 60, type=CommandType.IDLE, power_w=0)
        await site.give(idle)
        await site.until(lambda: site.devices["battery"].power_w == 0)


@pytest.mark.parametrize("target", ["battery", "class:battery"])
async def test_a_command_goes_on_after_a_restart(tmp_path: Path, target: str) -> None:
    async with running(tmp_path) as site:
        message = await command(site.clock, "c1", 60, targets=(target,))
        await site.give(message)
        await site.until(lambda: site.devices["battery"].power_w == -5_000)
    async with running(tmp_path) as site:
        await site.until(lambda: site.devices["battery"].power_w == -5_000)
        assert site.states(message) == []  # nothing is said twice
        await site.give(message)
        await site.until(lambda: len(site.states(message)) >= 3)
        assert site.states(message)[:2] == [CommandState.RECEIVED, CommandState.ACCEPTED]


async def test_a_command_that_was_replaced_moves_nothing_when_it_is_replayed_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        replaced = await command(site.clock, "c1", 60)
        await site.give(replaced)
        await site.until(lambda: site.devices["battery"].power_w == -5_000)
        await site.give(await command(site.clock, "c2", 60, power_w=2_000))
        await site.until(lambda: site.devices["battery"].power_w == -2_000)
        await site.until(lambda: CommandState.SUPERSEDED in site.states(replaced))
    async with running(tmp_path) as site:
        await site.give(replaced)  # before the store was read, which is when it could be taken for a new one
        battery, powers = site.devices["battery"], set[int]()

        def seen() -> bool:
            powers.add(battery.power_w)
            return CommandState.SUPERSEDED in site.states(replaced) and battery.power_w == -2_000

        await site.until(seen)
        at_s = site.controller.progress_s
        await site.until(lambda: seen() and site.controller.progress_s > at_s + 0.3)
        assert -5_000 not in powers, "a replayed command was obeyed"
        assert (
            CommandState.EXECUTING not in site.states(replaced)[site.states(replaced).index(CommandState.SUPERSEDED) :]
        )


async def test_with_a_full_disk_what_restricts_acts_and_what_allows_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        site.desk.full = True
        allows = await command(site.clock, "allows", 60)
        restricts = await command(
            site.clock,
            "restricts",
            60,
            type=CommandType.CURTAIL,
            mode=Mode.EXPORT_LIMIT,
            targets=("pv",),
            power_w=2_000,
        )
        await site.give(allows)
        await site.give(restricts)
        await site.until(lambda: site.devices["pv"].setpoint is not None)
        assert site.devices["battery"].setpoint is None
        assert site.controller.snapshot().store_trouble
        site.desk.full = False
        await site.until(lambda: site.devices["battery"].power_w == -5_000)
        await site.until(lambda: CommandState.ACCEPTED in site.states(restricts))


async def test_local_stop_acts_with_the_store_dead_and_holds_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, full=True) as site:
        site.controller.stop("the page")
        await site.until(lambda: all(d.setpoint is not None for n, d in site.devices.items() if n != "grid"))
        held = [d.setpoint for n, d in site.devices.items() if n != "grid"]
        assert all(s is not None and (s.lowest_w, s.highest_w) == (0, 0) for s in held)
    async with running(tmp_path) as site:
        await site.until(lambda: site.devices["battery"].setpoint is not None)
        site.controller.clear_stop("the installer")
        await site.until(lambda: site.devices["battery"].setpoint is None)
        codes = ["site.stop", "site.stop_cleared"]
        await site.until(lambda: [s.code for s in site.desk.taken if isinstance(s, Alarm)] == codes)


async def test_a_silent_device_holds_nobody_up_and_gets_its_order_when_it_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.devices["battery"].silent = True
        site.controller.stop("me")
        await site.until(lambda: site.devices["pv"].setpoint is not None)
        assert site.devices["battery"].setpoint is None
        site.devices["battery"].silent = False
        await site.until(lambda: site.devices["battery"].setpoint is not None)


async def test_permissions_are_renewed_and_releases_are_not(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.give(await command(site.clock, "c1", 60))
        await site.until(lambda: len(site.devices["battery"].applied) >= 3)
        assert not site.devices["pv"].applied


async def test_forgeries_are_refused_with_a_receipt_and_two_meanings_of_one_id_raise_an_alarm(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        real = await command(site.clock, "c1", 60)
        forged = GridCommand()
        forged.CopyFrom(real)
        forged.authorization = real.authorization[:-1] + bytes([real.authorization[-1] ^ 1])
        await site.give(forged)
        await site.until(lambda: CommandState.REJECTED in site.states(real))
        await site.give(real)
        await site.until(lambda: CommandState.EXECUTING in site.states(real))
        await site.give(await command(site.clock, "c1", 30, power_w=1))
        await site.until(
            lambda: any(isinstance(s, Alarm) and s.code == "command.equivocation" for s in site.desk.taken)
        )
        assert site.devices["battery"].power_w == -5_000


async def test_after_a_reboot_without_time_a_command_waits_until_the_platform_told_it(tmp_path: Path) -> None:
    clock = Clock(kernel_error_us=lambda: None)
    async with running(tmp_path, clock=clock) as site:
        message = await command(site.clock, "c1", 60)
        await site.give(message)
        await site.until(lambda: site.controller.snapshot().restored)
        assert not site.controller.snapshot().time_known
        assert site.devices["battery"].setpoint is None
        clock.witness(clock.now().wall_us, 0.01)
        await site.until(lambda: site.devices["battery"].power_w == -5_000)


async def test_a_lost_meter_is_safe_mode_with_a_reason_and_connection_targets_rest(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.devices["grid"].power_w = 10**9
        message = await command(site.clock, "c1", 60, point=Point.CONNECTION, targets=(), power_w=9_000)
        await site.give(message)
        await site.until(lambda: CommandState.PARTIAL in site.states(message))
        snapshot = site.controller.snapshot()
        assert "meter" in (snapshot.safe_mode or "")
        assert not snapshot.commands[0].in_force
        assert any(isinstance(s, Alarm) and s.code == "site.safe_mode" for s in site.desk.taken)


async def test_a_flood_of_forgeries_is_answered_in_part_only_and_the_real_command_comes_through(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        real = await command(site.clock, "real", 60)
        for number in range(1_000):
            await site.give(GridCommand(command_id=f"f{number}", authorization=b"junk"))
        await site.give(real)
        await site.until(lambda: CommandState.EXECUTING in site.states(real))
        assert site.controller.snapshot().refused == 1_000
        answered = [s for s in site.desk.taken if isinstance(s, CommandReceipt) and s.state is CommandState.REJECTED]
        assert len(answered) <= 150
        assert any(isinstance(s, Alarm) and s.code == "command.flood" for s in site.desk.taken)


async def test_what_is_in_the_store_are_the_receipts_that_were_made(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        message = await command(site.clock, "c1", 0.5)
        await site.give(message)
        await site.until(lambda: CommandState.COMPLETED in site.states(message))
        rows = await site.desk.store.queued(100, 1 << 20)
        assert [decode(row.encoded) for row in rows] == site.desk.taken
