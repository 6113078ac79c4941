"""No permissive action without valid authority: SAFETY 6, 12 and 13 and the signatures, on any site."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.config import UnsignedCommands
from agent.control.admission import Admitted, judge
from agent.control.authorization import authorize
from agent.control.book import Book
from agent.control.command import CommandType, grid_command
from agent.control.plan import make_plan
from agent.control.site import SiteView
from drivers.device import DeviceKind
from tests.agent.control.strategies import sites
from tests.agent.control.support import (
    NOW,
    OPERATOR,
    SOME_COMMAND,
    STRANGER,
    curtail,
    policy,
    rights,
    trust_list,
)


@given(sites())
def test_without_a_command_and_a_hold_nobody_is_ordered_to_export(view: SiteView) -> None:
    """SAFETY 12: cars do not discharge, and a battery exports only what it covers by itself."""
    for name, order in make_plan(replace(view, orders=())).orders.items():
        if view.devices[name].kind is DeviceKind.PV:
            continue
        assert order.highest_w is None or order.highest_w >= 0, name
        assert order.authority_s is None, name


@given(sites())
def test_islanded_no_command_orders_anybody_anything(view: SiteView) -> None:
    """SAFETY 6: the plan is the same with and without commands, and cars rest."""
    island = replace(view, islanded=True)
    with_commands, without = make_plan(island).orders, make_plan(replace(island, orders=())).orders
    assert with_commands == without
    for name, order in with_commands.items():
        if view.devices[name].kind is DeviceKind.CHARGER:
            assert (order.lowest_w, order.highest_w) == (0, 0)


@given(
    st.sampled_from([SOME_COMMAND, replace(SOME_COMMAND, type=CommandType.CHARGE), curtail()]),
    st.integers(0, 10**6),
    st.integers(0, 7),
    st.sampled_from([OPERATOR, STRANGER]),
    st.booleans(),
)
def test_a_bit_that_is_wrong_a_stranger_s_key_or_no_signature_never_allows_power(
    command: object, place: int, bit: int, key: object, signed: bool
) -> None:
    assert isinstance(command, type(SOME_COMMAND))
    assert isinstance(key, type(OPERATOR))
    authorization = bytearray(asyncio.run(authorize(command, key)))
    good = key is OPERATOR and signed
    if signed and place % 2:
        authorization[place % len(authorization)] ^= 1 << bit
        good = False
    message = grid_command("c", command, bytes(authorization) if signed else b"")
    trust = trust_list(rights())
    decision = judge(message, "battery", policy(UnsignedCommands.RESTRICTIVE), trust, Book(), NOW)
    if good:
        assert isinstance(decision, Admitted)
    elif isinstance(decision, Admitted):
        assert decision.order.command.restrictive
        assert not signed
