"""OCPP 2.0.1 and 2.1 block N, diagnostics: logs, monitoring, customer information; both paths, over TLS.

Streams of values (N11 to N15 of 2.1) are not asked for: meter values come each second at most, and what a monitor sees
is an event. A charger that opens one by itself is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import ChargerSettings
from drivers.ocpp import desk as desk_module
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, TlsSite
from hil_tests.ocpp_station import stamp
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")]


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        yield site


def results(name: str, request: str, **more: Any) -> Any:
    return lambda asked: {
        name: [{"component": e["component"], "variable": e["variable"], **more} for e in asked[request]]
    }


def event(number: int, trigger: str, value: str) -> Payload:
    return {
        "eventId": number, "timestamp": stamp(), "trigger": trigger, "actualValue": value,
        "eventNotificationType": "HardWiredMonitor",
        "component": {"name": "FanHeater"}, "variable": {"name": "Problem"},
    }  # fmt: skip


# N01 to N08: logs and monitoring


async def test_n04_a_variable_is_watched_and_n06_no_more(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["SetVariableMonitoring"] = results(
        "setMonitoringResult", "setMonitoringData", status="Accepted", type="UpperThreshold", severity=3, id=17
    )
    answer = await site.order("monitor", variable="EVSE#1/Power", value=10000, severity=3)
    assert answer == {"ok": True, "status": "Accepted", "id": 17}
    model = site.server.chargers["CP-1"].session.reports.model
    assert model.monitors[17]["name"] == "EVSE#1/Power"
    charger.answers["ClearVariableMonitoring"] = {"clearMonitoringResult": [{"status": "Accepted", "id": 17}]}
    assert (await site.order("unmonitor", id=17))["ok"] is True
    assert model.monitors == {}


@pytest.mark.parametrize("arguments", [{"value": "high"}, {"value": 1, "severity": 10}, {"value": 1, "kind": "Mood"}])
async def test_n04_what_cannot_be_watched_is_not_asked_for(
    charger: RawCharger, site: TlsSite, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="value|severity|kind"):  # noqa: RUF043
        await site.order("monitor", variable="A/B", **arguments)
    with pytest.raises(DeviceRefusedError, match="NotImplemented"):
        await site.order("monitor", variable="A/B", value=1)


async def test_n02_monitors_are_reported(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetMonitoringReport"] = {"status": "Accepted"}
    number = (await site.order("monitors"))["request"]
    monitor = {"id": 3, "transaction": False, "value": 5, "type": "Delta", "severity": 4}
    if site.version == "ocpp2.1":
        monitor["eventNotificationType"] = "CustomMonitor"
    payload = {
        "requestId": number, "seqNo": 0, "generatedAt": stamp(),
        "monitor": [{"component": {"name": "A"}, "variable": {"name": "B"}, "variableMonitoring": [monitor]}],
    }  # fmt: skip
    assert await charger.ask("NotifyMonitoringReport", payload) == {}
    assert site.server.chargers["CP-1"].session.reports.model.monitors[3]["name"] == "A/B"


@pytest.mark.parametrize(
    ("name", "arguments", "sent"),
    [
        ("monitoring-base", {"base": "FactoryDefault"}, ("SetMonitoringBase", {"monitoringBase": "FactoryDefault"})),
        ("monitoring-level", {"severity": 4}, ("SetMonitoringLevel", {"severity": 4})),
    ],
)
async def test_n03_n05_monitoring_is_set_up(
    charger: RawCharger, site: TlsSite, name: str, arguments: dict[str, Any], sent: tuple[str, Payload]
) -> None:
    charger.answers[sent[0]] = {"status": "Accepted"}
    assert (await site.order(name, **arguments))["ok"] is True
    assert charger.heard[-1] == sent
    charger.answers[sent[0]] = {"status": "Rejected"}
    assert (await site.order(name, **arguments))["ok"] is False


async def test_n07_an_alert_is_said_and_a_change_is_known(charger: RawCharger, site: TlsSite) -> None:
    payload = {"generatedAt": stamp(), "seqNo": 0, "eventData": [event(1, "Delta", "false")]}
    assert await charger.ask("NotifyEvent", payload) == {}
    assert site.codes() == []
    await charger.ask("NotifyEvent", payload | {"eventData": [event(2, "Alerting", "true")]})
    assert site.codes() == ["charger.event"]
    assert "FanHeater/Problem" in site.events[0][2]
    model = site.server.chargers["CP-1"].session.reports.model
    assert model.value("FanHeater", "Problem") == "true"
    assert len(model.events) == 2


async def test_n07_an_event_without_data_is_a_call_error(charger: RawCharger) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("NotifyEvent", {"generatedAt": stamp(), "seqNo": 0, "eventData": []})
    assert refused.value.code == "OccurrenceConstraintViolation"


async def test_n01_a_log_is_asked_for_and_its_way_told(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetLog"] = {"status": "Accepted", "filename": "log.txt"}
    answer = await site.order("log", url="https://192.0.2.1/up", kind="SecurityLog", oldest="2026-01-01T00:00:00Z")
    assert (answer["ok"], answer["filename"]) == (True, "log.txt")
    sent = charger.calls("GetLog")[0]
    assert sent["log"] == {"remoteLocation": "https://192.0.2.1/up", "oldestTimestamp": "2026-01-01T00:00:00.000Z"}
    await charger.ask("LogStatusNotification", {"status": "UploadFailure", "requestId": answer["request"]})
    assert site.server.chargers["CP-1"].session.reports.logs[answer["request"]] == "UploadFailure"


async def test_n01_a_log_that_cannot_be_asked_for(charger: RawCharger, site: TlsSite) -> None:
    with pytest.raises(ValueError, match="url"):
        await site.order("log")
    with pytest.raises(ValueError, match="DiagnosticsLog or SecurityLog"):
        await site.order("log", url="https://192.0.2.1/up", kind="Diary")
    for nowhere in ("192.0.2.1/up", "file:///etc", "https://"):
        with pytest.raises(ValueError, match="such as https"):
            await site.order("log", url=nowhere)
    charger.answers["GetLog"] = {"status": "Rejected"}
    assert (await site.order("log", url="https://192.0.2.1/up"))["ok"] is False


async def test_n02_a_report_of_monitors_in_parts_is_kept_when_its_last_part_came(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["GetMonitoringReport"] = {"status": "Accepted"}
    number = (await site.order("monitors"))["request"]
    more = {"eventNotificationType": "CustomMonitor"} if site.version == "ocpp2.1" else {}
    for part in (0, 1):
        monitor = {"id": part, "transaction": False, "value": 5, "type": "Delta", "severity": 4, **more}
        payload = {
            "requestId": number, "seqNo": part, "generatedAt": stamp(), "tbc": part == 0,
            "monitor": [{"component": {"name": "A"}, "variable": {"name": "B"}, "variableMonitoring": [monitor]}],
        }  # fmt: skip
        assert await charger.ask("NotifyMonitoringReport", payload) == {}
    assert sorted(site.server.chargers["CP-1"].session.reports.model.monitors) == [0, 1]


@pytest.mark.parametrize("status", ["NotSupported", "Rejected", "EmptyResultSet"])
async def test_n02_a_report_of_monitors_that_there_is_not_is_told(
    charger: RawCharger, site: TlsSite, status: str
) -> None:
    charger.answers["GetMonitoringReport"] = {"status": status}
    answer = await site.order("monitors")
    assert (answer["ok"], answer["status"]) == (False, status)


@pytest.mark.parametrize("status", ["UnknownComponent", "UnknownVariable", "UnsupportedMonitorType", "Rejected"])
async def test_n04_a_monitor_that_the_charger_does_not_take_is_not_counted_on(
    charger: RawCharger, site: TlsSite, status: str
) -> None:
    charger.answers["SetVariableMonitoring"] = results(
        "setMonitoringResult", "setMonitoringData", status=status, type="UpperThreshold", severity=5
    )
    assert (await site.order("monitor", variable="A/B", value=1))["ok"] is False
    assert site.server.chargers["CP-1"].session.reports.model.monitors == {}


@pytest.mark.parametrize(("status", "stays"), [("Rejected", True), ("NotFound", False)])
async def test_n06_a_monitor_that_cannot_be_cleared_is_told(
    charger: RawCharger, site: TlsSite, status: str, stays: bool
) -> None:
    model = site.server.chargers["CP-1"].session.reports.model
    model.take_monitor(17, {"name": "A/B", "type": "Delta", "value": 1, "severity": 5})
    charger.answers["ClearVariableMonitoring"] = {"clearMonitoringResult": [{"status": status, "id": 17}]}
    answer = await site.order("unmonitor", id=17)
    assert (answer["ok"], answer["status"]) == (False, status)
    assert (17 in model.monitors) is stays


async def test_n08_a_periodic_value_is_known_and_no_alarm(charger: RawCharger, site: TlsSite) -> None:
    for number, value in enumerate(("21", "22")):
        payload = {"generatedAt": stamp(), "seqNo": 0, "eventData": [event(number, "Periodic", value)]}
        assert await charger.ask("NotifyEvent", payload) == {}
    assert site.codes() == []
    assert site.server.chargers["CP-1"].session.reports.model.value("FanHeater", "Problem") == "22"


async def test_n08_a_charger_that_tells_without_end_fills_no_memory(charger: RawCharger, site: TlsSite) -> None:
    for batch in range(10):
        events = [event(batch * 100 + number, "Alerting", "true") for number in range(100)]
        await charger.ask("NotifyEvent", {"generatedAt": stamp(), "seqNo": batch, "eventData": events})
    model = site.server.chargers["CP-1"].session.reports.model
    assert len(model.events) <= 100
    assert len(site.codes()) <= 60


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("DiagnosticsLog", "Uploaded"),
        ("SecurityLog", "BadMessage"),
        ("DiagnosticsLog", "PermissionDenied"),
        ("SecurityLog", "NotSupportedOperation"),
    ],
)
async def test_n01_how_a_log_fared_is_known(charger: RawCharger, site: TlsSite, kind: str, status: str) -> None:
    charger.answers["GetLog"] = {"status": "AcceptedCanceled", "filename": "log.txt"}
    answer = await site.order("log", url="https://192.0.2.1/up", kind=kind)
    assert answer["ok"] is True
    assert charger.calls("GetLog")[0]["logType"] == kind
    for told in ("Uploading", status):
        await charger.ask("LogStatusNotification", {"status": told, "requestId": answer["request"]})
    assert site.server.chargers["CP-1"].session.reports.logs == {answer["request"]: status}


# N09, N10: what a charger knows about a customer


def told(request: int, number: int, data: str, *, more: bool = False) -> Payload:
    return {"requestId": request, "seqNo": number, "generatedAt": stamp(), "data": data, "tbc": more}


async def asked(charger: RawCharger, site: TlsSite, **arguments: Any) -> tuple[asyncio.Task[Payload], int]:
    """The order, under way, and the number of its request."""
    before = len(charger.calls("CustomerInformation"))
    order = asyncio.create_task(site.order("customer", **arguments))
    sent = await charger.hear("CustomerInformation", before + 1)
    return order, int(sent["requestId"])


async def test_n09_what_a_charger_knows_about_a_customer_comes_in_parts_and_is_kept_nowhere(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["CustomerInformation"] = {"status": "Accepted"}
    order, number = await asked(charger, site, token="04AABBCC")
    sent = charger.calls("CustomerInformation")[0]
    assert sent["idToken"] == {"idToken": "04AABBCC", "type": "ISO14443"}
    assert (sent["report"], sent["clear"]) == (True, False)
    await charger.ask("NotifyCustomerInformation", told(number + 1, 0, "somebody else"))
    await charger.ask("NotifyCustomerInformation", told(number, 1, "charged twice"))
    with site.server.chargers["CP-1"].tap.listen() as ear:
        await charger.ask("NotifyCustomerInformation", told(number, 0, "Jane Doe ", more=True))
        assert "Jane" not in str(ear.take())
    answer = await order
    assert (answer["ok"], answer["data"]) == (True, "Jane Doe charged twice")
    assert b"Jane" not in b"".join(site.journal.kept.values())
    assert site.server.chargers["CP-1"].session.reports.customer.hand_over() is None


async def test_n09_another_order_does_not_wait_for_a_customers_report(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["CustomerInformation"] = {"status": "Accepted"}
    charger.answers["RequestStopTransaction"] = {"status": "Accepted"}
    await charger.event("Started", 0)
    order, number = await asked(charger, site, customer="C-1")
    assert (await site.order("stop"))["ok"] is True
    await charger.ask("NotifyCustomerInformation", told(number, 0, ""))
    assert (await order)["data"] == ""


@pytest.mark.parametrize("status", ["Rejected", "Invalid"])
async def test_n09_a_customer_that_the_charger_does_not_tell_about(
    charger: RawCharger, site: TlsSite, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    charger.answers["CustomerInformation"] = {"status": status}
    answer = await site.order("customer", token="04AABBCC")
    assert (answer["ok"], answer["status"], "data" in answer) == (False, status, False)
    monkeypatch.setattr(desk_module, "CUSTOMER_S", 0.1)
    charger.answers["CustomerInformation"] = {"status": "Accepted"}
    with pytest.raises(DeviceUnreachableError, match="did not tell about the customer"):
        await site.order("customer", token="04AABBCC")
    with pytest.raises(ValueError, match="report or clear"):
        await site.order("customer", token="04AABBCC", report=False)


async def test_n10_a_charger_forgets_a_customer(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["CustomerInformation"] = {"status": "Accepted"}
    hashes = {"issuerNameHash": "a1", "issuerKeyHash": "b2", "serialNumber": "c3"}
    assert (await site.order("customer", report=False, clear=True, **hashes))["ok"] is True
    sent = charger.calls("CustomerInformation")[0]
    assert sent["customerCertificate"] == {"hashAlgorithm": "SHA256", **hashes}
    assert (sent["report"], sent["clear"]) == (False, True)
    charger.answers["CustomerInformation"] = AnsweredError("NotSupported")
    with pytest.raises(DeviceRefusedError, match="NotSupported"):
        await site.order("customer", report=False, clear=True, **hashes)


# N11 (2.1): streams of values that nobody asked for


async def test_n11_a_stream_of_values_is_not_taken_and_the_charger_told(charger: RawCharger, site: TlsSite) -> None:
    stream = {"id": 1, "variableMonitoringId": 17, "params": {"interval": 1}}
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("OpenPeriodicEventStream", {"constantStreamData": stream})
    assert refused.value.code == ("NotSupported" if site.version == "ocpp2.1" else "NotImplemented")
    assert (await charger.ask("Heartbeat", {}))["currentTime"]
