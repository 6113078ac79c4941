"""Deviation from a schedule: energy by the registers, penalties, excuses, and what a restart leaves of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.command import Price
from agent.control.deviation import (
    Agreement,
    Deviation,
    DeviationBook,
    decode_deviations,
    encode_deviations,
    observe,
)
from agent.control.errors import RestoreError
from agent.control.schedule import STEP_US
from agent.control.tally import Register
from agent.evidence import cbor
from tests.agent.control.schedules import QUARTER_US

SPOT = Price(200_000, "EUR")  # 0.20 EUR per kWh
S = 1_000_000


def _agreement(power_w: int, **changes: object) -> Agreement:
    base = Agreement(
        schedule_hash=b"h" * 32, power_w=power_w, devices=("battery",), commanded=False, reason="", price=SPOT
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Agreement


def _quarter(agreed: Agreement, actual_w: int, *, every_s: int = 10, book: DeviationBook | None = None) -> Deviation:
    """One whole quarter at this power, seen now and then."""
    book = book or DeviationBook()
    for second in range(0, 901, every_s):
        registers = {"battery": Register("m", actual_w * second * 1000 // 3600)}
        book, closed = observe(book, agreed, registers, QUARTER_US + second * S)
    assert closed is not None
    return closed


@pytest.mark.parametrize(
    ("agreed_w", "actual_w", "under_wh", "over_wh", "penalty_micro"),
    [
        (-4_000, -4_000, 0, 0, 0),
        (-4_000, -3_000, 250, 0, 2_500),  # 250 Wh at 0.20 EUR/kWh: 0.05 EUR, 5 % of it
        (-4_000, -5_000, 0, 250, 1_000),
        (-4_000, 1_000, 1_250, 0, 12_500),
        (4_000, 3_000, 250, 0, 2_500),
        (4_000, 5_000, 0, 250, 1_000),
        (0, 1_000, 0, 250, 1_000),
        (0, -1_000, 0, 250, 1_000),
    ],
)
def test_what_is_missing_costs_five_percent_and_what_is_too_much_two(
    agreed_w: int, actual_w: int, under_wh: int, over_wh: int, penalty_micro: int
) -> None:
    closed = _quarter(_agreement(agreed_w), actual_w)
    assert (closed.under_wh, closed.over_wh, closed.penalty_micro) == (under_wh, over_wh, penalty_micro)
    assert closed.scheduled_wh == agreed_w // 4
    assert closed.delivered_wh == actual_w // 4


def test_a_quarter_in_which_a_command_went_before_is_excused() -> None:
    closed = _quarter(_agreement(-4_000, commanded=True), 0)
    assert closed.excused
    assert (closed.under_wh, closed.penalty_micro) == (0, 0)


def test_without_a_price_energy_is_told_and_no_money() -> None:
    closed = _quarter(_agreement(-4_000, price=None), 0)
    assert (closed.under_wh, closed.penalty_micro) == (1_000, None)


def test_a_meter_that_is_missing_or_exchanged_accuses_nobody() -> None:
    book = DeviationBook()
    for second in (0, 900):
        book, closed = observe(book, _agreement(-4_000), {}, QUARTER_US + second * S)
    assert closed is not None
    assert (closed.delivered_wh, closed.under_wh, closed.penalty_micro) == (None, 0, None)
    book = DeviationBook()
    for second, meter in ((0, "m"), (900, "new")):
        book, closed = observe(book, _agreement(-4_000), {"battery": Register(meter, 0)}, QUARTER_US + second * S)
    assert closed is not None
    assert closed.delivered_wh is None


def test_an_outage_over_a_quarters_end_is_spread_and_marked() -> None:
    book, _ = observe(DeviationBook(), _agreement(-4_000), {"battery": Register("m", 0)}, QUARTER_US)
    # Registers are seen again three quarters later: 4 kW flowed all the time.
    shown = {"battery": Register("m", -4_000 * 3 * 250)}
    book, closed = observe(book, _agreement(-4_000), shown, QUARTER_US + 3 * STEP_US)
    assert closed is not None
    assert closed.estimated
    assert closed.delivered_wh == -1_000
    assert closed.under_wh == 0


def test_the_book_survives_a_restart_in_the_middle_of_a_quarter() -> None:
    book, _ = observe(DeviationBook(), _agreement(-4_000), {"battery": Register("m", 0)}, QUARTER_US)
    book, _ = observe(book, _agreement(-4_000), {"battery": Register("m", -500_000)}, QUARTER_US + 450 * S)
    book = decode_deviations(encode_deviations(book))
    book, closed = observe(book, _agreement(-4_000), {"battery": Register("m", -1_000_000)}, QUARTER_US + STEP_US)
    assert closed is not None
    assert (closed.scheduled_wh, closed.delivered_wh) == (-1_000, -1_000)


def test_sums_go_on_and_the_list_is_bounded() -> None:
    book = DeviationBook()
    for quarter in range(200):
        at_us = QUARTER_US + quarter * STEP_US
        registers = {"battery": Register("m", -750_000 * quarter)}
        book, _ = observe(book, _agreement(-4_000), registers, at_us)
    assert book.quarters == 199
    assert len(book.closed) == 96
    assert book.under_wh == 199 * 250
    assert book.penalties_micro == {"EUR": 199 * 2_500}


@given(
    agreed_w=st.integers(-20_000, 20_000),
    powers=st.lists(st.integers(-20_000, 20_000), min_size=1, max_size=90),
)
def test_what_is_missing_less_what_is_too_much_is_the_difference(agreed_w: int, powers: list[int]) -> None:
    book, closed, milliwatt_hours = DeviationBook(), None, 0
    for index in range(91):
        registers = {"battery": Register("m", milliwatt_hours)}
        book, closed = observe(book, _agreement(agreed_w), registers, QUARTER_US + index * 10 * S)
        milliwatt_hours += powers[index % len(powers)] * 10_000 // 3600
    assert closed is not None
    assert closed.delivered_wh is not None
    sign = -1 if closed.scheduled_wh < 0 else 1
    if closed.scheduled_wh != 0:
        assert closed.over_wh - closed.under_wh == sign * (closed.delivered_wh - closed.scheduled_wh)
    assert min(closed.over_wh, closed.under_wh) == 0


@given(st.binary(max_size=80))
def test_a_damaged_note_is_said(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode_deviations(note)


@pytest.mark.parametrize("price", [["dear", "EUR"], [None, "EUR"], [1], [1, 2], "EUR"])
def test_a_damaged_price_in_the_open_quarter_is_said_and_stops_no_start(price: cbor.Value) -> None:
    book, _ = observe(DeviationBook(), _agreement(-4_000), {"battery": Register("m", 0)}, QUARTER_US)
    value = cbor.decode(encode_deviations(book), what="note")
    assert isinstance(value, list)
    assert isinstance(value[5], list)
    value[5][-1] = price
    with pytest.raises(RestoreError, match="open quarter"):
        decode_deviations(cbor.encode(value))
