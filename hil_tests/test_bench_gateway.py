"""The benches `command`, `footprint` and `outage` give their figures, by their names, of a few devices and seconds."""

from __future__ import annotations

import pytest

from hil_tests.bench import command, footprint, outage
from hil_tests.rig.token import softhsm_module

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed")


def silent(_: str) -> None:
    """No progress is shown."""


def test_footprint_measures_an_agent_that_reads_every_device_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "SETTLE_S", 0.0)
    figures = footprint.run(silent, devices=3, seconds=4.0)
    assert set(figures) == {"core_share", "rss_mb", "readings_per_s"}
    assert 0 < figures["core_share"] < 1
    assert figures["rss_mb"] > 20
    assert 1 < figures["readings_per_s"] < 5


def test_outage_drains_all_that_it_has_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "HOUR_S", 30)
    figures = outage.run(silent, hours=1)
    assert set(figures) == {
        "bytes_on_disk_per_reading",
        "bytes_written_per_reading",
        "drain_readings_per_s",
        "drain_s",
        "drained_share",
        "live_ms_p99",
        "bytes_on_wire_per_reading",
    }
    assert figures["drained_share"] == 1
    # So short a drain may end before anything was shown live.
    assert all(figure > 0 for name, figure in figures.items() if name != "live_ms_p99")


def test_command_times_every_command_on_its_way_to_both_kinds_of_devices() -> None:
    figures = command.run(silent, chargers=2, rounds=3)
    assert set(figures) == {"ms_p50", "ms_p99", "modbus_ms_p99", "ocpp_ms_p99"}
    assert 0 < figures["ms_p50"] <= figures["ms_p99"]
