"""The Device of an EVSE over OCPP 2.1, and discharges that are proved or taken back over both versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from drivers.device import (
    DeviceRefusedError,
    DeviceUnreachableError,
    LinkState,
    Sample,
    SampleFlag,
    Setpoint,
    ValueSource,
)
from drivers.ocpp import obedience, profile_calls
from drivers.ocpp.errors import CallRefusedError, CallTimeoutError
from drivers.ocpp.evse import TRUST_AGAIN_S, OcppEvse
from drivers.ocpp.messages import ReportChargingProfiles
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Direction, Json, JsonObject, Version, schemas
from drivers.ocpp.session import EvseSession, Transaction
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode, Period

SHARE_W = 4_200
WALL_US = 1_767_225_600_000_000
CURVE = ((49_800, -6_000), (50_200, 6_000))


class Charger:
    """Takes what fits its version's schema, stacks by purpose and level, shows the period that leads."""

    def __init__(self, version: Version) -> None:
        self.now_s = 100.0
        self.rate_unit = RateUnit.WATTS
        self.version: Version | None = version
        self.calls: list[tuple[str, JsonObject, Priority]] = []
        self.notices: list[tuple[str, str]] = []
        self.profiles: dict[int, JsonObject] = {}
        self.priority = False
        self.variables: dict[str, str] = {}
        self.settable = True
        self.answers: dict[str, Callable[[JsonObject], JsonObject]] = {}
        self.fails: dict[str, Exception] = {}
        self.reports: Callable[[ReportChargingProfiles], None] = lambda report: None

    def link(self) -> tuple[LinkState, str]:
        return LinkState.ONLINE, "connected"

    def notice(self, device_id: str, code: str, text: str) -> None:
        self.notices.append((code, text))

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        assert self.version is not None
        assert schemas(self.version).violation(action, Direction.REQUEST, payload) is None
        self.calls.append((action, payload, priority))
        if action in self.fails:
            raise self.fails[action]
        if action in self.answers:
            return self.answers[action](payload)
        profile = cast(JsonObject, payload.get("chargingProfile", {}))
        match action:
            case "SetChargingProfile":
                self.profiles[cast(int, profile["id"])] = profile
            case "ClearChargingProfile":
                self.profiles.pop(cast(int, payload["chargingProfileId"]), None)
            case "GetVariables":
                return self._variables(cast(list[JsonObject], payload["getVariableData"]))
            case "SetVariables":
                (one,) = cast(list[JsonObject], payload["setVariableData"])
                result: JsonObject = {"attributeStatus": "Accepted" if self.settable else "Rejected", **one}
                return {"setVariableResult": [result]}
            case "GetCompositeSchedule":
                return self._composite(cast(int, payload["duration"]))
            case "GetChargingProfiles":
                held: list[Json] = list(self.profiles.values())
                report: Json = {
                    "requestId": payload["requestId"],
                    "chargingLimitSource": "CSO",
                    "chargingProfile": held,
                }
                self.reports(cast(ReportChargingProfiles, report))
        return {"status": "Accepted"}

    def _variables(self, asked: list[JsonObject]) -> JsonObject:
        results: list[Json] = []
        for one in asked:
            value = self.variables.get(cast(str, cast(JsonObject, one["variable"])["name"]))
            known: JsonObject = {"attributeStatus": "UnknownVariable" if value is None else "Accepted"}
            results.append({**one, **known} if value is None else {**one, **known, "attributeValue": value})
        return {"getVariableResult": results}

    def all(self, action: str) -> list[JsonObject]:
        return [payload for known, payload, _ in self.calls if known == action]

    def last_profile(self) -> JsonObject:
        return cast(JsonObject, self.all("SetChargingProfile")[-1]["chargingProfile"])

    def last_period(self) -> JsonObject:
        return _period(self.last_profile())

    def _composite(self, duration: int) -> JsonObject:
        def rank(profile: JsonObject) -> tuple[int, int]:
            order = ("TxDefaultProfile", "TxProfile", "PriorityCharging")
            return order.index(cast(str, profile["chargingProfilePurpose"])), cast(int, profile["stackLevel"])

        ranked = sorted(self.profiles.values(), key=rank, reverse=True)
        leading = [p for p in ranked if p["chargingProfilePurpose"] != "PriorityCharging" or self.priority]
        now, share = leading[0], next(p for p in leading if p["stackLevel"] == 0)
        ends = cast(int, cast(list[JsonObject], now["chargingSchedule"])[0].get("duration", 0)) - 5
        periods: list[Json] = [_period(now)]
        if now is not share:
            periods.append({**_period(share), "startPeriod": ends})
        schedule: JsonObject = {
            "evseId": 1,
            "duration": duration,
            "scheduleStart": "2026-01-01T00:00:00Z",
            "chargingRateUnit": "W",
            "chargingSchedulePeriod": periods,
        }
        return {"status": "Accepted", "schedule": schedule}


