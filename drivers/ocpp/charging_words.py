"""What a charger says of smart charging (block K): its answer, and what comes of it for its EVSEs. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from drivers.ocpp import profiles
from drivers.ocpp.dynamic import rejected
from drivers.ocpp.errors import quoted
from drivers.ocpp.messages import (
    ClearedChargingLimit,
    NotifyChargingLimit,
    NotifyEVChargingNeeds,
    NotifyEVChargingSchedule,
    NotifyPriorityCharging,
    ReportChargingProfiles,
)
from drivers.ocpp.profiles import Slot
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.session import Moment, Notice

if TYPE_CHECKING:
    from drivers.ocpp.station import StationSession


def _charging_needs(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(NotifyEVChargingNeeds, payload)
    # "Processing": the plan sends a profile when it has one; until then the static share holds (K15.FR.04).
    reaction = Reaction(answer={"status": "Processing"})
    evse = station.evse_named(int(message["evseId"]), reaction)
    if evse is None:
        return Reaction(answer={"status": "Rejected"}, notices=reaction.notices)
    reaction.add(evse.charging_needs(message["chargingNeeds"], now))
    return reaction


def _charging_limit(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(NotifyChargingLimit, payload)
    reaction = Reaction(answer={})
    for evse in station.evses_meant(message.get("evseId"), reaction):
        limit, news = evse.outside.limited(message, now.wall_us)
        if news:
            text = f"{evse.settings.device_id}: {limit.sentence()}"
            reaction.notices.append(Notice("charger.external_limit", text))
    return reaction


def _cleared_limit(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(ClearedChargingLimit, payload)
    reaction = Reaction(answer={})
    for evse in station.evses_meant(message.get("evseId"), reaction):
        if evse.outside.cleared(message["chargingLimitSource"]):
            text = f"{evse.settings.device_id}: {quoted(message['chargingLimitSource'], 20)} limits it no longer"
            reaction.notices.append(Notice("charger.external_limit", text))
    return reaction


def _ev_schedule(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(NotifyEVChargingSchedule, payload)
    reaction = Reaction(answer={"status": "Rejected"})
    evse = station.evse_named(int(message["evseId"]), reaction)
    if evse is not None and evse.smart.planned(message["chargingSchedule"]):
        reaction.answer = {"status": "Accepted"}
    return reaction


def _priority(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(NotifyPriorityCharging, payload)
    reaction = Reaction(answer={})
    for evse in station.evses.values():
        reaction.add(evse.priority(message["transactionId"], activated=message["activated"]))
    return reaction


def _pull(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    """What holds now, of the EVSE whose lease it is (K28)."""
    profile_id = int(cast(int, payload["chargingProfileId"]))
    for number, evse in station.evses.items():
        if profile_id == profiles.profile_id(number, Slot.TRANSACTION):
            running = None if evse.transaction is None else evse.transaction.transaction_id
            return Reaction(answer=evse.dynamic.pulled(profile_id, running, now.monotonic_s))
    return Reaction(answer=rejected("that is no dynamic profile of ours"))


def _profiles(station: StationSession, payload: JsonObject, now: Moment) -> Reaction:
    message = cast(ReportChargingProfiles, payload)
    reaction = Reaction(answer={})
    for evse in station.evses_meant(int(message["evseId"]), reaction):
        evse.smart.reported(message)
    return reaction


WORDS: Final[Mapping[str, Callable[[StationSession, JsonObject, Moment], Reaction]]] = {
    "NotifyEVChargingNeeds": _charging_needs,
    "NotifyChargingLimit": _charging_limit,
    "ClearedChargingLimit": _cleared_limit,
    "NotifyEVChargingSchedule": _ev_schedule,
    "NotifyPriorityCharging": _priority,
    "PullDynamicScheduleUpdate": _pull,
    "ReportChargingProfiles": _profiles,
}
