"""Carrying out: what goes out at once, what waits for the renewal, and what a device is believed to hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.control.dispatcher import (
    Carriage,
    Deed,
    Dispatcher,
    believed,
    confirmed,
    failed,
    next_step,
    overtakes,
    sent,
)
from agent.control.onlooker import Onlooker
from agent.control.plan import DeviceOrder
from agent.control.site import Held
from drivers.device import Device, DeviceKind, DeviceStatus, DeviceUnreachableError, LinkState, Sample, Setpoint

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


@pytest.mark.parametrize(("held_w", "wanted_w"), [(10_000, 6_000), (-10_000, -6_000)])
def test_a_setpoint_nearer_to_nothing_goes_out_at_once_and_overtakes(held_w: int, wanted_w: int) -> None:
    held, wanted = _order(held_w, held_w), _order(wanted_w, wanted_w)
    carriage = replace(HOLDING, confirmed=held, wanted=wanted)
    assert next_step(carriage, True, LEASE_S, 101.0) == (Deed.APPLY, 0.0)
    assert overtakes(wanted, held)
    assert not overtakes(held, wanted)
    assert next_step(replace(carriage, confirmed=wanted, wanted=held), True, LEASE_S, 101.0) == (Deed.APPLY, 4.0)


def test_a_small_raise_waits_for_the_renewal_and_a_cars_raise_for_five_seconds() -> None:
    assert next_step(replace(HOLDING, wanted=_order(0, 7_040)), True, LEASE_S, 101.0) == (Deed.APPLY, 19.0)
    assert next_step(replace(HOLDING, wanted=_order(0, 9_000)), True, LEASE_S, 101.0) == (Deed.APPLY, 4.0)
    battery = replace(HOLDING, kind=DeviceKind.BATTERY, wanted=_order(0, 9_000))
    assert next_step(battery, True, LEASE_S, 101.0) == (Deed.APPLY, 0.0)


def test_where_a_command_begins_or_ends_a_car_is_moved_at_once_and_within_it_every_five_seconds() -> None:
    begins = replace(_order(-4_500, -4_500), authority_s=600.0)
    assert next_step(replace(HOLDING, wanted=begins), True, LEASE_S, 101.0) == (Deed.APPLY, 0.0)
    under = replace(HOLDING, confirmed=begins)
    assert next_step(replace(under, wanted=HOLDING.wanted), True, LEASE_S, 101.0) == (Deed.APPLY, 0.0)
    more = replace(_order(-5_500, -5_500), authority_s=599.0)
    assert next_step(replace(under, wanted=more), True, LEASE_S, 101.0) == (Deed.APPLY, 4.0)
    beginning = confirmed(HOLDING, begins, 160.0, 100.0)
    assert next_step(replace(beginning, wanted=more), True, LEASE_S, 100.0) == (Deed.APPLY, 1.0)
    later = confirmed(beginning, more, 164.0, 104.0)
    most = replace(more, lowest_w=-6_500, highest_w=-6_500)
    assert next_step(replace(later, wanted=most), True, LEASE_S, 104.0) == (Deed.APPLY, 5.0)
    sun = replace(
        HOLDING, kind=DeviceKind.PV, confirmed=_order(-3_000, 0), wanted=replace(_order(-9_000, 0), authority_s=600.0)
    )
    assert next_step(sun, True, LEASE_S, 101.0) == (Deed.APPLY, 1.0)


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
    assert _band(believed(HOLDING, shown, 100.0)) == (0, 7_000)
    unanswered = sent(HOLDING, _order(-2_000, -2_000), LEASE_S, 100.0)
    assert _band(believed(unanswered, shown, 101.0)) == (-2_000, 7_000)
    assert _band(believed(sent(HOLDING, _order(None, None), LEASE_S, 100.0), shown, 101.0)) == (None, None)
    assert believed(HOLDING, None, 100.0) is None


def test_every_order_since_the_last_answer_counts_until_its_lease_has_ended() -> None:
    """SAFETY 3: the first one may have arrived although its answer did not."""
    carriage = sent(HOLDING, _order(0, 11_000), LEASE_S, 100.0)
    carriage = failed(carriage, HOLDING, "no answer", refused=False, now_s=110.0)
    carriage = sent(carriage, _order(0, 0), LEASE_S, 111.0)
    carriage = failed(carriage, HOLDING, "no answer", refused=False, now_s=121.0)
    assert _band(believed(carriage, None, 170.0)) == (0, 11_000)
    assert believed(carriage, None, 171.1) is None
    answered = confirmed(carriage, _order(0, 0), 190.0, 130.0)
    assert believed(answered, Setpoint(lowest_w=0, highest_w=0, lease_s=60, reason=""), 131.0) == Held(
        lowest_w=0, highest_w=0, age_s=1.0
    )


def test_a_refusal_takes_back_only_what_was_refused() -> None:
    doubtful = sent(HOLDING, _order(0, 11_000), LEASE_S, 100.0)
    refused = failed(sent(doubtful, _order(-5_000, -5_000), LEASE_S, 101.0), doubtful, "no", refused=True, now_s=102.0)
    assert _band(believed(refused, None, 103.0)) == (0, 11_000)


def test_a_device_that_was_never_ordered_anything_holds_nothing_back() -> None:
    assert believed(Carriage(kind=DeviceKind.PV), None, 100.0) == Held(lowest_w=None, highest_w=None)


def test_a_stop_does_not_wait_for_the_pause_after_another_orders_failures() -> None:
    carriage = replace(HOLDING, failures=7, failed_s=100.0, attempted=_order(0, 9_000), failed_order=_order(0, 9_000))
    assert next_step(replace(carriage, wanted=_order(0, 9_000)), True, LEASE_S, 100.0)[1] == 10.0
    assert next_step(replace(carriage, wanted=_order(0, 0)), True, LEASE_S, 100.0)[1] == 0.5


def test_what_narrows_overtakes_an_order_under_way_and_nothing_else_does() -> None:
    assert overtakes(_order(0, 0), _order(-5_000, -5_000))
    assert overtakes(_order(0, 0), _order(None, None))
    assert overtakes(_order(-2_000, None), _order(None, None))
    assert not overtakes(_order(0, 0), _order(0, 0))
    assert not overtakes(_order(0, 9_000), _order(0, 7_000))


def test_a_lease_that_lasts_until_the_commands_end_is_not_renewed() -> None:
    carriage = replace(HOLDING, lease_ends_s=130.0, wanted_until_s=130.0)
    assert next_step(carriage, True, LEASE_S, 125.0)[1] == float("inf")
    longer = replace(carriage, wanted_until_s=500.0)
    assert next_step(longer, True, LEASE_S, 125.0)[1] == 0.0


def test_what_no_plan_stands_behind_any_more_is_not_renewed_but_what_restricts_is() -> None:
    """The planner has died, and the dispatcher has not: DESIGN law 6."""
    old = replace(HOLDING, wanted_s=100.0)
    assert next_step(old, True, LEASE_S, 109.0)[0] is Deed.APPLY
    assert next_step(old, True, LEASE_S, 121.0)[0] is Deed.NOTHING
    assert next_step(replace(old, kind=DeviceKind.PV), True, LEASE_S, 121.0)[0] is Deed.APPLY
    assert next_step(replace(old, wanted=_order(0, 0)), True, LEASE_S, 121.0)[0] is Deed.APPLY
    over = replace(HOLDING, wanted_s=121.0, wanted_until_s=120.0)
    assert next_step(over, True, LEASE_S, 121.0)[0] is Deed.NOTHING


class _Charger:
    """Takes its time over an order, or does not answer."""

    device_id = "d"
    kind = DeviceKind.CHARGER

    def __init__(self) -> None:
        self.begun: list[Setpoint] = []
        self.answers: list[asyncio.Future[None]] = []
        self.link = LinkState.ONLINE
        self.broken = False

    def status(self) -> DeviceStatus:
        if self.broken:
            raise ZeroDivisionError("a fault of its driver")
        return DeviceStatus(device_id="d", kind=self.kind, link=self.link, detail="")

    async def run(self, emit: Callable[[Sample], None]) -> None:
        await asyncio.Event().wait()

    async def apply(self, setpoint: Setpoint) -> None:
        self.begun.append(setpoint)
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]

    async def release(self) -> None:
        return


@asynccontextmanager
async def _dispatching() -> AsyncIterator[tuple[Dispatcher, _Charger]]:
    charger = _Charger()
    devices: dict[str, Device] = {"d": charger}
    dispatcher = Dispatcher(devices, looks=Onlooker(devices), lease_s=LEASE_S, monotonic_s=lambda: 100.0)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher, charger
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


async def test_a_stop_goes_out_while_a_slow_device_still_has_another_order() -> None:
    """SAFETY 1: at once."""
    async with _dispatching() as (dispatcher, charger):
        dispatcher.follow({"d": _order(-5_000, -5_000)})
        await _until(lambda: len(charger.begun) == 1)
        dispatcher.follow({"d": _order(0, 0)})
        await _until(lambda: len(charger.begun) == 2)
        assert charger.begun[1].highest_w == 0
        charger.answers[1].set_result(None)
        await _until(lambda: dispatcher.carriage("d").confirmed == _order(0, 0))
        charger.answers[0].set_exception(DeviceUnreachableError("late"))
        await _until(lambda: not dispatcher._under_way["d"])
        assert dispatcher.carriage("d").confirmed == _order(0, 0)
        assert not dispatcher.carriage("d").trouble


async def test_a_stop_goes_out_even_past_an_order_that_overtook_another() -> None:
    async with _dispatching() as (dispatcher, charger):
        for number, power_w in enumerate((-5_000, -3_000, 0), start=1):
            dispatcher.follow({"d": _order(power_w, 0)})
            await _until(lambda expected=number: len(charger.begun) == expected)  # type: ignore[misc]
        assert charger.begun[-1].lowest_w == 0


async def test_a_lease_ends_with_the_command_that_allows_the_power() -> None:
    """A gateway that dies must not leave a car discharging for a lease beyond its command."""
    async with _dispatching() as (dispatcher, charger):
        dispatcher.follow({"d": replace(_order(-5_000, -5_000), authority_s=7.0)})
        await _until(lambda: len(charger.begun) == 1)
        assert charger.begun[0].lease_s == 9.0


async def test_only_another_band_is_something_to_send() -> None:
    async with _dispatching() as (dispatcher, charger):
        assert dispatcher.follow({"d": _order(-5_000, -5_000)})
        await _until(lambda: len(charger.begun) == 1)
        assert not dispatcher.follow({"d": replace(_order(-5_000, -5_000), reason="another second")})
        assert dispatcher.follow({"d": _order(0, 0)})


async def test_a_driver_that_cannot_say_how_its_device_is_ends_nothing() -> None:
    async with _dispatching() as (dispatcher, charger):
        charger.broken = True
        dispatcher.follow({"d": _order(0, 0)})
        await _until(lambda: len(charger.begun) == 1)
        assert dispatcher.held("d") is not None


async def test_what_an_earlier_run_left_in_a_device_is_given_back() -> None:
    async with _dispatching() as (dispatcher, _):
        dispatcher.follow({"d": _order(None, None)})
        assert dispatcher.touched() == frozenset()
        dispatcher.touch(["d", "gone"])
        assert dispatcher.touched() == frozenset({"d"})
        await _until(lambda: dispatcher.touched() == frozenset())


def _band(held: Held | None) -> tuple[int | None, int | None]:
    assert held is not None
    return held.lowest_w, held.highest_w
