"""Others' limits, the car's own plan and reports of profiles, through the station as a charger sends them."""

from __future__ import annotations

from dataclasses import replace

from drivers.ocpp.errors import ErrorCode
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from drivers.ocpp.session import EvseSession, Moment, Transaction
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.station import StationSession

NOW = Moment(100.0, 1_767_268_800_000_000)


def station() -> StationSession:
    session = StationSession([ChargerSettings(device_id="car-1", charger_id="CP", discharge="v2x")], heartbeat_s=300)
    session.connection_began(Version.V21)
    return session


def handle(session: StationSession, action: str, payload: JsonObject) -> Reaction:
    """The payload fits its schema, and so does the answer."""
    known = schemas(Version.V21)
    assert known.violation(action, Direction.REQUEST, payload) is None
    reaction = session.handle(action, payload, NOW)
    assert reaction.answer is not None
    assert known.violation(action, Direction.RESPONSE, reaction.answer) is None
    return reaction


def evse_of(session: StationSession) -> EvseSession:
    return session.evses[1]


def schedule(*limits: float, unit: str = "W") -> JsonObject:
    return {
        "id": 1,
        "chargingRateUnit": unit,
        "chargingSchedulePeriod": [{"startPeriod": 60 * n, "limit": limit} for n, limit in enumerate(limits)],
    }


def limit(*limits: float, source: str = "EMS", unit: str = "W", evse_id: int | None = 1) -> JsonObject:
    payload: JsonObject = {"chargingLimit": {"chargingLimitSource": source, "isGridCritical": True}}
    if limits:
        payload["chargingSchedule"] = [schedule(*limits, unit=unit)]
    return payload if evse_id is None else {**payload, "evseId": evse_id}


def test_k12_a_limit_of_somebody_else_is_known_with_its_source_until_it_is_cleared() -> None:
    session = station()
    (notice,) = handle(session, "NotifyChargingLimit", limit(6_000, 3_000)).notices
    assert notice.code == "charger.external_limit"
    assert "'EMS' limits it to no more than 3000 W, critical for the grid" in notice.text
    assert [known.limit_w for known in evse_of(session).outside.limits] == [3_000]
    (cleared,) = handle(session, "ClearedChargingLimit", {"chargingLimitSource": "EMS", "evseId": 1}).notices
    assert "no longer" in cleared.text
    assert not evse_of(session).outside.limits
    assert not handle(session, "ClearedChargingLimit", {"chargingLimitSource": "EMS", "evseId": 1}).notices


def test_k12_a_limit_of_the_station_is_one_of_all_its_evses_and_amperes_are_read() -> None:
    session = station()
    handle(session, "NotifyChargingLimit", limit(10, unit="A", evse_id=None))
    assert [known.limit_w for known in evse_of(session).outside.limits] == [6_900]


def test_k12_a_charger_with_endless_sources_fills_no_memory() -> None:
    session = station()
    for number in range(100):
        handle(session, "NotifyChargingLimit", limit(source=f"S{number}"))
    assert len(evse_of(session).outside.limits) == 8


def test_k12_a_limit_at_an_evse_that_is_not_configured_is_taken_and_said() -> None:
    assert [n.code for n in handle(station(), "NotifyChargingLimit", limit(evse_id=7)).notices] == [
        "charger.unknown_evse"
    ]


def test_k15_a_plan_by_phase_is_added_up() -> None:
    session = station()
    smart = evse_of(session).smart
    smart.held_w = 6_000
    period: JsonObject = {"startPeriod": 0, "limit": 3_000, "limit_L2": 3_000, "limit_L3": 3_000}
    by_phase: JsonObject = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [period]}
    told: JsonObject = {"timeBase": "2026-01-01T12:00:00Z", "evseId": 1, "chargingSchedule": by_phase}
    assert handle(session, "NotifyEVChargingSchedule", told).answer == {"status": "Rejected"}
    period["limit"] = 1e308
    assert handle(session, "NotifyEVChargingSchedule", told).answer == {"status": "Rejected"}


def test_k15_a_plan_of_the_car_within_its_cap_is_accepted_and_one_beyond_it_renegotiated() -> None:
    session = station()
    smart = evse_of(session).smart
    told: JsonObject = {"timeBase": "2026-01-01T12:00:00Z", "evseId": 1, "chargingSchedule": schedule(6_000, 8_000)}
    assert handle(session, "NotifyEVChargingSchedule", told).answer == {"status": "Accepted"}  # nothing of ours holds
    smart.held_w = 8_000
    assert handle(session, "NotifyEVChargingSchedule", told).answer == {"status": "Accepted"}
    before = smart.say_again
    smart.held_w = 7_000
    assert handle(session, "NotifyEVChargingSchedule", told).answer == {"status": "Rejected"}
    assert (before, smart.say_again) == (False, True)
    elsewhere = handle(session, "NotifyEVChargingSchedule", {**told, "evseId": 5})
    assert elsewhere.answer == {"status": "Rejected"}


def test_k22_a_driver_who_wants_to_charge_now_is_known_until_the_car_goes() -> None:
    session = station()
    evse = evse_of(session)
    handle(session, "NotifyPriorityCharging", {"transactionId": "T1", "activated": True})
    assert not evse.car.charge_now  # no such transaction
    evse.transaction = Transaction(transaction_id="T1")
    handle(session, "NotifyPriorityCharging", {"transactionId": "T1", "activated": True})
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.charge_now
    assert evse.smart.say_again
    handle(session, "NotifyPriorityCharging", {"transactionId": "T1", "activated": False})
    assert not evse.car.charge_now
    evse.car = replace(evse.car, charge_now=True)
    evse.no_transaction()
    assert not evse.car.charge_now


def report(request_id: int, *ids: int, tbc: bool = False) -> JsonObject:
    profiles: list[JsonObject] = [
        {
            "id": number,
            "stackLevel": 0,
            "chargingProfilePurpose": "TxProfile",
            "chargingProfileKind": "Relative",
            "chargingSchedule": [schedule(5)],
        }
        for number in ids
    ]
    return {
        "requestId": request_id,
        "chargingLimitSource": "CSO",
        "evseId": 1,
        "chargingProfile": list(profiles),
        "tbc": tbc,
    }


def test_k09_a_report_is_whole_when_its_last_part_has_come_and_others_are_left() -> None:
    session = station()
    smart = evse_of(session).smart
    handle(session, "ReportChargingProfiles", report(1, 5))
    assert smart.report() is None
    smart.expect(2)
    handle(session, "ReportChargingProfiles", report(1, 5))
    handle(session, "ReportChargingProfiles", report(2, 6, tbc=True))
    assert smart.report() is None
    handle(session, "ReportChargingProfiles", report(2, 7))
    found = smart.report()
    assert found is not None
    assert [profile["id"] for profile in found] == [6, 7]


def test_k09_an_endless_report_fills_no_memory() -> None:
    session = station()
    smart = evse_of(session).smart
    smart.expect(1)
    for number in range(400):
        handle(session, "ReportChargingProfiles", report(1, number, tbc=number < 399))
    assert len(smart.report() or ()) == 200


def test_k28_a_pull_of_a_profile_that_is_no_dynamic_one_of_ours_is_rejected() -> None:
    for profile_id in (3, 12, 13, 23, -1, 2**40):
        answer = handle(station(), "PullDynamicScheduleUpdate", {"chargingProfileId": profile_id}).answer
        assert answer is not None
        assert answer["status"] == "Rejected"
    assert station().handle("Reset", {}, NOW).refusal == (ErrorCode.NOT_SUPPORTED, "this CSMS does not take Reset")
