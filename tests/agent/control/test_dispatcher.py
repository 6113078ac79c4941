"""Carrying out: what goes out at once, what waits for the renewal, and what a device is believed to hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.control.dispatcher import Carriage, Deed, believed, next_step
from agent.control.plan import DeviceOrder
from agent.control.site import Held
from drivers.device import DeviceKind, Setpoint

LEASE_S = 60.0


def _order(low: int | None, high: int | None) -> DeviceOrder:
    return DeviceOrder(device_id="d", lowest_w=low, highest_w=high, reason="r")


HOLDING = Carriage(
    kind=DeviceKind.CHARGER,
    wanted=_order(0, 7_000),
    confirmed=_order(0, 7_000),
    touched=True,
    confirmed_s=100.0,
)


def test_a_device_that_was_never_touched_is_not_written_to_when_it_shall_be_left_to_itself() -> None:
    carriage = Carriage(kind=DeviceKind.PV, wanted=_order(None, None))
    assert next_step(carriage, False, LEASE_S, 0.0)[0] is Deed.NOTHING


def test_a_device_that_may_hold_something_of_ours_is_released() -> None:
    carriage = Carriage(kind=DeviceKind.PV, wanted=_order(None, None), touched=True)
    assert next_step(carriage, True, LEASE_S, 0.0) == (Deed.RELEASE, 0.0)


def test_the_first_order_goes_out_at_once() -> None:
    carriage = Carriage(kind=DeviceKind.BATTERY, wanted=_order(-5_000, -5_000))
    assert next_step(carriage, False, LEASE_S, 7.0) == (Deed.APPLY, 0.0)


def test_a_permission_is_renewed_at_a_third_of_its_lease() -> None:
    assert next_step(HOLDING, True, LEASE_S, 100.0) == (Deed.APPLY, 20.0)
    assert next_step(HOLDING, True, LEASE_S, 120.0) == (Deed.APPLY, 0.0)


@pytest.mark.parametrize(("low", "high"), [(0, 6_990), (0, 0), (0, 3_000)])
def test_what_narrows_or_stops_goes_out_at_once(low: int, high: int) -> None:
    assert next_step(replace(HOLDING, wanted=_order(low, high)), True, LEASE_S, 100.0) == (Deed.APPLY, 0.0)


def test_a_small_raise_waits_for_the_renewal_and_a_cars_raise_for_five_seconds() -> None:
    assert next_step(replace(HOLDING, wanted=_order(0, 7_040)), True, LEASE_S, 101.0) == (Deed.APPLY, 19.0)
    assert next_step(replace(HOLDING, wanted=_order(0, 9_000)), True, LEASE_S, 101.0) == (Deed.APPLY, 4.0)
    battery = replace(HOLDING, kind=DeviceKind.BATTERY, wanted=_order(0, 9_000))
    assert next_step(battery, True, LEASE_S, 101.0) == (Deed.APPLY, 0.0)


def test_a_band_that_the_device_no_longer_shows_is_given_again_soon() -> None:
    assert next_step(HOLDING, False, LEASE_S, 101.0) == (Deed.APPLY, 1.0)


def test_a_device_that_does_not_answer_is_tried_again_with_growing_pauses() -> None:
    waits = []
    for failures in range(1, 8):
        carriage = replace(HOLDING, failures=failures, failed_s=100.0, attempted=_order(0, 0), wanted=_order(0, 0))
        waits.append(next_step(carriage, True, LEASE_S, 100.0)[1])
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_refused_order_is_not_repeated_soon_but_another_one_is() -> None:
    refused = replace(
        HOLDING, wanted=_order(-5, -5), failed_order=_order(-5, -5), failures=1, failed_s=100.0, refused=True
    )
    assert next_step(refused, True, LEASE_S, 100.0)[1] == 30.0
    assert next_step(replace(refused, wanted=_order(0, 0)), True, LEASE_S, 100.0)[1] == 0.5


def test_an_order_without_an_answer_counts_beside_the_confirmed_one() -> None:
    shown = Setpoint(lowest_w=0, highest_w=7_000, lease_s=60, reason="")
    assert believed(HOLDING, shown) == Held(lowest_w=0, highest_w=7_000)
    unknown = replace(HOLDING, attempted=_order(-2_000, -2_000))
    assert believed(unknown, shown) == Held(lowest_w=-2_000, highest_w=7_000)
    assert believed(replace(HOLDING, attempted=_order(None, None)), shown) == Held(lowest_w=None, highest_w=None)
    assert believed(HOLDING, None) is None
