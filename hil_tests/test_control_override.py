"""A device held by hand over the real store and socket, and what `v2g-gateway commands` tells of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.client import SOCKET_NAME, RefusedError, order
from agent.cli.commands import app
from agent.cli.output import console
from agent.evidence.statements import Alarm, CommandState
from agent.roads.people import Hands
from agent.store.files import DATABASE
from agent.web.server import serve_locally
from hil_tests.test_cli_commands import command_beside
from hil_tests.test_control_controller import Site, command, running
from hil_tests.test_web import FakeSite


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def config(state_dir: Path) -> Path:
    file = state_dir.parent / "gateway.toml"
    file.write_text(f'[gateway]\nstate_dir = "{state_dir}"\n[token]\nlabel = "t"\n')
    return file


@asynccontextmanager
async def box(state_dir: Path) -> AsyncIterator[Site]:
    async with (
        running(state_dir) as site,
        serve_locally(FakeSite(), state_dir / SOCKET_NAME, holds=Hands(site.controller)),
    ):
        yield site


async def held(site: Site, power_w: int) -> None:
    battery = site.devices["battery"]
    await site.until(lambda: battery.setpoint is not None and battery.power_w == power_w)


async def test_a_hold_takes_the_device_says_so_survives_a_restart_and_ends(
    state_dir: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 200)  # whatever terminal the tests are started in
    async with box(state_dir) as site:
        message = await command(site.clock, "c1", 600)
        await site.give(message)
        await held(site, -5_000)
        await site.until(lambda: CommandState.EXECUTING in site.states(message))
        told = await command_beside(
            "override", "battery", "--power", "2000", "--for", "10m", "--config", config, "--json"
        )
        assert told.returncode == 0, told.stderr
        assert "battery is held at 2000 W locally by command line" in json.loads(told.stdout)["done"]
        await held(site, 2_000)
        await site.until(lambda: CommandState.PARTIAL in site.states(message))
        assert "held at 2000 W locally" in site.receipts(message)[-1].reason
        reason = next(d.reason for d in site.controller.snapshot().devices if d.device_id == "battery")
        assert reason.startswith("held at 2000 W locally by command line")
    async with box(state_dir) as site:
        await held(site, 2_000)
        ended = await command_beside("override", "battery", "--end", "--config", config)
        assert ended.returncode == 0, ended.stderr
        await held(site, -5_000)
        await site.until(
            lambda: any(isinstance(s, Alarm) and s.code == "device.override_ended" for s in site.desk.taken)
        )
    await asyncio.to_thread(told_by_commands, config)


def told_by_commands(config: Path) -> None:
    listed = cli("commands", "--config", config, "--json")
    assert listed.exit_code == 0, listed.stderr
    (one,) = json.loads(listed.stdout)["commands"]
    assert [receipt["state"] for receipt in one["receipts"]] == ["received", "accepted", "executing", "partial"]
    assert one["text"].startswith("DISCHARGE 5000 W by grid")
    table = cli("commands", "--state", "partial", "--since", "1h", "--config", config).stdout
    assert "held at 2000 W locally" in table
    assert "c1" in table
    assert json.loads(cli("commands", "--state", "failed", "--config", config, "--json").stdout)["commands"] == []
    assert json.loads(cli("commands", "--until", "1h", "--config", config, "--json").stdout)["commands"] == []


async def test_a_hold_that_makes_no_sense_is_refused_with_what_would(state_dir: Path) -> None:
    async with box(state_dir):
        for asked, words in (
            ({"device": "toaster", "power_w": 0, "duration_s": 60}, "cannot be controlled here; battery, pv can"),
            ({"device": "battery", "power_w": 99_000, "duration_s": 60}, "can do -10000 to 10000 W"),
            ({"device": "battery", "release": True, "duration_s": 8 * 86_400}, "7 days"),
            ({"device": "battery", "end": True}, "is not held"),
        ):
            with pytest.raises(RefusedError, match=words):
                await asyncio.to_thread(order, state_dir, "/api/override", asked, press_by="me")


async def test_nonsense_on_the_socket_is_refused(state_dir: Path) -> None:
    async with box(state_dir):
        for body in (b"", b"[]", b'{"device":1}', b'{"device":"battery","power_w":true,"duration_s":5}', b"\xff",
                     b'{"device":"battery","power_w":1e400,"duration_s":5}'):  # fmt: skip
            reader, writer = await asyncio.open_unix_connection(str(state_dir / SOCKET_NAME))
            head = f"POST /api/override HTTP/1.1\r\nHost: x\r\nX-V2G-Gateway: me\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            assert b" 400 " in await reader.readline()
            writer.close()


def test_commands_of_a_box_that_never_ran_says_what_is_missing(config: Path) -> None:
    told = cli("commands", "--config", config)
    assert told.exit_code == 1
    assert DATABASE in told.stderr
    wrong = cli("commands", "--since", "yesterday", "--config", config)
    assert wrong.exit_code == 2
    assert "is no time" in wrong.stderr
    assert "is none of" in cli("commands", "--state", "lost", "--config", config).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--power", "0", "--for", "soon"), "give --for DURATION"),
        (("--power", "0"), "give --for DURATION"),
        (("--for", "1m"), "give one of"),
        (("--release", "--end"), "give one of"),
        (("--release", "--for", "1h"), "no agent runs"),
    ],
)
def test_override_says_what_is_missing(config: Path, arguments: tuple[str, ...], words: str) -> None:
    told = cli("override", "battery", *arguments, "--config", config)
    assert told.exit_code != 0
    assert words in told.stderr
