"""OCPP 2.0.1 and 2.1 blocks F (remote control), G (availability), H (reservation): both paths, over TLS.

No remote start with a limit of cost, energy or time (F07 of 2.1), as E16: the plan bounds a car by profiles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, RawCharger, Silence, TlsSite, token
from hil_tests.ocpp_station import stamp
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [
    ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("RFID-1",)),
    ChargerSettings(device_id="car-2", charger_id="CP-1", password="secret-1", evse_id=2),
]


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        yield site


# F01 to F03: remote start and stop


async def test_f01_a_remote_start_is_ordered_and_its_token_known(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = {"status": "Accepted"}
    assert (await site.order("start", device="car-2", token="APP-1"))["ok"] is True
    asked = charger.calls("RequestStartTransaction")[0]
    assert (asked["evseId"], asked["idToken"]) == (2, {"idToken": "APP-1", "type": "Central"})
    answer = await charger.event("Started", 0, evse=2, trigger="RemoteStart", idToken=token("APP-1", "Central"))
    assert answer["idTokenInfo"]["status"] == "Accepted"


async def test_f01_a_refused_remote_start_is_an_error(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = {"status": "Rejected"}
    with pytest.raises(DeviceRefusedError, match="refused RequestStartTransaction"):
        await site.order("start", device="car-1", token="APP-1")


@pytest.mark.parametrize("arguments", [{"device": "car-9", "token": "A"}, {"device": "car-1"}, {"token": "A"}])
async def test_f01_a_start_that_names_no_device_or_token_is_not_sent(
    charger: RawCharger, site: TlsSite, arguments: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"device|token"):
        await site.order("start", **arguments)
    assert charger.calls("RequestStartTransaction") == []


async def test_f03_a_remote_stop_names_the_transaction(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStopTransaction"] = {"status": "Accepted"}
    await charger.event("Started", 0)
    assert (await site.order("stop", device="car-1"))["ok"] is True
    assert charger.calls("RequestStopTransaction") == [{"transactionId": "T1"}]


async def test_f03_without_a_transaction_there_is_nothing_to_stop(charger: RawCharger, site: TlsSite) -> None:
    with pytest.raises(DeviceRefusedError, match="no transaction is running"):
        await site.order("stop", device="car-1")


# F05, F06


@pytest.mark.parametrize(
    ("status", "good"), [("Unlocked", True), ("UnlockFailed", False), ("OngoingAuthorizedTransaction", False)]
)
async def test_f05_a_connector_is_unlocked(charger: RawCharger, site: TlsSite, status: str, good: bool) -> None:
    charger.answers["UnlockConnector"] = {"status": status}
    answer = await site.order("unlock", device="car-2", connector=3)
    assert (answer["ok"], answer["status"]) == (good, status)
    assert charger.calls("UnlockConnector") == [{"evseId": 2, "connectorId": 3}]


@pytest.mark.parametrize(("status", "good"), [("Accepted", True), ("Rejected", False), ("NotImplemented", False)])
async def test_f06_a_message_is_triggered(charger: RawCharger, site: TlsSite, status: str, good: bool) -> None:
    charger.answers["TriggerMessage"] = {"status": status}
    answer = await site.order("trigger", message="StatusNotification", device="car-1")
    assert answer["ok"] is good
    assert charger.calls("TriggerMessage")[-1] == {"requestedMessage": "StatusNotification", "evse": {"id": 1}}


async def test_f06_a_message_that_nobody_knows_is_not_sent(charger: RawCharger, site: TlsSite) -> None:
    before = len(charger.heard)
    with pytest.raises(ValueError, match="requestedMessage"):
        await site.order("trigger", message="Weather")
    assert len(charger.heard) == before


# G: availability


async def test_g01_the_state_of_connectors_is_kept(charger: RawCharger, site: TlsSite) -> None:
    for status in ("Occupied", "Faulted"):
        await charger.ask(
            "StatusNotification",
            {"timestamp": stamp(), "connectorStatus": status, "evseId": 2, "connectorId": 1},
        )
    assert site.server.chargers["CP-1"].session.evses[2].connectors == {1: "Faulted"}
    assert site.codes() == ["charger.faulted"]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({"operative": False}, {"operationalStatus": "Inoperative"}),
        ({"operative": True, "device": "car-2"}, {"operationalStatus": "Operative", "evse": {"id": 2}}),
        (
            {"operative": True, "device": "car-1", "connector": 2},
            {"operationalStatus": "Operative", "evse": {"id": 1, "connectorId": 2}},
        ),
    ],
)
async def test_g03_g04_availability_is_changed(
    charger: RawCharger, site: TlsSite, arguments: dict[str, Any], sent: dict[str, object]
) -> None:
    charger.answers["ChangeAvailability"] = {"status": "Scheduled"}
    assert (await site.order("availability", **arguments))["ok"] is True
    assert charger.calls("ChangeAvailability") == [sent]


async def test_g03_a_refused_change_is_told(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ChangeAvailability"] = {"status": "Rejected"}
    assert (await site.order("availability", operative=False))["ok"] is False
    with pytest.raises(ValueError, match="true or false"):
        await site.order("availability", operative="maybe")


# H: reservation


async def reserved(site: TlsSite) -> int:
    answer = await site.order("reserve", device="car-1", token="RFID-1", minutes=30)
    assert answer["ok"] is True
    return int(answer["reservation"])


async def test_h01_a_reservation_is_made_kept_and_used(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ReserveNow"] = {"status": "Accepted"}
    number = await reserved(site)
    sent = charger.calls("ReserveNow")[0]
    assert (sent["id"], sent["evseId"], sent["idToken"]) == (number, 1, token("RFID-1"))
    kept = site.server.chargers["CP-1"].session.reports.reservations
    assert kept[number]["token"] == "...-1"
    assert f"{number}".encode() in site.journal.kept["charger/CP-1"]
    await charger.event("Started", 0, reservationId=number)
    assert kept == {}


@pytest.mark.parametrize("status", ["Occupied", "Faulted", "Rejected", "Unavailable"])
async def test_h01_a_reservation_that_cannot_be_is_not_kept(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["ReserveNow"] = {"status": status}
    answer = await site.order("reserve", token="RFID-1")
    assert (answer["ok"], answer["status"]) == (False, status)
    assert site.server.chargers["CP-1"].session.reports.reservations == {}


async def test_h02_a_reservation_is_cancelled(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ReserveNow"] = charger.answers["CancelReservation"] = {"status": "Accepted"}
    number = await reserved(site)
    assert (await site.order("cancel-reservation", reservation=number))["ok"] is True
    assert charger.calls("CancelReservation") == [{"reservationId": number}]
    assert site.server.chargers["CP-1"].session.reports.reservations == {}


async def test_h02_a_reservation_that_the_charger_does_not_know_is_an_error(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["CancelReservation"] = {"status": "Rejected"}
    assert (await site.order("cancel-reservation", reservation=4711))["ok"] is False


@pytest.mark.parametrize("status", ["Expired", "Removed"])
async def test_h04_a_reservation_ends_by_itself(charger: RawCharger, site: TlsSite, status: str) -> None:
    charger.answers["ReserveNow"] = {"status": "Accepted"}
    number = await reserved(site)
    await charger.ask("ReservationStatusUpdate", {"reservationId": number, "reservationUpdateStatus": status})
    assert site.server.chargers["CP-1"].session.reports.reservations == {}


async def test_h04_word_of_a_reservation_that_nobody_made_is_taken(charger: RawCharger) -> None:
    answer = await charger.ask("ReservationStatusUpdate", {"reservationId": 1, "reservationUpdateStatus": "Removed"})
    assert answer == {}


async def test_f02_a_start_before_the_cable_is_known_again_by_its_number(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = {"status": "Accepted", "transactionId": "T9"}
    await site.order("start", device="car-1", token="APP-1")
    number = charger.calls("RequestStartTransaction")[0]["remoteStartId"]
    answer = await charger.event(
        "Started", 0, transaction="T9", trigger="RemoteStart", idToken=token("APP-1", "Central"),
        info={"remoteStartId": number},
    )  # fmt: skip
    assert answer["idTokenInfo"]["status"] == "Accepted"
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert (vehicle.transaction_id, vehicle.token_id) == ("T9", "APP-1")


async def test_f02_a_token_that_nobody_sent_does_not_start(charger: RawCharger) -> None:
    answer = await charger.event("Started", 0, trigger="RemoteStart", idToken=token("APP-2", "Central"))
    assert answer["idTokenInfo"]["status"] == "Unknown"


async def test_f03_a_refused_remote_stop_is_an_error_and_the_transaction_goes_on(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["RequestStopTransaction"] = {"status": "Rejected"}
    await charger.event("Started", 0)
    with pytest.raises(DeviceRefusedError, match="refused RequestStopTransaction"):
        await site.order("stop", device="car-1")
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.transaction_id == "T1"


async def test_f05_a_connector_that_is_not_there_is_told(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["UnlockConnector"] = {"status": "UnknownConnector"}
    assert (await site.order("unlock", device="car-1", connector=9))["ok"] is False
    with pytest.raises(ValueError, match="car-1, car-2"):
        await site.order("unlock")


async def test_g01_an_evse_that_nobody_configured_is_said_once(charger: RawCharger, site: TlsSite) -> None:
    for _ in range(3):
        told = {"timestamp": stamp(), "connectorStatus": "Available", "evseId": 9, "connectorId": 1}
        assert await charger.ask("StatusNotification", told) == {}
    assert site.codes() == ["charger.unknown_evse"]
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("StatusNotification", told | {"connectorStatus": "Tired"})
    assert refused.value.code == "PropertyConstraintViolation"


async def test_g05_a_lock_that_does_not_hold_is_said(charger: RawCharger, site: TlsSite) -> None:
    event = {
        "eventId": 1, "timestamp": stamp(), "trigger": "Alerting", "actualValue": "true",
        "eventNotificationType": "HardWiredNotification",
        "component": {"name": "ConnectorPlugRetentionLock", "evse": {"id": 1, "connectorId": 1}},
        "variable": {"name": "Problem"},
    }  # fmt: skip
    await charger.ask("NotifyEvent", {"generatedAt": stamp(), "seqNo": 0, "eventData": [event]})
    assert site.codes() == ["charger.event"]
    assert "ConnectorPlugRetentionLock" in site.events[0][2]
    event |= {"eventId": 2, "actualValue": "false"}  # it holds again: an alert that has ended is no alarm
    await charger.ask("NotifyEvent", {"generatedAt": stamp(), "seqNo": 1, "eventData": [event | {"trigger": "Delta"}]})
    assert site.codes() == ["charger.event"]


async def test_h03_a_reservation_for_a_group_names_it_and_ends_with_its_use(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ReserveNow"] = {"status": "Accepted"}
    number = (await site.order("reserve", device="car-1", token="RFID-1", group="FAMILY"))["reservation"]
    assert charger.calls("ReserveNow")[0]["groupIdToken"] == {"idToken": "FAMILY", "type": "Central"}
    await charger.event("Started", 0, reservationId=number + 1)  # another one, of which nobody knows
    reservations = site.server.chargers["CP-1"].session.reports.reservations
    assert list(reservations) == [number]
    await charger.event("Ended", 1, info={"stoppedReason": "Local"}, trigger="StopAuthorized")
    await charger.event("Started", 0, transaction="T2", reservationId=number, idToken=token("RFID-1"))
    assert reservations == {}


# Of all orders


async def test_an_order_to_a_charger_that_is_away_or_silent_says_so(tmp_path: Path) -> None:
    async with TlsSite(tmp_path, SETTINGS, options={"call_timeout_s": 0.5}).running() as site:
        with pytest.raises(DeviceUnreachableError, match="not connected"):
            await site.order("reset")
        async with site.charger() as charger:
            await charger.ready()
            charger.answers["Reset"] = Silence()
            with pytest.raises(DeviceUnreachableError, match="no answer"):
                await site.order("reset")


async def test_an_order_that_nobody_knows_is_refused_with_those_that_are(charger: RawCharger, site: TlsSite) -> None:
    with pytest.raises(ValueError, match="availability, cancel-reservation"):
        await site.order("dance")


# F04: a remote stop while charger and car speak ISO 15118


async def charges_by_iso_15118(charger: RawCharger) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"), info={"chargingState": "Charging"})
    needs = {
        "requestedEnergyTransfer": "DC",
        "dcChargingParameters": {"evMaxCurrent": 100, "evMaxVoltage": 400, "stateOfCharge": 40},
    }
    await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs})


async def test_f04_a_remote_stop_ends_the_session_with_the_car_too(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStopTransaction"] = {"status": "Accepted"}
    await charges_by_iso_15118(charger)
    assert (await site.order("stop", device="car-1"))["ok"] is True
    # The car is told to end by the charger, which takes a moment; until then it is in its transaction.
    await charger.event("Updated", 1, trigger="RemoteStop", info={"chargingState": "SuspendedEVSE"})
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.transaction_id == "T1"
    await charger.event("Ended", 2, trigger="RemoteStop", info={"stoppedReason": "Remote", "chargingState": "Idle"})
    assert site.server.devices["car-1"].status().vehicle is None


async def test_f04_a_refused_or_unanswered_stop_leaves_the_car_known(charger: RawCharger, site: TlsSite) -> None:
    await charges_by_iso_15118(charger)
    charger.answers["RequestStopTransaction"] = {"status": "Rejected"}
    with pytest.raises(DeviceRefusedError, match="refused RequestStopTransaction"):
        await site.order("stop", device="car-1")
    charger.answers["RequestStopTransaction"] = AnsweredError("InternalError")
    with pytest.raises(DeviceRefusedError):
        await site.order("stop", device="car-1")
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert (vehicle.transaction_id, vehicle.state_of_charge_permille) == ("T1", 400)
