"""Payloads as the specification allows them, from its own schemas, for Hypothesis."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any, cast

import orjson
from hypothesis import strategies as st

from drivers.ocpp.schemas import Direction, JsonObject, Version

FOLDERS = {Version.V201: "v201", Version.V21: "v21"}
TIMES = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T00:00:07.5+02:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"]
)
NUMBERS = st.sampled_from([0, 1, -1, 1.0, 0.1, -230.5, 1e300, -1e300, 2**63, 5e-324]) | st.floats(
    allow_nan=False, allow_infinity=False
)
WHOLE = st.sampled_from([0, 1, 2, -1, 1.0, 1e300, 2**31, 2**63]) | st.integers(-(2**63), 2**63)


@functools.cache
def payloads(version: Version, action: str, direction: Direction = Direction.REQUEST) -> st.SearchStrategy[JsonObject]:
    """Payloads of one action: as allowed but for what schemas say of length, which is kept to within reason."""
    content = (files("ocpp") / FOLDERS[version] / "schemas" / f"{action}{direction.value}.json").read_bytes()
    schema = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    return cast("st.SearchStrategy[JsonObject]", _values(schema, schema.get("definitions", {}), 0))


def _values(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions, depth)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            return _objects(schema, definitions, depth)
        case "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
            item = _values(schema["items"], definitions, depth + 1)
            return st.lists(item, min_size=least, max_size=max(least, min(most, 3)))
        case "string" if schema.get("format") == "date-time":
            return TIMES
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(schema.get("maxLength", 20), 20))
        case "boolean":
            return st.booleans()
        case "integer" | "number" as kind:
            least, most = schema.get("minimum", -1e308), schema.get("maximum", 1e308)
            return (WHOLE if kind == "integer" else NUMBERS).filter(lambda value: least <= value <= most)
        case _:
            return st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(0, 9), max_size=3)


def _objects(schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> st.SearchStrategy[dict[str, Any]]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    # Recursive types end here: what is not required is left out far down.
    optional = [name for name in properties if name not in required and depth < 4]
    return st.fixed_dictionaries(
        {name: _values(properties[name], definitions, depth + 1) for name in required},
        optional={name: _values(properties[name], definitions, depth + 1) for name in optional},
    )
