"""What an installer is told about days, departures, time zones and feeds."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError

import pytest

from agent.config import ConfigError, DeviceSettings, read_settings, zone_of

TOKEN = '[token]\nlabel = "demo"\n'
CHARGER = '[[device]]\nid = "car-1"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "CS-1"\n'
PV = '[[device]]\nid = "pv-1"\nkind = "pv"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1503"\n'
BATTERY = PV.replace("pv", "battery")
SOURCE = '[[feeds.source]]\nname = "a"\nkey_file = "/etc/a.pem"\n'


def _refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TOKEN + CHARGER + 'day = "later"\n', "device.1.day"),
        (TOKEN + PV + 'day = "surplus"\n', "for a charger's car"),
        (TOKEN + PV + 'departure_time = "07:30"\n', "for a charger's car"),
        (TOKEN + CHARGER + 'departure_time = "25:00"\n', "07:30"),
        (TOKEN + CHARGER + 'day = "departure"\ndeparture_time = "07:30"\n', "go together"),
        (TOKEN + CHARGER + "departure_energy_wh = -1\n", "departure_energy_wh"),
        (TOKEN + PV + "capacity_wh = 10000\n", "capacity_wh: is a battery's"),
        (TOKEN + CHARGER + "capacity_wh = 10000\n", "capacity_wh: is a battery's"),
        (TOKEN + BATTERY + "capacity_wh = 0\n", "capacity_wh"),
        (TOKEN + PV + "wear_wh_per_kwh = 10\n", "wear_wh_per_kwh: is for what carries a target"),
        (TOKEN + PV + "efficiency_percent = 96\n", "efficiency_percent: is for what carries a target"),
        (TOKEN + BATTERY + "efficiency_percent = 0.96\n", "efficiency_percent: is outside 20 to 100 %"),
        (TOKEN + BATTERY + "efficiency_percent = true\n", "efficiency_percent: write 96.0, or 2 to 20 points"),
        (TOKEN + BATTERY + "efficiency_percent = [[50, 95]]\n", "efficiency_percent: write 96.0, or 2 to 20 points"),
        (TOKEN + BATTERY + "efficiency_percent = [[50, 95], [80, 95], 9]\n", "efficiency_percent: write 96.0, or 2"),
        (TOKEN + BATTERY + "efficiency_percent = [[50, 95], [10, 90]]\n", "loads rise from point to point"),
        (TOKEN + BATTERY + "efficiency_percent = [[0, 95], [10, 90]]\n", "a load is above 0"),
        (TOKEN + BATTERY + "efficiency_percent = [[5, 95], [10, nan]]\n", "an efficiency 20 to 100 %"),
        (TOKEN + BATTERY + "fixed_loss_w = -1\n", "fixed_loss_w"),
        (TOKEN + "[site]\nfuse_a = 16\n" + CHARGER + "fallback_import_w = 7000\n", "more than the 3680 W of its fuse"),
        (TOKEN + "[site]\nfuse_a = 16\n" + CHARGER + "fallback_import_w = 4000\nphases = [2]\n", "phase 2 could"),
        (TOKEN + BATTERY + "capacity_wh = 13.5\n", "capacity_wh"),
        (TOKEN + '[site]\ntimezone = "Middle/Earth"\n', "tz database"),
        (TOKEN + '[site]\ntimezone = "/etc/passwd"\n', "tz database"),
        (TOKEN + SOURCE, "2 sources must agree, and there are 1"),
        (TOKEN + SOURCE + SOURCE, "names of sources must differ"),
        (TOKEN + SOURCE.replace("/etc/", ""), "whole path"),
        (TOKEN + "[feeds]\nneeded = 0\n", "feeds.needed"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    assert says in _refusal(tmp_path, text)


@pytest.mark.parametrize("more", ["fallback_import_w = 6000\n", "fallback_import_w = 2000\nphases = [2]\n", ""])
def test_shares_that_fit_beside_the_house_are_taken(tmp_path: Path, more: str) -> None:
    """SAFETY 2: 3680 W of a phase's fuse, less a third of the house's 5 kW."""
    path = tmp_path / "gateway.toml"
    path.write_text(TOKEN + "[site]\nfuse_a = 16\n" + CHARGER + more)
    assert read_settings(path).site.fuse_a == 16


def test_a_site_with_everything_set_loads(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        TOKEN
        + '[site]\ntimezone = "Europe/Berlin"\n[feeds]\nneeded = 1\n'
        + SOURCE
        + CHARGER
        + 'day = "departure"\ndeparture_time = "07:30"\ndeparture_energy_wh = 10000\n'
        + BATTERY
        + "capacity_wh = 13500\nefficiency_percent = [[10, 91.0], [50, 95.5], [100, 94]]\nwear_wh_per_kwh = 80\n"
    )
    device, battery = read_settings(path).device
    assert battery.capacity_wh == 13_500
    assert battery.model_dump()["efficiency_percent"] == ((10, 91.0), (50, 95.5), (100, 94.0))
    assert (battery.wear_wh_per_kwh, battery.fixed_loss_w) == (80, None)
    assert DeviceSettings.model_validate_json(battery.model_dump_json(exclude_unset=True)) == battery
    assert (device.day, device.departure_time, device.departure_energy_wh) == ("departure", "07:30", 10_000)


def test_utc_needs_no_tz_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> object:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr("agent.config.values.ZoneInfo", none)
    assert str(zone_of("UTC")) == "UTC"
    with pytest.raises(ZoneInfoNotFoundError):
        zone_of("Europe/Berlin")
