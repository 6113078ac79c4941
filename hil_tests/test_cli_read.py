"""read as a process, against the rig's devices, beside a running agent or without one."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from pathlib import Path

import pytest

from agent.cli.client import SOCKET_NAME
from agent.web.server import serve_locally
from drivers.modbus.server import ModbusTcpServer
from hil_tests.device_command_parts import NO_CONFIG, config, configured, started
from hil_tests.rig.site.site import BATTERY, METER, PV, Site, SiteSettings
from hil_tests.test_cli_commands import PATIENCE_S, command, command_beside
from hil_tests.test_modbus_maps import Played
from hil_tests.test_web import WELL, FakeSite
from tests.drivers.modbus.test_device import MAP, meter
from tests.drivers.sunspec.fakes import battery

__all__ = ["config"]


async def test_read_shows_points_with_units_and_says_what_is_not_implemented(config: Path) -> None:
    async with Site(SiteSettings()) as site:
        configured(config, site.addresses[PV])
        done = await command_beside("read", "pv-1", "--json", "--config", config)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["device"], answer["source"]) == (0, "pv-1", "device")
        points = {
            (section["model"], point["point"]): point for section in answer["sections"] for point in section["points"]
        }
        assert points[1, "SN"]["value"].startswith("RIG")
        assert (points[701, "W"]["units"], type(points[701, "W"]["value"])) == ("W", int)
        assert points[701, "Hz"]["value"] == pytest.approx(50, abs=1)
        assert (points[701, "TmpAmb"]["value"], points[701, "TmpAmb"]["text"]) == (None, "not implemented")
        assert "ON" in points[701, "St"]["text"]
        done = await command_beside("read", site.addresses[PV], "701", *NO_CONFIG)
        assert done.returncode == 0
        assert re.search(r"^W +-?\d+ +W", done.stdout, re.MULTILINE)
        assert re.search(r"^TmpAmb +not implemented", done.stdout, re.MULTILINE)
        assert "Mn " not in done.stdout, "model 1 was not asked for"


async def test_a_model_that_the_device_does_not_have_is_named_with_those_it_has() -> None:
    async with Site(SiteSettings()) as site:
        done = await command_beside("read", site.addresses[METER], "999", "--json", *NO_CONFIG)
        assert done.returncode == 1
        assert "has no model 999; it has 1, " in json.loads(done.stdout)["error"]


async def test_watch_reads_again_until_ctrl_c() -> None:
    async with Site(SiteSettings()) as site:
        arguments = ("--watch", "--period-s", "0.2", "--json", *NO_CONFIG)
        process = started("read", site.addresses[BATTERY], "713", *arguments)
        assert process.stdout is not None
        for _ in range(3):
            line = await asyncio.to_thread(process.stdout.readline)
            assert json.loads(line)["sections"][0]["model"] == 713
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        assert process.returncode == 0


async def test_read_shows_a_device_with_a_register_map(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "meter.toml"
    file.write_text(MAP)
    server = ModbusTcpServer(Played(meter(power_w=-1500, import_wh=7000).registers), unit=1)
    await server.start("127.0.0.1", 0)
    try:
        address = f"tcp://127.0.0.1:{server.port}"
        configured(config, address, f'map = "{file}"', device="meter-1", driver="modbus")
        by_id = await command_beside("read", "meter-1", "--json", "--config", config)
        by_address = await command_beside("read", address, "--map", file, "--json", *NO_CONFIG)
        for done in (by_id, by_address):
            answer = json.loads(done.stdout)
            [section] = answer["sections"]
            points = {point["point"]: (point["value"], point["units"]) for point in section["points"]}
            assert answer["title"] == "Maker X"
            assert (points["power"], points["import_energy"]) == ((-1500, "W"), (7.0, "kWh"))
            assert points["frequency"] == (50.01, "Hz")
        done = await command_beside("read", address, *NO_CONFIG)
        assert done.returncode == 1
        assert "--map" in done.stderr
    finally:
        await server.stop()


async def test_the_running_agent_loses_no_connection_to_a_command(config: Path, tmp_path: Path) -> None:
    server = ModbusTcpServer(Played(battery().registers), unit=1)
    await server.start("127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.port}"
    configured(config, address)
    try:
        async with serve_locally(FakeSite(), config.parent / "state" / SOCKET_NAME):
            shown = await command_beside("read", "pv-1", "--config", config)
            assert (shown.returncode, server.requests) == (0, 0)
            assert "as the running agent measured it" in shown.stdout
            told = json.loads((await command_beside("read", "pv-1", "--config", config, "--json")).stdout)
            power = {point["point"]: point["value"] for point in told["sections"][0]["points"]}["power"]
            assert (told["source"], power) == ("agent", WELL.devices[0].power_w)
            by_name = f"tcp://localhost:{server.port}"
            for arguments in (
                ("read", "pv-1", "701"),
                ("read", by_name),
                ("record", address, tmp_path / "out.json"),
                ("scan", by_name),
            ):
                done = await command_beside(*arguments, "--config", config, "--json")
                assert (done.returncode, server.requests) == (1, 0)
                assert "the running agent holds this line (pv-1)" in done.stdout
            assert not (tmp_path / "out.json").exists()
            done = await command_beside("read", "pv-1", "701", "--take-line", "--config", config)
            assert done.returncode == 0
            assert server.requests > 0
    finally:
        await server.stop()


async def test_a_socket_that_a_dead_agent_left_behind_holds_nothing(config: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(config.parent / "state" / SOCKET_NAME))
    async with Site(SiteSettings()) as site:
        configured(config, site.addresses[PV])
        done = await command_beside("read", "pv-1", "1", "--json", "--config", config)
        assert (done.returncode, json.loads(done.stdout)["source"]) == (0, "device")


def test_a_mistyped_id_is_told_with_those_there_are(config: Path) -> None:
    configured(config, "tcp://127.0.0.1:1")
    done = command("read", "pv-7", "--timeout-s", "0.5", "--config", config)
    assert done.returncode == 1
    assert "did you mean a device of the configuration: pv-1?" in done.stderr
