"""What is not signed by itself: our decoders and the strangers' refuse the same of what a good one becomes.

Of each good vector one element, at any depth, is replaced by a value that is at or beyond some limit.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.command import decode_body
from agent.control.errors import CommandFormatError
from agent.control.feeds import decode_value
from agent.control.schedule import decode_schedule
from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.ledger.errors import ChannelError
from agent.ledger.state import decode_state
from tests.agent.control import independent as commands
from tests.agent.control import independent_schedules as schedules
from tests.agent.evidence import independent as evidence
from tests.agent.ledger import independent as channels

VECTORS = Path(__file__).parents[2] / "proto" / "vectors"
LIMITS = (0, 3, 23, 255, 1800, 2047, 45_000, 66_000, 10**9, 10**12, 2**31, 2**32, 2**53, 2**63, 2**64 - 1)
ODD: list[Any] = [
    None, True, False, 1.0, {}, {1: 1}, [], [None], [1], [1, "EUR"], ["battery"] * 2, [bytes(32)], [bytes(32)] * 2,
    *(limit + more for limit in LIMITS[:-1] for more in (-1, 0, 1)), LIMITS[-1], -(2**31), -(2**31) - 1, -(2**63),
    -(2**63) - 1, "", "a", "EUR", "EU1", "eur", "\u20ac", "x" * 255, "x" * 256, "zone:north", "zone:", "zone:a b",
    "did:key:zAbc", "did:v2g:zGatewayUnderTest", "class:pv", "class:x", "battery\n", "-b", "b" * 63, "b" * 64,
    *(bytes(size) for size in (0, 1, 16, 20, 31, 32, 33)), [0] * 672, [0] * 673,
    *([f"b{number}" for number in range(size)] for size in (200, 201)),
    *([bytes([number]) * 32 for number in range(size)] for size in (64, 65)), cbor2.CBORTag(18, []),
]  # fmt: skip


def _good(file: str, name: str) -> list[bytes]:
    cases = json.loads((VECTORS / file).read_text(encoding="utf-8"))
    return [bytes.fromhex(case[name]) for case in cases if case["valid"] and len(case[name]) < 8_000]


def _places(value: Any, before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield (*before, index)
            yield from _places(item, (*before, index))


def _with(value: Any, place: tuple[int, ...], item: Any) -> bytes:
    changed = copy.deepcopy(value)
    within = changed
    for index in place[:-1]:
        within = within[index]
    within[place[-1]] = item
    return cbor2.dumps(changed, canonical=True)


def _taken(decode: Callable[[bytes], object], encoded: bytes, refusals: type[Exception]) -> bool:
    try:
        return decode(encoded) is not None
    except refusals:
        return False


KINDS: dict[str, tuple[list[bytes], Callable[[bytes], object], type[Exception], Callable[[bytes], object]]] = {
    "command": (_good("commands/bodies.json", "body"), decode_body, CommandFormatError, commands.body_of),
    "schedule": (_good("schedules/bodies.json", "body"), decode_schedule, CommandFormatError, schedules.schedule_of),
    "feed": (_good("feeds/bodies.json", "body"), decode_value, CommandFormatError, schedules.value_of),
    "state": (_good("channels/states.json", "state"), decode_state, ChannelError, channels.state_of),
    "statement": (
        _good("evidence/statements.json", "statement"), statements.decode, EvidenceError, evidence.statement,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_element_replaced_is_judged_alike(kind: str, data: st.DataObject) -> None:
    good, ours, refusals, theirs = KINDS[kind]
    value = cbor2.loads(data.draw(st.sampled_from(good)))
    place = data.draw(st.sampled_from(list(_places(value))))
    encoded = _with(value, place, ODD[data.draw(st.integers(0, len(ODD) - 1))])
    assert _taken(ours, encoded, refusals) == _taken(theirs, encoded, Exception)
