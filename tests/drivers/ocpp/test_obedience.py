"""Obedience is what the meter says: a band that was confirmed is followed or not, a discharge proved or taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp import obedience
from drivers.ocpp.obedience import Obedience

PATIENCE_S, PROOF_S, WRONG_WAY_S = obedience.PATIENCE_S, obedience.PROOF_S, obedience.WRONG_WAY_S


@pytest.fixture
def judge() -> Obedience:
    return Obedience(11_000, 1.0)


def follows(judge: Obedience, now_s: float = 0.0) -> bool | None:
    """Right after the last sample, unless a time is given."""
    return judge.follows(now_s)


def meter(judge: Obedience, power_w: int, *moments: float) -> None:
    for moment in moments:
        judge.metered(power_w, None, moment)


def test_nothing_is_judged_before_an_order_and_after_a_release(judge: Obedience) -> None:
    meter(judge, 5_000, 1.0)
    assert follows(judge) is None
    judge.ordered(0, 0, 2.0)
    meter(judge, 5_000, 3.0, 100.0)
    assert follows(judge) is False
    judge.released()
    assert follows(judge) is None
    assert judge.unproved(1000.0) is None


def test_an_evse_above_its_cap_has_time_to_come_down_and_then_does_not_follow(judge: Obedience) -> None:
    judge.ordered(0, 6_000, 0.0)
    meter(judge, 11_000, 1.0, PATIENCE_S)
    assert follows(judge) is None
    meter(judge, 11_000, PATIENCE_S + 1.0)
    assert follows(judge) is False
    assert "11000 W" in judge.sentence()
    meter(judge, 6_100, PATIENCE_S + 2.0)
    assert follows(judge) is True


def test_a_car_that_takes_less_than_it_is_offered_obeys(judge: Obedience) -> None:
    judge.ordered(7_400, 7_400, 0.0)
    meter(judge, 0, 1.0, 100.0)
    assert follows(judge) is True


def test_a_renewal_does_not_begin_the_judgement_anew(judge: Obedience) -> None:
    for at in range(0, 60, 5):
        judge.ordered(-5_000, -5_000, float(at))
        meter(judge, 0, at + 1.0)
    assert follows(judge) is False
    assert judge.unproved(60.0) is not None


def test_samples_from_before_the_order_prove_nothing(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 10.0)
    meter(judge, -5_000, 9.0)
    assert follows(judge) is None
    assert judge.unproved(10.0 + PROOF_S) is not None


def test_metered_export_proves_a_discharge(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, -5_000, 5.0, PROOF_S)
    assert follows(judge) is True
    assert judge.unproved(PROOF_S + 1) is None


def test_a_discharge_that_does_not_show_is_unproved_after_its_time_with_what_was_seen(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, 0, 5.0, PROOF_S - 2)
    assert judge.unproved(PROOF_S - 1) is None
    why = judge.unproved(PROOF_S)
    assert why is not None
    assert "-5000 W" in why
    assert "0 W are metered" in why


def test_without_a_meter_a_discharge_is_unproved(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    why = judge.unproved(PROOF_S)
    assert why is not None
    assert "no power is metered" in why


def test_charging_in_place_of_discharging_is_noticed_much_sooner(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, 5_000, 1.0, 1.0 + WRONG_WAY_S)
    why = judge.unproved(2.0 + WRONG_WAY_S)
    assert why is not None
    assert "charges with 5000 W" in why


def test_a_car_that_stops_giving_is_taken_back_after_the_same_time(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, -5_000, 5.0, 100.0)
    meter(judge, 0, 101.0, 100.0 + PROOF_S)
    assert judge.unproved(100.0 + PROOF_S) is not None


def test_a_register_that_grows_is_proof_where_no_power_is_told(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    judge.metered(None, 1_000, 10.0)
    judge.metered(None, 1_000, 20.0)
    assert judge.unproved(PROOF_S) is not None
    judge.metered(None, 2_000, 30.0)
    assert judge.unproved(PROOF_S) is None


def test_an_absence_is_no_disobedience(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, -5_000, 5.0)
    judge.watched_anew(500.0)
    assert judge.unproved(501.0) is None
    assert follows(judge) is None


@given(st.lists(st.tuples(st.integers(-20_000, 20_000), st.floats(0, 1000)), max_size=50), st.integers(-10_000, 11_000))
def test_only_power_outside_of_the_band_is_ever_disobedience(samples: list[tuple[int, float]], bound_w: int) -> None:
    judge = Obedience(11_000, 1.0)
    judge.ordered(None, bound_w, 0.0)
    for power_w, at_s in samples:
        judge.metered(power_w, None, at_s)
        if power_w <= bound_w and follows(judge) is not None and at_s == max(at for _, at in samples):
            assert follows(judge) is True


def test_a_value_that_is_old_says_nothing_of_now(judge: Obedience) -> None:
    judge.ordered(0, 6_000, 0.0)
    meter(judge, 6_000, 10.0)
    assert judge.follows(10.0 + obedience.STALE_S) is True
    assert judge.follows(11.0 + obedience.STALE_S) is None


def test_a_meter_that_is_read_seldom_has_the_time_that_it_needs() -> None:
    judge = Obedience(11_000, 300.0)
    judge.ordered(-5_000, -5_000, 0.0)
    assert judge.unproved(700.0) is None
    meter(judge, -5_000, 300.0)
    assert judge.follows(900.0) is True
    assert judge.unproved(1000.0) is None
    assert judge.unproved(300.0 + 751.0) is not None


def test_a_band_that_moves_every_second_hides_no_disobedience(judge: Obedience) -> None:
    for at in range(60):
        judge.ordered(-5_000 - at, -5_000 - at, float(at))
        meter(judge, 0, at + 0.5)
    assert judge.follows(60.0) is False
    why = judge.unproved(60.0)
    assert why is not None
    assert "0 W are metered" in why


def test_an_order_the_other_way_gives_time_to_turn_around(judge: Obedience) -> None:
    judge.ordered(0, 7_000, 0.0)
    meter(judge, 7_000, 10.0, 20.0)
    judge.ordered(-5_000, -5_000, 20.5)
    assert judge.follows(20.5) is None
    assert judge.unproved(20.5 + PROOF_S - 1) is None
    meter(judge, 7_000, 21.0)
    assert judge.follows(21.0) is None
    meter(judge, -5_000, 25.0)
    assert judge.follows(25.0) is True


def test_each_discharge_has_to_be_proved_anew(judge: Obedience) -> None:
    judge.ordered(-5_000, -5_000, 0.0)
    meter(judge, -5_000, 10.0)
    judge.ordered(0, 0, 20.0)
    judge.ordered(-5_000, -5_000, 100.0)
    assert judge.unproved(100.0 + PROOF_S - 1) is None
    assert judge.unproved(100.0 + PROOF_S) is not None
