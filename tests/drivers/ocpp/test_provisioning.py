"""Provisioning: what is set and asked on each connection, with chargers that take only part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from drivers.device import ValueSource
from drivers.ocpp import provisioning
from drivers.ocpp.errors import CallError, CallRefusedError, CallTimeoutError
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Direction, Json, JsonObject, Version, schemas
from drivers.ocpp.session import EvseSession, Transaction
from drivers.ocpp.settings import ChargerSettings


class Scripted:
    """Answers by a function; checks that both halves fit their schemas."""

    def __init__(self, answer: Callable[[str, JsonObject], JsonObject]) -> None:
        self._answer = answer
        self.calls: list[tuple[str, JsonObject]] = []

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        known = schemas(Version.V201)
        assert known.violation(action, Direction.REQUEST, payload) is None
        self.calls.append((action, payload))
        answer = self._answer(action, payload)
        assert known.violation(action, Direction.RESPONSE, answer) is None
        return answer


def wanted(payload: JsonObject) -> list[JsonObject]:
    return cast(list[JsonObject], payload["setVariableData"])


def results(payload: JsonObject, judge: Callable[[JsonObject], str]) -> JsonObject:
    judged: list[Json] = [
        {"component": one["component"], "variable": one["variable"], "attributeStatus": judge(one)}
        for one in wanted(payload)
    ]
    return {"setVariableResult": judged}


def evse() -> EvseSession:
    settings = ChargerSettings(device_id="car-1", charger_id="CP")
    return EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.OPEN_BUS)


@pytest.mark.parametrize(
    ("told", "unit"),
    [("W", RateUnit.WATTS), ("A,W", RateUnit.WATTS), ("A", RateUnit.AMPERES), (None, RateUnit.WATTS)],
)
async def test_amperes_are_used_only_where_watts_are_not_taken(told: str | None, unit: RateUnit) -> None:
    def answer(action: str, payload: JsonObject) -> JsonObject:
        result: JsonObject = {
            "attributeStatus": "Accepted" if told else "UnknownVariable",
            "component": {"name": "SmartChargingCtrlr"},
            "variable": {"name": "RateUnit"},
        }
        return {"getVariableResult": [result | ({"attributeValue": told} if told else {})]}

    assert await provisioning.read_rate_unit(Scripted(answer)) is unit


async def test_a_charger_that_refuses_the_question_takes_watts_and_one_that_is_silent_is_asked_again() -> None:
    def refuse(action: str, payload: JsonObject) -> JsonObject:
        raise CallRefusedError("no", code="NotSupported")

    def silent(action: str, payload: JsonObject) -> JsonObject:
        raise CallTimeoutError("no answer", sent=True)

    assert await provisioning.read_rate_unit(Scripted(refuse)) is RateUnit.WATTS
    with pytest.raises(CallError):
        await provisioning.read_rate_unit(Scripted(silent))


async def test_signatures_are_asked_for_where_the_key_of_a_meter_is_registered_and_a_refusal_is_said() -> None:
    unsigned = Scripted(lambda action, payload: results(payload, lambda one: "Accepted"))
    assert await provisioning.set_variables(unsigned, 5) == ()
    assert "SignReadings" not in str(unsigned.calls)

    def no_signatures(one: JsonObject) -> str:
        return "UnknownVariable" if "Sign" in str(one["variable"]) else "Accepted"

    signed = Scripted(lambda action, payload: results(payload, no_signatures))
    refused = await provisioning.set_variables(signed, 5, signed=True)
    assert refused == ("PublicKeyWithSignedMeterValue", "SignReadings")
    asked = {
        (cast(JsonObject, one["component"])["name"], cast(JsonObject, one["variable"])["name"]): one["attributeValue"]
        for one in wanted(signed.calls[0][1])
    }
    assert asked["SampledDataCtrlr", "SignReadings"] == asked["AlignedDataCtrlr", "SignReadings"] == "true"


async def test_a_willing_charger_is_set_up_with_one_message() -> None:
    charger = Scripted(lambda action, payload: results(payload, lambda one: "Accepted"))
    assert await provisioning.set_variables(charger, 5) == ()
    (sent,) = charger.calls
    values = {cast(JsonObject, one["variable"])["name"]: one["attributeValue"] for one in wanted(sent[1])}
    assert values["TxUpdatedInterval"] == "5"
    assert "Power.Active.Export" in cast(str, values["TxUpdatedMeasurands"])


async def test_a_charger_without_all_measurands_is_given_the_fewest_that_do() -> None:
    def judge(one: JsonObject) -> str:
        return "Rejected" if "SoC" in cast(str, one["attributeValue"]) else "Accepted"

    charger = Scripted(lambda action, payload: results(payload, judge))
    assert await provisioning.set_variables(charger, 5) == ()
    assert all(one["attributeValue"] == provisioning._FEWEST for one in wanted(charger.calls[1][1]))


async def test_a_charger_that_takes_one_variable_at_a_time_is_given_one_at_a_time() -> None:
    def answer(action: str, payload: JsonObject) -> JsonObject:
        if len(wanted(payload)) > 1:
            raise CallRefusedError("too many", code="OccurrenceConstraintViolation")
        return results(payload, lambda one: "Accepted")

    charger = Scripted(answer)
    assert await provisioning.set_variables(charger, 5) == ()
    assert len(charger.calls) == 6


async def test_what_a_charger_refuses_altogether_is_named() -> None:
    def judge(one: JsonObject) -> str:
        return "Rejected" if cast(JsonObject, one["variable"])["name"] == "TxUpdatedInterval" else "RebootRequired"

    charger = Scripted(lambda action, payload: results(payload, judge))
    assert await provisioning.set_variables(charger, 5) == ("TxUpdatedInterval",)


def trigger_answers(status: str) -> Callable[[str, JsonObject], JsonObject]:
    def answer(action: str, payload: JsonObject) -> JsonObject:
        if action == "GetTransactionStatus":
            return {"ongoingIndicator": False, "messagesInQueue": False}
        return {"status": status if payload["requestedMessage"] == "TransactionEvent" else "Accepted"}

    return answer


async def test_a_transaction_that_ended_unheard_is_forgotten() -> None:
    session = evse()
    session.transaction = Transaction(transaction_id="T1")
    outcome = await provisioning.ask_state(Scripted(trigger_answers("Accepted")), session)
    assert session.vehicle() is None
    assert outcome.changed


async def test_a_transaction_whose_end_is_still_in_the_chargers_queue_is_waited_for() -> None:
    session = evse()
    session.transaction = Transaction(transaction_id="T1")

    def answer(action: str, payload: JsonObject) -> JsonObject:
        if action == "GetTransactionStatus":
            return {"ongoingIndicator": False, "messagesInQueue": True}
        return {"status": "Rejected"}

    await provisioning.ask_state(Scripted(answer), session)
    assert session.vehicle() is not None


async def test_a_charger_that_does_not_know_these_questions_keeps_its_transaction() -> None:
    session = evse()
    session.transaction = Transaction(transaction_id="T1")

    def answer(action: str, payload: JsonObject) -> JsonObject:
        raise CallRefusedError("?", code="NotImplemented")

    await provisioning.ask_state(Scripted(answer), session)
    assert session.vehicle() is not None


async def test_no_transaction_to_report_means_that_the_evse_is_idle() -> None:
    session = evse()
    session.import_register_milliwatt_hours = 5
    await provisioning.ask_state(Scripted(trigger_answers("Rejected")), session)
    assert session._known_idle
