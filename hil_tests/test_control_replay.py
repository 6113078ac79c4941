"""`v2g-gateway replay` over a real store: what a controller decided comes out again, and what was altered shows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.control import decision_log
from agent.control.decision_log import CODE, segments
from agent.evidence.statements import Alarm, CommandState
from hil_tests.test_control_controller import command, running
from hil_tests.test_control_override import cli


async def test_a_real_hour_is_decided_again_byte_for_byte_and_an_altered_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "WRITE_EVERY_S", 0.2)
    monkeypatch.setattr(decision_log, "STATE_EVERY_S", 0.5)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    folder, config = state_dir / "decisions", tmp_path / "gateway.toml"
    config.write_text(f'[gateway]\nstate_dir = "{state_dir}"\n[token]\nlabel = "t"\n')
    for name in ("c1", "c2"):
        async with running(state_dir, record_folder=folder) as site:
            message = await command(site.clock, name, 60, power_w=4_000)
            await site.give(message)
            await site.until(lambda: CommandState.EXECUTING in site.states(message))  # noqa: B023
            await site.until(lambda: any(isinstance(s, Alarm) and s.code == CODE for s in site.desk.taken))
    told = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config, "--json")
    assert told.exit_code == 0, told.stdout + told.stderr
    found = json.loads(told.stdout)
    assert found["decisions"] == found["same"] > 4
    assert 0 < found["signed"] <= found["decisions"]
    assert found["faults"] == []
    words = await asyncio.to_thread(cli, "replay", "1h", "0s", "--config", config)
    assert "come out the same, byte for byte" in words.stdout
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
