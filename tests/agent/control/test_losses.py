"""Loss curves: from what data sheets say to watts that are lost; and what is usual where nobody wrote anything."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.losses import MICRO, USUAL, losses_of
from drivers.device import DeviceKind

RATING_W = 10_000
KINDS = [DeviceKind.BATTERY, DeviceKind.CHARGER]
curves = st.lists(st.integers(1, 100), min_size=2, max_size=8, unique=True).flatmap(
    lambda loads: st.tuples(*(st.tuples(st.just(float(load)), st.floats(50, 100)) for load in sorted(loads)))
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_usual_loses_what_its_curve_says(kind: DeviceKind) -> None:
    for load, efficiency in USUAL[kind]:
        power_w = round(RATING_W * load / 100)
        assert losses_of(kind).lost(power_w, RATING_W) / MICRO == pytest.approx(power_w * (1 - efficiency / 100), abs=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_is_the_efficiency_at_the_rating(kind: DeviceKind) -> None:
    assert losses_of(kind, 96.0).lost(RATING_W, RATING_W) / MICRO == pytest.approx(400, abs=2)
    assert losses_of(kind, 96.0).fixed_of(RATING_W) < losses_of(kind).fixed_of(RATING_W)


def test_points_of_a_data_sheet_are_met_and_point_to_the_fixed_loss() -> None:
    found = losses_of(DeviceKind.BATTERY, ((10.0, 91.0), (50.0, 95.5), (100.0, 94.0)))
    lost_w = [found.lost(power_w, RATING_W) / MICRO for power_w in (1_000, 5_000, 10_000)]
    assert lost_w == pytest.approx([90, 225, 600], abs=2)
    assert found.fixed_of(RATING_W) / MICRO == pytest.approx(56, abs=1)


def test_the_installers_fixed_loss_stands_in_place_of_the_curves() -> None:
    usual, told = losses_of(DeviceKind.BATTERY), losses_of(DeviceKind.BATTERY, None, 200)
    assert told.fixed_of(RATING_W) == 200 * MICRO
    assert told.lost(5_000, RATING_W) - usual.lost(5_000, RATING_W) == 150 * MICRO


def test_nothing_is_lost_at_rest() -> None:
    assert losses_of(DeviceKind.BATTERY).lost(0, RATING_W) == 0


def test_a_car_is_worn_by_what_it_gives_alone() -> None:
    car, battery = losses_of(DeviceKind.CHARGER), losses_of(DeviceKind.BATTERY)
    assert (car.wear_in_ppm, car.wear_out_ppm) == (0, 150_000)
    assert battery.wear_in_ppm == battery.wear_out_ppm == 50_000
    assert losses_of(DeviceKind.BATTERY, wear_wh_per_kwh=80).wear_in_ppm == 80_000


@given(curves, st.integers(100, 50_000))
def test_each_further_watt_costs_no_less_than_the_one_before(
    curve: tuple[tuple[float, float], ...], rating: int
) -> None:
    slopes = losses_of(DeviceKind.BATTERY, curve).slopes
    assert all(at < then and ppm < dearer for (at, ppm), (then, dearer) in pairwise(slopes))
    assert slopes[0][1] >= 0


@given(curves)
def test_no_curve_loses_more_than_it_says(curve: tuple[tuple[float, float], ...]) -> None:
    """Where points would make a further watt cheaper than the one before, the line below them counts."""
    found = losses_of(DeviceKind.BATTERY, curve)
    for load, efficiency in curve:
        power_w = round(RATING_W * load / 100)
        said_w = power_w * (1 - efficiency / 100)
        assert found.lost(power_w, RATING_W) / MICRO <= said_w + 2
