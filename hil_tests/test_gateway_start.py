"""The agent's start with everything away, with a wrong clock, and on a full disk."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

from agent.measure.meter import SHORTEST_GAP_S
from agent.measure.reading import Quality
from agent.store.files import RESERVE
from hil_tests.gateway_parts import (
    DEVICES,
    gateway_site,
    needs_softhsm,
    part_of,
    problem_of,
)
from hil_tests.small_disk import fill, small_disk

__all__ = ["small_disk"]

pytestmark = needs_softhsm
AHEAD_S = 3600.0
"""Worse than behind: whatever believed it once would have to go back in time."""
FAILING_AGENT = """
from agent import gateway
from agent.cli.main import main

async def fail(self):
    raise RuntimeError("this fault is a test")

gateway.Gateway.shut_down = fail
main()
"""


async def test_it_starts_with_everything_away_says_so_and_comes_up_as_each_appears(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        stage.take_token_away()
        await stage.start_gateway()

        status = await site.shows(lambda s: part_of(s, "token")["state"] == "absent", "the token is absent")
        assert status["verdict"] == "trouble"
        assert "readings are stored and wait" in problem_of(status, "token")
        assert part_of(status, "link")["state"] == "not set up"
        assert status["gateway_id"] == ""
        status = await site.shows(
            lambda s: all(problem_of(s, device_id) for device_id in DEVICES), "a sentence for each device that is away"
        )
        assert {line["link"] for line in status["devices"]} <= {"starting", "silent"}
        assert status["control_age_s"] < 5, "the control loop stands still"

        await stage.start_site()
        status = await site.shows(
            lambda s: {line["link"] for line in s["devices"]} == {"online"} and s["evidence"]["queued"] > len(DEVICES),
            "every device online, and its readings waiting for the token",
        )
        assert status["evidence"]["sealed"] == 0

        stage.put_token_back()
        status = await site.shows(
            lambda s: s["evidence"]["sealed"] > 0 and bool(problem_of(s, "link")), "readings sealed, and no link yet"
        )
        assert status["gateway_id"] == stage.gateway_id
        assert status["evidence"]["acknowledged"] == 0

        await stage.start_platform()
        await site.well()
        await site.shows(lambda s: s["evidence"]["acknowledged"] > len(DEVICES), "what waited, acknowledged")
        assert await stage.gateway.end() == 0
        await site.nothing_lost()


async def test_a_token_that_was_cut_comes_back_and_people_and_the_platform_are_told(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        [file] = site.stage.state_dir.glob("token/tokens/*/token.object")
        file.write_bytes(b"")
        await site.stage.start_all()
        await site.told("alarm", code="token.put_back", subject="token file")
        assert "put back from its copy" in problem_of(await site.shows(lambda _: True, "status"), "token file")


async def test_a_wrong_clock_is_no_trusted_time_until_the_platform_tells_it(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        wrong = ("-m", "hil_tests.rig.wrong_clock", f"{AHEAD_S:g}")
        await stage.start_site()
        await stage.start_gateway(*wrong)
        await site.shows(
            lambda s: all(d["power_w"] is not None for d in s["devices"]) and s["evidence"]["sealed"] > len(DEVICES),
            "readings of every device before any platform",
        )
        await stage.start_platform()
        told_s = time.time()
        await site.well()
        await site.grows(*DEVICES, beyond=await site.newest_sequences(), by=3)

        # The trust outlives the process, as the machine's own clock went on: no platform is needed to start again.
        stage.link.cut()
        told = sum((await site.newest_sequences()).values())
        await stage.gateway.kill()
        await stage.start_gateway(*wrong)
        await site.shows(lambda s: s["evidence"]["readings"] > told + len(DEVICES), "readings after the restart")
        stage.link.restore()
        await site.well()
        await site.discharge(5_000, 20, "battery-1")
        await site.delivers(-5_000, "battery-1")
        assert await stage.gateway.end() == 0

        evidence = await site.nothing_lost()
        for readings in evidence.readings.values():
            untrusted = [bool(reading.quality & Quality.CLOCK_UNTRUSTED) for reading, _ in readings]
            assert untrusted[0], "a reading before the first witness claims to know the time"
            known = untrusted.index(False)
            assert not any(untrusted[known:]), "the time was known, and then it was not"
            for reading, _ in readings[known:]:
                assert told_s - 2 <= reading.timestamp_us / 1e6 <= time.time() + 2
            for reading, _ in readings[:known]:
                assert abs(reading.timestamp_us / 1e6 - AHEAD_S - told_s) < 60


async def test_a_full_disk_stops_neither_control_nor_commands_and_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    async with gateway_site(tmp_path, state_dir=small_disk / "state") as site:
        stage = site.stage
        await stage.start_all()
        await site.well()
        await site.grows(*DEVICES, beyond={})
        filled = small_disk / "somebody-elses"
        fill(filled)
        status = await site.shows(lambda s: not part_of(s, "store")["ok"], "a store that is full")
        assert status["verdict"] == "trouble"
        assert problem_of(status, "store")

        # Space is kept back for what may not wait: a command comes, is obeyed and receipted on a full disk.
        command_id = await site.discharge(5_000, 6, "battery-1")
        await site.delivers(-5_000, "battery-1")
        await site.receipted(command_id, "COMPLETED")
        status = await site.shows(lambda s: not part_of(s, "store")["ok"], "a store that is still full")
        assert status["control_age_s"] < 5
        told = await site.newest_sequences()

        # Without any space at all, and starting so, it still does what only reduces power.
        await stage.gateway.kill()
        fill(small_disk / "more")
        await stage.start_gateway()
        await site.shows(lambda s: not part_of(s, "store")["ok"], "a store that was full at the start")
        command_id = await site.issue(type="IDLE", duration_s=30, targets=["battery-1"])
        await site.delivers(0, "battery-1")

        filled.unlink()
        (small_disk / "more").unlink()
        await site.receipted(command_id, "EXECUTING")
        await site.well()
        await site.grows(*DEVICES, beyond=told)
        assert await stage.gateway.end() == 0
        evidence = await site.nothing_lost()
        for device_id, readings in evidence.readings.items():
            assert any(reading.quality & Quality.AFTER_GAP for reading, _ in readings), f"{device_id} hides its gap"


async def test_it_starts_without_any_room_knows_its_commands_obeys_what_restricts_and_goes_on_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    """The reserve is spent: SQLite has no room even for what its connections share."""
    async with gateway_site(tmp_path, state_dir=small_disk / "state") as site:
        stage = site.stage
        await stage.start_all()
        await site.well()
        await site.grows(*DEVICES, beyond={})
        before = await site.discharge(5_000, 120, "battery-1")
        await site.delivers(-5_000, "battery-1")
        told, incarnation = await site.newest_sequences(), (await site.well())["incarnation"]
        assert await stage.gateway.end() == 0
        (small_disk / "state" / RESERVE).unlink()
        filled = small_disk / "somebody-elses"
        fill(filled)
        assert os.statvfs(small_disk).f_bavail == 0

        await stage.start_gateway()
        status = await site.shows(lambda s: "no room" in problem_of(s, "store"), "a store without room")
        assert (status["verdict"], status["incarnation"]) == ("trouble", incarnation)
        assert status["control_age_s"] < 5
        # What was ordered before is known, and new orders that only reduce power are obeyed.
        await site.delivers(-5_000, "battery-1")
        await site.shows(lambda s: part_of(s, "link")["ok"], "the link")
        command_id = await site.issue(type="IDLE", duration_s=120, targets=["battery-1"])
        await site.delivers(0, "battery-1")
        await stage.run("stop", "--config", str(stage.config))
        await site.shows(lambda s: bool(problem_of(s, "stop")), "STOP")
        await site.delivers(0, "pv-1", "battery-1", "charger-1", "charger-2")
        await stage.run("clear-stop", "--config", str(stage.config))
        status = await site.shows(lambda s: not problem_of(s, "stop"), "the end of STOP")
        assert not part_of(status, "store")["ok"]

        filled.unlink()
        await site.receipted(command_id, "EXECUTING")
        await site.receipted(before, "SUPERSEDED")
        status = await site.well()
        assert status["incarnation"] == incarnation
        assert (small_disk / "state" / RESERVE).exists(), "the reserve is kept back again"
        await site.grows(*DEVICES, beyond=told)
        assert await stage.gateway.end() == 0
        evidence = await site.nothing_lost()
        told_gaps = set()
        for device_id, readings in evidence.readings.items():
            for (before_it, _), (reading, _) in pairwise(readings):
                # What a charger measured while nobody heard it is told afterwards: it may have no gap that is long.
                if reading.timestamp_us - before_it.timestamp_us > SHORTEST_GAP_S * 1e6:
                    assert reading.quality & Quality.AFTER_GAP, f"{device_id} hides its gap"
                    told_gaps.add(device_id)
        assert {"meter-1", "pv-1", "battery-1"} <= told_gaps


async def test_a_first_start_on_a_full_disk_controls_the_site_says_what_to_free_and_begins_its_store_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    async with gateway_site(tmp_path, state_dir=small_disk / "state") as site:
        stage, filled = site.stage, small_disk / "somebody-elses"
        fill(filled)
        await stage.start_all()
        status = await site.shows(
            lambda s: {line["link"] for line in s["devices"]} == {"online"} and bool(problem_of(s, "store")),
            "every device online, and what is waited for",
        )
        said = problem_of(status, "store")
        assert f"{small_disk / 'state'}: 0 MiB are free" in said
        assert "free 5 MiB" in said
        assert status["control_age_s"] < 5, "the control loop stands still"
        await stage.run("stop", "--config", str(stage.config))
        await site.delivers(0, "pv-1", "battery-1", "charger-1", "charger-2")
        await stage.run("clear-stop", "--config", str(stage.config))

        filled.unlink()
        status = await site.well()
        assert status["incarnation"] == 1
        await site.grows(*DEVICES, beyond={})
        alarms = [alarm for alarm in (await site.page())["alarms"] if alarm["code"] == "store.no_room"]
        assert ["0 MiB are free" in alarm["text"] for alarm in alarms] == [True], "the platform learns of it, signed"
        await site.discharge(5_000, 20, "battery-1")
        await site.delivers(-5_000, "battery-1")
        assert await stage.gateway.end() == 0
        await site.nothing_lost()


async def test_an_agent_that_fails_ends_with_an_error_and_does_not_hang(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        await stage.start_platform()
        await stage.start_gateway("-c", FAILING_AGENT)
        await site.shows(lambda s: part_of(s, "link")["ok"], "the link as up")
        assert await stage.gateway.end() == 70
        assert "this fault is a test" in stage.gateway.words()
