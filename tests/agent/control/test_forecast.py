"""What will happen at a moment to come: commands sent ahead, schedules, departures, defaults."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.control.book import Book
from agent.control.command import CommandType
from agent.control.forecast import Foreseen, foresee
from agent.control.order import Now, Order
from agent.control.override import Override
from agent.control.site import CarDay, SiteView
from agent.evidence.statements import CommandState
from tests.agent.control.schedules import agreed, schedule
from tests.agent.control.strategies import sites
from tests.agent.control.support import BATTERY, CAR, HOUR_US, NOW, PLAIN, SOME_COMMAND, START_US, order_of, site

AHEAD = replace(SOME_COMMAND, start_us=START_US + HOUR_US, end_us=START_US + 2 * HOUR_US)


def _book(*orders: Order) -> Book:
    book = Book()
    for order in orders:
        book = book.admitted(order, CommandState.ACCEPTED, "", NOW).book.committed(order.hash)
    return book


def _nothing(_: Now) -> tuple[Order, ...]:
    return ()


def _device(foreseen: Foreseen, name: str) -> tuple[int | None, int | None]:
    return next((d.lowest_w, d.highest_w) for d in foreseen.devices if d.device_id == name)


def test_a_command_that_was_sent_ahead_is_foreseen_from_its_start_to_its_end() -> None:
    book, view = _book(order_of(AHEAD)), site(BATTERY)
    before = foresee(view, book, _nothing, START_US + HOUR_US - 1)
    assert _device(before, "battery") == (None, None)
    assert "the owner's defaults hold" in " ".join(before.sentences)
    during = foresee(view, book, _nothing, START_US + HOUR_US)
    assert _device(during, "battery") == (-5_000, -5_000)
    assert during.orders[0].in_force
    after = foresee(view, book, _nothing, START_US + 2 * HOUR_US)
    assert after.orders == ()


def test_of_two_commands_of_one_issuer_the_later_one_is_foreseen() -> None:
    later = replace(AHEAD, sequence=2, power_w=1_000)
    foreseen = foresee(site(BATTERY), _book(order_of(AHEAD, "a"), order_of(later, "b")), _nothing, AHEAD.start_us)
    assert _device(foreseen, "battery") == (-1_000, -1_000)
    assert len(foreseen.orders) == 1


def test_a_schedule_is_foreseen_and_a_command_goes_before_it() -> None:
    day = agreed(schedule(steps=(-2_000,) * 12))

    def schedules(at: Now) -> tuple[Order, ...]:
        order = day.order(at)
        return () if order is None else (order,)

    alone = foresee(site(BATTERY), Book(), schedules, START_US + HOUR_US)
    assert _device(alone, "battery") == (-2_000, -2_000)
    assert "the schedule is followed" in alone.sentences[-1]
    both = foresee(site(BATTERY), _book(order_of(AHEAD)), schedules, START_US + HOUR_US)
    assert _device(both, "battery") == (-5_000, -5_000)
    assert [order.in_force for order in both.orders] == [True, False]


def test_a_departure_that_will_press_is_foreseen_and_a_car_that_will_have_left_is_gone() -> None:
    assert CAR.vehicle is not None
    need = replace(CAR.vehicle, energy_needed_wh=22_000, departure_timestamp_us=START_US + 4 * HOUR_US)
    car = replace(CAR, day=CarDay.DEPARTURE, vehicle=need)
    rest = replace(AHEAD, targets=("car",), type=CommandType.IDLE, power_w=0, end_us=START_US + 6 * HOUR_US)
    book = _book(order_of(rest))
    assert _device(foresee(site(car), book, _nothing, START_US + HOUR_US), "car") == (0, 0)
    pressing = foresee(site(car), book, _nothing, START_US + 2 * HOUR_US)
    assert _device(pressing, "car") == (0, 11_000)
    gone = foresee(site(car), book, _nothing, START_US + 5 * HOUR_US)
    assert "car: its car has left by then." in gone.sentences


def test_a_stop_that_holds_is_foreseen_to_hold() -> None:
    foreseen = foresee(replace(site(BATTERY, PLAIN), stop="me"), _book(order_of(AHEAD)), _nothing, AHEAD.start_us)
    assert {(d.lowest_w, d.highest_w) for d in foreseen.devices} == {(0, 0)}
    assert any("Local STOP by me" in line for line in foreseen.sentences)


@given(sites(), st.integers(0, 7 * 24))
def test_any_site_can_be_foreseen(view: SiteView, hours: int) -> None:
    foreseen = foresee(replace(view, orders=()), _book(order_of(AHEAD)), _nothing, START_US + hours * HOUR_US)
    assert {d.device_id for d in foreseen.devices} == set(view.devices)
    assert foreseen == foresee(replace(view, orders=()), _book(order_of(AHEAD)), _nothing, START_US + hours * HOUR_US)


def test_a_hold_by_hand_is_foreseen_until_its_end_and_not_beyond() -> None:
    until_us = START_US + HOUR_US
    hold = Override(
        device_id="battery", power_w=-2_000, since_us=START_US, until_us=until_us, by="me", until_uptime_us=HOUR_US
    )
    view = site(BATTERY, overrides={"battery": hold})
    assert _device(foresee(view, Book(), _nothing, until_us - 1), "battery") == (-2_000, -2_000)
    assert _device(foresee(view, Book(), _nothing, until_us), "battery") == (None, None)
