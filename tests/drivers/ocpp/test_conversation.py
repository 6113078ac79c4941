"""Engine and station together: whatever comes, every call gets one answer as specified, and nothing raises."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.ocpp.rpc import CallReceived, RpcEngine
from drivers.ocpp.schemas import JsonObject, Version, schemas
from drivers.ocpp.session import Moment
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.station import StationSession
from tests.drivers.ocpp.schema_values import FOLDERS, payloads

EVSES = [
    ChargerSettings(device_id="car-1", charger_id="CP", discharge="negative_limit", local_tokens=("A",)),
    ChargerSettings(device_id="car-2", charger_id="CP", evse_id=2),
]


def actions(version: Version) -> list[str]:
    names = (
        entry.name.removesuffix("Request.json") for entry in (files("ocpp") / FOLDERS[version] / "schemas").iterdir()
    )
    return sorted(name for name in names if schemas(version).knows(name))


def station(version: Version) -> StationSession:
    session = StationSession(EVSES, heartbeat_s=300)
    session.connection_began(version)
    return session


def converse(rpc: RpcEngine, session: StationSession, message: str | bytes, now_s: float) -> list[list[Any]]:
    """What the shell does with a message, and the frames that leave."""
    for event in rpc.receive(message, now_s):
        if isinstance(event, CallReceived):
            reaction = session.handle(event.action, event.payload, Moment(now_s, 1_767_225_600_000_000))
            assert (reaction.answer is None) is (reaction.refusal is not None)
            if reaction.refusal is not None:
                rpc.refuse(event.message_id, *reaction.refusal)
            else:
                rpc.answer(event.message_id, reaction.answer or {})
            if reaction.remember:
                StationSession(EVSES, heartbeat_s=300).restore(session.encode())
    return [orjson.loads(text) for text in rpc.frames_to_send()]


@pytest.mark.parametrize(
    ("version", "action"), [(version, action) for version in Version for action in actions(version)]
)
@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(content=st.data())
def test_every_payload_that_is_allowed_gets_an_answer(version: Version, action: str, content: st.DataObject) -> None:
    rpc, session = RpcEngine(version), station(version)
    for number in range(2):
        payload: JsonObject = content.draw(payloads(version, action))
        ((kind, message_id, *rest),) = converse(
            rpc, session, orjson.dumps([2, f"{number}", action, payload]).decode(), 1.0
        )
        assert message_id == f"{number}"
        assert kind == 3 or rest[0] == "NotSupported", rest


TALK = (
    "BootNotification",
    "StatusNotification",
    "TransactionEvent",
    "MeterValues",
    "NotifyEVChargingNeeds",
    "Authorize",
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(
    version=st.sampled_from(Version),
    talk=st.lists(st.tuples(st.sampled_from(TALK), st.integers(0, 3), st.booleans()), max_size=12),
    content=st.data(),
)
def test_a_talk_in_any_order_with_any_damage_is_answered_call_by_call(
    version: Version, talk: list[tuple[str, int, bool]], content: st.DataObject
) -> None:
    rpc, session = RpcEngine(version), station(version)
    for now, (action, number, damaged) in enumerate(talk):
        text = orjson.dumps([2, f"m{number}", action, content.draw(payloads(version, action))]).decode()
        if damaged:
            at = content.draw(st.integers(0, len(text)))
            text = text[:at] + content.draw(st.sampled_from(['"', "[", "}", "-", "1e999", "", "\x00"])) + text[at + 1 :]
        frames = converse(rpc, session, text, float(now))
        assert len(frames) <= 1
        assert frames or damaged, "a call without an answer"
        assert all(frame[0] in (3, 4) for frame in frames if version is Version.V201)
