"""OCPP 2.0.1 and 2.1 block P, data transfer, a maker's own data and triggers: both paths, over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivers.device import DeviceRefusedError
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, RawCharger, TlsSite
from hil_tests.ocpp_station import stamp
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")]
EXTRA = {"vendorId": "org.example", "setpoint_L2": {"nested": [1, {"camelCase": None}]}}


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        yield site


# P01, P02: data transfer


async def test_p01_data_goes_to_the_charger(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["DataTransfer"] = {"status": "Accepted", "data": {"a": [1, {"camelCase_L2": True}]}}
    answer = await site.order("data", vendor="org.example", message="hello", data={"setpoint_L2": 1})
    assert answer["data"] == {"a": [1, {"camelCase_L2": True}]}
    assert charger.calls("DataTransfer") == [
        {"vendorId": "org.example", "messageId": "hello", "data": {"setpoint_L2": 1}}
    ]
    charger.answers["DataTransfer"] = {"status": "UnknownVendorId"}
    assert (await site.order("data", vendor="org.example"))["ok"] is False


async def test_p02_data_of_a_vendor_that_nobody_knows_here_is_answered_so(charger: RawCharger) -> None:
    assert await charger.ask("DataTransfer", {"vendorId": "org.example", "data": 1}) == {"status": "UnknownVendorId"}
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("DataTransfer", {"data": 1})
    assert refused.value.code == "OccurrenceConstraintViolation"


@pytest.mark.parametrize("status", ["Rejected", "UnknownMessageId", "UnknownVendorId"])
async def test_p01_data_that_the_charger_does_not_take_is_told(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["DataTransfer"] = {"status": status}
    answer = await site.order("data", vendor="org.example", data="x")
    assert (answer["ok"], answer["status"]) == (False, status)
    charger.answers["DataTransfer"] = AnsweredError("NotSupported")
    with pytest.raises(DeviceRefusedError, match="NotSupported"):
        await site.order("data", vendor="org.example")
    with pytest.raises(ValueError, match="vendor"):
        await site.order("data", data="x")


@pytest.mark.parametrize("data", [None, True, -1.5e300, "text", [[]], {"a": {"b": {"c": "x" * 5000}}}])
async def test_p02_whatever_the_data_is_it_is_answered(charger: RawCharger, data: Any) -> None:
    told = {"vendorId": "org.example", "messageId": "m", "data": data}
    assert await charger.ask("DataTransfer", told) == {"status": "UnknownVendorId"}


# customData: beside everything, and never in its way


async def test_p_custom_data_is_taken_with_every_message_of_a_charger(charger: RawCharger, site: TlsSite) -> None:
    station = {"vendorName": "Test", "model": "Raw", "serialNumber": "S1", "customData": EXTRA}
    answer = await charger.ask(
        "BootNotification", {"chargingStation": station, "reason": "PowerUp", "customData": EXTRA}
    )
    assert answer["status"] == "Accepted"
    status = {"timestamp": stamp(), "connectorStatus": "Available", "evseId": 1, "connectorId": 1, "customData": EXTRA}
    assert await charger.ask("StatusNotification", status) == {}
    assert (await charger.ask("Heartbeat", {"customData": EXTRA}))["currentTime"]
    value = {"value": 1, "measurand": "Power.Active.Import", "customData": EXTRA}
    values = {"evseId": 1, "meterValue": [{"timestamp": stamp(), "sampledValue": [value], "customData": EXTRA}]}
    assert await charger.ask("MeterValues", values | {"customData": EXTRA}) == {}
    assert site.samples[-1].power_w == 1


@pytest.mark.parametrize("extra", [{}, {"vendorId": "x" * 256}, {"vendorId": 1}, "text", None])
async def test_p_custom_data_without_its_vendor_is_a_call_error(charger: RawCharger, extra: Any) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("Heartbeat", {"customData": extra})
    assert refused.value.code in (
        "OccurrenceConstraintViolation", "PropertyConstraintViolation", "TypeConstraintViolation",
    )  # fmt: skip
    assert (await charger.ask("Heartbeat", {}))["currentTime"]


async def test_p_custom_data_in_an_answer_changes_nothing(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["Reset"] = {"status": "Accepted", "customData": EXTRA}
    assert (await site.order("reset"))["ok"] is True
    charger.answers["Reset"] = {"status": "Accepted", "customData": {"no": "vendor"}}
    with pytest.raises(DeviceRefusedError, match="vendorId"):
        await site.order("reset")


# P03 (2.1): a maker's own trigger


async def test_p03_a_makers_trigger_is_sent_to_a_charger_of_2_1_only(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["TriggerMessage"] = {"status": "Accepted"}
    if site.version == "ocpp2.0.1":
        with pytest.raises(ValueError, match="requestedMessage"):
            await site.order("trigger", custom="SelfTest")
        return
    assert (await site.order("trigger", custom="SelfTest"))["ok"] is True
    assert charger.calls("TriggerMessage")[-1] == {"requestedMessage": "CustomTrigger", "customTrigger": "SelfTest"}
    charger.answers["TriggerMessage"] = {"status": "NotImplemented"}
    assert (await site.order("trigger", custom="SelfTest"))["ok"] is False
    with pytest.raises(ValueError, match="custom"):
        await site.order("trigger")
