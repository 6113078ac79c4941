"""scan and its probe as processes, against the rig's devices and strangers."""

from __future__ import annotations

import asyncio
import json
import os
import tomllib
from functools import partial
from pathlib import Path

import pytest

from agent.cli import probe as probing
from agent.cli.scan import Scan
from agent.config import Settings
from drivers.device import DeviceKind
from drivers.modbus.server import ModbusTcpServer
from drivers.sunspec.probing import ProbeOutcome, probe
from hil_tests.device_command_parts import NO_CONFIG, config, free_port, started, stranger
from hil_tests.rig.site.habits import Habits, Timers
from hil_tests.rig.site.site import PV, Site, SiteSettings
from hil_tests.simulated_inverter import simulated
from hil_tests.test_cli_commands import PATIENCE_S, command, command_beside
from hil_tests.test_modbus_maps import Played
from hil_tests.test_sunspec_tls import Authority, device_tls
from tests.drivers.sunspec.fakes import battery

__all__ = ["config"]


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
