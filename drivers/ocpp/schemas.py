"""The specification's own JSON schemas, compiled: what a payload violates, in the words of a CALLERROR.

The schema files are those that the `ocpp` package ships; its validator is not used, because it costs hundreds of
times more than a compiled one. Every message that passes a connection, in or out, is checked here once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Final, TypeAlias, cast

import jsonschema_rs
import orjson

from drivers.ocpp.errors import ErrorCode, quoted
from drivers.ocpp.leniency import loosened
from drivers.ocpp.timestamps import is_timestamp

LARGEST_WHOLE: Final = 2**53
"""Integers up to here are exact however they were sent."""

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
JsonObject: TypeAlias = dict[str, Json]


class Version(StrEnum):
    """Protocol versions by the name of their WebSocket subprotocol, in the order that we prefer."""

    V21 = "ocpp2.1"
    V201 = "ocpp2.0.1"


_FOLDERS: Final = {Version.V21: "v21", Version.V201: "v201"}

CODE_OF_KEYWORD: Final[Mapping[str, ErrorCode]] = {
    # OCPP-J 2.0.1 section 4.3, by the JSON schema keyword that was violated.
    "required": ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION,
    "minItems": ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION,
    "maxItems": ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION,
    "type": ErrorCode.TYPE_CONSTRAINT_VIOLATION,
    "enum": ErrorCode.PROPERTY_CONSTRAINT_VIOLATION,
    "maxLength": ErrorCode.PROPERTY_CONSTRAINT_VIOLATION,
    "minimum": ErrorCode.PROPERTY_CONSTRAINT_VIOLATION,
    "maximum": ErrorCode.PROPERTY_CONSTRAINT_VIOLATION,
}
"""Any other keyword (unknown properties, formats) is a FormatViolation."""


class Direction(StrEnum):
    """Which half of an action a payload is."""

    REQUEST = "Request"
    RESPONSE = "Response"
    SEND = ""
    """The whole of it: an action that nobody answers (OCPP 2.1 only)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a payload is refused."""

    code: ErrorCode
    description: str


class Schemas:
    """The compiled schemas of one protocol version."""

    def __init__(self, version: Version) -> None:
        self.version = version
        folder = files("ocpp") / _FOLDERS[version] / "schemas"
        self._validators: dict[str, jsonschema_rs.Validator] = {}
        self._integers: dict[str, _Integers] = {}
        for entry in folder.iterdir():
            if entry.name.endswith(".json"):
                # Some of the files start with a byte order mark.
                name = entry.name.removesuffix(".json")
                schema = loosened(name, orjson.loads(entry.read_bytes().removeprefix(b"\xef\xbb\xbf")))
                definitions = schema.get("definitions", {})
                assert isinstance(definitions, dict)
                self._validators[name] = jsonschema_rs.validator_for(
                    # Values stay out of what is said of them: they may be tokens and passwords.
                    schema,
                    formats={"date-time": is_timestamp},
                    mask="the value",
                )
                self._integers[name] = _integers(schema, definitions, {})

    def knows(self, action: str) -> bool:
        """Whether this version of the specification has this action, as one that is answered."""
        return f"{action}Request" in self._validators

    def knows_send(self, action: str) -> bool:
        """Whether this version has this action as one that is not answered (SEND)."""
        return action in self._validators and not action.endswith(("Request", "Response"))

    def violation(self, action: str, direction: Direction, payload: JsonObject) -> Violation | None:
        """The first thing that is wrong with a payload of an action that is known in this direction; None when it is
        as specified."""
        try:
            self._validators[action + direction].validate(payload)
        except jsonschema_rs.ValidationError as error:
            where = "/".join(str(part) for part in error.instance_path) or "payload"
            code = CODE_OF_KEYWORD.get(error.kind.name, ErrorCode.FORMAT_VIOLATION)
            return Violation(code, f"{action}{direction.value}, {where}: {_said(error)}")
        return None

    def make_whole(self, action: str, direction: Direction, payload: JsonObject) -> None:
        """Where integers belong and one was sent as 1.0, which is the same to JSON and the schemas, make it an integer.
        The payload fits its schema."""
        _make_whole(payload, self._integers[action + direction])


class _Integers(dict[str, "_Integers | None"]):
    """Where in an object integers belong: by property, None for one (or a list of them), else where in what it holds
    (or each that its list holds)."""


def _integers(schema: JsonObject, definitions: JsonObject, known: dict[str, _Integers]) -> _Integers:
    found = _Integers()
    for name, value in cast("dict[str, JsonObject]", schema.get("properties", {})).items():
        inner = cast("JsonObject", value.get("items", value))
        reference = cast("str", inner.get("$ref", "")).rpartition("/")[2]
        if inner.get("type") == "integer":
            found[name] = None
        elif reference:
            if reference not in known:
                known[reference] = _integers(cast("JsonObject", definitions[reference]), definitions, known)
            if known[reference]:
                found[name] = known[reference]
    return found


def _make_whole(payload: JsonObject, integers: _Integers) -> None:
    for name, inner in integers.items():
        value = payload.get(name)
        if inner is None:
            if type(value) is float and abs(value) < LARGEST_WHOLE:
                payload[name] = int(value)
            elif type(value) is list:
                payload[name] = [int(n) if type(n) is float and abs(n) < LARGEST_WHOLE else n for n in value]
        elif type(value) is dict:
            _make_whole(value, inner)
        elif type(value) is list:
            for each in value:
                _make_whole(each, inner)  # type: ignore[arg-type]  # by its schema; a cast costs as much as the look


def _said(error: jsonschema_rs.ValidationError) -> str:
    """What is wrong, without anything that the message held: values are masked, and names of properties that nobody
    knows may be anything, too."""
    if error.kind.name == "additionalProperties":
        return "there are properties that the specification does not name"
    return quoted(error.message, 160)


@functools.cache
def schemas(version: Version) -> Schemas:
    """The schemas of a version, compiled once per process (20 to 30 ms and 6 MB on a small machine)."""
    return Schemas(version)
