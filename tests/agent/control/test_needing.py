"""What a car still needs: whose word counts, how it is counted down, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import DeviceSettings
from agent.control.day import SunPace
from agent.control.day_watch import NEED, DaySettings, DayWatch
from agent.control.errors import NotNowError, RestoreError
from agent.control.needing import (
    CarNeed,
    DefaultNeed,
    Wish,
    WishError,
    decode_need,
    encode_need,
    in_need,
    next_local_us,
    step_need,
)
from agent.control.order import Now
from agent.control.plan import make_plan
from agent.control.site import CarDay
from agent.control.tally import Register
from agent.control.viewing import with_day_of
from drivers.device import VehicleSession
from drivers.ocpp.timestamps import parse_timestamp_us
from tests.agent.control.support import HOUR_US, NOW, PLAIN, START_US, site

BERLIN = ZoneInfo("Europe/Berlin")
DEFAULT = DefaultNeed(departure=time(7, 30), zone=BERLIN, energy_wh=10_000)
CAR = VehicleSession(transaction_id="t1", token_id="a", energy_needed_wh=20_000)


def _at(wh: int, meter: str = "m") -> Register:
    return Register(meter, wh * 1000)


def test_the_drivers_word_goes_before_the_cars_and_that_before_the_default() -> None:
    silent = VehicleSession(transaction_id="t1", token_id="a")
    assert step_need(CarNeed(), silent, None, DEFAULT, NOW).energy_wh == 10_000
    told = step_need(CarNeed(), CAR, None, DEFAULT, NOW)
    assert (told.energy_wh, told.by) == (20_000, "car")
    wished = step_need(CarNeed(transaction_id="t1", wish=Wish(energy_wh=5_000)), CAR, None, DEFAULT, NOW)
    assert (wished.energy_wh, wished.by) == (5_000, "driver")


def test_what_is_left_is_counted_on_the_register_and_a_discharge_counts_too() -> None:
    need = step_need(CarNeed(), CAR, _at(100_000), None, NOW)
    assert in_need(CAR, need, _at(112_000)).energy_needed_wh == 8_000
    assert in_need(CAR, need, _at(95_000)).energy_needed_wh == 25_000
    assert in_need(CAR, need, _at(150_000)).energy_needed_wh == 0


def test_a_car_that_needs_nothing_needs_nothing_after_it_gave() -> None:
    car = replace(CAR, energy_needed_wh=0)
    need = step_need(CarNeed(), car, _at(100_000), None, NOW)
    assert in_need(car, need, _at(95_000)).energy_needed_wh == 0


def test_without_a_register_nothing_is_counted_down() -> None:
    need = step_need(CarNeed(), CAR, None, None, NOW)
    assert in_need(CAR, need, None).energy_needed_wh == 20_000
    need = step_need(need, CAR, _at(7_000), None, NOW)
    assert in_need(CAR, need, _at(9_000)).energy_needed_wh == 18_000


def test_another_meter_starts_the_count_anew() -> None:
    need = step_need(CarNeed(), CAR, _at(100_000), None, NOW)
    assert in_need(CAR, need, _at(3, "new")).energy_needed_wh == 20_000
    need = step_need(need, CAR, _at(3, "new"), None, NOW)
    assert in_need(CAR, need, _at(1_003, "new")).energy_needed_wh == 19_000


def test_the_next_transaction_keeps_nothing_of_the_last() -> None:
    need = step_need(CarNeed(transaction_id="t1", wish=Wish(energy_wh=5_000)), CAR, _at(1), None, NOW)
    other = VehicleSession(transaction_id="t2", token_id="a")
    assert step_need(need, other, _at(2), None, NOW) == CarNeed(transaction_id="t2", told_at=_at(2))


def test_a_wish_from_before_the_authorisation_is_of_this_session() -> None:
    need = step_need(CarNeed(wish=Wish(energy_wh=5_000)), CAR, _at(1), None, NOW)
    assert (need.transaction_id, need.energy_wh) == ("t1", 5_000)


def test_the_default_departure_is_the_next_one_by_local_clocks_and_stays() -> None:
    evening = datetime(2026, 3, 28, 21, 0, tzinfo=UTC)  # the night in which clocks go forward
    now = Now(wall_us=round(evening.timestamp() * 1e6))
    need = step_need(CarNeed(), CAR, None, DEFAULT, now)
    leaves = datetime(2026, 3, 29, 5, 30, tzinfo=UTC)
    assert need.default_departure_us == round(leaves.timestamp() * 1e6)
    later = Now(wall_us=now.wall_us + 12 * HOUR_US)
    assert step_need(need, CAR, None, DEFAULT, later).default_departure_us == need.default_departure_us


@given(st.integers(1_700_000_000, 1_900_000_000), st.integers(0, 23), st.integers(0, 59))
def test_the_next_local_time_is_within_a_day_and_an_hour(now_s: int, hour: int, minute: int) -> None:
    next_us = next_local_us(time(hour, minute), BERLIN, now_s * 1_000_000)
    assert 0 < next_us - now_s * 1_000_000 <= 25 * HOUR_US


@given(
    st.builds(
        CarNeed,
        transaction_id=st.none() | st.text(max_size=10),
        wish=st.builds(
            Wish, energy_wh=st.none() | st.integers(0, 10**6), departure_us=st.none() | st.integers(0, 2**53)
        ),
        energy_wh=st.none() | st.integers(0, 10**9),
        by=st.sampled_from(["", "car"]),
        told_at=st.none() | st.builds(Register, st.text(max_size=5), st.integers(-(10**15), 10**15)),
        default_departure_us=st.none() | st.integers(0, 2**53),
    )
)
def test_a_need_survives_the_store(need: CarNeed) -> None:
    assert decode_need(encode_need(need)) == need


@given(st.binary(max_size=60))
def test_a_damaged_note_is_said_and_nothing_else(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode_need(note)


def test_a_wish_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(WishError, match="outside"):
        Wish(energy_wh=-1)
    for departure_us in (START_US, START_US - 1, START_US + 8 * 24 * HOUR_US):
        with pytest.raises(WishError, match="past, or more than 7 days"):
            Wish(departure_us=departure_us).check(START_US)


def _watch() -> DayWatch:
    return DayWatch(DaySettings(zone=BERLIN, pace=SunPace()))


def test_a_wish_and_what_was_charged_survive_a_restart() -> None:
    first = _watch()
    first.restore({})
    first.look(site(PLAIN), {"plain": _at(0)}, 1.0)
    first.wish("plain", Wish(energy_wh=8_000, departure_us=START_US + HOUR_US), START_US)
    first.look(site(PLAIN), {"plain": _at(1_000)}, 2.0)
    notes = {key: note for key, note in first.take_notes().items() if note is not None}
    assert first.take_notes() == {}
    second = _watch()
    second.look(site(PLAIN), {}, 1.0)  # before the store was read
    assert second.restore(notes) == []
    car = second.look(site(PLAIN), {"plain": _at(4_000)}, 2.0).devices["plain"].vehicle
    assert car is not None
    assert (car.energy_needed_wh, car.departure_timestamp_us) == (5_000, START_US + HOUR_US)


def test_a_car_that_has_gone_takes_its_need_with_it() -> None:
    watch = _watch()
    watch.restore({})
    watch.look(site(PLAIN), {"plain": _at(0)}, 1.0)
    assert set(watch.take_notes()) == {NEED + "plain"}
    watch.look(site(replace(PLAIN, vehicle=None, online=False)), {}, 2.0)
    assert watch.take_notes() == {}  # its charger is silent: it may still be there
    watch.look(site(replace(PLAIN, vehicle=None)), {}, 3.0)
    assert watch.take_notes() == {NEED + "plain": None}
    with pytest.raises(NotNowError, match="no car is plugged in"):
        watch.wish("plain", Wish(energy_wh=1), START_US)


def test_damaged_notes_are_named_and_cost_nothing_else() -> None:
    watch = _watch()
    assert "need/plain" in watch.restore({NEED + "plain": b"junk"})[0]


def test_a_charger_that_is_added_has_its_day_at_once() -> None:
    settings = DaySettings(zone=BERLIN, pace=SunPace())
    watch = DayWatch(settings)
    added = DeviceSettings.model_validate(
        {"id": "plain", "kind": "charger", "driver": "ocpp", "charger_id": "C", "day": "departure",
         "departure_time": "07:30", "departure_energy_wh": 9_000}
    )  # fmt: skip
    assert watch.look(site(PLAIN), {}, 1.0).devices["plain"].day is None
    watch.use(with_day_of(settings, added))
    seen = watch.look(site(PLAIN), {}, 2.0).devices["plain"]
    assert seen.day is CarDay.DEPARTURE
    assert seen.vehicle is not None
    assert seen.vehicle.energy_needed_wh == 9_000


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"])
def test_a_car_that_leaves_when_nobody_can_has_not_said_when(text: str) -> None:
    """Its sentence would stop every plan of the site."""
    vehicle = replace(CAR, departure_timestamp_us=parse_timestamp_us(text))
    watch = DayWatch(DaySettings(zone=BERLIN, pace=SunPace(), days={"plain": CarDay.DEPARTURE}))
    plan = make_plan(watch.look(site(replace(PLAIN, vehicle=vehicle)), {}, 0.0))
    assert "nobody told when" in plan.orders["plain"].reason
    assert in_need(vehicle, step_need(CarNeed(), vehicle, None, DEFAULT, NOW), None).departure_timestamp_us == (
        next_local_us(time(7, 30), BERLIN, NOW.wall_us)
    )


@pytest.mark.parametrize(
    "need",
    [
        CarNeed(default_departure_us=2**62),
        CarNeed(wish=Wish(departure_us=2**62)),
        CarNeed(wish=Wish(departure_us=-1)),
        CarNeed(energy_wh=-1),
        CarNeed(energy_wh=2**62),
    ],
)
def test_a_stored_need_that_nobody_can_have_is_damaged(need: CarNeed) -> None:
    with pytest.raises(RestoreError):
        decode_need(encode_need(need))
