"""Frames: what is one, what is not, and which wrong ones deserve an answer (OCPP-J 2.0.1 section 4)."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp import frames
from drivers.ocpp.errors import ErrorCode
from drivers.ocpp.frames import (
    BadFrame,
    Call,
    CallErrorFrame,
    CallResult,
    CallResultErrorFrame,
    Send,
    parse_frame,
)
from drivers.ocpp.schemas import JsonObject, Version

V201, V21 = Version.V201, Version.V21


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_a_call_its_result_and_its_error_are_read_as_they_were_written() -> None:
    payload: JsonObject = {"customData": {"vendorId": "x", "limitAtSoC": [1, 2.5, None, True]}}
    assert parse_frame(frames.call_text("19", "Heartbeat", payload), V201) == Call("19", "Heartbeat", payload)
    assert parse_frame(frames.result_text("19", payload), V201) == CallResult("19", payload)
    error = parse_frame(frames.error_text("19", ErrorCode.NOT_IMPLEMENTED, "no such thing"), V201)
    assert error == CallErrorFrame("19", "NotImplemented", "no such thing")


@pytest.mark.parametrize(
    ("message", "code", "reply_to"),
    [
        ("", ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ("{}", ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ("[]", ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ("[" * 100_000, ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ('[2,"1","Heartbeat",{"a":NaN}]', ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ('[2,"1","Heartbeat",{"a":1e999}]', ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        (b"\x00\x01", ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ("x" * (frames.LONGEST_FRAME + 1), ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ('[2.0,"1","Heartbeat",{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[true,"1","Heartbeat",{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('["2","1","Heartbeat",{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[2,"1",{},{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[2,"1","Heartbeat"]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[2,"1","Heartbeat",{},{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[2,"1","Heartbeat",[]]', ErrorCode.RPC_FRAMEWORK_ERROR, "1"),
        ('[2,1,"Heartbeat",{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        ('[2,"","Heartbeat",{}]', ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        (f'[2,"{"i" * 37}","Heartbeat",{{}}]', ErrorCode.RPC_FRAMEWORK_ERROR, "-1"),
        (f'[2,"1","Heartbeat",{nested(25)}]', ErrorCode.FORMAT_VIOLATION, "1"),
        ('[5,"1","x","y",{}]', ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED, "1"),
        ('[6,"1","NotifyPeriodicEventStream",{}]', ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED, "1"),
        ("[99]", ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED, "-1"),
    ],
)
def test_a_bad_frame_gets_the_error_code_of_the_specification(
    message: str | bytes, code: ErrorCode, reply_to: str
) -> None:
    frame = parse_frame(message, V201)
    assert isinstance(frame, BadFrame)
    assert (frame.code, frame.reply_to) == (code, reply_to)


@pytest.mark.parametrize(
    "message", ["[3]", '[3,"1"]', '[3,"1",[]]', "[3,1,{}]", '[4,"1"]', '[4,"1",5,"",{}]', f'[3,"1",{nested(25)}]']
)
def test_what_was_meant_as_an_answer_is_never_answered(message: str) -> None:
    frame = parse_frame(message, V201)
    assert isinstance(frame, BadFrame)
    assert frame.reply_to is None


def test_what_nobody_answers_is_read_as_it_was_written_in_2_1() -> None:
    assert parse_frame(frames.send_text("19", "X", {"a": 1}), V21) == Send("19", "X", {"a": 1})
    error = frames.result_error_text("19", ErrorCode.TYPE_CONSTRAINT_VIOLATION, "no such thing")
    assert parse_frame(error, V21) == CallResultErrorFrame("19", "TypeConstraintViolation", "no such thing")


@pytest.mark.parametrize(
    "message",
    ["[5]", '[5,"1",{},"",{}]', "[6]", '[6,"1","X"]', '[6,"1",{},{}]', '[6,1,"X",{}]', f'[6,"1","X",{nested(25)}]'],
)
def test_a_bad_message_of_a_kind_that_nobody_answers_is_never_answered(message: str) -> None:
    frame = parse_frame(message, V21)
    assert isinstance(frame, BadFrame)
    assert frame.reply_to is None


def test_the_deepest_schema_has_room() -> None:
    assert isinstance(parse_frame(f'[2,"1","DataTransfer",{nested(24)}]', V201), Call)


def test_a_description_is_cut_to_what_the_specification_allows() -> None:
    assert len(orjson.loads(frames.error_text("1", ErrorCode.GENERIC_ERROR, "x" * 1000))[3]) == 255


@given(st.text() | st.binary(), st.sampled_from(Version))
def test_no_message_whatever_raises(message: str | bytes, version: Version) -> None:
    parse_frame(message, version)
