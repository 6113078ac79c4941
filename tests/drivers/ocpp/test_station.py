"""One charger's conversation: which answer each action gets, and what is remembered over a restart."""

from __future__ import annotations

import orjson
import pytest

from drivers.device import ValueSource
from drivers.ocpp.errors import ErrorCode
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.schemas import Direction, Json, JsonObject, Version, schemas
from drivers.ocpp.session import Moment
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.station import _FIXED_ANSWERS, StationSession
from drivers.ocpp.timestamps import format_timestamp

STAMP = "2026-01-01T00:00:00Z"
NOW = Moment(1000.0, 1_767_225_600_000_000)


def settings(evse_id: int = 1, *tokens: str, password: str | None = "secret") -> ChargerSettings:
    return ChargerSettings(
        device_id=f"car-{evse_id}", charger_id="CP", password=password, evse_id=evse_id, local_tokens=tokens
    )


def station(*evses: ChargerSettings) -> StationSession:
    return StationSession(evses or (settings(1, "RFID-1"),), heartbeat_s=300)


def handle(session: StationSession, action: str, payload: JsonObject) -> Reaction:
    """As the engine would: both halves must fit their schemas."""
    known = schemas(Version.V201)
    assert known.violation(action, Direction.REQUEST, payload) is None
    reaction = session.handle(action, payload, NOW)
    assert (reaction.answer is None) != (reaction.refusal is None)
    if reaction.answer is not None:
        assert known.violation(action, Direction.RESPONSE, reaction.answer) is None
    return reaction


def boot(serial: str = "S1", reason: str = "PowerUp") -> JsonObject:
    return {"chargingStation": {"vendorName": "V", "model": "M", "serialNumber": serial}, "reason": reason}


def token(name: str, kind: str = "ISO14443") -> Json:
    return {"idToken": name, "type": kind}


def transaction(kind: str = "Started", number: int = 0, **more: Json) -> JsonObject:
    return {
        "eventType": kind,
        "timestamp": STAMP,
        "triggerReason": "Authorized",
        "seqNo": number,
        "transactionInfo": {"transactionId": "T1"},
        **more,
    }


def registers(session: StationSession) -> tuple[int | None, int | None]:
    evse = session.evses[1]
    return evse.import_register_milliwatt_hours, evse.export_register_milliwatt_hours


def status_of(reaction: Reaction) -> Json:
    assert reaction.answer is not None
    told = reaction.answer["idTokenInfo"]
    assert isinstance(told, dict)
    return told["status"]


def test_a_boot_is_accepted_with_our_time_and_heartbeat_interval() -> None:
    reaction = handle(station(), "BootNotification", boot())
    assert reaction.answer == {"currentTime": "2026-01-01T00:00:00.000Z", "interval": 300, "status": "Accepted"}
    assert reaction.booted
    assert reaction.remember


def test_a_boot_that_we_asked_for_is_no_new_start() -> None:
    assert not handle(station(), "BootNotification", boot(reason="Triggered")).booted


def test_a_heartbeat_gives_the_time() -> None:
    assert handle(station(), "Heartbeat", {}).answer == {"currentTime": "2026-01-01T00:00:00.000Z"}


@pytest.mark.parametrize(
    ("shown", "status"), [("RFID-1", "Accepted"), ("rfid-1", "Accepted"), ("RFID-2", "Unknown"), ("", "Invalid")]
)
def test_local_tokens_and_no_others_are_authorised(shown: str, status: str) -> None:
    assert status_of(handle(station(), "Authorize", {"idToken": token(shown)})) == status


def test_a_token_is_reported_as_the_configuration_spells_it() -> None:
    session = station()
    handle(session, "TransactionEvent", transaction(evse={"id": 1}, idToken=token("rfid-1")))
    running = session.evses[1].transaction
    assert running is not None
    assert running.token_id == "RFID-1"


def test_a_transaction_with_an_unknown_token_is_told_so_and_has_no_owner() -> None:
    session = station()
    reaction = handle(session, "TransactionEvent", transaction(evse={"id": 1}, idToken=token("thief")))
    assert status_of(reaction) == "Unknown"
    running = session.evses[1].transaction
    assert running is not None
    assert running.token_id is None


def test_the_token_of_a_remote_start_is_good() -> None:
    session = station()
    session.expect_token("REMOTE")
    assert status_of(handle(session, "Authorize", {"idToken": token("REMOTE", "Central")})) == "Accepted"


def test_a_charger_that_asks_nobody_for_authorisation_may() -> None:
    assert status_of(handle(station(), "Authorize", {"idToken": token("", "NoAuthorization")})) == "Accepted"


def test_a_token_counts_at_its_evse_only() -> None:
    session = station(settings(1, "A"), settings(2, "B"))
    reaction = handle(session, "TransactionEvent", transaction(evse={"id": 1}, idToken=token("B")))
    assert status_of(reaction) == "NotAtThisLocation"


def test_later_events_need_not_name_the_evse() -> None:
    session = station(settings(1, "A"), settings(2, "B"))
    handle(session, "TransactionEvent", transaction(evse={"id": 2}))
    handle(session, "TransactionEvent", transaction("Ended", 1))
    assert session.evses[2].transaction is None
    assert session.evses[2].ended[-1] == "T1"


def test_an_evse_that_is_not_configured_is_answered_and_said_once() -> None:
    session = station()
    status: JsonObject = {"timestamp": STAMP, "connectorStatus": "Occupied", "evseId": 7, "connectorId": 1}
    assert [n.code for n in handle(session, "StatusNotification", status).notices] == ["charger.unknown_evse"]
    assert not handle(session, "StatusNotification", status).notices
    assert not handle(session, "TransactionEvent", transaction(evse={"id": 7})).samples


