"""The fastest pace that is safe: haste is unlearned by losses that only haste explains, and by nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.pace import HASTY_S, LOSSES, STEPS_S, WITHIN, Pace


def loses_in_haste(pace: Pace, unit: int = 1) -> None:
    pace.answered(unit)
    pace.lost(unit, pace.gap_s)
    pace.answered(unit)


def test_a_line_that_loses_hasty_requests_is_paced_step_by_step_and_no_further() -> None:
    pace = Pace(0.0)
    assert pace.learned_s is None
    for step in STEPS_S:
        for _ in range(LOSSES):
            loses_in_haste(pace)
        assert pace.gap_s == pace.learned_s == step
    for _ in range(20):
        loses_in_haste(pace)
    assert pace.gap_s == STEPS_S[-1]


def test_a_dead_unit_slows_nobody() -> None:
    pace = Pace(0.0)
    pace.answered(1)
    for _ in range(100):
        pace.lost(1, 0.0)
        pace.answered(2)
    pace.answered(1)
    assert pace.gap_s == 0.0


def test_losses_of_requests_that_were_not_hasty_or_are_rare_teach_nothing() -> None:
    pace = Pace(0.0)
    for _ in range(20):
        pace.answered(1)
        pace.lost(1, HASTY_S + 0.01)
        pace.answered(1)
    for _ in range(20):
        loses_in_haste(pace)
        for _ in range(WITHIN):
            pace.answered(1)
    assert pace.gap_s == 0.0


@given(st.floats(0, 1), st.one_of(st.none(), st.floats()))
def test_a_kept_pace_is_one_of_ours_and_never_undercuts_the_installers(configured_s: float, kept: float | None) -> None:
    pace = Pace(configured_s)
    pace.known(kept)
    assert pace.gap_s >= configured_s
    assert pace.gap_s in (configured_s, *STEPS_S)
    assert (pace.learned_s is None) == (pace.gap_s == configured_s), "the installer's pause is not put on record"
