"""From statuses to the view: which meter counts, when it is believed, and how safe mode is left."""

from __future__ import annotations

from dataclasses import replace

from agent.config import ControlSettings, DeviceSettings, FrequencySettings, MandateSettings, SiteSettings
from agent.control import codec
from agent.control.site import Mandate, SiteView
from agent.control.viewing import (
    SAFE_MODE_DWELL_S,
    SafeMode,
    grid_meter_of,
    register_of,
    settings_view,
    step_safe_mode,
    view_site,
)
from drivers.device import DeviceKind, DeviceStatus, LinkState, Sample, SampleFlag
from drivers.ocpp.car import Car
from tests.agent.control.support import NOW


def _meter(name: str, parent: str | None = None) -> DeviceSettings:
    return DeviceSettings(id=name, kind=DeviceKind.METER, driver="sunspec", address="tcp://x:502", parent=parent)


def _pv(name: str, parent: str | None) -> DeviceSettings:
    return DeviceSettings(id=name, kind=DeviceKind.PV, driver="sunspec", address=f"tcp://{name}:502", parent=parent)


DEVICES = [_meter("heat"), _meter("grid"), _meter("roof", "grid"), _pv("pv", "roof")]
SETTINGS = settings_view(SiteSettings(), ControlSettings(), FrequencySettings(), DEVICES)


def _statuses(sample: Sample | None) -> dict[str, DeviceStatus]:
    grid = DeviceStatus(device_id="grid", kind=DeviceKind.METER, link=LinkState.ONLINE, detail="", last_sample=sample)
    return {"grid": grid, "pv": DeviceStatus(device_id="pv", kind=DeviceKind.PV, link=LinkState.STARTING, detail="")}


def _sees_meter(sample: Sample | None) -> bool:
    view = view_site(SETTINGS, _statuses(sample), lambda _: None, NOW, 100.0)
    return view.meter is not None


def test_the_grid_meter_is_the_top_meter_that_devices_are_behind() -> None:
    assert grid_meter_of(DEVICES) == "grid"
    assert grid_meter_of([_pv("pv", None)]) is None


def test_the_meter_is_believed_only_while_it_is_fresh_and_plausible() -> None:
    assert _sees_meter(Sample(device_id="grid", monotonic_s=96.0, power_w=500))
    assert not _sees_meter(None)
    assert not _sees_meter(Sample(device_id="grid", monotonic_s=94.9, power_w=500))
    assert not _sees_meter(Sample(device_id="grid", monotonic_s=99.0))
    assert not _sees_meter(Sample(device_id="grid", monotonic_s=99.0, power_w=10**9))
    assert not _sees_meter(Sample(device_id="grid", monotonic_s=99.0, power_w=5, flags=SampleFlag.QUEUED))


def test_an_owners_mandate_stands_in_the_view_as_it_was_written() -> None:
    written = MandateSettings(token_id="t", minimum_soc_percent=40, least_price_micro_per_kwh=5, issuers=["a", "b"])
    made = settings_view(SiteSettings(), ControlSettings(mandate=[written]), FrequencySettings(), DEVICES)
    mandate = Mandate(
        token_id="t",
        minimum_soc_permille=400,
        least_price_micro_per_kwh=5,
        currency="EUR",
        issuers=frozenset({"a", "b"}),
    )
    view = view_site(made, _statuses(None), lambda _: None, NOW, 100.0)
    assert view.mandates == {"t": mandate}
    assert codec.decode(SiteView, codec.encode(view)) == view


def test_a_device_that_was_never_reached_is_in_the_view_and_not_online() -> None:
    view = view_site(SETTINGS, _statuses(None), lambda _: None, NOW, 100.0)
    assert list(view.devices) == ["pv"]
    assert not view.devices["pv"].online
    assert view.devices["pv"].most_export_w == 0


def test_a_view_with_a_car_of_the_drivers_own_kind_comes_back_from_the_record_as_it_was() -> None:
    charger = DeviceSettings(id="car", kind=DeviceKind.CHARGER, driver="ocpp", charger_id="CS-1")
    settings = settings_view(SiteSettings(), ControlSettings(), FrequencySettings(), [*DEVICES, charger])
    car = Car(token_id="T", transaction_id="t", max_charge_w=11_000, transfer_modes=("DC_BPT",), offers=((0, 1, 2),))
    status = DeviceStatus(device_id="car", kind=DeviceKind.CHARGER, link=LinkState.ONLINE, detail="", vehicle=car)
    view = view_site(settings, {"car": status}, lambda _: None, NOW, 100.0)
    assert codec.decode(SiteView, codec.encode(view)) == view
    seen = view.devices["car"].vehicle
    assert seen is not None
    assert (seen.token_id, seen.transaction_id, seen.max_charge_w) == ("T", "t", 11_000)


def test_one_device_that_says_islanded_makes_the_site_islanded() -> None:
    sample = Sample(device_id="grid", monotonic_s=99.0, power_w=5, flags=SampleFlag.ISLANDED)
    assert view_site(SETTINGS, _statuses(sample), lambda _: None, NOW, 100.0).islanded


def test_safe_mode_is_entered_at_once_and_left_by_itself_after_its_dwell() -> None:
    mode = step_safe_mode(SafeMode(), "meter lost", 0.0)
    assert mode.reason == "meter lost"
    mode = step_safe_mode(mode, None, 5.0)
    assert mode.reason == "meter lost"
    assert step_safe_mode(mode, None, 5.0 + SAFE_MODE_DWELL_S - 0.1).reason == "meter lost"
    assert step_safe_mode(mode, "meter lost", 6.0).gone_since_s is None
    assert step_safe_mode(mode, None, 5.0 + SAFE_MODE_DWELL_S).reason is None


def test_a_net_register_is_import_less_export_and_absent_is_not_zero() -> None:
    sample = Sample(
        device_id="d",
        monotonic_s=0.0,
        import_register_milliwatt_hours=5,
        export_register_milliwatt_hours=7,
        meter_id="m",
    )
    register = register_of(sample)
    assert register is not None
    assert (register.meter_id, register.net_milliwatt_hours) == ("m", -2)
    assert register_of(Sample(device_id="d", monotonic_s=0.0)) is None


def test_the_plan_learns_that_a_device_does_not_follow() -> None:
    statuses = _statuses(None)
    assert view_site(SETTINGS, statuses, lambda _: None, NOW, 100.0).devices["pv"].follows is None
    statuses["pv"] = replace(statuses["pv"], follows=False)
    assert view_site(SETTINGS, statuses, lambda _: None, NOW, 100.0).devices["pv"].follows is False
