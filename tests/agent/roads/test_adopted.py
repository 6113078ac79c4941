"""Approved chargers as devices of the site: safe defaults, names of their own, the configuration's word over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.config import Settings
from agent.roads.adopted import Adopted, adopted, decode, encode, still_adopted, with_adopted
from drivers.device import DeviceKind

NOW_US = 1_767_225_600_000_000
METER = {"id": "meter-1", "kind": "meter", "driver": "sunspec", "address": "tcp://127.0.0.1:502"}


def settings(*devices: dict[str, Any]) -> Settings:
    return Settings.model_validate({"token": {"label": "t"}, "device": [METER, *devices]})


def charger(charger_id: str, device_id: str) -> dict[str, Any]:
    return {"id": device_id, "kind": "charger", "driver": "ocpp", "charger_id": charger_id}


def approved(charger_id: str = "New_1", evses: int = 1, *, beside: Settings | None = None) -> Adopted:
    return adopted(beside or settings(), charger_id, "file:/secret", evses, NOW_US)


def test_an_approved_charger_never_discharges_is_not_settled_and_waits_without_us() -> None:
    [device] = with_adopted(settings(), [approved()]).device[1:]
    assert (device.id, device.kind, device.charger_id, device.evse_id) == ("new-1", DeviceKind.CHARGER, "New_1", 1)
    assert (device.discharge, device.settled, device.fallback_import_w) == ("never", False, 0)
    assert (device.password_secret, device.local_tokens, device.rated_import_w) == ("file:/secret", [], None)
    assert "approved 2026-01-01" in approved().origin


def test_each_evse_is_a_device_and_names_that_are_taken_are_left_to_others() -> None:
    assert approved(evses=2).device_ids == ("new-1-1", "new-1-2")
    assert approved(beside=settings(charger("CP-1", "new-1"))).device_ids == ("new-1-2",)
    assert approved("../../../").device_ids == ("charger",)
    assert approved("é" * 48).device_ids == ("charger",)
    assert len(approved("X" * 48).device_ids[0]) <= 40


def test_there_is_no_room_for_more_than_the_configuration_may_have() -> None:
    full = settings(*(charger(f"CP-{n}", f"car-{n}") for n in range(199)))
    with pytest.raises(ValueError, match="200"):
        approved(beside=full)


def test_a_section_for_the_charger_takes_over() -> None:
    kept = [approved(), approved("OTHER")]
    assert still_adopted(settings(charger("New_1", "garage")), kept) == [kept[1]]
    assert still_adopted(settings(charger("CP-1", "new-1")), kept) == [kept[1]]  # its name is another's now
    assert still_adopted(settings(), kept) == kept
    assert still_adopted(settings(), [kept[0], replace(kept[0], charger_id="TWIN")]) == [kept[0]]


def test_what_was_approved_survives_a_restart() -> None:
    kept = [approved(), approved("OTHER", 2)]
    assert decode(encode(kept)) == kept
    assert decode(None) == []


@pytest.mark.parametrize("damaged", [b"", b"7", b"[1]", b"\xff", b'[{"charger_id": "x"}]'])
def test_a_damaged_record_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(damaged)
