"""A batch over which links end is suspected after some, waits in growing steps, and not for longer than is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.refusals import LEAST_HOLD_S, MOST_HOLD_S, SUSPECTED, Refusals


def ended(refusals: Refusals, *, times: int, batch: tuple[int, int] = (1, 7)) -> list[str]:
    told: list[str] = []
    for _ in range(times):
        told = refusals.ended([batch], (), "INVALID_ARGUMENT")
    return told


def test_a_batch_is_suspected_after_some_links_in_a_row_and_told_of_with_the_reason() -> None:
    refusals = Refusals()
    assert ended(refusals, times=SUSPECTED - 1) == []
    assert refusals.hold_s(1, 0.5) == 0
    assert refusals.probed == {1}
    [text] = ended(refusals, times=1)
    assert "batch 7 of incarnation 1 was sent on 3 links" in text
    assert "INVALID_ARGUMENT" in text
    assert LEAST_HOLD_S / 2 <= refusals.hold_s(1, 0.5) <= LEAST_HOLD_S


def test_an_acknowledgement_of_its_incarnation_ends_it_and_one_of_another_does_not() -> None:
    refusals = Refusals()
    ended(refusals, times=SUSPECTED)
    refusals.ended([], {2}, "")
    assert refusals.times(1) == SUSPECTED
    refusals.ended([], {1}, "")
    assert (refusals.times(1), refusals.probed) == (0, frozenset())


def test_a_link_that_ended_with_nothing_sent_says_nothing_about_a_batch() -> None:
    refusals = Refusals()
    ended(refusals, times=SUSPECTED)
    refusals.ended([], (), "")
    assert refusals.times(1) == SUSPECTED


def test_another_batch_is_counted_by_itself() -> None:
    refusals = Refusals()
    ended(refusals, times=SUSPECTED - 1)
    assert ended(refusals, times=1, batch=(1, 8)) == []
    assert refusals.times(1) == 1


@given(st.integers(SUSPECTED, 5000), st.floats(0, 1, exclude_max=True))
def test_it_never_waits_longer_than_is_said_and_never_less_than_half_the_least(times: int, draw: float) -> None:
    refusals = Refusals()
    refusals._times[1] = (7, times)
    assert LEAST_HOLD_S / 2 <= refusals.hold_s(1, draw) <= MOST_HOLD_S
