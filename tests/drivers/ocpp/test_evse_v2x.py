"""The Device of an EVSE over OCPP 2.1: discharges, curves, permissions and priority (Q, K)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from drivers.device import (
    DeviceRefusedError,
    DeviceUnreachableError,
)
from drivers.ocpp import profile_calls
from drivers.ocpp.errors import CallRefusedError, CallTimeoutError
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import ReportChargingProfiles
from drivers.ocpp.schemas import Json, JsonObject, Version
from drivers.ocpp.session import Transaction
from drivers.ocpp.v2x import Mode, Period
from tests.drivers.ocpp.v2x_charger import (
    CURVE,
    Charger,
    band,
    charger,
    evse,
    evse_at,
    export_w,
    lives,
    period_of,
)

__all__ = ["charger", "evse"]


async def test_q03_a_discharge_is_ordered_by_setpoint_and_held_when_it_is_shown(
    evse: OcppEvse, charger: Charger
) -> None:
    await evse.apply(band(-5_000, -5_000))
    assert charger.last_period()["operationMode"] == "CentralSetpoint"
    assert charger.last_period()["setpoint"] == -5_000
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == -5_000


async def test_q03_a_charger_that_shows_the_old_limit_does_not_hold_the_setpoint(
    evse: OcppEvse, charger: Charger
) -> None:
    charger.answers["SetChargingProfile"] = lambda payload: {"status": "Accepted"}
    with pytest.raises(DeviceRefusedError, match="was told -5000 W and holds 4200 W"):
        await evse.apply(band(-5_000, -5_000))
    assert evse.status().setpoint is None


@pytest.mark.parametrize("version", Version)
async def test_k08_a_discharge_of_which_the_charger_makes_charging_is_taken_out_of_it_at_once(version: Version) -> None:
    charger = Charger(version)
    evse = evse_at(charger, "negative_limit")
    await evse.install_static_share()

    def without_its_sign(payload: JsonObject) -> JsonObject:
        profile = cast(JsonObject, payload["chargingProfile"])
        period = period_of(profile)
        told = cast(float, period.get("setpoint", period["limit"]))
        period.clear()
        period.update({"startPeriod": 0, "limit": abs(told)})
        charger.profiles[cast(int, profile["id"])] = profile
        return {"status": "Accepted"}

    charger.answers["SetChargingProfile"] = without_its_sign
    with pytest.raises(DeviceRefusedError, match=r"holds 5000 W .*went back to 0 W"):
        await evse.apply(band(-5_000, -5_000))
    assert charger.last_period()["limit"] == 0
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0
    assert export_w(evse) == 0
    assert [code for code, _ in charger.notices] == ["charger.disobeys"]


@pytest.mark.parametrize(
    ("version", "discharge", "watts"),
    [
        (Version.V21, "v2x", 10_000),
        (Version.V21, "negative_limit", 10_000),
        (Version.V21, "never", 0),
        (Version.V201, "v2x", 0),
        (Version.V201, "negative_limit", 10_000),
        (Version.V201, "never", 0),
    ],
)
async def test_what_it_can_give_is_what_version_and_installer_allow(
    version: Version, discharge: str, watts: int
) -> None:
    charger = Charger(version)
    evse = evse_at(charger, discharge)
    await evse.install_static_share()
    assert export_w(evse) == watts
    if watts:
        await evse.apply(band(-5_000, -5_000))
        assert ("setpoint" in charger.last_period()) is (version is Version.V21)
    else:
        with pytest.raises(DeviceRefusedError):
            await evse.apply(band(-5_000, -5_000))


@pytest.mark.parametrize(
    ("variables", "settable", "problem"),
    [
        ({}, True, None),
        (
            {"Available": "true", "Enabled": "true", "SupportedOperationModes": "ChargingOnly, CentralSetpoint"},
            True,
            None,
        ),
        ({"Available": "true", "Enabled": "false"}, True, None),
        ({"Available": "true", "Enabled": "false"}, False, "switched off"),
        ({"Available": "false"}, True, "has no V2X"),
        ({"SupportedOperationModes": "ChargingOnly,ExternalLimits"}, True, "supports no CentralSetpoint"),
    ],
)
async def test_q01_what_the_charger_says_of_its_v2x_is_believed_where_it_says_no(
    charger: Charger, variables: dict[str, str], settable: bool, problem: str | None
) -> None:
    charger.variables, charger.settable = variables, settable
    evse = evse_at(charger)
    await evse.install_static_share()
    assert export_w(evse) == (10_000 if problem is None else 0)
    assert bool(charger.all("SetVariables")) is (variables.get("Enabled") == "false")
    if problem is None:
        await evse.apply(band(-5_000, -5_000))
        return
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert any(problem in note for note in capabilities.notes)
    with pytest.raises(DeviceRefusedError, match=problem):
        await evse.apply(band(-5_000, -5_000))


async def test_q01_a_charger_whose_owner_never_permits_it_is_not_asked_for_its_v2x(charger: Charger) -> None:
    await evse_at(charger, "never").install_static_share()
    assert not charger.all("GetVariables")


async def test_q11_a_charger_without_offline_durations_is_given_the_lease_without_them(
    evse: OcppEvse, charger: Charger
) -> None:
    def takes(payload: JsonObject) -> JsonObject:
        profile = cast(JsonObject, payload["chargingProfile"])
        if "maxOfflineDuration" in profile:
            return {"status": "Rejected", "statusInfo": {"reasonCode": "UnsupportedParam"}}
        charger.profiles[cast(int, profile["id"])] = profile
        return {"status": "Accepted"}

    charger.answers["SetChargingProfile"] = takes
    await evse.apply(band(-5_000, -5_000))
    assert len(charger.all("SetChargingProfile")) == 2
    await evse.apply(band(-4_000, -4_000))
    assert len(charger.all("SetChargingProfile")) == 3  # it is known now


async def test_k09_k10_profiles_of_an_earlier_csms_that_rule_over_ours_are_found_and_cleared(
    evse: OcppEvse, charger: Charger
) -> None:
    foreign = {**charger.profiles[11], "id": 777, "stackLevel": 8, "chargingProfilePurpose": "TxProfile"}
    station = {
        **charger.profiles[11],
        "id": 778,
        "stackLevel": 8,
        "chargingProfilePurpose": "ChargingStationMaxProfile",
    }
    charger.profiles = {777: foreign, **charger.profiles}
    charger.profiles[777]["transactionId"] = "T1"
    charger.answers["GetChargingProfiles"] = lambda payload: _report(charger, payload, [foreign, station])
    await evse.apply(band(-5_000, -5_000))
    assert [payload["chargingProfileId"] for payload in charger.all("ClearChargingProfile")] == [777]
    assert evse.status().setpoint is not None


def _report(charger: Charger, payload: JsonObject, held: list[JsonObject]) -> JsonObject:
    told: Json = {"requestId": payload["requestId"], "chargingProfile": list(held)}
    charger.reports(cast(ReportChargingProfiles, told))
    return {"status": "Accepted"}


async def test_k10_a_default_of_an_earlier_csms_above_the_static_share_is_cleared_at_once(charger: Charger) -> None:
    evse = evse_at(charger)
    await evse.install_static_share()
    foreign = {**charger.profiles[11], "id": 777, "stackLevel": 8}
    period: JsonObject = {"startPeriod": 0, "limit": 11_000}
    foreign["chargingSchedule"] = [
        {"id": 1, "chargingRateUnit": "W", "duration": 9_999, "chargingSchedulePeriod": [period]}
    ]
    charger.profiles[777] = foreign
    await evse.install_static_share()
    assert 777 not in charger.profiles
    assert export_w(evse) == 10_000


async def test_k09_a_charger_that_never_reports_costs_no_more_than_the_wait(
    evse: OcppEvse, charger: Charger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_calls, "REPORT_S", 0.01)
    charger.answers["GetChargingProfiles"] = lambda payload: {"status": "Accepted"}
    charger.answers["SetChargingProfile"] = lambda payload: {"status": "Accepted"}
    with pytest.raises(DeviceRefusedError, match="holds 4200 W"):
        await evse.apply(band(-5_000, -5_000))


async def test_q08_a_curve_over_the_frequency_is_the_charger_s_own_droop_while_it_lasts(
    evse: OcppEvse, charger: Charger
) -> None:
    period = Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE, limit_w=6_000, discharge_w=-6_000)
    await evse.hold_mode(period, 60.0, "test")
    status = evse.status()
    assert status.capabilities is not None
    assert status.setpoint is not None
    assert status.capabilities.own_droop
    assert (status.setpoint.lowest_w, status.setpoint.highest_w) == (-6_000, 6_000)
    await lives(evse, charger, 2_000, 20)
    assert evse.status().follows is True
    charger.now_s += 60
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert not capabilities.own_droop


async def test_q08_a_mode_of_its_own_is_always_told_how_far_down_it_may_go(evse: OcppEvse, charger: Charger) -> None:
    await evse.hold_mode(Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE), 60.0, "test")
    assert charger.last_period()["dischargeLimit"] == -10_000
    never = evse_at(charger, "never")
    await never.hold_mode(Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE), 60.0, "test")
    assert charger.last_period()["dischargeLimit"] == 0


async def test_q08_a_mode_that_was_released_is_no_droop_any_more(evse: OcppEvse, charger: Charger) -> None:
    await evse.hold_mode(Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE), 60.0, "test")
    await evse.release()
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert not capabilities.own_droop


async def test_q08_a_mode_that_may_discharge_needs_the_permission_to_discharge() -> None:
    charger = Charger(Version.V21)
    evse = evse_at(charger, "never")
    with pytest.raises(DeviceRefusedError, match="not permitted"):
        await evse.hold_mode(Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE, discharge_w=-6_000), 60.0, "test")
    charger.version = Version.V201
    with pytest.raises(DeviceRefusedError, match="by OCPP 2"):
        await evse.hold_mode(Period(mode=Mode.IDLE), 60.0, "test")


async def test_q01_both_ways_are_allowed_where_the_owner_permits_it_once_for_each_transaction() -> None:
    for discharge, allowed in (("v2x", ["DC", "DC_BPT"]), ("never", ["DC"])):
        charger = Charger(Version.V21)
        evse = evse_at(charger, discharge)
        await evse.install_static_share()
        await evse.tend()
        assert not charger.all("NotifyAllowedEnergyTransfer")  # the car has not said what it can
        evse.session.car = replace(
            evse.session.car,
            transfer_modes=(
                "DC",
                "DC_BPT",
            ),
        )
        await evse.tend()
        await evse.tend()
        (told,) = charger.all("NotifyAllowedEnergyTransfer")
        assert (told["transactionId"], told["allowedEnergyTransfer"]) == ("T1", allowed)
        evse.session.transaction = Transaction(transaction_id="T2")
        await evse.tend()
        assert len(charger.all("NotifyAllowedEnergyTransfer")) == 2


async def test_q01_a_charger_that_does_not_know_the_message_is_asked_once_and_one_that_is_away_again(
    evse: OcppEvse, charger: Charger
) -> None:
    evse.session.car = replace(evse.session.car, transfer_modes=("DC_BPT",))
    charger.fails["NotifyAllowedEnergyTransfer"] = CallTimeoutError("no answer", sent=True)
    with pytest.raises(DeviceUnreachableError):
        await evse.tend()
    charger.fails["NotifyAllowedEnergyTransfer"] = CallRefusedError("no", code="NotImplemented")
    await evse.tend()
    await evse.tend()
    assert len(charger.all("NotifyAllowedEnergyTransfer")) == 2


async def test_q01_2_0_1_has_no_such_message() -> None:
    charger = Charger(Version.V201)
    evse = evse_at(charger, "negative_limit")
    await evse.install_static_share()
    evse.session.car = replace(evse.session.car, transfer_modes=("DC_BPT",))
    await evse.tend()
    assert not charger.all("NotifyAllowedEnergyTransfer")


async def test_k21_priority_charging_is_asked_for_and_the_lease_goes_where_it_counts(
    evse: OcppEvse, charger: Charger
) -> None:
    await evse.apply(band(0, 9_000))
    await evse.use_priority_charging(activate=True)
    charger.priority = True
    vehicle = evse.status().vehicle
    assert vehicle is not None
    assert vehicle.charge_now
    await evse.tend()
    assert charger.last_profile()["chargingProfilePurpose"] == "PriorityCharging"
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 9_000
    charger.priority = False
    await evse.use_priority_charging(activate=False)
    await evse.tend()
    assert charger.last_profile()["chargingProfilePurpose"] == "TxProfile"


@pytest.mark.parametrize("status", ["Rejected", "NoProfile"])
async def test_k21_a_refused_priority_changes_nothing(evse: OcppEvse, charger: Charger, status: str) -> None:
    charger.answers["UsePriorityCharging"] = lambda payload: {"status": status}
    with pytest.raises(DeviceRefusedError, match=status):
        await evse.use_priority_charging(activate=True)
    assert not evse.session.car.charge_now
    evse.session.transaction = None
    with pytest.raises(DeviceRefusedError, match="no transaction"):
        await evse.use_priority_charging(activate=True)


async def test_k12_a_limit_of_somebody_else_is_among_the_notes(evse: OcppEvse) -> None:
    evse.session.outside.limited({"chargingLimit": {"chargingLimitSource": "EMS"}}, 0)
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert any("'EMS' limits it" in note for note in capabilities.notes)


async def test_k12_who_limits_it_is_known_over_a_reconnect_and_asked_anew_after_a_boot(evse: OcppEvse) -> None:
    evse.session.outside.limited({"chargingLimit": {"chargingLimitSource": "EMS"}}, 0)
    evse.session.connection_began()
    assert evse.session.outside.limits
    evse.profiles_lost()
    assert not evse.session.outside.limits


async def test_release_takes_out_all_of_our_leases(evse: OcppEvse, charger: Charger) -> None:
    await evse.apply(band(0, 9_000))
    await evse.release()
    assert sorted(charger.profiles) == [11, 14]
