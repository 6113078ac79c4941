"""record and serve as processes, against the rig's devices, recordings that are played, and strangers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.modbus.server import ModbusTcpServer
from drivers.sunspec import ConnectionPool, discover
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.dump import Dump, PlayedRegisters, from_json
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.survey import Survey
from hil_tests.device_command_parts import NO_CONFIG, free_port, playing, started, stranger, until
from hil_tests.rig.site.site import BATTERY, METER, Site, SiteSettings
from hil_tests.test_cli_commands import PATIENCE_S, command, command_beside
from tests.drivers.sunspec.fakes import FIXTURES, REAL_DEVICES, battery


async def test_the_rigs_battery_recorded_and_played_is_the_same_device_without_its_serial_number(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    async with Site(SiteSettings()) as site:
        address = site.addresses[BATTERY]
        real = await discover(address, 1)
        done = await command_beside("record", address, first, "--json", *NO_CONFIG)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["models"]) == (0, [model.number for model in real.models])
    assert real.serial
    assert real.serial not in first.read_text()
    words = b"".join(word.to_bytes(2) for _, word in sorted(from_json(first.read_bytes()).regs.items()))
    assert real.serial.encode() not in words
    with playing(first) as (address, _):
        played = await discover(address, 1)
        assert replace(played, address=real.address, serial=real.serial) == real
        assert (await command_beside("record", address, second, *NO_CONFIG)).returncode == 0
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_a_fixture_that_is_served_decodes_word_for_word_and_is_recorded_as_the_same_file(
    name: str, tmp_path: Path
) -> None:
    fixture = FIXTURES / f"{name}.json"
    if not fixture.exists():
        pytest.skip("../shared/fixtures/sunspec is absent")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    dump = from_json(fixture.read_bytes())
    with playing(fixture) as (address, _):
        assert await decoded(address) == await decoded_in_memory(dump)
        assert (await command_beside("record", address, first, *NO_CONFIG)).returncode == 0
    with playing(first) as (address, _):
        assert (await command_beside("record", address, second, *NO_CONFIG)).returncode == 0
    assert second.read_bytes() == first.read_bytes()


async def decoded(address: str) -> list[object]:
    pool = ConnectionPool(time.monotonic)
    try:
        unit = Unit(pool.connection(address), 1, 2.0)
        readings = await Survey(unit, await describe(unit)).read(0.0)
        return [(one.found, dict(one.values), one.refused) for one in readings]
    finally:
        pool.close()


async def decoded_in_memory(dump: Dump) -> list[object]:
    server = ModbusTcpServer(PlayedRegisters(dump), unit=1)
    await server.start("127.0.0.1", 0)
    try:
        return await decoded(f"tcp://127.0.0.1:{server.port}")
    finally:
        await server.stop()


async def test_ctrl_c_in_the_middle_leaves_no_half_file_and_the_old_one_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    async with stranger(b"") as (address, asked):
        process = started("record", address, out, "--force", "--timeout-s", "20", *NO_CONFIG)
        await until(asked.is_set)
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        assert process.returncode == 130
    assert os.listdir(tmp_path) == ["out.json"]
    assert out.read_text() == "old"


async def test_a_file_that_is_there_is_replaced_only_with_force(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    async with Site(SiteSettings()) as site:
        done = await command_beside("record", site.addresses[METER], out, *NO_CONFIG)
        assert (done.returncode, out.read_text()) == (1, "old")
        assert "--force" in done.stderr
        assert (await command_beside("record", site.addresses[METER], out, "--force", *NO_CONFIG)).returncode == 0
        assert from_json(out.read_bytes()).regs
        assert os.listdir(tmp_path) == ["out.json"]


def test_a_folder_that_is_not_there_is_told_before_the_device_is_asked(tmp_path: Path) -> None:
    done = command("record", "127.0.0.1:1", tmp_path / "no" / "out.json", *NO_CONFIG)
    assert done.returncode == 1
    assert "no such folder" in done.stderr


@pytest.mark.parametrize("action", ["read", "record"])
async def test_a_place_without_a_device_gets_its_own_clear_error(action: str, tmp_path: Path) -> None:
    out = [tmp_path / "out.json"] if action == "record" else []
    async with stranger(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n") as (web, _), stranger(b"") as (mute, _):
        for place, said in (
            ("no-such-host.invalid", "no-such-host.invalid"),
            (f"127.0.0.1:{free_port()}", "127.0.0.1"),
            (web, "HTTP"),
            (mute, "no answer"),
            ("rtu:///dev/no-such-port?baudrate=9600", "no such port"),
        ):
            done = await command_beside(action, place, *out, "--timeout-s", "0.3", "--json", *NO_CONFIG)
            answer = json.loads(done.stdout)
            assert (done.returncode, answer["ok"]) == (1, False), place
            assert said in answer["error"], place
            assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"base": 0}', b'{"base": 0, "regs": {"1": 99999}}', b"\xff\xfe"])
def test_a_file_that_is_no_recording_is_not_served(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    done = command("serve", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    assert command("serve", tmp_path / "absent.json").returncode == 1


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    file = recording(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("serve", file, "--port", str(taken.getsockname()[1]), "--json")
    assert done.returncode == 1
    assert "cannot listen there" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_listens_on_loopback_and_ends_well_when_told(how: signal.Signals, tmp_path: Path) -> None:
    with playing(recording(tmp_path)) as (address, process):
        assert address.startswith("tcp://127.0.0.1:")
        process.send_signal(how)
        process.wait(timeout=PATIENCE_S)
        assert process.returncode == 0


async def test_a_played_device_takes_writes_only_where_that_was_allowed(tmp_path: Path) -> None:
    file = recording(tmp_path)
    for more, taken in (((), False), (("--writable",), True)):
        with playing(file, *more) as (address, _):
            pool = ConnectionPool(time.monotonic)
            unit = Unit(pool.connection(address), 1, 2.0)
            before = (await unit.read(40_100, 1)).words[0]
            with nullcontext() if taken else pytest.raises(ModbusExceptionError):
                await unit.write(40_100, [before ^ 1])
            assert (await unit.read(40_100, 1)).words[0] == (before ^ taken)
            pool.close()


def recording(folder: Path) -> Path:
    regs = {str(at): word for at, word in battery().registers.items()}
    file = folder / "recording.json"
    file.write_text(json.dumps({"base": 40_000, "regs": regs}))
    return file


@pytest.mark.parametrize("name", ["scan", "read", "record", "serve"])
def test_a_stranger_finds_help(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert "Usage: v2g-gateway" in done.stdout
