"""Text of a WebSocket message to an RPC frame and back (OCPP-J 2.0.1 and 2.1 section 4). No state, no schemas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import jsonschema_rs
import orjson

from drivers.ocpp.errors import ErrorCode, quoted
from drivers.ocpp.schemas import Json, JsonObject, Version

LONGEST_FRAME: Final = 256 * 1024
"""Characters. The largest honest messages are device model reports, tens of kilobytes."""
DEEPEST_NESTING: Final = 24
"""The deepest schema has nine levels; customData and DataTransfer may bring their own."""
LONGEST_MESSAGE_ID: Final = 36
LONGEST_DESCRIPTION: Final = 255
UNREADABLE_ID: Final = "-1"
"""Message id of a CALLERROR that answers a frame whose own id could not be read."""

_CALL, _CALL_RESULT, _CALL_ERROR, _CALL_RESULT_ERROR, _SEND = 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Call:
    message_id: str
    action: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class CallResult:
    message_id: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class CallErrorFrame:
    message_id: str
    code: str
    description: str


@dataclass(frozen=True, slots=True)
class CallResultErrorFrame:
    """An answer of ours that the peer cannot use (OCPP 2.1)."""

    message_id: str
    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Send:
    """A message that is not answered, not even with an error (OCPP 2.1)."""

    message_id: str
    action: str
    payload: JsonObject


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Not a frame. `reply_to` is the id for the CALLERROR that it deserves; None where an answer would be wrong,
    because what arrived was meant as an answer itself, or as something that nobody answers."""

    code: ErrorCode
    description: str
    reply_to: str | None


Frame: TypeAlias = Call | CallResult | CallErrorFrame | CallResultErrorFrame | Send | BadFrame


def parse_frame(message: str | bytes, version: Version) -> Frame:
    """What a WebSocket message says in a version of the protocol.

    Never raises; whatever is wrong comes back as BadFrame.
    """
    if not isinstance(message, str):
        return _unreadable("binary WebSocket message; OCPP-J frames are text")
    if len(message) > LONGEST_FRAME:
        return _unreadable(f"frame of {len(message)} characters; at most {LONGEST_FRAME} are taken")
    try:
        parts: Json = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        return _unreadable(f"not JSON: {quoted(str(error), 100)}")
    if not isinstance(parts, list) or not parts:
        return _unreadable("a frame is a JSON array that starts with the message type")
    kind = parts[0]
    if type(kind) is not int:  # 2.0 and true are no message types either
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "message type is not an integer", _readable_id(parts))
    if kind == _CALL:
        return _parse_call(parts)
    if kind == _CALL_RESULT:
        return _parse_result(parts)
    if kind == _CALL_ERROR:
        return _parse_error(parts)
    if version is Version.V21:
        if kind == _SEND:
            return _parse_send(parts)
        if kind == _CALL_RESULT_ERROR:
            return _parse_result_error(parts)
    return BadFrame(ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED, f"message type {quoted(kind, 20)}", _readable_id(parts))


def call_text(message_id: str, action: str, payload: JsonObject) -> str:
    """A CALL on the wire."""
    return orjson.dumps([_CALL, message_id, action, payload]).decode()


def result_text(message_id: str, payload: JsonObject) -> str:
    """A CALLRESULT on the wire."""
    return orjson.dumps([_CALL_RESULT, message_id, payload]).decode()


def error_text(message_id: str, code: ErrorCode, description: str) -> str:
    """A CALLERROR on the wire."""
    return orjson.dumps([_CALL_ERROR, message_id, code.value, description[:LONGEST_DESCRIPTION], {}]).decode()


def result_error_text(message_id: str, code: ErrorCode, description: str) -> str:
    """A CALLRESULTERROR on the wire (OCPP 2.1)."""
    return orjson.dumps([_CALL_RESULT_ERROR, message_id, code.value, description[:LONGEST_DESCRIPTION], {}]).decode()


def send_text(message_id: str, action: str, payload: JsonObject) -> str:
    """A SEND on the wire (OCPP 2.1)."""
    return orjson.dumps([_SEND, message_id, action, payload]).decode()


