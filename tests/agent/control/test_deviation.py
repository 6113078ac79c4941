"""Deviation from a schedule: energy by the registers, penalties, excuses, and what a restart leaves of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.bounds import BoundsView
from agent.control.command import Point, Price
from agent.control.deviation import (
    Agreement,
    Deviation,
    DeviationBook,
    Sums,
    keep_only,
    observe,
)
from agent.control.deviation_note import decode_deviations, encode_deviations
from agent.control.errors import RestoreError
from agent.control.plan import make_plan
from agent.control.schedule import STEP_US, Schedule
from agent.control.schedule_keeper import agreements_of
from agent.control.site import SiteView
from agent.control.tally import Register
from agent.evidence import cbor
from tests.agent.control.schedules import QUARTER_US, agreed, schedule
from tests.agent.control.support import BATTERY, CAR, NOW, SOME_COMMAND, curtail, order_of, site

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
        book, closed = observe(book, [agreed], registers, QUARTER_US + second * S)
    (deviation,) = closed
    return deviation


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
        book, closes = observe(book, [_agreement(-4_000)], {}, QUARTER_US + second * S)
    (closed,) = closes
    assert (closed.delivered_wh, closed.under_wh, closed.penalty_micro) == (None, 0, None)
    book = DeviationBook()
    for second, meter in ((0, "m"), (900, "new")):
        book, closes = observe(book, [_agreement(-4_000)], {"battery": Register(meter, 0)}, QUARTER_US + second * S)
    (closed,) = closes
    assert closed.delivered_wh is None


def test_an_outage_over_a_quarters_end_is_spread_and_marked() -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], {"battery": Register("m", 0)}, QUARTER_US)
    # Registers are seen again three quarters later: 4 kW flowed all the time.
    shown = {"battery": Register("m", -4_000 * 3 * 250)}
    book, closes = observe(book, [_agreement(-4_000)], shown, QUARTER_US + 3 * STEP_US)
    (closed,) = closes
    assert closed.estimated
    assert closed.delivered_wh == -1_000
    assert closed.under_wh == 0


def test_the_book_survives_a_restart_in_the_middle_of_a_quarter() -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], {"battery": Register("m", 0)}, QUARTER_US)
    book, _ = observe(book, [_agreement(-4_000)], {"battery": Register("m", -500_000)}, QUARTER_US + 450 * S)
    book = decode_deviations(encode_deviations(book))
    book, closes = observe(book, [_agreement(-4_000)], {"battery": Register("m", -1_000_000)}, QUARTER_US + STEP_US)
    (closed,) = closes
    assert (closed.scheduled_wh, closed.delivered_wh) == (-1_000, -1_000)


def test_sums_go_on_and_the_list_is_bounded() -> None:
    book = DeviationBook()
    for quarter in range(200):
        at_us = QUARTER_US + quarter * STEP_US
        registers = {"battery": Register("m", -750_000 * quarter)}
        book, _ = observe(book, [_agreement(-4_000)], registers, at_us)
    assert book.quarters == 199
    assert len(book.closed) == 96
    assert book.under_wh == 199 * 250
    assert book.penalties_micro == {"EUR": 199 * 2_500}


@given(
    agreed_w=st.integers(-20_000, 20_000),
    powers=st.lists(st.integers(-20_000, 20_000), min_size=1, max_size=90),
)
def test_what_is_missing_less_what_is_too_much_is_the_difference(agreed_w: int, powers: list[int]) -> None:
    book, milliwatt_hours = DeviationBook(), 0
    closes: tuple[Deviation, ...] = ()
    for index in range(91):
        registers = {"battery": Register("m", milliwatt_hours)}
        book, closes = observe(book, [_agreement(agreed_w)], registers, QUARTER_US + index * 10 * S)
        milliwatt_hours += powers[index % len(powers)] * 10_000 // 3600
    (closed,) = closes
    assert closed.delivered_wh is not None
    sign = -1 if closed.scheduled_wh < 0 else 1
    if closed.scheduled_wh != 0:
        assert closed.over_wh - closed.under_wh == sign * (closed.delivered_wh - closed.scheduled_wh)
    assert min(closed.over_wh, closed.under_wh) == 0


def test_each_of_several_schedules_has_its_own_deviation() -> None:
    book = DeviationBook()
    battery, connection = _agreement(-4_000), _agreement(2_000, schedule_hash=b"c" * 32, devices=("connection",))
    for second in range(0, 901, 10):
        registers = {
            "battery": Register("m", -3_000 * second * 1000 // 3600),
            "connection": Register("g", 3_000 * second * 1000 // 3600),
        }
        book, closed = observe(book, [battery, connection], registers, QUARTER_US + second * S)
    found = {deviation.schedule_hash: (deviation.under_wh, deviation.over_wh) for deviation in closed}
    assert found == {b"h" * 32: (250, 0), b"c" * 32: (0, 250)}
    assert (book.quarters, book.under_wh, book.over_wh) == (2, 250, 250)
    assert book.by_schedule == {
        b"h" * 32: Sums(quarters=1, under_wh=250),
        b"c" * 32: Sums(quarters=1, over_wh=250),
    }
    assert decode_deviations(encode_deviations(book)).by_schedule == book.by_schedule
    assert keep_only(book, {b"c" * 32}).by_schedule.keys() == {b"c" * 32}
    assert keep_only(book, set()).quarters == 2


def test_a_schedule_that_ends_within_a_quarter_leaves_the_other_one_open() -> None:
    other = _agreement(2_000, schedule_hash=b"c" * 32, devices=("car",))
    registers = {"battery": Register("m", 0), "car": Register("n", 0)}
    book, _ = observe(DeviationBook(), [_agreement(-4_000), other], registers, QUARTER_US)
    book, closed = observe(book, [other], registers, QUARTER_US + 450 * S)
    assert [(deviation.schedule_hash, deviation.under_wh) for deviation in closed] == [(b"h" * 32, 500)]
    assert book.open.keys() == {b"c" * 32}
    assert book.open[b"c" * 32].start_us == QUARTER_US


def test_the_note_of_a_version_with_one_open_quarter_is_still_read() -> None:
    book, _ = observe(DeviationBook(under_wh=7), [_agreement(-4_000)], {"battery": Register("m", 0)}, QUARTER_US)
    value = cbor.decode(encode_deviations(book), what="note")
    assert isinstance(value, list)
    assert isinstance(value[5], list)
    old = cbor.encode([1, *value[1:5], value[5][0]])
    assert decode_deviations(old) == decode_deviations(encode_deviations(book))
    assert decode_deviations(cbor.encode([1, *value[1:5], None])) == replace(book, open={})


@pytest.mark.parametrize("own", [[[b"h" * 32, 1, 2]], ["x"], [[1, 1, 1, 1]]])
def test_damaged_sums_of_a_schedule_are_said(own: list[cbor.Value]) -> None:
    with pytest.raises(RestoreError, match="sums"):
        decode_deviations(cbor.encode([2, 0, 0, 0, [], [], own]))


# -- meters that are lost, clocks that are set, changes in the middle


def _at_4_kw(seconds: int) -> dict[str, Register]:
    return {"battery": Register("m", -4_000 * seconds * 1000 // 3600)}


def _with_gap(gap: range, until_s: int = 901) -> list[Deviation]:
    """As agreed all the time, but in the gap the meter shows nothing."""
    book, found = DeviationBook(), list[Deviation]()
    for second in range(0, until_s, 10):
        registers = {} if second in gap else _at_4_kw(second)
        now_us = QUARTER_US + second * S
        book, closed = observe(book, [_agreement(-4_000)], registers, now_us, 7 + second * S)
        found += closed
    return found


def test_a_meter_that_is_lost_within_a_quarter_and_back_before_its_end_changes_nothing() -> None:
    (closed,) = _with_gap(range(100, 800))
    assert (closed.delivered_wh, closed.estimated) == (-1_000, False)


@pytest.mark.parametrize("gap", [range(600, 901), range(300)])
def test_a_meter_that_is_lost_at_an_end_of_a_quarter_is_spread_and_marked(gap: range) -> None:
    (closed,) = _with_gap(gap)
    assert closed.estimated
    assert closed.delivered_wh is not None
    assert abs(closed.delivered_wh + 1_000) <= 1
    assert closed.under_wh + closed.over_wh <= 1


@pytest.mark.parametrize("gap", [range(300, 901), range(600)])
def test_a_meter_that_shows_less_than_half_of_a_quarter_accuses_nobody(gap: range) -> None:
    (closed,) = _with_gap(gap)
    assert (closed.delivered_wh, closed.under_wh, closed.over_wh, closed.penalty_micro) == (None, 0, 0, None)


def test_a_meter_that_is_lost_over_a_quarters_end_makes_neither_of_both_wrong() -> None:
    for closed in _with_gap(range(700, 1_300), until_s=1_801):
        assert closed.under_wh + closed.over_wh <= 1


@pytest.mark.parametrize("jump_s", [600, -600, 7_200, -7_200, 3, -3])
@pytest.mark.parametrize("reads_uptime", [True, False])
def test_a_clock_that_is_set_makes_nobody_miss_what_was_agreed(jump_s: int, reads_uptime: bool) -> None:
    if not reads_uptime and jump_s != -7_200:
        return  # Without it only a clock before the quarter's beginning shows.
    book, found = DeviationBook(), list[Deviation]()
    for second in range(0, 2_701, 10):
        now_us = QUARTER_US + (second + (jump_s if second > 450 else 0)) * S
        uptime_us = 7 + second * S if reads_uptime else None
        book, closed = observe(book, [_agreement(-4_000)], _at_4_kw(second), now_us, uptime_us)
        found += closed
    assert found
    assert all(closed.until_us - closed.from_us <= STEP_US for closed in found)
    # Of the one look in which the clock was set nothing is reckoned.
    assert sum(closed.under_wh + closed.over_wh for closed in found) <= len(found)
    assert [closed.estimated for closed in found].count(True) == 1


def test_a_clock_that_is_slewed_ends_nothing() -> None:
    book = DeviationBook()
    for second in range(0, 900, 10):
        now_us = QUARTER_US + second * S + second * 500  # 500 ppm
        book, closed = observe(book, [_agreement(-4_000)], _at_4_kw(second), now_us, second * S)
        assert closed == ()


@pytest.mark.parametrize("after_s", [1, 30, 300])
def test_one_that_is_replaced_within_a_quarter_is_reckoned_until_then_and_the_other_from_then_on(after_s: int) -> None:
    book, found = DeviationBook(), list[Deviation]()
    for second in range(901):
        key = b"h" * 32 if second < after_s else b"n" * 32
        agreement = _agreement(-4_000, schedule_hash=key)
        book, closed = observe(book, [agreement], _at_4_kw(second), QUARTER_US + second * S, second * S)
        found += closed
    assert [(c.from_us, c.until_us) for c in found] == [
        (QUARTER_US, QUARTER_US + after_s * S),
        (QUARTER_US + after_s * S, QUARTER_US + STEP_US),
    ]
    assert all(closed.under_wh + closed.over_wh <= 1 for closed in found)


def test_after_a_long_time_off_what_flowed_is_no_word_about_one_quarter() -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], _at_4_kw(0), QUARTER_US)
    _, (closed,) = observe(book, [_agreement(-4_000)], _at_4_kw(9_000), QUARTER_US + 9_000 * S)
    assert (closed.delivered_wh, closed.penalty_micro) == (None, None)


def _excused(view: SiteView, **changes: object) -> bool:
    made = agreed(schedule()).order(NOW)
    assert made is not None
    view = replace(view, orders=(*view.orders, made), **changes)  # type: ignore[arg-type]  # fields of SiteView
    (agreement,) = agreements_of(view, make_plan(view), None)
    return agreement.commanded


def test_a_command_that_has_its_devices_or_a_limit_that_binds_them_excuses() -> None:
    assert _excused(site(BATTERY, orders=(order_of(SOME_COMMAND),)))
    assert _excused(site(BATTERY, orders=(order_of(curtail(1_000)),)))
    assert _excused(site(BATTERY, orders=(order_of(curtail(1_000, point=Point.CONNECTION)),)))


def test_a_command_that_leaves_its_devices_alone_excuses_nothing() -> None:
    assert not _excused(site(BATTERY, CAR, orders=(order_of(replace(SOME_COMMAND, targets=("car",))),)))
    assert not _excused(site(BATTERY, orders=(order_of(curtail(20_000)),)))
    # One that this hour's bound keeps from beginning: the schedule is followed.
    bounds = BoundsView(events_left=0, begun=frozenset({b"s" * 32, agreed(schedule()).hash}))
    assert not _excused(site(BATTERY, orders=(order_of(SOME_COMMAND),)), bounds=bounds)


def test_what_a_quarter_remembers_of_its_ends_survives_a_restart() -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], {}, QUARTER_US)
    book, _ = observe(book, [_agreement(-4_000)], _at_4_kw(300), QUARTER_US + 300 * S)
    (kept,) = decode_deviations(encode_deviations(book)).open.values()
    (was,) = book.open.values()
    assert (kept.from_us, kept.first_us, kept.first) == (was.from_us, was.first_us, was.first)


def test_what_was_true_in_a_part_of_a_quarter_is_remembered_to_its_end() -> None:
    """A command for a minute excuses the quarter; a price that was known once prices it; what bound it is told."""
    book = DeviationBook()
    for second in range(0, 901, 10):
        in_part = second == 300
        agreement = _agreement(
            -4_000, commanded=in_part, price=SPOT if in_part else None, reason="rating" if in_part else ""
        )
        book, closed = observe(book, [agreement], {"battery": Register("m", 0)}, QUARTER_US + second * S)
    (deviation,) = closed
    assert (deviation.excused, deviation.under_wh, deviation.penalty_micro) == (True, 0, 0)
    assert (deviation.currency, deviation.reason) == ("EUR", "rating")


def test_when_other_devices_count_another_reckoning_begins() -> None:
    registers = {"battery": Register("m", 0), "car": Register("n", 0)}
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], registers, QUARTER_US)
    more = _agreement(-4_000, devices=("battery", "car"))
    book, closed = observe(book, [more], registers, QUARTER_US + 450 * S)
    assert [(c.from_us, c.until_us, c.under_wh) for c in closed] == [(QUARTER_US, QUARTER_US + 450 * S, 500)]
    (opened,) = book.open.values()
    assert (opened.devices, opened.from_us) == (("battery", "car"), QUARTER_US + 450 * S)


@pytest.mark.parametrize("times", [[1], [1, [["battery", "x"]]], [1, [["other", 1]]], [1, [["battery", -1]]]])
def test_damaged_times_of_a_quarter_are_said(times: list[cbor.Value]) -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], _at_4_kw(0), QUARTER_US)
    value = cbor.decode(encode_deviations(book), what="note")
    assert isinstance(value, list)
    assert isinstance(value[5], list)
    assert isinstance(value[5][0], list)
    value[5][0][10:] = times
    with pytest.raises(RestoreError, match="time"):
        decode_deviations(cbor.encode(value))


def _agreed_at(*schedules: tuple[str, Schedule], site_: SiteView | None = None) -> dict[str, Agreement]:
    """By name: what is reckoned with, the newest schedule first."""
    orders = []
    for name, one in schedules:
        made = replace(agreed(one), hash=name.encode().ljust(32, b"\0")).order(NOW)
        assert made is not None
        orders.append(made)
    view = replace(site_ or site(), orders=tuple(orders))
    found = agreements_of(view, make_plan(view), None)
    return {agreement.schedule_hash.rstrip(b"\0").decode(): agreement for agreement in found}


def test_schedules_for_different_devices_and_points_are_all_reckoned_with() -> None:
    found = _agreed_at(
        ("battery", schedule()),
        ("car", schedule(targets=("car",), steps=(1_000,))),
        ("connection", schedule(targets=(), point=Point.CONNECTION, steps=(3_000,))),
    )
    assert {name: (each.devices, each.power_w) for name, each in found.items()} == {
        "battery": (("battery",), -4_000),
        "car": (("car",), 1_000),
        "connection": (("connection",), 3_000),
    }


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (schedule(), schedule(steps=(5_000,))),
        (schedule(), schedule(targets=("battery", "car"))),
        (schedule(targets=(), point=Point.CONNECTION), schedule()),
        (schedule(), schedule(targets=("battery",), point=Point.CONNECTION)),
        (schedule(targets=("car",), point=Point.CONNECTION), schedule(targets=("battery",), point=Point.CONNECTION)),
    ],
)
def test_of_two_for_one_device_or_for_the_connection_the_newer_is_reckoned_with(
    newer: Schedule, older: Schedule
) -> None:
    assert _agreed_at(("newer", newer), ("older", older)).keys() == {"newer"}


def test_what_stop_keeps_from_following_is_reckoned_with_and_says_why() -> None:
    found = _agreed_at(("battery", schedule()), site_=site(stop="me"))
    assert "local STOP by me" in found["battery"].reason


@given(st.binary(max_size=80))
def test_a_damaged_note_is_said(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode_deviations(note)


@pytest.mark.parametrize("price", [["dear", "EUR"], [None, "EUR"], [1], [1, 2], "EUR"])
def test_a_damaged_price_in_the_open_quarter_is_said_and_stops_no_start(price: cbor.Value) -> None:
    book, _ = observe(DeviationBook(), [_agreement(-4_000)], {"battery": Register("m", 0)}, QUARTER_US)
    value = cbor.decode(encode_deviations(book), what="note")
    assert isinstance(value, list)
    assert isinstance(value[5], list)
    assert isinstance(value[5][0], list)
    value[5][0][9] = price
    with pytest.raises(RestoreError, match="open quarter"):
        decode_deviations(cbor.encode(value))
