"""The demo as a person starts it: its exit code, and what it prints where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hil_tests.gateway_parts import needs_softhsm

ROOT = Path(__file__).parent.parent
DEMO = [sys.executable, "-m", "hil_tests.rig.demo"]


@needs_softhsm
def test_a_short_run_is_good_and_prints_nothing_but_its_figures(tmp_path: Path) -> None:
    arguments = ["--seconds", "30", "--json", "--keep", str(tmp_path / "run"), "--setup-seconds", "1.5"]
    done = subprocess.run([*DEMO, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["ok"] is True
    assert (figures["readings_lost"], figures["receipts_rejected"], figures["channel_conflicts"]) == (0, 0, 0)
    assert figures["commands_received"] == figures["commands_obeyed"] == 2
    assert figures["readings_acknowledged"] == figures["readings_sealed"] > 0
    assert figures["windows_countersigned"] >= 1
    assert figures["command_seconds_offline"] >= 1
    assert figures["fresh_setup_seconds"] == 1.5
    assert "Status page: http://127.0.0.1:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "3"], "too short"),
        (["--keep", "{taken}"], "is not empty"),
        (["--keep", "{taken}/somebody-elses"], "exists"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2_before_anything_starts(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "somebody-elses").touch()
    given = [argument.format(taken=tmp_path) for argument in arguments]
    done = subprocess.run([*DEMO, *given, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert json.loads(done.stdout)["ok"] is False
