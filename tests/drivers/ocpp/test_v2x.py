"""Operation modes: each takes what OCPP 2.1 block Q section 2.2 lets it take, and says what it orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.ocpp.v2x import Mode, Period

CURVE = ((49_800, -6_000), (50_200, 6_000))


@pytest.mark.parametrize(
    ("period", "told_w"),
    [
        (Period(limit_w=7_400), 7_400),
        (Period(mode=Mode.IDLE), 0),
        (Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5_000, limit_w=0), -5_000),
        (Period(mode=Mode.CENTRAL_FREQUENCY, setpoint_w=3_000), 3_000),
        (Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE), None),
        (Period(mode=Mode.EXTERNAL_LIMITS, limit_w=5_000, discharge_w=-5_000), None),
        (Period(mode=Mode.LOCAL_LOAD_BALANCING), None),
    ],
)
def test_a_period_says_the_one_power_that_it_orders_if_it_does(period: Period, told_w: int | None) -> None:
    assert period.told_w == told_w


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Period(), "needs limit"),
        (lambda: Period(mode=Mode.IDLE, limit_w=0), "takes no limit"),
        (lambda: Period(limit_w=5, setpoint_w=5), "takes no setpoint"),
        (lambda: Period(mode=Mode.CENTRAL_SETPOINT, limit_w=5), "needs setpoint"),
        (lambda: Period(mode=Mode.EXTERNAL_SETPOINT, setpoint_w=5), "takes no setpoint"),
        (lambda: Period(mode=Mode.LOCAL_FREQUENCY, baseline_w=5), "needs v2xFreqWattCurve"),
        (lambda: Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5, discharge_w=5), "above 0"),
        (lambda: Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5, discharge_w=-2), "outside"),
        (lambda: Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=5, limit_w=2), "outside"),
        (lambda: Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE[::-1]), "rising"),
        (lambda: Period(mode=Mode.LOCAL_FREQUENCY, curve=tuple((hz, 0) for hz in range(21))), "20 points"),
    ],
)
def test_a_period_that_its_mode_does_not_allow_cannot_be_made(make: Callable[[], Period], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
