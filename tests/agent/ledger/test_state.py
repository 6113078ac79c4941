"""Tests of the channel state: its two encodings bind the same fields, and a bad one is not read."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import cbor2
import pytest

from agent.evidence import cbor
from agent.ledger.errors import ChannelError
from agent.ledger.settle import read_window, successor
from agent.ledger.state import ChannelState, SignedState, decode_signed, decode_state
from agent.measure.reading import Quality
from tests.agent.ledger.examples import DEVICE_KEY, PLATFORM_KEY, TERMS, window

STATE = successor(
    None, [read_window(window(0), "pv-1")], terms=TERMS, incarnation=1, version=1, device_key=DEVICE_KEY.public
)


def changed(name: str) -> ChannelState:
    """The state with one field changed, and what must be consistent with it."""
    value = getattr(STATE, name)
    if isinstance(value, bool):
        return replace(STATE, final=not value)
    if isinstance(value, Quality):
        return replace(STATE, quality=value | Quality.QUEUED)
    if isinstance(value, bytes):
        flipped: Any = {name: bytes([value[0] ^ 1]) + value[1:]}
        return replace(STATE, **flipped)
    if name == "net_wh":
        return replace(STATE, net_wh=value + 1, import_wh=STATE.import_wh + 1)
    return replace(STATE, **{name: value + 1})


def test_a_state_is_read_back_as_it_was() -> None:
    assert decode_state(STATE.encode()) == STATE


def test_a_signed_state_is_read_back_as_it_was() -> None:
    signed = SignedState(STATE, DEVICE_KEY.sign(STATE.digest), PLATFORM_KEY.sign(STATE.digest))
    assert decode_signed(signed.encode()) == signed
    assert decode_signed(SignedState(STATE).encode()) == SignedState(STATE)


@pytest.mark.parametrize("name", [f.name for f in fields(ChannelState)])
def test_the_digest_binds_every_field(name: str) -> None:
    assert changed(name).digest != STATE.digest
    assert changed(name).encode() != STATE.encode()


@pytest.mark.parametrize("name", ["gateway_id", "device_id", "chain_id", "contract", "participant", "agreement_hash"])
def test_other_terms_are_another_channel(name: str) -> None:
    value = getattr(TERMS, name)
    others: dict[type, Any] = {int: 2, str: "other", bytes: b"\x77" * 32}
    other: Any = {name: others[type(value)]}
    assert replace(TERMS, **other).channel_id != TERMS.channel_id


def damaged(place: int, value: cbor.Value) -> bytes:
    items = cbor2.loads(STATE.encode())
    items[place] = value
    return cbor.encode(items)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff",
        STATE.encode()[:-1],
        STATE.encode() + b"\x00",
        cbor.encode([1]),
        cbor.encode({1: 2}),
        cbor.encode([*cbor2.loads(STATE.encode()), 0]),
        damaged(0, 2),
        damaged(1, 0),
        damaged(2, bytes(19)),
        damaged(7, 0),
        damaged(8, -1),
        damaged(8, True),
        damaged(11, STATE.window_start_us),
        damaged(12, -1),
        damaged(14, STATE.net_wh + 1),
        damaged(15, 1 << 32),
        damaged(18, 0),
        damaged(19, 1 << 31),
        damaged(19, -(1 << 31) - 1),
        bytes(5000),
    ],
)
def test_a_malformed_state_is_refused(encoded: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_state(encoded)
    with pytest.raises(ChannelError):
        decode_signed(encoded)


def test_each_signature_is_checked_under_its_own_key() -> None:
    signed = SignedState(STATE, DEVICE_KEY.sign(STATE.digest), PLATFORM_KEY.sign(STATE.digest))
    signed.verify(DEVICE_KEY.public, PLATFORM_KEY.public)
    with pytest.raises(ChannelError, match="another algorithm or key"):
        signed.verify(PLATFORM_KEY.public)
    with pytest.raises(ChannelError, match="does not verify"):
        signed.verify(DEVICE_KEY.public, DEVICE_KEY.public)
