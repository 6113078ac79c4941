"""What a person may ask of a charger: each order fits its schema, and wrong arguments are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.device_model import VariableKey, parse_key
from drivers.ocpp.orders import _ORDERS, Context, build
from drivers.ocpp.schemas import Direction, Json, JsonObject, Version, schemas

CONTEXT = Context({"car-1": 1, "car-2": 2}, 1_767_225_600_000_000, 77)
ONE = Context({"car-1": 4}, 1_767_225_600_000_000, 77)
GOOD: dict[str, JsonObject] = {
    "availability": {"operative": True, "device": "car-2", "connector": 1},
    "cancel-reservation": {"reservation": 5},
    "certificates": {},
    "clear-cache": {},
    "custom-report": {"criterion": "Problem", "variable": "A#1/B[c]"},
    "customer": {"token": "RFID-1", "clear": True},
    "data": {"vendor": "org.example", "message": "m", "data": {"any": 1}},
    "delete-certificate": {"issuerNameHash": "a", "issuerKeyHash": "b", "serialNumber": "c"},
    "get": {"variables": ["A/B", "C[d]#1.2/E[f]"]},
    "install-certificate": {"certificate": "-----BEGIN"},
    "local-list-version": {},
    "log": {"url": "https://192.0.2.1/", "latest": "2026-01-01T00:00:00Z"},
    "monitor": {"variable": "A/B", "value": 1.5, "kind": "Delta", "severity": 0, "id": 3},
    "monitoring-base": {"base": "All"},
    "monitoring-level": {"severity": 9},
    "monitors": {},
    "network": {"slot": 0, "url": "wss://192.0.2.1/"},
    "renew-certificate": {},
    "report": {"kind": "ConfigurationInventory"},
    "reserve": {"token": 1234, "device": "car-1", "minutes": 1, "group": "G"},
    "reset": {"immediate": True, "device": "car-1"},
    "set": {"variable": "A/B", "value": 5, "attribute": "Target"},
    "trigger": {"message": "Heartbeat", "device": "car-1"},
    "unlock": {"device": "car-1"},
    "unmonitor": {"id": 3},
}


def test_every_order_has_an_example_here() -> None:
    assert set(GOOD) == set(_ORDERS)


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("name", GOOD)
def test_an_order_fits_its_schema(name: str, version: Version) -> None:
    action, payload = build(name, GOOD[name], CONTEXT)
    assert schemas(version).violation(action, Direction.REQUEST, payload) is None


def test_the_only_evse_need_not_be_named() -> None:
    assert build("unlock", {}, ONE) == ("UnlockConnector", {"evseId": 4, "connectorId": 1})
    with pytest.raises(ValueError, match="car-1, car-2"):
        build("unlock", {}, CONTEXT)


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("reserve", {"token": "T", "minutes": 0}, "minutes"),
        ("reserve", {}, "token"),
        ("reset", {"device": "car-9"}, "not of this charger"),
        ("unlock", {"device": "car-1", "connector": True}, "connector"),
        ("cancel-reservation", {"reservation": 2**40}, "reservation"),
        ("set", {"variable": "A/B"}, "value"),
        ("log", {"url": "https://x", "oldest": "yesterday"}, "RFC 3339"),
        ("custom-report", {}, "criterion or variable"),
        ("customer", {}, "issuerNameHash"),
        ("customer", {"token": "T", "report": False}, "report or clear"),
        ("trigger", {}, "custom"),
        ("custom-report", {"criterion": "Any"}, "one of"),
        ("get", {"variables": "A/B"}, "1 to 50"),
    ],
)
def test_wrong_arguments_are_told(name: str, arguments: JsonObject, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build(name, arguments, CONTEXT)


values: st.SearchStrategy[Json] = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(["A/B"])
names = sorted({key for arguments in GOOD.values() for key in arguments})


@given(st.sampled_from(sorted(_ORDERS)), st.dictionaries(st.sampled_from(names), values))
def test_whatever_is_typed_makes_a_call_or_a_value_error(name: str, arguments: JsonObject) -> None:
    try:
        action, payload = build(name, arguments, CONTEXT)
    except ValueError:
        return
    assert schemas(Version.V201).knows(action)
    assert isinstance(payload, dict)


word = st.text(st.characters(exclude_characters="/#[].", codec="ascii"), min_size=1, max_size=20)


@given(word, st.text("abc", max_size=3), st.integers(0, 9), st.integers(0, 9), word, st.text("abc", max_size=3))
def test_a_variable_is_read_as_it_is_written(
    component: str, instance: str, evse: int, connector: int, variable: str, variable_instance: str
) -> None:
    key = VariableKey(component, instance, evse, connector if evse else 0, variable, variable_instance)
    assert parse_key(str(key)) == key