def _period(profile: JsonObject) -> JsonObject:
    schedule = cast(list[JsonObject], profile["chargingSchedule"])[0]
    return cast(list[JsonObject], schedule["chargingSchedulePeriod"])[0]


def band(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")


def evse_at(charger: Charger, discharge: str = "v2x") -> OcppEvse:
    settings = ChargerSettings(
        device_id="car-1",
        charger_id="CP",
        discharge=discharge,  # type: ignore[arg-type]  # a str of a parametrised test
        fallback_import_w=SHARE_W,
        rated_import_w=11_000,
        rated_export_w=10_000,
    )
    session = EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.AUTHENTICATED_LINK)
    session.transaction = Transaction(transaction_id="T1")
    evse = OcppEvse(session, charger, monotonic_s=lambda: charger.now_s, wall_us=lambda: WALL_US)

    def reported(report: ReportChargingProfiles) -> None:
        session.smart.reported(report)
        evse.profiles_reported()

    charger.reports = reported
    return evse


@pytest.fixture
def charger() -> Charger:
    return Charger(Version.V21)


@pytest.fixture
async def evse(charger: Charger) -> OcppEvse:
    evse = evse_at(charger)
    await evse.install_static_share()
    charger.calls.clear()
    return evse


def export_w(evse: OcppEvse) -> int:
    capabilities = evse.status().capabilities
    assert capabilities is not None
    return capabilities.rated_export_w


async def lives(evse: OcppEvse, charger: Charger, power_w: int | None, seconds: int) -> None:
    """Time passes; each second a sample and the driver's own look."""
    for _ in range(seconds):
        charger.now_s += 1.0
        if power_w is not None:
            evse.take(Sample(device_id="car-1", monotonic_s=charger.now_s, power_w=power_w))
        await evse.tend()


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
        period = _period(profile)
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


# --- obedience, over both versions


@pytest.fixture(params=[Version.V21, Version.V201])
async def giving(request: pytest.FixtureRequest) -> tuple[OcppEvse, Charger]:
    """An EVSE that was told to discharge, and confirmed it."""
    charger = Charger(request.param)
    evse = evse_at(charger, "v2x" if request.param is Version.V21 else "negative_limit")
    await evse.install_static_share()
    await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    charger.calls.clear()
    return evse, charger


async def test_a_discharge_that_the_meter_shows_goes_on(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    await lives(evse, charger, -4_950, 120)
    assert evse.status().follows is True
    assert not charger.notices
    assert not charger.all("SetChargingProfile")


@pytest.mark.parametrize("power_w", [0, 60, None])
async def test_a_discharge_that_the_meter_does_not_show_goes_back_to_0_with_the_reason(
    giving: tuple[OcppEvse, Charger], power_w: int | None
) -> None:
    evse, charger = giving
    await lives(evse, charger, power_w, int(obedience.PROOF_S) - 1)
    assert not charger.all("SetChargingProfile")
    await lives(evse, charger, power_w, 2)
    assert charger.last_period()["limit"] == 0
    assert charger.calls[0][2] is Priority.URGENT
    held = evse.status().setpoint
    assert held is not None
    assert (held.lowest_w, held.highest_w) == (0, 0)
    assert "back to 0 W" in held.reason
    assert any(code == "charger.disobeys" and "goes back to 0 W" in text for code, text in charger.notices)
    assert export_w(evse) == 0
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert any("not told to discharge" in note for note in capabilities.notes)
    with pytest.raises(DeviceRefusedError, match="not told to discharge again"):
        await evse.apply(band(-5_000, -5_000))
    await evse.apply(band(0, 7_400))  # it may charge


async def test_a_charger_that_charges_in_place_of_discharging_is_stopped_within_seconds(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, int(obedience.WRONG_WAY_S) + 3)
    assert charger.last_period()["limit"] == 0
    assert "charges with 5000 W" in charger.notices[0][1]


async def test_going_back_to_0_is_tried_until_the_charger_has_heard_it(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, 5)
    charger.fails["SetChargingProfile"] = CallTimeoutError("no answer", sent=True)
    for _ in range(3):
        with pytest.raises(DeviceUnreachableError):
            await lives(evse, charger, 5_000, 3)
    del charger.fails["SetChargingProfile"]
    await lives(evse, charger, 5_000, 1)
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0
    assert len([code for code, text in charger.notices if "goes back" in text]) == 1


@pytest.mark.parametrize("another_car", [True, False])
async def test_trust_comes_back_with_another_transaction_or_with_time(
    giving: tuple[OcppEvse, Charger], another_car: bool
) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, 10)
    assert export_w(evse) == 0
    if another_car:
        evse.session.transaction = Transaction(transaction_id="T2")
    else:
        charger.now_s += TRUST_AGAIN_S
    assert export_w(evse) == 10_000
    await evse.apply(band(-5_000, -5_000))


