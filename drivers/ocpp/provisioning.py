"""What we tell and ask a charger each time it connects or boots, in the order of its weight for safety.

Profiles vanish from chargers over reconnects and reboots, and some reconnect without saying that they booted: all of
it is done again each time. A charger that refuses a step is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import structlog

from drivers.ocpp.connection import Caller
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, quoted
from drivers.ocpp.messages import GetVariablesAnswer, SetVariablesAnswer, StatusAnswer, TransactionStatusAnswer
from drivers.ocpp.meter_values import MEASURANDS
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.session import EvseSession, Notice, Outcome

_log = structlog.get_logger()

_ALL: Final = ",".join(MEASURANDS)
_FEWEST: Final = "Energy.Active.Import.Register,Power.Active.Import"
_REGISTERS: Final = "Energy.Active.Import.Register,Energy.Active.Export.Register"

_DYNAMIC_PROFILES: Final[tuple[JsonObject, ...]] = (
    {"name": "SupportsDynamicProfiles"},
    {"name": "SupportsFeature", "instance": "DynamicProfiles"},
)


def _wishes(meter_interval_s: int, *, signed: bool) -> list[tuple[str, str, tuple[str, ...]]]:
    """Component, variable, and the values to try, best first (part 2 chapter 2, referenced components J)."""
    interval = (str(meter_interval_s),)
    signing = [
        ("SampledDataCtrlr", "SignReadings", ("true",)),
        ("AlignedDataCtrlr", "SignReadings", ("true",)),
        # Its key is registered here; that it names one is good for noticing another meter.
        ("OCPPCommCtrlr", "PublicKeyWithSignedMeterValue", ("OncePerTransaction", "EveryMeterValue")),
    ]
    return [
        ("SampledDataCtrlr", "TxUpdatedInterval", interval),
        ("SampledDataCtrlr", "TxUpdatedMeasurands", (_ALL, _FEWEST)),
        ("SampledDataCtrlr", "TxStartedMeasurands", (_ALL, _FEWEST)),
        ("SampledDataCtrlr", "TxEndedMeasurands", (_REGISTERS, _FEWEST)),
        # Clock-aligned values are the ones that come (and are triggered) while no transaction runs.
        ("AlignedDataCtrlr", "Measurands", (_ALL, _FEWEST)),
        *(signing if signed else ()),
    ]


async def read_rate_unit(charger: Caller) -> RateUnit:
    """Watts unless the charger says that it takes amperes only. Raises CallError when it does not answer at all."""
    asked: JsonObject = {
        "getVariableData": [{"component": {"name": "SmartChargingCtrlr"}, "variable": {"name": "RateUnit"}}]
    }
    try:
        answer = cast(GetVariablesAnswer, await charger.call("GetVariables", asked, Priority.CONTROL))
    except (CallRefusedError, InvalidAnswerError):
        return RateUnit.WATTS
    units = {
        unit.strip() for result in answer["getVariableResult"] for unit in result.get("attributeValue", "").split(",")
    }
    return RateUnit.AMPERES if "A" in units and "W" not in units else RateUnit.WATTS


async def takes_dynamic_profiles(charger: Caller) -> bool:
    """Whether it says so (K28, OCPP 2.1), by either of the names that were given to it. Silence is a no: this is
    nothing that a charger must know of."""
    for variable in _DYNAMIC_PROFILES:
        asked: JsonObject = {"getVariableData": [{"component": {"name": "SmartChargingCtrlr"}, "variable": variable}]}
        try:
            answer = cast(GetVariablesAnswer, await charger.call("GetVariables", asked, Priority.CONTROL))
        except CallError:
            return False
        for result in answer["getVariableResult"]:
            if result["attributeStatus"] == "Accepted":
                return result.get("attributeValue", "").strip().lower() == "true"
    return False


async def set_variables(charger: Caller, meter_interval_s: int, *, signed: bool = False) -> tuple[str, ...]:
    """Have it send meter values as we need them; `signed`: with the signatures of its meter.

    Returns the variables that it refused every value of.
    Raises CallError when it does not answer at all.
    """
    wishes = _wishes(meter_interval_s, signed=signed)
    refused = await _try(charger, [(component, name, values[0]) for component, name, values in wishes])
    still = [(component, name, values[1]) for component, name, values in wishes if name in refused and len(values) > 1]
    if still:
        better = {name for _, name, _ in still} - await _try(charger, still)
        refused -= better
    return tuple(sorted(refused))


async def _try(charger: Caller, settings: Sequence[tuple[str, str, str]]) -> set[str]:
    """Names of the variables that were not taken. All in one message first, then one by one for chargers that take
    only so many in one."""
    try:
        return await _set(charger, settings)
    except (CallRefusedError, InvalidAnswerError):
        if len(settings) == 1:
            return {settings[0][1]}
    refused: set[str] = set()
    for setting in settings:
        refused |= await _try(charger, [setting])
    return refused


async def _set(charger: Caller, settings: Sequence[tuple[str, str, str]]) -> set[str]:
    wanted: list[Json] = [
        {"component": {"name": component}, "variable": {"name": name}, "attributeValue": value}
        for component, name, value in settings
    ]
    answer = cast(SetVariablesAnswer, await charger.call("SetVariables", {"setVariableData": wanted}, Priority.ROUTINE))
    taken = {
        result["variable"]["name"]
        for result in answer["setVariableResult"]
        if result["attributeStatus"] in ("Accepted", "RebootRequired")
    }
    return {name for _, name, _ in settings} - taken


async def ask_state(charger: Caller, evse: EvseSession) -> Outcome:
    """Have it say what goes on at an EVSE: it may have begun or ended a transaction while nobody listened.

    Raises CallError when it does not answer at all.
    """
    here: JsonObject = {"id": evse.settings.evse_id}
    lost = await _give_up_gaps(charger, evse)
    if evse.transaction is not None:
        asked: JsonObject = {"transactionId": evse.transaction.transaction_id}
        try:
            answer = cast(TransactionStatusAnswer, await charger.call("GetTransactionStatus", asked, Priority.ROUTINE))
        except (CallRefusedError, InvalidAnswerError):
            answer = {"messagesInQueue": True}
        # With messages in its queue, the end of the transaction is still to come from there.
        if answer.get("ongoingIndicator") is False and not answer["messagesInQueue"]:
            return _joined(lost, evse.no_transaction())
    await trigger(charger, "StatusNotification", {**here, "connectorId": 1})
    running = await trigger(charger, "TransactionEvent", here)
    if running == "Rejected" and evse.transaction is None:
        return _joined(lost, evse.no_transaction())
    return lost


async def _give_up_gaps(charger: Caller, evse: EvseSession) -> Outcome:
    """Events that did not come and of which the charger says that it has none left (E14): they never will."""
    outcome = Outcome()
    for transaction_id in evse.sequence.with_gaps():
        try:
            answer = cast(
                TransactionStatusAnswer,
                await charger.call("GetTransactionStatus", {"transactionId": transaction_id}, Priority.ROUTINE),
            )
        except (CallRefusedError, InvalidAnswerError):
            continue
        if not answer["messagesInQueue"]:
            lost = evse.sequence.give_up(transaction_id)
            text = f"{lost} events of transaction {quoted(transaction_id, 40)} were lost by it; its registers stand"
            outcome.notices.append(Notice("charger.events_lost", text))
            outcome.changed = True
    return outcome


def _joined(first: Outcome, second: Outcome) -> Outcome:
    second.notices[:0] = first.notices
    second.changed |= first.changed
    return second


async def trigger(charger: Caller, message: str, evse: JsonObject | None = None) -> str:
    """TriggerMessage (F06): Accepted, Rejected or NotImplemented. Raises CallError when there is no answer."""
    request: JsonObject = {"requestedMessage": message}
    if evse is not None:
        request["evse"] = evse
    try:
        answer = await charger.call("TriggerMessage", request, Priority.ROUTINE)
    except (CallRefusedError, InvalidAnswerError):
        return "NotImplemented"
    return cast(StatusAnswer, answer)["status"]