def _parse_call(parts: list[Json]) -> Call | BadFrame:
    reply_to = _readable_id(parts)
    if reply_to == UNREADABLE_ID:
        return BadFrame(
            ErrorCode.RPC_FRAMEWORK_ERROR,
            f"message id is not a string of 1 to {LONGEST_MESSAGE_ID} characters",
            reply_to,
        )
    if len(parts) != 4:
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, f"a CALL has 4 elements, this one {len(parts)}", reply_to)
    action, payload = parts[2], parts[3]
    if not isinstance(action, str):
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "the action of a CALL is a string", reply_to)
    if not isinstance(payload, dict):
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "the payload of a CALL is an object", reply_to)
    if _too_deep(payload):
        return BadFrame(ErrorCode.FORMAT_VIOLATION, f"nested deeper than {DEEPEST_NESTING} levels", reply_to)
    return Call(reply_to, action, payload)


def _parse_result(parts: list[Json]) -> CallResult | BadFrame:
    message_id = _readable_id(parts)
    payload = parts[2] if len(parts) == 3 else None
    if message_id == UNREADABLE_ID or not isinstance(payload, dict) or _too_deep(payload):
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "a CALLRESULT is [3, id, object]", None)
    return CallResult(message_id, payload)


def _parse_error(parts: list[Json]) -> CallErrorFrame | BadFrame:
    found = _error_parts(parts)
    if found is None:
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "a CALLERROR is [4, id, code, description, object]", None)
    return CallErrorFrame(*found)


def _parse_result_error(parts: list[Json]) -> CallResultErrorFrame | BadFrame:
    found = _error_parts(parts)
    if found is None:
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "a CALLRESULTERROR is [5, id, code, description, object]", None)
    return CallResultErrorFrame(*found)


def _error_parts(parts: list[Json]) -> tuple[str, str, str] | None:
    # A peer that could not read our id answers with "-1", which is why that is taken here.
    message_id = parts[1] if len(parts) in (4, 5) else None
    if not isinstance(message_id, str) or not isinstance(parts[2], str) or not isinstance(parts[3], str):
        return None
    return message_id, parts[2], parts[3]


def _parse_send(parts: list[Json]) -> Send | BadFrame:
    message_id = _readable_id(parts)
    action, payload = (parts[2], parts[3]) if len(parts) == 4 else (None, None)
    if message_id == UNREADABLE_ID or not isinstance(action, str) or not isinstance(payload, dict):
        return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, "a SEND is [6, id, action, object]", None)
    if _too_deep(payload):
        return BadFrame(ErrorCode.FORMAT_VIOLATION, f"nested deeper than {DEEPEST_NESTING} levels", None)
    return Send(message_id, action, payload)


def _unreadable(description: str) -> BadFrame:
    return BadFrame(ErrorCode.RPC_FRAMEWORK_ERROR, description, UNREADABLE_ID)


def _readable_id(parts: list[Json]) -> str:
    message_id = parts[1] if len(parts) > 1 else None
    if isinstance(message_id, str) and 1 <= len(message_id) <= LONGEST_MESSAGE_ID:
        return message_id
    return UNREADABLE_ID


def _depth_judge() -> jsonschema_rs.Validator:
    """A schema that says nothing but how deep values may nest: compiled, that is five times faster than a walk here,
    and never deeper on the stack than what it allows."""
    levels: dict[str, Json] = {f"level{DEEPEST_NESTING}": {"not": {"type": ["object", "array"]}}}
    for level in range(DEEPEST_NESTING):
        inner: JsonObject = {"$ref": f"#/definitions/level{level + 1}"}
        levels[f"level{level}"] = {"items": inner, "additionalProperties": inner}
    return jsonschema_rs.validator_for(
        {
            "$schema": "http://json-schema.org/draft-06/schema#",
            "definitions": levels,
            "$ref": "#/definitions/level0",
        }
    )


_shallow: Final = _depth_judge()


def _too_deep(payload: JsonObject) -> bool:
    return not _shallow.is_valid(payload)
