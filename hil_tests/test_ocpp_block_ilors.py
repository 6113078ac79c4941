"""OCPP 2.0.1 and 2.1 over TLS: the blocks that a site's CSMS does not run, and what it answers of them all the same.

I  tariff and cost      nobody sells here: no tariff, cost or receipt is told (I01 to I06; of 2.1 I07 to I12), and
                        what a charger has reckoned by itself is taken with its transaction and left
L  firmware             no updates are sent (L01, L02), published or unpublished (L03, L04); how one fares that
                        somebody else began is heard, and what went wrong is told
O  display messages     none are set, asked for or cleared (O01 to O06); a report of them is taken and left
R  grid functions (2.1) none are set (R01 to R04): they are the grid code's, and told by the charger's maker
S  battery swap (2.1)   no such station is run
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, TlsSite, token
from hil_tests.ocpp_station import stamp
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("04AABBCC",))]
ONLY_2_1 = pytest.mark.parametrize("version", ["ocpp2.1"], ids=["2.1"])


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        yield site


async def refusal(charger: RawCharger, action: str, payload: Payload) -> str:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask(action, payload)
    assert (await charger.ask("Heartbeat", {}))["currentTime"], "the charger goes on"
    return refused.value.code


# I: tariff and cost


async def test_i02_i03_a_transaction_costs_nothing_here(charger: RawCharger) -> None:
    answers = [await charger.ask("Authorize", {"idToken": token("04AABBCC")})]
    answers.append(await charger.event("Started", 0, idToken=token("04AABBCC")))
    answers.append(await charger.event("Ended", 1, trigger="StopAuthorized", idToken=token("04AABBCC")))
    assert answers[0]["idTokenInfo"]["status"] == "Accepted"
    for answer in answers:
        assert not {"totalCost", "tariff", "transactionLimit", "updatedPersonalMessage"} & set(answer)
        assert "personalMessage" not in answer["idTokenInfo"]


COST = {
    "totalCost": {"currency": "EUR", "typeOfCost": "NormalCost", "total": {"exclTax": 3.5}},
    "totalUsage": {"energy": 10.0, "chargingTime": 60, "idleTime": 0},
}


@ONLY_2_1
async def test_i12_what_a_charger_has_reckoned_by_itself_is_taken_and_left(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0)
    assert await charger.event("Ended", 1, trigger="EVDeparted", costDetails=COST) == {}
    assert site.server.chargers["CP-1"].session.evses[1].transaction is None
    assert site.codes() == []


@ONLY_2_1
async def test_i12_a_reckoning_that_is_none_is_a_call_error_and_the_transaction_goes_on(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0)
    with pytest.raises(AnsweredError) as refused:
        await charger.event("Updated", 1, costDetails={**COST, "totalCost": "much"})
    assert refused.value.code == "TypeConstraintViolation"
    assert site.server.chargers["CP-1"].session.evses[1].transaction is not None


# L: firmware


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("Downloading", False),
        ("SignatureVerified", False),
        ("Installed", False),
        ("DownloadFailed", True),
        ("InstallVerificationFailed", True),
        ("InvalidSignature", True),
    ],
)
async def test_l01_l02_how_an_update_fares_is_heard_and_what_went_wrong_is_told(
    charger: RawCharger, site: TlsSite, status: str, told: bool
) -> None:
    assert await charger.ask("FirmwareStatusNotification", {"status": status, "requestId": 7}) == {}
    assert site.codes() == (["charger.firmware"] if told else [])
    assert all(status in text for _, _, text in site.events)


@pytest.mark.parametrize(
    ("status", "told"), [("Downloaded", False), ("InvalidChecksum", True), ("PublishFailed", True)]
)
async def test_l03_how_the_publishing_of_firmware_fares_is_heard(
    charger: RawCharger, site: TlsSite, status: str, told: bool
) -> None:
    assert await charger.ask("PublishFirmwareStatusNotification", {"status": status, "requestId": 7}) == {}
    assert site.codes() == (["charger.firmware"] if told else [])


@pytest.mark.parametrize("action", ["FirmwareStatusNotification", "PublishFirmwareStatusNotification"])
async def test_l01_l03_a_status_that_nobody_specified_is_a_call_error(
    charger: RawCharger, site: TlsSite, action: str
) -> None:
    assert await refusal(charger, action, {"status": "Molten"}) == "PropertyConstraintViolation"
    assert "charger.firmware" not in site.codes()


# O: display messages

MESSAGE = {"id": 1, "priority": "NormalCycle", "message": {"format": "UTF8", "content": "Hello"}}


async def test_o03_a_report_of_display_messages_is_taken_and_left(charger: RawCharger, site: TlsSite) -> None:
    told = {"requestId": 1, "messageInfo": [MESSAGE], "tbc": True}
    assert await charger.ask("NotifyDisplayMessages", told) == {}
    assert await charger.ask("NotifyDisplayMessages", {"requestId": 1}) == {}
    assert site.codes() == []


async def test_o03_a_report_without_its_number_is_a_call_error(charger: RawCharger) -> None:
    assert await refusal(charger, "NotifyDisplayMessages", {"messageInfo": [MESSAGE]}) == (
        "OccurrenceConstraintViolation"
    )


# R, S: not here, and said so


@ONLY_2_1
@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("NotifyDERAlarm", {"controlType": "HFMustTrip", "timestamp": stamp()}),
        ("NotifyDERStartStop", {"controlId": "C1", "started": True, "timestamp": stamp()}),
        ("ReportDERControl", {"requestId": 1}),
        (
            "BatterySwap",
            {
                "eventType": "BatteryIn", "requestId": 1, "idToken": token("04AABBCC"),
                "batteryData": [{"evseId": 1, "serialNumber": "B1", "soC": 50, "soH": 90}],
            },
        ),
    ],
    ids=["alarm", "start", "report", "swap"],
)  # fmt: skip
async def test_r04_s01_what_nobody_set_or_runs_here_is_answered_not_supported(
    charger: RawCharger, action: str, payload: Payload
) -> None:
    assert await refusal(charger, action, payload) == "NotSupported"
    assert await refusal(charger, action, {}) == "OccurrenceConstraintViolation"
