"""`v2g-gateway replay` over a real store: what came to a controller happens again, and what was altered shows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.control import decision_log
from agent.control.authorization import sign_body
from agent.control.decision_log import CODE, segments
from agent.control.feed_keeper import FeedKeeper
from agent.control.feeds import TYP as FEED_TYP
from agent.control.feeds import encode_value
from agent.control.schedule import STEP_US, TYP, encode_schedule
from agent.evidence.statements import Alarm, CommandReceipt, CommandState
from hil_tests.test_control_controller import Site, command, running
from hil_tests.test_control_override import cli
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.schedules import schedule
from tests.agent.control.support import GATEWAY, OPERATOR
from tests.agent.control.test_feeds import KEYS, RULES, value


async def _signed_schedule(site: Site) -> bytes:
    start_us = site.clock.now().wall_us // STEP_US * STEP_US
    return await sign_body(encode_schedule(schedule(audience=GATEWAY, start_us=start_us)), TYP, OPERATOR)


async def test_a_real_time_happens_again_byte_for_byte_and_an_altered_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "WRITE_EVERY_S", 0.2)
    monkeypatch.setattr(decision_log, "STATE_EVERY_S", 0.5)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    folder, config = state_dir / "decisions", tmp_path / "gateway.toml"
    config.write_text(f'[gateway]\nstate_dir = "{state_dir}"\n[token]\nlabel = "t"\n')
    said = 0
    for name in ("c1", "c2"):
        async with running(state_dir, record_folder=folder, feeds=FeedKeeper(RULES)) as site:
            message = await command(site.clock, name, 60, power_w=4_000)
            await site.give(message)  # before the store was read: it waits
            await site.until(lambda: CommandState.EXECUTING in site.states(message))  # noqa: B023
            for number in range(2):
                feed = value(number, at_us=site.clock.now().wall_us)
                signed = await sign_body(encode_value(feed), FEED_TYP, KEYS[number])
                await site.controller.receive_signed("feed", signed, site.clock.now())
            await site.controller.receive_signed("schedule", await _signed_schedule(site), site.clock.now())
            await site.give(GridCommand(command_id=f"x{name}", authorization=b"nothing"))
            site.controller.override("battery", 1_000, 60, "me")
            await site.until(lambda: site.devices["battery"].power_w == 1_000)
            site.controller.end_override("battery", "me")
            site.controller.stop("me")
            await site.until(lambda: site.devices["battery"].power_w == 0)
            site.controller.clear_stop("me")
            await site.until(lambda: site.devices["battery"].power_w == -4_000)
            stated = sum(isinstance(s, Alarm) and s.code == CODE for s in site.desk.taken)
            await site.until(
                lambda: sum(isinstance(s, Alarm) and s.code == CODE for s in site.desk.taken) > stated  # noqa: B023
            )
            said += sum(isinstance(each, CommandReceipt) for each in site.desk.taken)
    told = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config, "--json")
    assert told.exit_code == 0, told.stdout + told.stderr
    found = json.loads(told.stdout)
    assert found["decisions"] == found["same"] > 4
    assert 0 < found["signed"] <= found["decisions"]
    assert (found["faults"], found["not_again"]) == ([], 0)
    assert found["messages"] == 2 * 5
    assert found["answers"] == found["answers_in_evidence"] == said > 10
    words = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config)
    assert "come out the same, byte for byte" in words.stdout
    assert f"10 messages of the platform were judged again, with the same {said} receipts" in words.stdout
    with monkeypatch.context() as other_rule:
        other_rule.setattr("agent.control.admission.HORIZON_US", 1)
        told = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config)
    assert told.exit_code == 1
    assert "The first difference, at 20" in told.stdout
    assert "then said RECEIVED of 'c1'; now REJECTED of 'c1' (ends beyond the horizon" in told.stdout
    first, second = segments(folder)
    first.write_bytes(second.read_bytes())
    told = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config)
    assert told.exit_code == 1
    assert "Does not hold" in told.stdout


def test_a_time_of_which_nothing_is_kept_and_a_time_that_runs_backwards_are_told(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n[token]\nlabel = "t"\n')
    told = cli("replay", "1h", "2h", "--config", config)
    assert told.exit_code == 2
    assert "before FROM" in told.stderr
    assert "there is no store" in cli("replay", "2h", "1h", "--config", config).stderr
    assert cli("replay", "noon", "1h", "--config", config).exit_code == 2
