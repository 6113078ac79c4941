"""OCPP 2.0.1 and 2.1 block B, provisioning and device model: both paths of each use case, over TLS.

What a reset does to a running discharge (B11, B12) is in `test_ocpp_block_q`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.device import DeviceRefusedError, LinkState
from drivers.ocpp import ChargerSettings
from drivers.ocpp import charger as charger_module
from drivers.ocpp.standing import Standing
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, TlsSite
from hil_tests.ocpp_station import stamp, until
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [
    ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1"),
    ChargerSettings(device_id="car-2", charger_id="CP-1", password="secret-1", evse_id=2),
]


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> AsyncIterator[TlsSite]:
    monkeypatch.setattr(charger_module, "SILENT_START_S", 0.05)
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        yield site


def entry(component: str, variable: str, value: str | None, **more: Any) -> Payload:
    attribute: Payload = {"mutability": "ReadWrite", **({} if value is None else {"value": value})}
    return {"component": {"name": component}, "variable": {"name": variable}, "variableAttribute": [attribute], **more}


def report(request: int, number: int, entries: list[Payload], *, more: bool = False) -> Payload:
    return {
        "requestId": request, "generatedAt": stamp(), "seqNo": number, "tbc": more, "reportData": entries,
    }  # fmt: skip


def names(site: TlsSite, text: str = "") -> list[str]:
    return [str(v.key) for v in site.server.chargers["CP-1"].session.reports.model.variables(text)]


def shares(charger: RawCharger) -> list[Payload]:
    """The static shares that it was given; 2.1 has another one for priority charging."""
    calls = charger.calls("SetChargingProfile")
    return [call for call in calls if call["chargingProfile"]["chargingProfilePurpose"] == "TxDefaultProfile"]


# B01 to B04: boot


async def test_b01_a_cold_boot_is_accepted_with_the_time_and_set_up(site: TlsSite) -> None:
    async with site.charger() as charger:
        answer = await charger.boot()
        assert (answer["status"], answer["interval"]) == ("Accepted", 300)
        assert abs(datetime.fromisoformat(answer["currentTime"]) - datetime.now(UTC)) < timedelta(seconds=5)
        await charger.hear("GetBaseReport")
        assert [call["evseId"] for call in shares(charger)] == [1, 2]


async def test_b01_a_boot_without_a_model_is_a_call_error(site: TlsSite) -> None:
    async with site.charger() as charger:
        with pytest.raises(AnsweredError) as refused:
            await charger.ask("BootNotification", {"chargingStation": {"vendorName": "V"}, "reason": "PowerUp"})
        assert refused.value.code == "OccurrenceConstraintViolation"


async def test_b02_a_charger_that_waits_is_pending_and_heard_no_further(site: TlsSite) -> None:
    await site.server.entrance.lock("CP-1", Standing.PENDING)
    async with site.charger() as charger:
        answer = await charger.boot()
        assert (answer["status"], answer["interval"]) == ("Pending", 60)
        with pytest.raises(AnsweredError) as refused:
            await charger.event("Started", 0)
        assert refused.value.code == "SecurityError"
        status = site.server.devices["car-1"].status()
        assert status.link is LinkState.FAULT
        assert "chargers approve CP-1" in status.detail
        # What it is made of may be asked meanwhile.
        charger.answers["GetBaseReport"] = {"status": "Accepted"}
        number = (await site.order("report"))["request"]
        assert await charger.ask("NotifyReport", report(number, 0, [entry("C", "V", "1")])) == {}
        assert names(site) == ["C/V"]
        assert charger.calls("SetChargingProfile") == []


async def test_b02_an_approval_makes_a_waiting_charger_boot_and_work(site: TlsSite) -> None:
    await site.server.entrance.lock("CP-1", Standing.PENDING)
    async with site.charger() as charger:
        await charger.boot()
        answer = await site.server.entrance.approve("CP-1")
        assert answer["status"] == "accepted"
        assert {"requestedMessage": "BootNotification"} in charger.calls("TriggerMessage")
        await charger.ready()
        assert site.server.devices["car-1"].status().link is LinkState.ONLINE


async def test_b03_a_rejected_charger_may_only_boot_again_and_stays_rejected_over_our_restart(site: TlsSite) -> None:
    await site.server.entrance.lock("CP-1", Standing.REJECTED)
    async with site.charger() as charger:
        answer = await charger.boot()
        assert (answer["status"], answer["interval"]) == ("Rejected", 900)
        for action, payload in [("Heartbeat", {}), ("NotifyReport", report(1, 0, []))]:
            payload.pop("reportData", None)
            with pytest.raises(AnsweredError) as refused:
                await charger.ask(action, payload)
            assert refused.value.code == "SecurityError"
    again = site.make_server().chargers["CP-1"]
    await again.recall()
    assert again.session.standing is Standing.REJECTED


async def test_b04_a_charger_that_was_offline_goes_on_without_boot(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
    async with site.charger() as charger:
        assert (await charger.ask("Heartbeat", {}))["currentTime"]
        await charger.hear("GetBaseReport")
        assert len(shares(charger)) == 2


# B05, B06: variables


def results(name: str, request: str, **more: Any) -> Any:
    return lambda asked: {
        name: [{"component": e["component"], "variable": e["variable"], **more} for e in asked[request]]
    }


async def test_b05_a_variable_is_set_and_known(charger: RawCharger, site: TlsSite) -> None:
    answer = await site.order("set", variable="SampledDataCtrlr#1.2/TxUpdatedInterval[a]", value="7")
    assert answer == {"ok": True, "status": "Accepted"}
    assert charger.calls("SetVariables")[-1]["setVariableData"] == [
        {
            "component": {"name": "SampledDataCtrlr", "evse": {"id": 1, "connectorId": 2}},
            "variable": {"name": "TxUpdatedInterval", "instance": "a"},
            "attributeValue": "7",
        }
    ]
    assert names(site) == ["SampledDataCtrlr#1.2/TxUpdatedInterval[a]"]


@pytest.mark.parametrize("status", ["Rejected", "UnknownComponent", "UnknownVariable", "NotSupportedAttributeType"])
async def test_b05_a_refused_value_is_told_and_not_believed(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["SetVariables"] = results("setVariableResult", "setVariableData", attributeStatus=status)
    assert await site.order("set", variable="A/B", value="7") == {"ok": False, "status": status}
    assert names(site) == []


@pytest.mark.parametrize("variable", ["no slash", "/B", "A/", "A#x/B", "A" * 51 + "/B"])
async def test_b05_what_is_no_variable_is_not_asked_for(charger: RawCharger, site: TlsSite, variable: str) -> None:
    before = len(charger.heard)
    with pytest.raises(ValueError, match=r".+"):
        await site.order("set", variable=variable, value="7")
    assert len(charger.heard) == before


async def test_b05_a_password_is_not_set_by_hand(charger: RawCharger, site: TlsSite) -> None:
    with pytest.raises(ValueError, match="chargers password"):
        await site.order("set", variable="SecurityCtrlr/basicauthpassword", value="x" * 16)


async def test_b06_variables_are_asked_for_and_known(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetVariables"] = results(
        "getVariableResult", "getVariableData", attributeStatus="Accepted", attributeValue="W"
    )
    answer = await site.order("get", variables=["SmartChargingCtrlr/RateUnit"])
    assert answer["variables"] == [{"name": "SmartChargingCtrlr/RateUnit", "status": "Accepted", "value": "W"}]
    assert site.server.chargers["CP-1"].session.reports.model.value("smartchargingctrlr", "rateunit") == "W"


async def test_b06_a_variable_that_the_charger_does_not_have_is_told(charger: RawCharger, site: TlsSite) -> None:
    answer = await site.order("get", variables=["A/B"])
    assert (answer["ok"], answer["variables"][0]["status"]) == (False, "UnknownVariable")
    with pytest.raises(ValueError, match="1 to 50"):
        await site.order("get", variables=["A/B"] * 51)


# B07, B08: reports


async def test_b07_a_base_report_comes_in_parts_of_any_order_and_is_kept(site: TlsSite) -> None:
    async with site.charger() as charger:
        charger.answers["GetBaseReport"] = {"status": "Accepted"}
        await charger.boot()
        number = (await charger.hear("GetBaseReport"))["requestId"]
        characteristics = {"dataType": "integer", "unit": "W", "supportsMonitoring": True}
        await charger.ask("NotifyReport", report(number, 1, [entry("B", "V", "2")], more=True))
        await charger.ask("NotifyReport", report(number, 2, [entry("C", "V", None)]))
        assert "charger/CP-1/model" not in site.journal.kept
        power = entry("EVSE", "Power", "11000", variableCharacteristics=characteristics)
        power["component"]["evse"] = {"id": 1}
        await charger.ask("NotifyReport", report(number, 0, [power], more=True))
        assert names(site) == ["B/V", "C/V", "EVSE#1/Power"]
    again = site.make_server().chargers["CP-1"]
    await again.recall()
    found = again.session.reports.model.variables("power")
    assert [(str(v.key), v.as_json()["value"], v.as_json()["unit"]) for v in found] == [("EVSE#1/Power", "11000", "W")]
    # What is known is not asked for again.
    async with site.charger() as charger:
        await charger.boot()
        await until(lambda: len(charger.calls("SetVariables")) >= 1, "the end of provisioning")
        assert charger.calls("GetBaseReport") == []


async def test_b07_what_a_full_report_leaves_out_is_gone_and_what_a_partial_leaves_out_stays(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["GetBaseReport"] = {"status": "Accepted"}
    number = (await site.order("report"))["request"]
    await charger.ask("NotifyReport", report(number, 0, [entry("A", "V", "1"), entry("B", "V", "1")]))
    number = (await site.order("report", kind="SummaryInventory"))["request"]
    await charger.ask("NotifyReport", report(number, 0, [entry("a", "v", "2")]))
    assert names(site) == ["A/V", "B/V"]
    number = (await site.order("report"))["request"]
    await charger.ask("NotifyReport", report(number, 0, [entry("B", "V", "1")]))
    assert names(site) == ["B/V"]


@pytest.mark.parametrize("status", ["Rejected", "NotSupported", "EmptyResultSet"])
async def test_b07_a_refused_report_is_told(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["GetBaseReport"] = {"status": status}
    answer = await site.order("report")
    assert (answer["ok"], answer["status"]) == (False, status)


async def test_b07_a_password_in_a_report_is_not_kept(charger: RawCharger, site: TlsSite) -> None:
    await charger.ask("NotifyReport", report(5, 0, [entry("SecurityCtrlr", "BasicAuthPassword", "top-secret")]))
    assert names(site) == ["SecurityCtrlr/BasicAuthPassword"]
    assert b"top-secret" not in b"".join(site.journal.kept.values())
    assert site.server.chargers["CP-1"].session.reports.model.value("SecurityCtrlr", "BasicAuthPassword") is None


async def test_b08_a_charger_cannot_fill_the_memory_with_variables(charger: RawCharger, site: TlsSite) -> None:
    for number in range(12):
        entries = [entry("C", f"V{number}-{each}", "x") for each in range(500)]
        await charger.ask("NotifyReport", report(number, 0, entries))
    assert len(names(site)) == 4000


# B09 to B12


async def test_b09_a_network_profile_is_set(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["SetNetworkProfile"] = {"status": "Accepted"}
    assert (await site.order("network", slot=1, url="wss://192.0.2.1:9000/", profile=3))["ok"] is True
    sent = charger.calls("SetNetworkProfile")[0]
    assert sent["configurationSlot"] == 1
    assert sent["connectionData"]["securityProfile"] == 3


@pytest.mark.parametrize("status", ["Rejected", "Failed"])
async def test_b09_a_network_profile_that_is_refused_is_told(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["SetNetworkProfile"] = {"status": status}
    assert (await site.order("network", slot=1, url="wss://192.0.2.1:9000/"))["ok"] is False
    with pytest.raises(ValueError, match="ws://"):
        await site.order("network", slot=1, url="http://192.0.2.1/")
    with pytest.raises(ValueError, match="1, 2 or 3"):
        await site.order("network", slot=1, url="wss://192.0.2.1/", profile=0)


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({}, {"type": "OnIdle"}),
        ({"immediate": True, "device": "car-2"}, {"type": "Immediate", "evseId": 2}),
    ],
)
async def test_b11_b12_a_charger_is_reset(
    charger: RawCharger, site: TlsSite, arguments: dict[str, Any], sent: Payload
) -> None:
    charger.answers["Reset"] = {"status": "Scheduled"}
    assert (await site.order("reset", **arguments))["ok"] is True
    assert charger.calls("Reset") == [sent]
    charger.answers["Reset"] = {"status": "Rejected"}
    assert (await site.order("reset", **arguments))["ok"] is False


# G02: the clock


async def test_g02_a_heartbeat_tells_the_time_whatever_is_away(charger: RawCharger) -> None:
    before = time.time()
    told = datetime.fromisoformat((await charger.ask("Heartbeat", {}))["currentTime"]).timestamp()
    assert before - 0.01 <= told <= time.time()
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("Heartbeat", {"time": 1})
    assert refused.value.code == "FormatViolation"


# B08: what is asked for


async def test_b08_a_report_of_what_matters_is_asked_for_and_known(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetReport"] = {"status": "Accepted"}
    answer = await site.order("custom-report", criterion="Problem", variable="EVSE#1/Power")
    assert answer["ok"] is True
    component = {"name": "EVSE", "evse": {"id": 1}}
    assert charger.calls("GetReport") == [
        {
            "requestId": answer["request"],
            "componentCriteria": ["Problem"],
            "componentVariable": [{"component": component, "variable": {"name": "Power"}}],
        }
    ]
    await charger.ask("NotifyReport", report(answer["request"], 0, [entry("Fan", "Problem", "true")]))
    assert names(site) == ["Fan/Problem"]


@pytest.mark.parametrize("status", ["EmptyResultSet", "Rejected", "NotSupported"])
async def test_b08_a_report_that_there_is_not_is_told(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["GetReport"] = {"status": status}
    assert (await site.order("custom-report", criterion="Problem"))["status"] == status
    with pytest.raises(ValueError, match="criterion or variable"):
        await site.order("custom-report")


# B10 and A05: to another address, with a better security profile


async def test_b10_a05_a_charger_is_moved_to_a_better_profile_and_not_to_none(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["SetNetworkProfile"] = {"status": "Accepted"}
    charger.answers["Reset"] = {"status": "Scheduled"}
    assert (await site.order("network", slot=2, url="wss://192.0.2.1:9000/", profile=3))["ok"] is True
    assert (await site.order("set", variable="OCPPCommCtrlr/NetworkConfigurationPriority", value="2,1"))["ok"] is True
    assert (await site.order("reset"))["ok"] is True
    assert [action for action, _ in charger.heard[-3:]] == ["SetNetworkProfile", "SetVariables", "Reset"]
    charger.answers["SetVariables"] = results("setVariableResult", "setVariableData", attributeStatus="Rejected")
    answer = await site.order("set", variable="OCPPCommCtrlr/NetworkConfigurationPriority", value="7")
    assert answer == {"ok": False, "status": "Rejected"}
    assert names(site, "priority") == ["OCPPCommCtrlr/NetworkConfigurationPriority"]
    assert (
        site.server.chargers["CP-1"].session.reports.model.value("OCPPCommCtrlr", "NetworkConfigurationPriority")
        == "2,1"
    )


# B13 (2.1): a transaction that goes on after a reset


async def test_b13_a_charger_of_2_1_resumes_and_one_of_2_0_1_is_not_asked_to(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["Reset"] = {"status": "Accepted"}
    if site.version == "ocpp2.0.1":
        with pytest.raises(ValueError, match="OnIdle"):
            await site.order("reset", resume=True)
        assert charger.calls("Reset") == []
        return
    assert (await site.order("reset", resume=True))["ok"] is True
    assert charger.calls("Reset") == [{"type": "ImmediateAndResume"}]


# B12: a reset while a transaction runs


async def test_b12_a_transaction_that_the_reset_ended_is_over_and_told(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0)
    charger.answers["Reset"] = {"status": "Accepted"}
    assert (await site.order("reset", immediate=True))["ok"] is True
    await charger.event("Ended", 1, trigger="ResetCommand", info={"stoppedReason": "ImmediateReset"})
    assert (await charger.boot(reason="RemoteReset"))["status"] == "Accepted"
    assert site.server.devices["car-1"].status().vehicle is None


async def test_b12_a_reset_that_is_refused_while_a_transaction_runs_leaves_it_running(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0)
    for refusal in ({"status": "Rejected"}, AnsweredError("InternalError")):
        charger.answers["Reset"] = refusal
        if isinstance(refusal, AnsweredError):
            with pytest.raises(DeviceRefusedError, match="InternalError"):
                await site.order("reset", immediate=True)
        else:
            assert (await site.order("reset", immediate=True))["ok"] is False
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.transaction_id == "T1"
