"""The bench `sunspec`: its map is the one that it says, its clients read all of it, its figures have their names."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping

import pytest

from drivers.sunspec.discovery import discover
from hil_tests.bench import __main__ as command
from hil_tests.bench import _sunspec_clients, _sunspec_site, modbus_lines, sunspec
from hil_tests.bench._sunspec_site import MODELS, REGISTERS, registers


def absent(name: str) -> Mapping[int, int] | None:
    return None


@pytest.mark.parametrize("fixtures", [True, False], ids=["fixtures", "synthetic"])
def test_the_map_has_21_models_of_1579_registers_with_and_without_fixtures(
    fixtures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fixtures:
        monkeypatch.setattr(_sunspec_site, "sunspec_fixture", absent)
    words = registers("BENCH-1")
    at, models = 2, 0
    while words[at] != 0xFFFF:
        at, models = at + words[at + 1] + 2, models + 1
    assert (models, at - 2) == (MODELS, REGISTERS)


async def test_the_served_map_is_one_device_per_port() -> None:
    with sunspec.serving(2) as ports:
        found = [await discover(f"tcp://127.0.0.1:{port}", 1, timeout_s=5.0) for port in ports]
    assert [one.serial for one in found] == ["BENCH-0000", "BENCH-0001"]
    assert [len(one.models) for one in found] == [MODELS, MODELS]


def test_ours_and_pysunspec2_decode_the_same_number_of_points() -> None:
    with sunspec.serving(1) as ports:
        ours = asyncio.run(_sunspec_clients.ours(ports[0], 1))
        theirs = _sunspec_clients.pysunspec2(ports[0], 1)
    assert ours["points"] > 500
    # Pads are points for pysunspec2 only, and it has no factors out of range to leave out.
    assert abs(theirs["points"] - ours["points"]) <= 10


def test_the_figures_have_the_names_that_the_readme_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = sunspec.run
    monkeypatch.setattr(sunspec, "run", lambda progress: short(progress, rounds=1, polls=3, seconds=2.0))
    assert command.main(["sunspec", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {
        "cpu_ratio_vs_pysunspec2",
        "cpu_ratio_vs_raw",
        "core_share_50_devices",
        "timestamp_jitter_ms_p99",
    }
    assert all(figure > 0 for figure in figures.values())


def test_the_lines_are_compared_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = modbus_lines.run
    monkeypatch.setattr(modbus_lines, "run", lambda progress: short(progress, rounds=2, polls=2))
    assert command.main(["modbus_lines", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"cpu_ratio_vs_pymodbus", "cpu_ratio_vs_pysunspec2"}
    assert all(figure > 0 for figure in figures.values())


def test_every_bench_can_be_named_and_runs_by_that_name() -> None:
    assert "sunspec" in command.names()
    for name in command.names():
        assert callable(importlib.import_module(f"hil_tests.bench.{name}").run), name
    with pytest.raises(SystemExit):
        command.main(["no-such-bench"])


def test_moments_on_the_grid_do_not_stray_and_one_late_moment_does() -> None:
    assert max(_sunspec_clients._strays([0.3, 1.3, 2.3, 3.3])) < 1e-9
    assert max(_sunspec_clients._strays([0.3, 1.3, 2.35, 3.3, 4.3])) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "arguments", [["plan", "--hours", "1"], ["outage", "--hours", "0"], ["outage", "--hours", "x"]]
)
def test_hours_are_for_benches_that_store_some_and_at_least_one(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
