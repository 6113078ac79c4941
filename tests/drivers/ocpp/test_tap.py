"""The tap: secrets are masked, listeners are bounded, and nothing is made while nobody listens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.schemas import Json
from drivers.ocpp.tap import LONGEST_TEXT, MOST_LISTENERS, MOST_WAITING, Tap, mask

SECRET = "0123456789SECRET"


@pytest.mark.parametrize(
    "content",
    [
        {"idToken": {"idToken": SECRET, "type": "ISO14443"}},
        {"localAuthorizationList": [{"idToken": {"idToken": SECRET, "type": "Central"}}]},
        {"idTokenInfo": {"status": "Accepted", "groupIdToken": {"idToken": SECRET, "type": "Central"}}},
        {"setVariableData": [{"variable": {"name": "BasicAuthPassword"}, "attributeValue": SECRET}]},
        {"setVariableData": [{"variable": {"name": "wifiPassword"}, "attributeValue": SECRET}]},
        {"reportData": [{"variable": {"name": "basicauthpassword"}, "variableAttribute": [{"value": SECRET}]}]},
        {"connectionData": {"basicAuthPassword": SECRET, "vpn": {"key": SECRET, "password": SECRET}}},
        {"log": {"remoteLocation": f"ftp://me:{SECRET}@192.0.2.1/up"}},
        {"csr": SECRET * 100, "certificateChain": SECRET},
    ],
)
def test_secrets_are_not_shown(content: Json) -> None:
    assert SECRET not in str(mask(content))


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    content: Json = {"status": "Accepted", "seqNo": 1, "meterValue": [{"value": 1.5}], "variable": {"name": "Interval"}}
    assert mask(content) == content
    assert len(str(mask("x" * 10_000))) < LONGEST_TEXT + 50


def test_nothing_is_made_while_nobody_listens() -> None:
    tap = Tap(lambda: 1 // 0)  # the clock is not read either
    tap.say("charger", "call", "Heartbeat", {})


def test_a_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    tap = Tap(lambda: 7)
    with tap.listen() as ear:
        for number in range(MOST_WAITING + 3):
            tap.say("gateway", "note", str(number), "x")
        missed, first, *_ = ear.take()
        assert (missed, first["action"]) == ({"kind": "missed", "count": 3}, "3")
        assert ear.take() == []


def test_listeners_are_bounded_and_their_places_given_back() -> None:
    tap = Tap(lambda: 7)
    for _ in range(3):
        ears = [tap.listen() for _ in range(MOST_LISTENERS)]
        for ear in ears:
            ear.__enter__()
        with pytest.raises(ValueError, match="already"), tap.listen():
            pass
        for ear in ears:
            ear.__exit__(None, None, None)


def test_what_is_nested_too_deep_is_not_shown() -> None:
    deep: Json = {}
    for _ in range(5000):
        deep = {"x": deep}
    tap = Tap(lambda: 7)
    with tap.listen() as ear:
        assert isinstance(deep, dict)
        tap.say("gateway", "call", "DataTransfer", deep)
        assert "too deep" in str(ear.take()[0]["content"])


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["idToken", "variable", "name", "value", "x"]), inner)
    ),
)


@given(json)
def test_whatever_a_charger_sends_can_be_shown(content: Json) -> None:
    mask(content)