def test_the_stations_own_inlet_meter_is_not_an_evse() -> None:
    values: JsonObject = {"evseId": 0, "meterValue": [{"timestamp": STAMP, "sampledValue": [{"value": 1}]}]}
    reaction = handle(station(), "MeterValues", values)
    assert not reaction.samples
    assert not reaction.notices


def test_samples_say_how_far_the_link_can_be_trusted() -> None:
    values: JsonObject = {"evseId": 1, "meterValue": [{"timestamp": STAMP, "sampledValue": [{"value": 1}]}]}
    for password, source in (("secret", ValueSource.AUTHENTICATED_LINK), (None, ValueSource.OPEN_BUS)):
        (sample,) = handle(station(settings(password=password)), "MeterValues", values).samples
        assert sample.source is source
        assert sample.meter_id == "ocpp/CP/1"


def test_needs_of_a_car_are_taken_and_a_profile_promised_for_later() -> None:
    needs: JsonObject = {
        "evseId": 1,
        "chargingNeeds": {"requestedEnergyTransfer": "DC", "departureTime": STAMP},
    }
    reaction = handle(station(), "NotifyEVChargingNeeds", needs)
    assert reaction.answer == {"status": "Processing"}
    assert reaction.remember
    assert handle(station(), "NotifyEVChargingNeeds", {**needs, "evseId": 5}).answer == {"status": "Rejected"}


def test_security_events_become_notices_and_cannot_smuggle_control_characters() -> None:
    event: JsonObject = {"type": "TamperDetected\n", "timestamp": STAMP, "techInfo": "\x1b[31m"}
    (notice,) = handle(station(), "SecurityEventNotification", event).notices
    assert notice.code == "charger.security_event"
    assert notice.text.isprintable()


@pytest.mark.parametrize("action", sorted(_FIXED_ANSWERS))
def test_every_fixed_answer_fits_its_schema(action: str) -> None:
    having = [schemas(version) for version in Version if schemas(version).knows(action)]
    assert having
    for known in having:
        assert known.violation(action, Direction.RESPONSE, dict(_FIXED_ANSWERS[action])) is None


def test_what_a_csms_does_not_take_is_not_supported() -> None:
    reaction = handle(station(), "Reset", {"type": "Immediate"})
    assert reaction.refusal is not None
    assert reaction.refusal[0] is ErrorCode.NOT_SUPPORTED


def test_another_serial_number_is_another_meter_and_the_first_one_heard_is_not() -> None:
    session = station()
    handle(session, "BootNotification", boot("S1"))
    assert session.evses[1].meter_id == "ocpp/CP/1"
    session.evses[1].import_register_milliwatt_hours = 5
    reaction = handle(session, "BootNotification", boot("S2"))
    assert [notice.code for notice in reaction.notices] == ["charger.replaced"]
    assert session.evses[1].meter_id == "ocpp/CP/1/2"
    assert registers(session) == (None, None)
    again = station()
    again.restore(session.encode())
    assert again.evses[1].meter_id == "ocpp/CP/1/2"
    assert not handle(again, "BootNotification", boot("S2")).notices


def test_a_running_transaction_survives_a_restart_with_its_owner() -> None:
    session = station()
    handle(session, "TransactionEvent", transaction(evse={"id": 1}, idToken=token("RFID-1")))
    again = station()
    again.restore(session.encode())
    vehicle = again.evses[1].vehicle()
    assert vehicle is not None
    assert (vehicle.transaction_id, vehicle.token_id) == ("T1", "RFID-1")


def test_a_cars_state_of_charge_survives_a_restart_and_is_kept_now_and_then() -> None:
    session = station()
    handle(session, "TransactionEvent", transaction(evse={"id": 1}, idToken=token("RFID-1")))
    value: Json = {"value": 61, "measurand": "SoC"}

    def moment(seconds: int) -> Moment:
        return Moment(1000.0 + seconds, NOW.wall_us + seconds * 1_000_000)

    kept = []
    for seconds in (1, 2, 32):
        stamped: Json = {"timestamp": format_timestamp(moment(seconds).wall_us), "sampledValue": [value]}
        payload: JsonObject = {"evseId": 1, "meterValue": [stamped]}
        kept.append(session.handle("MeterValues", payload, moment(seconds)).remember)
    assert kept == [True, False, True]  # not with each: a store is not for that
    again = station()
    again.restore(session.encode(), moment(60))
    vehicle = again.evses[1].vehicle()
    assert vehicle is not None
    assert (vehicle.state_of_charge_permille, vehicle.state_of_charge_monotonic_s) == (610, 1032.0)


def test_registers_survive_a_restart_while_nothing_runs() -> None:
    session = station()
    session.evses[1].import_register_milliwatt_hours = 42
    again = station()
    again.restore(session.encode())
    assert again.evses[1].import_register_milliwatt_hours == 42
    handle(session, "TransactionEvent", transaction(evse={"id": 1}))
    again = station()
    again.restore(session.encode())
    assert again.evses[1].import_register_milliwatt_hours is None


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[1]", b"\xff", orjson.dumps({"serial": "", "evses": 5})])
def test_damaged_memory_is_refused_and_changes_nothing(damaged: bytes) -> None:
    session = station()
    before = session.encode()
    with pytest.raises(ValueError, match="damaged"):
        session.restore(damaged)
    assert session.encode() == before


def test_memory_of_an_evse_that_is_no_longer_configured_is_dropped() -> None:
    session = station(settings(1), settings(2))
    handle(session, "TransactionEvent", transaction(evse={"id": 2}))
    station(settings(1)).restore(session.encode())
