"""`plan --at`, `envelope` and `chargers departure` as processes, against a running control behind the local socket."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli.client import SOCKET_NAME
from agent.control.errors import ControlError, NotNowError
from agent.control.needing import Wish
from agent.web.server import serve_locally
from hil_tests.test_cli_commands import command_beside
from hil_tests.test_control_controller import Site, command, running
from hil_tests.test_web import FakeSite


class Control:
    """The gateway's side of the local interface."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.looked = 0

    def wish(self, device_id: str, energy_wh: int | None, departure_us: int | None) -> None:
        try:
            self.site.controller.wish(device_id, Wish(energy_wh=energy_wh, departure_us=departure_us))
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error

    def foresee(self, at_us: int) -> dict[str, object]:
        try:
            return asdict(self.site.controller.foresee(at_us))
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error

    async def windows_looked_at(self) -> None:
        self.looked += 1

    async def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await command_beside(*arguments, "--config", self.folder / "gateway.toml")


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "gateway.toml").write_text(f'[gateway]\nstate_dir = "{state}"\n[token]\nlabel = "t"\n')
    async with running(tmp_path) as site:
        made = Control(site, tmp_path)
        await site.until(lambda: site.controller.snapshot().restored and site.controller.view is not None)
        async with serve_locally(FakeSite(), state / SOCKET_NAME, control=made):
            yield made


def _after(control: Control, seconds: float) -> str:
    return datetime.fromtimestamp(control.site.clock.now().wall_us / 1e6 + seconds, UTC).isoformat()


async def test_the_plan_of_then_names_the_command_that_was_sent_ahead(control: Control) -> None:
    now_us = control.site.clock.now().wall_us
    ahead = await command(control.site.clock, "c1", 7_200, start_us=now_us + 3_600_000_000)
    await control.site.give(ahead)
    done = await control.cli("plan", "--at", _after(control, 5_400))
    assert done.returncode == 0, done.stderr
    assert "Target in force: DISCHARGE 5000 W by grid" in done.stdout
    assert "battery: held at -5000 W." in done.stdout
    told = json.loads((await control.cli("plan", "--at", _after(control, 60), "--json")).stdout)
    assert told["orders"] == []
    assert {d["device_id"]: d["lowest_w"] for d in told["devices"]} == {"battery": None, "pv": None}


@pytest.mark.parametrize(("at", "code"), [("yesterday", 2), ("2020-01-01T00:00:00Z", 2), ("2126-01-01T00:00:00Z", 2)])
async def test_a_moment_that_cannot_be_foreseen_is_refused(control: Control, at: str, code: int) -> None:
    done = await control.cli("plan", "--at", at)
    assert done.returncode == code
    assert "error" in done.stderr


async def test_a_wish_without_a_car_and_one_that_cannot_be_meant_are_refused(control: Control) -> None:
    done = await control.cli("chargers", "departure", "pv", "--kwh", "5")
    assert done.returncode == 1
    assert "no car is plugged in" in done.stderr
    for wrong in (("--clear", "--kwh", "5"), ("--at", "25:00")):
        assert (await control.cli("chargers", "departure", "pv", *wrong)).returncode == 2


async def test_the_envelope_is_shown_and_that_somebody_looked_is_told(control: Control) -> None:
    done = await control.cli("envelope", "--looked")
    assert done.returncode == 0, done.stderr
    assert "Windows that the platform missed: 0" in done.stdout
    assert control.looked == 1
    assert json.loads((await control.cli("envelope", "--json")).stdout)["derated_permille"] == 1000


async def test_simulate_draws_a_day_and_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        '[token]\nlabel = "t"\n[[device]]\nid = "grid"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://h:1"\n'
        '[[device]]\nid = "b"\nkind = "battery"\ndriver = "sunspec"\naddress = "tcp://h:2"\nparent = "grid"\n'
    )
    scenario = tmp_path / "day.jsonl"
    scenario.write_text(
        '{"at": "2027-06-01T10:00:00Z", "command": {"id": "c", "type": "CHARGE", "power_w": 2000, "duration_s": 900}}\n'
    )
    out = tmp_path / "day.svg"
    done = await command_beside("simulate", site, scenario, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["commands"][0]["states"][-1] == "COMPLETED"
    assert out.read_text().startswith("<svg")
    scenario.write_text('{"at": "2027-06-01T10:00:00Z", "stop": 7}\n')
    done = await command_beside("simulate", site, scenario)
    assert done.returncode == 2
    assert "line 1" in done.stderr