async def test_values_that_were_queued_or_carried_forward_prove_nothing(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    for flags in (SampleFlag.QUEUED, SampleFlag.ESTIMATED):
        evse.take(Sample(device_id="car-1", monotonic_s=charger.now_s + 1, power_w=-5_000, flags=flags))
    assert evse.status().follows is None


async def test_a_charger_above_its_cap_does_not_follow_and_says_so_once(evse: OcppEvse, charger: Charger) -> None:
    await evse.apply(band(0, 6_000, lease_s=600.0))
    await lives(evse, charger, 11_000, int(obedience.PATIENCE_S) + 5)
    status = evse.status()
    assert status.follows is False
    assert "does not follow" in status.detail
    assert [code for code, _ in charger.notices] == ["charger.disobeys"]
    await lives(evse, charger, 6_000, 2)
    assert evse.status().follows is True


async def test_after_a_reconnect_the_setpoint_is_sent_again_and_judged_anew(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    await lives(evse, charger, -5_000, 10)
    charger.now_s += 300  # away
    await evse.install_static_share()
    await evse.hold_again()
    await lives(evse, charger, -5_000, 5)
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == -5_000
    assert not charger.notices


async def test_q12_a_discharge_is_not_told_again_to_the_transaction_that_comes_after_a_reboot_and_a_cap_is(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    evse.profiles_lost()
    await evse.install_static_share()
    evse.session.transaction = Transaction(transaction_id="T2", token_id="RFID-1")
    charger.calls.clear()
    await evse.hold_again()
    assert not charger.all("SetChargingProfile")
    evse.session.transaction = Transaction(transaction_id="T1", token_id="RFID-1")
    await evse.hold_again()
    assert evse.status().setpoint is None  # not later either: that session is over

    await evse.apply(band(0, 0, lease_s=600.0))
    evse.session.transaction = Transaction(transaction_id="T3", token_id="RFID-2")
    await evse.hold_again()
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0


async def test_q12_a_curve_that_may_discharge_is_not_told_again_in_another_transaction(charger: Charger) -> None:
    evse = evse_at(charger)
    evse.session.transaction = Transaction(transaction_id="T1", token_id="RFID-1")
    curve = Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE, limit_w=6_000, discharge_w=-6_000)
    await evse.install_static_share()
    await evse.hold_mode(curve, 600.0, "test")
    evse.session.transaction = Transaction(transaction_id="T2", token_id="RFID-1")
    charger.calls.clear()
    await evse.hold_again()
    assert not charger.calls


async def test_k22_a_discharge_is_not_told_to_a_car_whose_driver_wants_to_charge_now(
    evse: OcppEvse, charger: Charger
) -> None:
    await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    charger.priority = True
    evse.session.priority("T1", activated=True)
    charger.calls.clear()
    await evse.tend()
    assert not charger.all("SetChargingProfile")
    assert evse.status().setpoint is None  # it follows its driver: neither held nor disobeyed
    with pytest.raises(DeviceRefusedError, match="its driver wants it to charge now"):
        await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    assert not charger.all("SetChargingProfile")
    await evse.apply(band(0, 9_000, lease_s=600.0))
    assert charger.last_profile()["chargingProfilePurpose"] == "PriorityCharging"
