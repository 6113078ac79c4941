"""OCPP 2.0.1 and 2.1 block K, word for word over TLS: what chargers tell and answer of smart charging, right or wrong.

What comes of it at the outlet is in `test_ocpp_block_k`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drivers.device import DeviceRefusedError, DeviceUnreachableError, VehicleSession
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, Silence, TlsSite, token
from hil_tests.ocpp_station import band, stamp

SETTINGS = [
    ChargerSettings(
        device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("RFID-1",), fallback_import_w=0,
        rated_import_w=11_000, rated_export_w=10_000, discharge="v2x",
    ),
    ChargerSettings(device_id="car-2", charger_id="CP-1", password="secret-1", evse_id=2),
]  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version, options={"call_timeout_s": 1.0}).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.ready()
        await charger.event("Started", 0, idToken=token("RFID-1"), info={"chargingState": "Charging"})
        yield charger


def vehicle(site: TlsSite) -> VehicleSession:
    found = site.server.devices["car-1"].status().vehicle
    assert found is not None
    return found


def notes(site: TlsSite, device_id: str) -> str:
    capabilities = site.server.devices[device_id].status().capabilities
    assert capabilities is not None
    return str(capabilities.notes)


AC = {
    "requestedEnergyTransfer": "AC_three_phase",
    "acChargingParameters": {"energyAmount": 9_000, "evMinCurrent": 6, "evMaxCurrent": 16, "evMaxVoltage": 230},
}
DC = {
    "requestedEnergyTransfer": "DC",
    "dcChargingParameters": {
        "evMaxCurrent": 100, "evMaxVoltage": 400, "evMaxPower": 22_000, "energyAmount": 12_000,
        "evEnergyCapacity": 60_000, "stateOfCharge": 41,
    },
}  # fmt: skip


# K15, K18, K19: what a car needs


async def test_k15_an_ac_car_tells_what_it_takes_and_is_told_to_wait_for_the_plan(
    charger: RawCharger, site: TlsSite
) -> None:
    leaves = datetime.now(UTC) + timedelta(hours=2)
    needs = AC | {"departureTime": leaves.isoformat()}
    answer = await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs})
    assert answer == {"status": "Processing"}
    found = vehicle(site)
    assert (found.energy_needed_wh, found.max_charge_w) == (9_000, 16 * 230 * 3)
    assert found.departure_timestamp_us == pytest.approx(leaves.timestamp() * 1e6, abs=1_000)


async def test_k15_a_dc_car_tells_its_battery_too(charger: RawCharger, site: TlsSite) -> None:
    await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": DC})
    found = vehicle(site)
    assert (found.battery_capacity_wh, found.state_of_charge_permille, found.max_charge_w) == (60_000, 410, 22_000)
    await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": DC | {"dcChargingParameters": {
        "evMaxCurrent": 50, "evMaxVoltage": 400}}})  # fmt: skip
    assert vehicle(site).max_charge_w == 20_000
    assert vehicle(site).battery_capacity_wh == 60_000  # what it does not speak of again stays


@pytest.mark.parametrize(
    "needs",
    [
        {},
        {"requestedEnergyTransfer": "Wireless"},
        AC | {"acChargingParameters": {"energyAmount": 1}},
        AC | {"departureTime": "soon"},
        DC | {"dcChargingParameters": {"evMaxCurrent": "much", "evMaxVoltage": 400}},
    ],
    ids=["nothing", "transfer", "half", "time", "type"],
)
async def test_k15_needs_that_are_none_are_a_call_error_and_change_nothing(
    charger: RawCharger, site: TlsSite, needs: Payload
) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs})
    assert refused.value.code != "InternalError"
    assert vehicle(site).energy_needed_wh is None
    assert (await charger.ask("Heartbeat", {}))["currentTime"]


async def test_k15_a_car_at_an_evse_that_nobody_configured_is_refused(charger: RawCharger, site: TlsSite) -> None:
    answer = await charger.ask("NotifyEVChargingNeeds", {"evseId": 7, "chargingNeeds": AC})
    assert answer == {"status": "Rejected"}
    assert site.codes() == ["charger.unknown_evse"]


async def test_k15_absurd_needs_are_not_believed(charger: RawCharger, site: TlsSite) -> None:
    absurd = {"energyAmount": 2**40, "evMinCurrent": 0, "evMaxCurrent": 2**40, "evMaxVoltage": 2**40}
    await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": AC | {"acChargingParameters": absurd}})
    assert (vehicle(site).energy_needed_wh, vehicle(site).max_charge_w) == (None, None)


@pytest.mark.parametrize("control", ["ScheduledControl", "DynamicControl"])
async def test_k18_k19_a_car_of_iso_15118_20_tells_by_which_control_it_charges(
    charger: RawCharger, site: TlsSite, control: str
) -> None:
    needs = {
        "requestedEnergyTransfer": "DC_BPT", "availableEnergyTransfer": ["DC", "DC_BPT"], "controlMode": control,
        "v2xChargingParameters": {
            "maxChargePower": 11_000, "maxDischargePower": 7_000, "evTargetEnergyRequest": 5_000,
            "evMinV2XEnergyRequest": -2_000,
        },
    }  # fmt: skip
    told = {"evseId": 1, "chargingNeeds": needs}
    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError):
            await charger.ask("NotifyEVChargingNeeds", told)
        return
    assert await charger.ask("NotifyEVChargingNeeds", told) == {"status": "Processing"}
    found = vehicle(site)
    assert (found.max_charge_w, found.max_discharge_w, found.energy_needed_wh) == (11_000, 7_000, 5_000)
    with pytest.raises(AnsweredError):
        await charger.ask("NotifyEVChargingNeeds", told | {"chargingNeeds": needs | {"controlMode": "RemoteControl"}})


async def test_q01_what_a_car_offers_to_give_and_when_bounds_it(charger: RawCharger, site: TlsSite) -> None:
    def needs(*watts: Any) -> Payload:
        entries = [{"duration": 3_600, "power": each} for each in watts]
        return {
            "requestedEnergyTransfer": "DC_BPT",
            "v2xChargingParameters": {"maxChargePower": 11_000, "maxDischargePower": 7_000},
            "evEnergyOffer": {"evPowerSchedule": {"timeAnchor": stamp(), "evPowerScheduleEntries": entries}},
        }

    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError):
            await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs(-3_000)})
        return
    await charger.event("Started", 0)
    for watts, given_w in ((-3_000, 3_000), (0, 0), (-20_000, 7_000), (5_000, 0)):
        await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs(watts, -4_000)})
        assert vehicle(site).max_discharge_w == given_w
    for wrong in (needs("much"), needs()):
        with pytest.raises(AnsweredError):
            await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": wrong})
    assert vehicle(site).max_discharge_w == 0


async def test_k17_a_plan_of_a_car_that_is_not_here_is_refused(charger: RawCharger) -> None:
    schedule = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 1}]}
    told = {"timeBase": stamp(), "evseId": 7, "chargingSchedule": schedule}
    assert await charger.ask("NotifyEVChargingSchedule", told) == {"status": "Rejected"}
    with pytest.raises(AnsweredError):
        await charger.ask("NotifyEVChargingSchedule", {"evseId": 1, "chargingSchedule": schedule})


# K01, K08, K10: what a charger answers


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"SetChargingProfile": {"status": "Rejected"}}, "refused the charging profile"),
        (
            {"SetChargingProfile": {"status": "Rejected", "statusInfo": {"reasonCode": "TooBig"}}},
            "TooBig",
        ),
        ({"SetChargingProfile": AnsweredError("NotImplemented")}, "NotImplemented"),
        ({"GetCompositeSchedule": {"status": "Rejected"}}, "does not show what limit it holds"),
        ({"GetCompositeSchedule": {"status": "Accepted"}}, "does not show what limit it holds"),
        ({"GetCompositeSchedule": {"status": "Perhaps"}}, "GetCompositeSchedule"),
        ({"GetCompositeSchedule": AnsweredError("InternalError", "no schedule")}, "InternalError"),
    ],
)
async def test_k01_k08_a_cap_that_is_not_taken_or_not_shown_is_not_held(
    charger: RawCharger, site: TlsSite, answers: dict[str, Any], why: str
) -> None:
    charger.answers |= answers
    device = site.server.devices["car-1"]
    with pytest.raises(DeviceRefusedError, match=why):
        await device.apply(band(0, 0))
    assert device.status().setpoint is None


@pytest.mark.parametrize("action", ["SetChargingProfile", "GetCompositeSchedule"])
async def test_k01_k08_a_charger_that_does_not_answer_holds_nothing(
    charger: RawCharger, site: TlsSite, action: str
) -> None:
    charger.answers[action] = Silence()
    device = site.server.devices["car-1"]
    with pytest.raises(DeviceUnreachableError, match="no answer"):
        await device.apply(band(0, 0))
    assert device.status().setpoint is None


async def test_k10_a_profile_that_is_not_there_is_as_good_as_cleared_and_a_refusal_is_told(
    charger: RawCharger, site: TlsSite
) -> None:
    device = site.server.devices["car-1"]
    await device.apply(band(0, 0))
    charger.answers["ClearChargingProfile"] = {"status": "Unknown"}
    await device.release()
    assert {call["chargingProfileId"] % 10 for call in charger.calls("ClearChargingProfile")} >= {2, 3}
    assert device.status().setpoint is None
    charger.answers["ClearChargingProfile"] = AnsweredError("NotSupported")
    with pytest.raises(DeviceRefusedError, match="NotSupported"):
        await device.release()


# K09, K11 to K13, K22: what it tells by itself


async def test_k09_a_report_of_profiles_that_nobody_asked_for_is_taken_and_left(charger: RawCharger) -> None:
    profile = {
        "id": 5, "stackLevel": 0, "chargingProfilePurpose": "TxDefaultProfile", "chargingProfileKind": "Relative",
        "chargingSchedule": [
            {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 1}]}
        ],
    }  # fmt: skip
    told = {"requestId": 99, "chargingLimitSource": "CSO", "evseId": 1, "chargingProfile": [profile]}
    assert await charger.ask("ReportChargingProfiles", told) == {}
    assert charger.calls("ClearChargingProfile") == []
    with pytest.raises(AnsweredError):
        await charger.ask("ReportChargingProfiles", told | {"chargingProfile": []})


async def test_k11_k12_a_limit_of_the_whole_station_is_known_of_each_evse_until_it_goes(
    charger: RawCharger, site: TlsSite
) -> None:
    schedule = {"id": 1, "chargingRateUnit": "A", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 10}]}
    limit = {"chargingLimitSource": "SO", "isGridCritical": True}
    await charger.ask("NotifyChargingLimit", {"chargingLimit": limit, "chargingSchedule": [schedule]})
    for device_id in ("car-1", "car-2"):
        assert "'SO' limits it to no more than 6900 W, critical for the grid" in notes(site, device_id)
    await charger.ask("ClearedChargingLimit", {"chargingLimitSource": "SO", "evseId": 2})
    assert "'SO'" in notes(site, "car-1")
    assert "'SO'" not in notes(site, "car-2")


async def test_k11_limits_without_end_fill_no_memory_and_one_without_a_source_is_a_call_error(
    charger: RawCharger, site: TlsSite
) -> None:
    for number in range(30):
        source = "EMS" if site.version == "ocpp2.0.1" else f"X{number}"
        await charger.ask("NotifyChargingLimit", {"chargingLimit": {"chargingLimitSource": source}, "evseId": 1})
    assert len(site.server.chargers["CP-1"].session.evses[1].outside.limits) <= 8
    with pytest.raises(AnsweredError) as refused:
        await charger.ask("NotifyChargingLimit", {"chargingLimit": {}})
    assert refused.value.code == "OccurrenceConstraintViolation"


async def test_k22_word_of_priority_counts_for_the_transaction_that_runs(charger: RawCharger, site: TlsSite) -> None:
    told = {"transactionId": "T0", "activated": True}
    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError, match="NotImplemented"):
            await charger.ask("NotifyPriorityCharging", told)
        return
    assert await charger.ask("NotifyPriorityCharging", told) == {}
    assert not vehicle(site).charge_now
    assert await charger.ask("NotifyPriorityCharging", told | {"transactionId": "T1"}) == {}
    assert vehicle(site).charge_now
    await charger.event("Ended", 1, info={"stoppedReason": "Local"})
    await charger.event("Started", 0, transaction="T2", idToken=token("RFID-1"))
    assert not vehicle(site).charge_now  # another car, another driver
