"""The list of tokens that a charger may accept while it does not hear us (OCPP 2.0.1 part 2, D01 and D02).

Sent in full to a charger that has another version than ours, as a difference to one that has the version before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, TypedDict, cast

import orjson

from drivers.ocpp.authorisation import LocalList
from drivers.ocpp.connection import Caller
from drivers.ocpp.errors import CallRefusedError, InvalidAnswerError
from drivers.ocpp.messages import GetVariablesAnswer, StatusAnswer
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Json, JsonObject

ITEMS: Final = 20
"""Entries in one message, to a charger that does not say how many it takes."""
MOST_ITEMS: Final = 100
_BETWEEN: Final = "\t"


class _VersionAnswer(TypedDict):
    versionNumber: int


async def bring_up_to_date(charger: Caller, known: LocalList, wanted: Sequence[JsonObject]) -> tuple[bool, str]:
    """Have the charger hold these entries. Whether `known` changed, and why it could not be done (else empty).

    Raises CallError when the charger does not answer at all.
    """
    entries = {_key(entry): _digest(entry) for entry in wanted}
    if not entries and not known.version:
        return False, ""
    try:
        answer = await charger.call("GetLocalListVersion", {}, Priority.ROUTINE)
    except (CallRefusedError, InvalidAnswerError):
        return False, "has no local list: while it does not hear us it authorises nobody by it"
    there = int(cast(_VersionAnswer, answer)["versionNumber"])
    if there == known.version and entries == known.entries:
        return False, ""
    items = await _items_per_message(charger)
    if there == known.version and known.version > 0:
        changed = [entry for entry in wanted if known.entries.get(_key(entry)) != _digest(entry)]
        gone = [entry for entry in known.entries if entry not in entries]
        # An entry without idTokenInfo is taken out (D01.FR.16). That goes first, for a charger that looks at the name
        # only: a token that has changed its kind is not to be lost.
        removals: list[JsonObject] = [{"idToken": _token(entry)} for entry in gone]
        problem = await _send(charger, known, "Differential", removals + changed, items, there)
        if not problem:
            known.entries = entries
            return True, ""
    problem = await _send(charger, known, "Full", wanted, items, max(there, known.version))
    known.entries = {} if problem else entries
    return True, problem


async def _send(
    charger: Caller, known: LocalList, kind: str, entries: Sequence[JsonObject], items: int, version: int
) -> str:
    """Empty when all parts were taken; `known.version` is what the charger has then."""
    parts = [entries[at : at + items] for at in range(0, len(entries), items)] or [[]]
    for part in parts:
        version += 1
        payload: JsonObject = {"versionNumber": version, "updateType": kind}
        if part:
            payload["localAuthorizationList"] = cast(Json, list(part))
        try:
            answer = cast(StatusAnswer, await charger.call("SendLocalList", payload, Priority.ROUTINE))
        except (CallRefusedError, InvalidAnswerError) as error:
            return f"does not take a local list: {error}"
        if answer["status"] != "Accepted":
            return f"does not take the local list: {answer['status']}"
        known.version, kind = version, "Differential"
    return ""


async def _items_per_message(charger: Caller) -> int:
    asked: JsonObject = {
        "getVariableData": [{"component": {"name": "LocalAuthListCtrlr"}, "variable": {"name": "ItemsPerMessage"}}]
    }
    try:
        answer = cast(GetVariablesAnswer, await charger.call("GetVariables", asked, Priority.ROUTINE))
        return min(MOST_ITEMS, max(1, int(answer["getVariableResult"][0].get("attributeValue", ITEMS))))
    except (CallRefusedError, InvalidAnswerError, ValueError):
        return ITEMS


def _key(entry: JsonObject) -> str:
    """Type and name: of two tokens of one name each is an entry of its own, and is taken out by its own type."""
    token = cast(dict[str, str], entry["idToken"])
    return f"{token['type']}{_BETWEEN}{token['idToken'].upper()}"


def _token(key: str) -> JsonObject:
    kind, _, name = key.partition(_BETWEEN)
    return {"idToken": name, "type": kind}


def _digest(entry: JsonObject) -> str:
    return hashlib.sha256(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
