"""scan, read, record and serve as processes, against the rig's devices, recordings that are played, and strangers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.cli import probe as probing
from agent.cli.client import SOCKET_NAME
from agent.cli.scan import Scan
from agent.config import Settings
from agent.web.server import serve_locally
from drivers.device import DeviceKind
from drivers.modbus.server import ModbusTcpServer
from drivers.sunspec import ConnectionPool, discover
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.dump import Dump, PlayedRegisters, from_json
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.probing import ProbeOutcome, probe
from drivers.sunspec.survey import Survey
from hil_tests.rig.site.habits import Habits, Timers
from hil_tests.rig.site.site import BATTERY, METER, PV, Site, SiteSettings
from hil_tests.rig.tie import tied
from hil_tests.simulated_inverter import simulated
from hil_tests.test_cli_commands import PATIENCE_S, ROOT, command, command_beside
from hil_tests.test_modbus_maps import Played
from hil_tests.test_sunspec_tls import Authority, device_tls
from hil_tests.test_web import WELL, FakeSite
from tests.drivers.modbus.test_device import MAP, meter
from tests.drivers.sunspec.fakes import FIXTURES, REAL_DEVICES, battery

NO_CONFIG = ("--config", "/nonexistent/gateway.toml")


def started(
    *arguments: str | Path, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tied(sys.executable, "-m", "agent.cli.main", *map(str, arguments)),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@contextmanager
def playing(file: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`serve` as a process, and its address."""
    process = started("serve", file, "--port", "0", "--json", *more)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"], process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


