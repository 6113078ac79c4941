"""What a measurement must notice, and what it must not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from firmware_attest.measurement import MeasurementError, installed_root, measure_settings, measure_software


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    (tmp_path / "agent" / "cli").mkdir(parents=True)
    (tmp_path / "agent" / "clock.py").write_text("tick")
    (tmp_path / "agent" / "cli" / "main.py").write_text("main")
    return tmp_path


def test_manifest_is_what_sha256sum_prints(installation: Path) -> None:
    lines = measure_software(installation, ["agent"]).manifest.splitlines()
    assert lines == [
        f"{hashlib.sha256(b'main').hexdigest()}  agent/cli/main.py",
        f"{hashlib.sha256(b'tick').hexdigest()}  agent/clock.py",
    ]


def test_one_changed_byte_changes_the_digest(installation: Path) -> None:
    before = measure_software(installation, ["agent"]).digest
    (installation / "agent" / "clock.py").write_text("tock")
    assert measure_software(installation, ["agent"]).digest != before


def test_an_added_file_changes_the_digest(installation: Path) -> None:
    before = measure_software(installation, ["agent"]).digest
    (installation / "agent" / "extra.so").write_bytes(b"\x7fELF")
    assert measure_software(installation, ["agent"]).digest != before


def test_compiled_caches_do_not_change_the_digest(installation: Path) -> None:
    before = measure_software(installation, ["agent"]).digest
    (installation / "agent" / "__pycache__").mkdir()
    (installation / "agent" / "__pycache__" / "clock.pyc").write_bytes(b"cache")
    assert measure_software(installation, ["agent"]).digest == before


def test_a_missing_package_is_an_error_that_names_it(installation: Path) -> None:
    with pytest.raises(MeasurementError, match="drivers"):
        measure_software(installation, ["agent", "drivers"])


def test_order_of_settings_does_not_matter_but_values_do() -> None:
    one = measure_settings({"window_s": 900, "device": [{"id": "pv", "unit": 1}]})
    assert one == measure_settings({"device": [{"unit": 1, "id": "pv"}], "window_s": 900})
    assert one != measure_settings({"window_s": 300, "device": [{"id": "pv", "unit": 1}]})


def test_this_installation_can_be_measured_whole() -> None:
    names = [name for name, _ in measure_software(installed_root()).files]
    assert "agent/clock.py" in names
    assert "firmware_attest/measurement.py" in names
    assert not [name for name in names if name.endswith(".pyc")]
