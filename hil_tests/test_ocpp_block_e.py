"""OCPP 2.0.1 and 2.1 block E, transactions: good and error path of each use case, over TLS.

Limits of cost, energy, time or charge (E16 of 2.1) are not set from here, where there are no prices and the plan has
profiles; those that a driver sets at the charger are heard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from drivers.device import SampleFlag, VehicleSession
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, RawCharger, TlsSite, token
from hil_tests.ocpp_station import meter_value, stamp, until
from hil_tests.ocpp_suite import charger as charger

REASONS = [
    "Authorized", "CablePluggedIn", "ChargingRateChanged", "ChargingStateChanged", "Deauthorized", "EnergyLimitReached",
    "EVCommunicationLost", "EVConnectTimeout", "MeterValueClock", "MeterValuePeriodic", "TimeLimitReached", "Trigger",
    "UnlockCommand", "StopAuthorized", "EVDeparted", "EVDetected", "RemoteStop", "RemoteStart", "AbnormalCondition",
    "SignedDataReceived", "ResetCommand",
]  # fmt: skip
REASONS_21 = [
    "CostLimitReached", "LimitSet", "OperationModeChanged", "RunningCost", "SoCLimitReached", "TariffChanged",
    "TariffNotAccepted", "TxResumed",
]  # fmt: skip
STOPS = [
    "DeAuthorized", "EmergencyStop", "EnergyLimitReached", "EVDisconnected", "GroundFault", "ImmediateReset", "Local",
    "LocalOutOfCredit", "MasterPass", "Other", "OvercurrentFault", "PowerLoss", "PowerQuality", "Reboot", "Remote",
    "SOCLimitReached", "StoppedByEV", "TimeLimitReached", "Timeout", "ReqEnergyTransferRejected",
]  # fmt: skip
STOPS_21 = {"ReqEnergyTransferRejected"}
SETTINGS = ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("RFID-1", "RFID-2"))


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, [SETTINGS], version=version).running() as site:
        yield site


def vehicle(site: TlsSite) -> VehicleSession | None:
    return site.server.devices["car-1"].status().vehicle


def running(site: TlsSite) -> str | None:
    found = vehicle(site)
    return None if found is None else found.transaction_id


# E01 to E04: start


async def test_e01_a_transaction_begins_runs_and_ends(charger: RawCharger, site: TlsSite) -> None:
    answer = await charger.event("Started", 0, idToken=token("rfid-1"))
    assert answer["idTokenInfo"]["status"] == "Accepted"
    found = vehicle(site)
    assert found is not None
    assert (found.transaction_id, found.token_id) == ("T1", "RFID-1")
    assert await charger.event("Updated", 1, meterValue=[meter_value(7000, 100)]) == {}
    assert site.samples[-1].power_w == 7000
    assert await charger.event("Ended", 2, trigger="EVDeparted", info={"stoppedReason": "EVDisconnected"}) == {}
    assert running(site) is None


@pytest.mark.parametrize("reason", REASONS)
async def test_e_every_trigger_reason_is_taken(charger: RawCharger, site: TlsSite, reason: str) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"))
    assert await charger.event("Updated", 1, trigger=reason) == {}
    assert running(site) == "T1"
    assert site.codes() == []


@pytest.mark.parametrize("reason", REASONS_21)
async def test_e_the_reasons_that_came_with_2_1_are_taken_there_only(
    charger: RawCharger, site: TlsSite, reason: str
) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"))
    if site.version == "ocpp2.1":
        assert await charger.event("Updated", 1, trigger=reason) == {}
    else:
        with pytest.raises(AnsweredError, match="PropertyConstraintViolation"):
            await charger.event("Updated", 1, trigger=reason)
    assert running(site) == "T1"


async def test_e02_a_reason_that_the_specification_does_not_have_is_a_call_error(charger: RawCharger) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.event("Started", 0, trigger="Whim")
    assert refused.value.code == "PropertyConstraintViolation"


async def test_e03_a_token_may_come_after_the_cable(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0, trigger="CablePluggedIn")
    await charger.event("Updated", 1, trigger="Authorized", idToken=token("RFID-2"))
    found = vehicle(site)
    assert found is not None
    assert found.token_id == "RFID-2"


async def test_e05_a_transaction_with_a_token_that_nobody_knows_is_told_so(charger: RawCharger, site: TlsSite) -> None:
    answer = await charger.event("Started", 0, idToken=token("STRANGER"), offline=True)
    assert answer["idTokenInfo"] == {"status": "Unknown"}
    found = vehicle(site)
    assert found is not None
    assert found.token_id is None
    await charger.event("Ended", 1, trigger="Deauthorized", info={"stoppedReason": "DeAuthorized"})
    assert running(site) is None


async def test_e07_who_ends_a_transaction_is_not_who_charged(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0, trigger="CablePluggedIn")
    answer = await charger.event("Updated", 1, trigger="StopAuthorized", idToken=token("RFID-2"))
    assert answer["idTokenInfo"]["status"] == "Accepted"
    found = vehicle(site)
    assert found is not None
    assert found.token_id is None


# E06, E09, E10, E15: how it ends


@pytest.mark.parametrize("why", STOPS)
async def test_e06_e09_e15_whatever_ends_a_transaction_it_has_ended(
    charger: RawCharger, site: TlsSite, why: str
) -> None:
    if why in STOPS_21 and site.version != "ocpp2.1":
        with pytest.raises(AnsweredError, match="PropertyConstraintViolation"):
            await charger.event("Ended", 1, info={"stoppedReason": why})
        return
    await charger.event("Started", 0, idToken=token("RFID-1"))
    await charger.event("Ended", 1, trigger="EVCommunicationLost", info={"stoppedReason": why})
    assert running(site) is None
    assert site.codes() == []


async def test_e06_a_reason_that_nobody_specified_is_a_call_error_and_the_transaction_goes_on(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"))
    with pytest.raises(AnsweredError) as refused:
        await charger.event("Ended", 1, info={"stoppedReason": "Boredom"})
    assert refused.value.code == "PropertyConstraintViolation"
    assert running(site) == "T1"
    await charger.event("Ended", 1)  # of 2.0.1 and 2.1 alike: no reason given means Local
    assert running(site) is None


@pytest.mark.parametrize("state", ["EVConnected", "SuspendedEV", "SuspendedEVSE", "Idle"])
async def test_e10_a_pause_is_no_end(charger: RawCharger, site: TlsSite, state: str) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"), info={"chargingState": "Charging"})
    await charger.event("Updated", 1, trigger="ChargingStateChanged", info={"chargingState": state})
    transaction = site.server.chargers["CP-1"].session.evses[1].transaction
    assert transaction is not None
    assert (transaction.charging_state, transaction.token_id) == (state, "RFID-1")
    car = site.server.chargers["CP-1"].session.evses[1].vehicle()
    assert car is not None
    assert car.declines is (state == "SuspendedEV")
    await charger.event("Updated", 2, trigger="ChargingStateChanged", info={"chargingState": "Charging"})
    assert running(site) == "T1"


async def test_e17_a_transaction_that_a_charger_resumes_after_its_reboot_is_the_same(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"))
    await charger.boot(reason="ApplicationReset")
    trigger = "TxResumed" if site.version == "ocpp2.1" else "Trigger"
    await charger.event("Updated", 1, trigger=trigger, info={"chargingState": "Charging"})
    found = vehicle(site)
    assert found is not None
    assert (found.transaction_id, found.token_id) == ("T1", "RFID-1")


# E04, E08, E11 to E13: offline, gaps, repetition


async def test_e08_e12_a_queue_of_a_whole_transaction_leaves_none_running(charger: RawCharger, site: TlsSite) -> None:
    for number, kind in enumerate(["Started", "Updated", "Ended"]):
        values = [meter_value(0, 1000 + number, timestamp=stamp(300 - number))]
        more = {"info": {"stoppedReason": "Local"}} if kind == "Ended" else {}
        await charger.event(kind, number, offline=True, timestamp=stamp(300 - number), meterValue=values, **more)
    assert running(site) is None
    assert site.codes() == []


async def test_e12_queued_events_between_live_ones_do_not_move_the_transaction_back(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 5, transaction="NEW")
    await charger.event("Updated", 3, transaction="OLD", offline=True, timestamp=stamp(500))
    await charger.event("Ended", 4, transaction="OLD", offline=True, timestamp=stamp(400))
    assert running(site) == "NEW"


async def test_e04_a_transaction_that_began_without_us_goes_on_with_us(charger: RawCharger, site: TlsSite) -> None:
    values = [meter_value(3_000, 900, timestamp=stamp(100))]
    await charger.event("Started", 0, offline=True, timestamp=stamp(100), meterValue=values, idToken=token("RFID-1"))
    await charger.event("Updated", 1, offline=True, timestamp=stamp(50))
    await charger.event("Updated", 2, meterValue=[meter_value(7_000, 1_000)])
    found = vehicle(site)
    assert found is not None
    assert (found.transaction_id, found.token_id) == ("T1", "RFID-1")
    first, last = site.samples
    assert SampleFlag.QUEUED in first.flags
    assert SampleFlag.QUEUED not in last.flags
    assert last.power_w == 7_000
    assert first.monotonic_s < last.monotonic_s - 90


async def test_e11_a_connection_that_breaks_in_the_middle_costs_no_event(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        await charger.event("Started", 0, idToken=token("RFID-1"), meterValue=[meter_value(7_000, 1_000)])
        charger.socket.transport.abort()
    async with site.charger() as charger:
        for number in (1, 2):  # while it was away, told without a boot
            values = [meter_value(7_000, 1_000 + number, timestamp=stamp(20 - number))]
            await charger.event("Updated", number, offline=True, timestamp=stamp(20 - number), meterValue=values)
        await charger.event("Updated", 3, meterValue=[meter_value(6_000, 1_010)])
        assert running(site) == "T1"
        assert site.samples[-1].power_w == 6_000
        assert "charger.events_missing" not in site.codes()


@pytest.mark.parametrize(("number", "missing"), [(900, 899), (4_000, 0), (2**31 - 1, 0)])
async def test_e13_a_charger_that_jumps_beyond_all_measure_is_not_counting_and_fills_no_memory(
    charger: RawCharger, site: TlsSite, number: int, missing: int
) -> None:
    await charger.event("Started", 0)
    await charger.event("Updated", number)
    assert site.codes() == (["charger.events_missing"] if missing else [])
    assert len(site.server.chargers["CP-1"].session.evses[1].sequence.missing("T1")) == missing
    assert len(site.journal.kept["charger/CP-1"]) < 20_000
    assert running(site) == "T1"


async def test_e13_a_number_below_zero_is_answered_and_takes_nothing_away(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0)
    if site.version == "ocpp2.1":
        with pytest.raises(AnsweredError, match="PropertyConstraintViolation"):
            await charger.event("Updated", -1)
    else:
        assert await charger.event("Updated", -1) == {}
    await charger.event("Updated", 1)
    assert running(site) == "T1"


async def test_e13_a_gap_is_said_and_filled_late(charger: RawCharger, site: TlsSite) -> None:
    await charger.event("Started", 0)
    await charger.event("Updated", 4)
    assert site.codes() == ["charger.events_missing"]
    log = site.server.chargers["CP-1"].session.evses[1].sequence
    assert log.missing("T1") == [1, 2, 3]
    for number in (2, 1, 3):
        await charger.event("Updated", number, offline=True, timestamp=stamp(60 - number))
    assert log.missing("T1") == []
    assert site.codes() == ["charger.events_missing"]


async def test_e13_the_same_event_under_another_message_id_counts_once(charger: RawCharger, site: TlsSite) -> None:
    when = stamp()
    values = [meter_value(7000, 100)]
    for _ in range(2):
        await charger.event("Started", 0, timestamp=when, meterValue=values, idToken=token("RFID-1"))
    assert len(site.samples) == 1


async def test_e13_the_same_event_counts_once_over_our_restart(charger: RawCharger, site: TlsSite) -> None:
    when = stamp(90)
    await charger.event("Started", 0, timestamp=when, offline=True)
    await charger.event("Updated", 3, timestamp=stamp(80), offline=True)
    again = site.make_server()
    session = again.chargers["CP-1"].session
    await again.chargers["CP-1"].recall()
    assert session.evses[1].sequence.count("T1", 0, "Started", when) == (False, "")
    assert session.evses[1].sequence.missing("T1") == [1, 2]


async def test_e14_events_that_the_charger_no_longer_has_are_given_up(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        await charger.event("Started", 0)
        await charger.event("Ended", 3)
    async with site.charger() as charger:
        await charger.ready()
        assert {"transactionId": "T1"} in charger.calls("GetTransactionStatus")
        await until(lambda: "charger.events_lost" in site.codes(), "the loss to be said")
    async with site.charger() as charger:
        await charger.ready()
        assert charger.calls("GetTransactionStatus") == []


async def test_e14_events_that_are_still_queued_are_waited_for(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        await charger.event("Started", 0)
        await charger.event("Ended", 3)
    async with site.charger() as charger:
        charger.answers["GetTransactionStatus"] = {"messagesInQueue": True}
        await charger.ready()
        assert "charger.events_lost" not in site.codes()
        assert site.server.chargers["CP-1"].session.evses[1].sequence.missing("T1") == [1, 2]


async def test_e14_a_transaction_that_ended_unheard_is_found_out(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        await charger.event("Started", 0)
    async with site.charger() as charger:
        charger.answers["GetTransactionStatus"] = {"messagesInQueue": False, "ongoingIndicator": False}
        await charger.ready()
        assert running(site) is None


async def test_e_what_was_kept_by_an_earlier_version_is_still_read(site: TlsSite, charger: RawCharger) -> None:
    await charger.event("Started", 0)
    kept = orjson.loads(site.journal.kept["charger/CP-1"])
    for name in ("standing", "local_list", "reports"):
        del kept[name]
    del kept["evses"]["1"]["sequence"]
    session = site.make_server().chargers["CP-1"].session
    session.restore(orjson.dumps(kept))
    assert session.evses[1].transaction is not None


async def test_e_custom_data_is_taken_and_changes_nothing(charger: RawCharger, site: TlsSite) -> None:
    extra = {"vendorId": "org.example", "anything": {"nested": [1, 2, 3]}}
    await charger.event("Started", 0, customData=extra)
    assert running(site) == "T1"
    with pytest.raises(AnsweredError) as refused:
        await charger.event("Updated", 1, customData={"anything": 1})
    assert refused.value.code == "OccurrenceConstraintViolation"


# E16 (2.1): limits that somebody set at the charger


async def test_e16_a_limit_that_the_driver_set_is_heard_and_ends_the_transaction(
    charger: RawCharger, site: TlsSite
) -> None:
    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError, match="FormatViolation"):
            await charger.event("Started", 0, info={"transactionLimit": {"maxEnergy": 10_000}})
        return
    await charger.event("Started", 0, idToken=token("RFID-1"))
    limit = {"transactionLimit": {"maxEnergy": 10_000, "maxTime": 3600, "maxSoC": 80}}
    assert await charger.event("Updated", 1, trigger="LimitSet", info=limit) == {}
    assert running(site) == "T1"
    await charger.event("Ended", 2, trigger="EnergyLimitReached", info={"stoppedReason": "EnergyLimitReached"})
    assert running(site) is None


async def test_e16_a_limit_that_is_none_is_a_call_error_and_the_transaction_goes_on(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0, idToken=token("RFID-1"))
    with pytest.raises(AnsweredError):
        await charger.event("Updated", 1, info={"transactionLimit": {"maxSoC": "a lot"}})
    assert running(site) == "T1"