@asynccontextmanager
async def stranger(says: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A TCP server that is no Modbus device; the event is set once somebody has asked."""
    asked = asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(100):
            asked.set()
            writer.write(says)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# Scan


async def test_a_scan_of_the_rig_is_its_configuration(tmp_path: Path) -> None:
    async with Site(SiteSettings()) as site:
        done = await command_beside("scan", *site.addresses.values(), "--json", "--units", "1", *NO_CONFIG)
        answer = json.loads(done.stdout)
        assert done.returncode == 0
        assert [line["kind"] for line in answer["devices"]] == ["meter", "pv", "battery"]
        settings = Settings.model_validate({"token": {"label": "t"}, **tomllib.loads(answer["configuration"])})
        assert [device.address for device in settings.device] == list(site.addresses.values())
        done = await command_beside("scan", *site.addresses.values(), *NO_CONFIG)
        assert done.returncode == 0
        _, _, ready = done.stdout.partition("Ready configuration, for gateway.toml:\n")
        file = tmp_path / "gateway.toml"
        file.write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n[token]\nlabel = "t"\n{ready}')
        checked = await command_beside("config", "check", "--config", file)
        assert (checked.returncode, checked.stderr) == (0, "")
        assert "good. 3 devices: grid, pv-1, battery-1." in checked.stdout


async def test_a_scan_shows_at_a_terminal_what_it_asks_and_how_far_it_is() -> None:
    master, terminal = os.openpty()
    try:
        async with stranger(b"") as (address, _):
            process = started("scan", address, "--units", "7", "--timeout-s", "0.4", *NO_CONFIG, stderr=terminal)
            out, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        shown = os.read(master, 1 << 16).decode()
        assert f"0 of 1 done, asking {address} unit 7" in shown
        assert "asking" not in out, "what goes on is no result"
        assert process.returncode == 1
    finally:
        os.close(master)
        os.close(terminal)


@pytest.mark.parametrize("line", ["rtu", "rtutcp"])
async def test_a_scan_finds_every_unit_of_a_serial_line(line: str) -> None:
    settings = SiteSettings(line="rtu") if line == "rtu" else SiteSettings(line="rtutcp")
    async with Site(settings) as site:
        address = site.addresses[PV].partition("?")[0]
        arguments = ("--units", "1-4", "--timeout-s", "0.3", "--json", *NO_CONFIG)
        done = await command_beside("scan", address, *arguments)
        found = {line["unit"]: line for line in json.loads(done.stdout)["devices"]}
        assert {unit: one["kind"] for unit, one in found.items()} == {1: "meter", 2: "pv", 3: "battery", 4: None}
        assert "no answer" in found[4]["problem"]
        assert {one["address"].partition("?")[0] for one in found.values()} == {address}
        assert all(("baudrate=" in one["address"]) is (line == "rtu") for one in found.values())


async def test_a_scan_finds_a_device_on_tls_and_believes_only_who_is_certified(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    async with simulated(DeviceKind.BATTERY, tls=device_tls(authority)) as inverter:
        address = inverter.address
        done = await command_beside("scan", address, "--ca-file", authority.file, "--json", *NO_CONFIG)
        answer = json.loads(done.stdout)
        assert done.returncode == 0
        assert [(line["address"], line["kind"]) for line in answer["devices"]] == [(address, "battery")]
        settings = Settings.model_validate({"token": {"label": "t"}, **tomllib.loads(answer["configuration"])})
        assert [(device.address, device.ca_file) for device in settings.device] == [(address, authority.file)]
        for files, why in (
            (("--ca-file", Authority(tmp_path, "other").file), "its certificate is refused"),
            ((), "needs `ca_file`"),
        ):
            done = await command_beside("scan", address, *files, "--json", *NO_CONFIG)
            [line] = json.loads(done.stdout)["devices"]
            assert (done.returncode, line["kind"]) == (1, None)
            assert why in line["problem"]


async def test_a_device_on_tls_is_read_and_recorded_by_who_it_is_certified_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    file = tmp_path / "battery.json"
    async with simulated(DeviceKind.BATTERY, tls=device_tls(authority)) as inverter:
        certified = ("--ca-file", authority.file, "--json", *NO_CONFIG)
        done = await command_beside("read", inverter.address, "1", *certified)
        [section] = json.loads(done.stdout)["sections"]
        assert {point["point"]: point["value"] for point in section["points"]}["SN"] == "SIM-1"
        done = await command_beside("record", inverter.address, file, *certified)
        assert done.returncode == 0
        assert {701, 704, 713} <= {number for number, _, _ in json.loads(file.read_text())["models"]}


def test_a_range_in_which_nobody_is_is_one_sentence() -> None:
    port = free_port()
    done = command("scan", f"127.0.0.1-20:{port}", "--timeout-s", "0.3", *NO_CONFIG)
    assert done.returncode == 1
    assert "20 more addresses: nobody there." in done.stdout
    assert "127.0.0.7" not in done.stdout


def test_places_that_cannot_be_are_wrong_use() -> None:
    for place in ("10.0.0.0/8", "http://192.0.2.1", "rtu:///dev/x?baudrate=1", "192.0.2.9-3"):
        done = command("scan", place, *NO_CONFIG)
        assert (done.returncode, done.stdout) == (2, ""), place
        assert place.split("?")[0] in done.stderr


# Probe


async def test_nothing_is_probed_without_consent(config: Path) -> None:
    async with Site(SiteSettings()) as site:
        address, server = site.addresses[PV], site.servers[PV]
        for arguments in (("--probe",), ("--yes-probe",), ("--probe", "--yes-probe", "--take-line")):
            done = await command_beside("scan", address, *arguments, "--json", *NO_CONFIG)
            assert (done.returncode, server.requests) == (2, 0), arguments
            assert "probe" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("answer", ["y", "no", ""])
async def test_at_a_terminal_only_yes_is_consent(answer: str) -> None:
    device = Played(battery().registers)  # whose write is an error
    server = ModbusTcpServer(device, unit=1)
    await server.start("127.0.0.1", 0)
    master, terminal = os.openpty()
    try:
        os.write(master, answer.encode() + b"\n")
        address = f"tcp://127.0.0.1:{server.port}"
        process = started("scan", address, "--units", "1", "--probe", "--json", *NO_CONFIG, stdin=terminal)
        out, said = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        assert "Type yes to go on" in said
        assert "Nothing was written." in said
        assert (process.returncode, json.loads(out)["probes"]) == (0, [])
    finally:
        os.close(master)
        os.close(terminal)
        await server.stop()


async def test_with_consent_the_rigs_inverter_is_probed_and_is_as_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", partial(probe, revert_s=1, put_back_s=5.0))
    async with Site(SiteSettings()) as site:
        [line] = await Scan((1,), 1.0).run([site.addresses[PV]])
        steps: list[str] = []
        [one] = await probing.probe_all([line], 1.0, None, steps.append)
        assert one.report is not None
        assert one.is_well
        assert {function.model: function.outcome for function in one.report.functions}[704] is ProbeOutcome.WORKS
        assert steps
        assert json.loads(json.dumps(one.as_json()))["report"]["is_as_found"] is True


async def test_the_command_probes_a_device_on_tls_and_puts_back_what_the_device_itself_does_not(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path, "ca")
    # Its timers are forgotten at once: an order that nobody takes back would stay.
    habits = Habits(timers=Timers.FORGOTTEN)
    async with simulated(DeviceKind.PV, habits, tls=device_tls(authority)) as inverter:
        inverter.put(704, WMaxLimPct=9000)
        before = inverter.still()
        consent = ("--probe", "--yes-probe", "--ca-file", authority.file)
        done = await command_beside("scan", inverter.address, "--units", "1", *consent, "--json", *NO_CONFIG)
        assert done.returncode == 0, done.stderr
        [one] = json.loads(done.stdout)["probes"]
        assert one["report"]["is_as_found"] is True
        assert {found["model"]: found["outcome"] for found in one["report"]["functions"]} == {
            704: ProbeOutcome.IGNORED,
            123: ProbeOutcome.IGNORED,
        }
        switches = {704: "WMaxLimPctEna", 123: "WMaxLim_Ena"}
        ordered = {at for address, words in inverter.written for at in range(address, address + len(words))}
        assert all(inverter.registers_of((model, name)) <= ordered for model, name in switches.items())
        assert inverter.still() == before


# Read


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "gateway.toml"


def configured(config: Path, address: str, *more: str, device: str = "pv-1", driver: str = "sunspec") -> None:
    config.write_text(
        f'[gateway]\nstate_dir = "{config.parent / "state"}"\n[token]\nlabel = "t"\n'
        f'[[device]]\nid = "{device}"\nkind = "{device.partition("-")[0]}"\ndriver = "{driver}"\n'
        f'address = "{address}"\n' + "".join(f"{line}\n" for line in more)
    )


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


# Record and serve


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
