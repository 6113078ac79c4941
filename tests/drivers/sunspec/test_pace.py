"""The fastest pace that is safe: haste is unlearned by losses that only haste explains, and by nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.pace import HASTY_S, LONG_RUN, LOSSES, MOST_DOUBLINGS, STEPS_S, TRIAL, WITHIN, Pace


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


def paced_at(gap_s: float, configured_s: float = 0.0) -> Pace:
    pace = Pace(configured_s)
    pace.known(gap_s)
    return pace


def run_until_trial(pace: Pace) -> int:
    """Good answers until a shorter pause is tried."""
    for answers in range(1, LONG_RUN * 2 ** (MOST_DOUBLINGS + 1)):
        pace.answered(1)
        if pace.is_on_trial:
            return answers
    raise AssertionError("no trial came")


def test_after_a_long_run_a_shorter_pause_is_tried_and_kept_once_it_has_proven_itself() -> None:
    pace = paced_at(0.1)
    for shorter in (0.05, 0.02, 0.0):
        before = pace.safe_s
        assert run_until_trial(pace) == LONG_RUN
        assert (pace.gap_s, pace.safe_s, pace.learned_s) == (shorter, before, before), "not proven yet"
        for _ in range(TRIAL):
            pace.answered(1)
        assert pace.gap_s == pace.safe_s == shorter
    assert pace.learned_s is None
    for _ in range(LONG_RUN + 1):
        pace.answered(1)
    assert (pace.gap_s, pace.is_on_trial) == (0.0, False), "there is nothing shorter"


def test_a_trial_ends_with_its_first_loss_and_the_next_one_comes_after_twice_the_run() -> None:
    pace = paced_at(0.05)
    runs = []
    for _ in range(MOST_DOUBLINGS + 2):
        runs.append(run_until_trial(pace))
        assert pace.lost(1, pace.gap_s)
        assert pace.gap_s == pace.safe_s == pace.learned_s == 0.05
    assert runs == [LONG_RUN * 2**failed for failed in (*range(MOST_DOUBLINGS + 1), MOST_DOUBLINGS)]


def test_losses_in_trials_do_not_make_the_proven_pause_longer() -> None:
    pace = paced_at(0.05)
    for _ in range(2 * LOSSES):
        run_until_trial(pace)
        loses_in_haste(pace)
    assert pace.gap_s == 0.05


def test_a_loss_begins_the_run_anew_and_a_dead_unit_does_not() -> None:
    pace = paced_at(0.05)
    for _ in range(LONG_RUN - 1):
        pace.answered(1)
        pace.lost(9, 0.0)
    pace.lost(1, 1.0)
    assert run_until_trial(pace) == LONG_RUN


def test_the_installers_pause_is_never_undercut() -> None:
    pace = paced_at(0.1, configured_s=0.03)
    for shorter in (0.05, 0.03):
        run_until_trial(pace)
        assert pace.gap_s == shorter
        for _ in range(TRIAL):
            pace.answered(1)
    for _ in range(LONG_RUN + 1):
        assert not pace.answered(1)
    assert pace.gap_s == 0.03


@given(st.lists(st.tuples(st.sampled_from(["answered", "lost"]), st.integers(1, 2), st.floats(0, 0.3)), max_size=60))
def test_whatever_happens_the_pause_is_a_step_and_orders_keep_the_safe_one(
    story: list[tuple[str, int, float]],
) -> None:
    pace = paced_at(0.05)
    run_until_trial(pace)
    for what, unit, after_s in story:
        if what == "answered":
            pace.answered(unit)
        else:
            pace.lost(unit, after_s)
        assert pace.gap_s in (0.0, *STEPS_S)
        assert pace.safe_s >= max(pace.gap_s, 0.05), "no trial is over so soon"
