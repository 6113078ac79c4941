"""A pre-agreed schedule over the real link: followed when nobody commands, kept over a restart, without a link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.control.authorization import sign_body
from agent.control.command import CommandType, Point, Price
from agent.control.feed_keeper import FeedKeeper
from agent.control.feeds import TYP as FEED_TYP
from agent.control.feeds import encode_value
from agent.control.schedule import STEP_US, TYP, Schedule, encode_schedule
from agent.evidence.statements import Alarm, CommandReceipt, CommandState
from hil_tests.rig.platform.service import Server
from hil_tests.test_control_controller import Site, command, running
from hil_tests.uplink_parts import Rig, rig, until
from proto.energysettlement.v1.gateway_pb2 import PlatformFrame
from tests.agent.control.support import GATEWAY, OPERATOR
from tests.agent.control.test_feeds import KEYS, RULES, value

__all__ = ["rig"]


def _schedule(site: Site, power_w: int, sequence: int = 1, quarters: int = 8) -> Schedule:
    start_us = site.clock.now().wall_us // STEP_US * STEP_US
    return Schedule(
        audience=GATEWAY,
        targets=("battery",),
        point=Point.DEVICE,
        start_us=start_us,
        steps=(power_w,) * quarters,
        price=Price(200_000, "EUR"),
        issuer="grid",
        sequence=sequence,
    )


async def _signed(schedule: Schedule) -> bytes:
    return await sign_body(encode_schedule(schedule), TYP, OPERATOR)


@asynccontextmanager
async def linked(rig: Rig, site: Site) -> AsyncIterator[None]:
    """The site's control behind a real link to the practice platform."""
    rig.gateway.on_signed = site.controller.receive_signed  # type: ignore[method-assign]
    async with Server(rig.platform, rig.practice) as server, rig.uplink(f"127.0.0.1:{server.port}"):
        await until(lambda: rig.gateway.connected == 1, "the link is up")
        yield


def _states(site: Site) -> list[CommandState]:
    return [s.state for s in site.desk.taken if isinstance(s, CommandReceipt) and s.command_id.startswith("schedule")]


async def test_a_schedule_that_came_by_the_link_is_followed_without_one_and_over_a_restart(
    rig: Rig, tmp_path: Path
) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        frame = PlatformFrame(schedule=await _signed(_schedule(site, -3_000)))
        async with linked(rig, site):
            rig.platform.send_signed(rig.gateway.evidence.gateway_id, frame)
            await site.until(lambda: site.devices["battery"].power_w == -3_000)
        assert _states(site) == [CommandState.RECEIVED, CommandState.ACCEPTED]
        line = site.controller.snapshot().schedules[0]
        assert (line.power_w, line.in_force) == (-3_000, True)
    async with running(tmp_path) as site:
        await site.until(lambda: site.devices["battery"].power_w == -3_000)
        assert _states(site) == []
        # A command goes before it, and it comes back when the command has ended.
        await site.give(await command(site.clock, "c1", 1.0, type=CommandType.CHARGE, power_w=2_000))
        await site.until(lambda: site.devices["battery"].power_w == 2_000)
        await site.until(lambda: site.devices["battery"].power_w == -3_000)
        opened = site.controller.snapshot().deviations.open
        assert [quarter.commanded for quarter in opened.values()] == [True]


async def test_a_newer_schedule_replaces_the_old_one_and_a_forged_one_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        first = await _signed(_schedule(site, -3_000))
        await site.controller.receive_signed("schedule", first, site.clock.now())
        await site.until(lambda: site.devices["battery"].power_w == -3_000)
        genuine = await _signed(_schedule(site, -9_000, sequence=7))
        forged = genuine[:-1] + bytes([genuine[-1] ^ 1])
        await site.controller.receive_signed("schedule", forged, site.clock.now())
        await site.controller.receive_signed("schedule", b"junk", site.clock.now())
        await site.until(lambda: _refused(site) == 2)
        newer = await _signed(_schedule(site, -1_000, sequence=2, quarters=9))
        await site.controller.receive_signed("schedule", newer, site.clock.now())
        await site.until(lambda: site.devices["battery"].power_w == -1_000)
        assert CommandState.SUPERSEDED in _states(site)
        await site.controller.receive_signed("schedule", first, site.clock.now())  # replayed
        await site.until(lambda: _refused(site) == 3)
        assert site.devices["battery"].power_w == -1_000


async def test_one_number_for_two_schedules_is_an_alarm(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        for power_w in (-3_000, -2_000):
            made = await _signed(_schedule(site, power_w))
            await site.controller.receive_signed("schedule", made, site.clock.now())
        await site.until(
            lambda: any(isinstance(s, Alarm) and s.code == "command.equivocation" for s in site.desk.taken)
        )
        await site.until(lambda: site.devices["battery"].power_w == -3_000)


async def test_a_schedule_that_cannot_be_stored_is_not_followed_before_it_can(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        site.desk.full = True
        made = await _signed(_schedule(site, -3_000))
        await site.controller.receive_signed("schedule", made, site.clock.now())
        at_s = site.controller.progress_s
        await site.until(lambda: site.controller.progress_s > at_s + 0.3)
        assert site.devices["battery"].power_w == 0
        site.desk.full = False
        await site.until(lambda: site.devices["battery"].power_w == -3_000)


async def test_a_price_that_two_sources_agree_on_comes_by_the_link_and_is_shown(rig: Rig, tmp_path: Path) -> None:
    async with running(tmp_path, feeds=FeedKeeper(RULES)) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        now_us = site.clock.now().wall_us
        async with linked(rig, site):
            for number in (0, 1, 2):
                told = value(
                    number, at_us=now_us - 1, until_us=now_us + 600_000_000, value=210_000 + number // 2 * 90_000
                )
                body = await sign_body(encode_value(told), FEED_TYP, KEYS[number])
                rig.platform.send_signed(rig.gateway.evidence.gateway_id, PlatformFrame(feed=body))
            await site.until(lambda: bool(site.controller.snapshot().feeds))
        line = site.controller.snapshot().feeds[0]
        assert (line.value, line.currency, line.sources) == (210_000, "EUR", 2)
        assert site.controller.view is not None
        assert site.controller.view.spot == Price(210_000, "EUR")


def _refused(site: Site) -> int:
    return sum(
        isinstance(s, CommandReceipt) and s.state is CommandState.REJECTED and s.command_id == "schedule"
        for s in site.desk.taken
    )
