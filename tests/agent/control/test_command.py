"""Command bodies: one encoding, one identity, and the rendering in the published contract's fields."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.command import (
    Command,
    CommandType,
    Mode,
    Point,
    Price,
    Priority,
    command_hash,
    decode_body,
    encode_body,
    grid_command,
    power_limit_kw,
    same_float32,
)
from agent.control.errors import CommandFormatError
from tests.agent.control.support import SOME_COMMAND, curtail

commands = st.builds(
    Command,
    audience=st.sampled_from(["did:key:zDnaeTestGateway1", "did:v2g:zQmdmnm3m7Bqms7PqpQ", "zone:north"]),
    targets=st.lists(st.sampled_from(["a", "b-1", "c"]), unique=True).map(tuple),
    mode=st.just(Mode.SETPOINT),
    point=st.sampled_from(Point),
    type=st.sampled_from([CommandType.CHARGE, CommandType.DISCHARGE]),
    power_w=st.integers(0, 1_000_000_000),
    max_energy_wh=st.none() | st.integers(1, 10**12),
    start_us=st.integers(0, 2**52),
    end_us=st.integers(2**52 + 1, 2**53),
    price=st.none() | st.builds(Price, st.integers(0, 10**12), st.just("EUR")),
    issuer=st.text(min_size=1, max_size=20),
    epoch=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**63 - 1),
    priority=st.sampled_from(Priority),
    campaign=st.none() | st.text(min_size=1, max_size=20),
    cancels=st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=3).map(tuple),
    resume=st.booleans(),
)


@given(commands)
def test_a_body_reads_back_as_the_command_that_it_was_made_from(command: Command) -> None:
    assert decode_body(encode_body(command)) == command


@given(commands, commands)
def test_different_commands_have_different_hashes(one: Command, other: Command) -> None:
    assert (command_hash(encode_body(one)) == command_hash(encode_body(other))) == (one == other)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_raise_anything_but_a_format_error(body: bytes) -> None:
    with contextlib.suppress(CommandFormatError):
        decode_body(body)


@given(st.integers(0, 1_000_000_000))
def test_the_plain_power_is_a_float32_near_the_integer(power_w: int) -> None:
    rendered = power_limit_kw(power_w)
    assert struct.unpack(">f", struct.pack(">f", rendered))[0] == rendered
    assert math.isclose(rendered * 1000, power_w, rel_tol=1e-6, abs_tol=1e-3)


def test_minus_zero_is_not_zero_bit_for_bit() -> None:
    assert not same_float32(0.0, -0.0)
    assert same_float32(7.4, power_limit_kw(7400))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"audience": "everybody"}, "audience"),
        ({"targets": ("Battery",)}, "neither a device id nor a class"),
        ({"targets": ("battery", "battery")}, "twice"),
        ({"mode": Mode.EXPORT_LIMIT}, "does not go with mode"),
        ({"mode": Mode.IMPORT_LIMIT}, "does not go with mode"),
        ({"type": CommandType.IDLE}, "IDLE has power 0"),
        ({"type": CommandType.IDLE, "power_w": 0, "point": Point.CONNECTION}, "said to devices"),
        ({"power_w": -1}, "outside"),
        ({"power_w": 10**10}, "outside"),
        ({"max_energy_wh": 0}, "allows nothing"),
        ({"end_us": SOME_COMMAND.start_us}, "not after its start"),
        ({"price": Price(1, "eur")}, "ISO 4217"),
        ({"issuer": ""}, "issuer"),
        ({"sequence": 2**63}, "outside"),
        ({"campaign": ""}, "campaign"),
        ({"cancels": (b"short",)}, "SHA-256"),
    ],
)
def test_a_command_that_makes_no_sense_cannot_be_made(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CommandFormatError, match=said):
        replace(SOME_COMMAND, **changes)  # type: ignore[arg-type]  # fields of Command


@pytest.mark.parametrize(("position", "value"), [(0, 2), (0, True), (3, 9), (6, 1.5), (6, -1), (8, "now"), (17, 1)])
def test_a_body_with_a_wrong_element_is_refused(position: int, value: object) -> None:
    elements = cbor2.loads(encode_body(SOME_COMMAND))
    elements[position] = value
    with pytest.raises(CommandFormatError):
        decode_body(cbor2.dumps(elements))


def test_a_body_with_trailing_bytes_or_a_longer_integer_is_refused() -> None:
    body = encode_body(SOME_COMMAND)
    with pytest.raises(CommandFormatError):
        decode_body(body + b"\0")
    with pytest.raises(CommandFormatError, match="deterministic"):
        decode_body(body[:1] + b"\x18\x01" + body[2:] if body[1:2] == b"\x01" else b"")


def test_only_what_takes_power_away_is_restrictive() -> None:
    assert curtail().restrictive
    assert replace(SOME_COMMAND, power_w=0).restrictive
    assert not SOME_COMMAND.restrictive
    # 0 W at the connection can mean that a battery must work hard.
    assert not replace(SOME_COMMAND, power_w=0, point=Point.CONNECTION).restrictive


def test_the_published_message_carries_the_bodys_hash_and_rendering() -> None:
    message = grid_command("id", replace(SOME_COMMAND, price=Price(123_456, "EUR")), b"auth")
    assert message.command_hash == command_hash(encode_body(replace(SOME_COMMAND, price=Price(123_456, "EUR"))))
    assert message.power_limit_kw == 5.0
    assert message.type == 1
    assert message.valid_until_timestamp_us == SOME_COMMAND.end_us
    assert math.isclose(message.price_per_kwh_cents, 12.3456, rel_tol=1e-6)
