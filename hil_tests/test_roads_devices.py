"""Devices are made from the configuration over the real store; one that cannot be made is named, the others work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.config import Settings
from agent.roads.devices import SiteDevices, make_devices
from agent.store import Store
from drivers.device import DeviceKind, LinkState
from drivers.sunspec.errors import NoAnswerError
from hil_tests.roads_parts import HandClock

METER: dict[str, object] = {"id": "grid", "kind": "meter", "driver": "sunspec", "address": "tcp://127.0.0.1:502"}
CHARGER: dict[str, object] = {"id": "car-1", "kind": "charger", "driver": "ocpp", "charger_id": "CS-1"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state") as opened:
        yield opened


def made(store: Store, *devices: dict[str, object], **sections: object) -> SiteDevices:
    settings = Settings.model_validate({"token": {"label": "t"}, "device": list(devices), **sections})
    return make_devices(settings, store=store, clock=HandClock().clock, on_event=lambda *_: None)


async def test_every_configured_device_is_there_before_it_answers(store: Store) -> None:
    site = made(store, METER, CHARGER)
    assert set(site.devices) == {"grid", "car-1"}
    assert {d.kind for d in site.devices.values()} == {DeviceKind.METER, DeviceKind.CHARGER}
    assert {d.status().link for d in site.devices.values()} == {LinkState.STARTING}
    assert site.ocpp is not None
    assert site.problems == {}


async def test_without_chargers_nothing_listens(store: Store) -> None:
    assert made(store, METER).ocpp is None


async def test_a_charger_whose_password_cannot_be_read_is_named_and_left_out(store: Store, tmp_path: Path) -> None:
    site = made(
        store,
        METER,
        {**CHARGER, "password_secret": f"file:{tmp_path / 'none'}"},
        {**CHARGER, "id": "car-2", "charger_id": "CS-2"},
    )
    assert set(site.devices) == {"grid", "car-2"}
    assert str(tmp_path / "none") in site.problems["car-1"]


async def test_a_meter_key_that_cannot_be_read_is_said_and_the_charger_works(store: Store, tmp_path: Path) -> None:
    said: list[tuple[str, str, str]] = []
    device = {**CHARGER, "meter_key_file": tmp_path / "none"}
    settings = Settings.model_validate({"token": {"label": "t"}, "device": [device]})
    site = make_devices(settings, store=store, clock=HandClock().clock, on_event=lambda *event: said.append(event))
    assert (set(site.devices), site.problems) == ({"car-1"}, {})
    assert [(code, subject) for code, subject, _ in said] == [("charger.meter_key", "car-1")]


@pytest.mark.parametrize(
    "address", ["rtu:///dev/ttyUSB0?baudrate=19200", "rtutcp://192.0.2.9:4001", "tcp://192.0.2.9", "tls://192.0.2.9"]
)
async def test_every_kind_of_line_is_made_without_being_opened(store: Store, address: str) -> None:
    tls = {"ca_file": "/nowhere/ca.pem"} if address.startswith("tls") else {}
    site = made(store, {**METER, "address": address, **tls})
    assert set(site.devices) == {"grid"}
    assert site.problems == {}


async def test_the_files_of_a_tls_device_are_those_of_its_line(store: Store) -> None:
    site = made(store, {**METER, "address": "tls://127.0.0.1:1", "ca_file": "/nowhere/ca.pem"})
    with pytest.raises(NoAnswerError, match="ca_file /nowhere/ca"):
        await site.connections.connection("tls://127.0.0.1:1").read(1, 0, 1, 1.0)


@pytest.mark.parametrize("content", [None, "not a certificate"], ids=["missing", "no PEM"])
async def test_a_certificate_for_chargers_that_cannot_be_used_costs_no_other_device(
    store: Store, tmp_path: Path, content: str | None
) -> None:
    certificate = tmp_path / "server.pem"
    if content is not None:
        certificate.write_text(content)
    files = {"certificate_file": str(certificate), "certificate_key_file": str(certificate)}
    site = made(store, METER, CHARGER, ocpp=files)
    assert set(site.devices) == {"grid"}
    assert site.ocpp is None
    assert str(certificate) in site.problems["car-1"]


async def test_a_mapped_device_is_made_and_one_without_its_map_is_named(store: Store, tmp_path: Path) -> None:
    mapped = {**METER, "driver": "modbus", "map": "eastron-sdm630"}
    nowhere = str(tmp_path / "none.toml")
    site = made(store, mapped, {**mapped, "id": "other", "unit": 2, "map": nowhere})
    assert set(site.devices) == {"grid"}
    assert nowhere in site.problems["other"]
    assert "no such file" in site.problems["other"]
