"""Registers that fall: a waking device never looks like a new one, and a real fall is not hidden for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.counters import AGAIN_S, LOOKS_AGAIN, Counters, settle
from drivers.sunspec.measurement import Measurement

LIMIT = (1 << 32) * 1000


def said(exported: int | None, limit: int | None = LIMIT) -> Measurement:
    return Measurement(
        power_w=0,
        import_register_milliwatt_hours=None,
        export_register_milliwatt_hours=exported,
        rolls_over_milliwatt_hours=limit,
    )


def shown(values: list[int | None], seconds: float = 1.0, limit: int | None = LIMIT) -> list[int | None]:
    """What is passed on of a series of looks."""
    counters = Counters()
    passed: list[int | None] = []
    for index, value in enumerate(values):
        counters, measured = settle(counters, said(value, limit), index * seconds)
        passed.append(measured.export_register_milliwatt_hours)
    return passed


def test_a_single_look_at_a_lower_value_is_left_out() -> None:
    assert shown([100, 7, 101, 102]) == [100, None, 101, 102]


def test_a_register_that_is_not_told_changes_nothing() -> None:
    assert shown([100, None, 101, None, 7, 102]) == [100, None, 101, None, None, 102]


def test_a_fall_that_stays_is_passed_on_after_enough_looks_and_time() -> None:
    assert shown([100, 7, 7, 7, 7, 7, 8]) == [100, None, None, None, None, None, 8]
    assert shown([100, 7, 8, 9], seconds=AGAIN_S) == [100, None, None, 9]
    assert shown([100, 7, 8], seconds=10 * AGAIN_S)[-1] is None, f"{LOOKS_AGAIN} looks are needed however late"


def test_a_roll_over_near_the_limit_is_passed_on_at_once() -> None:
    assert shown([LIMIT - 1000, 5000]) == [LIMIT - 1000, 5000]


def test_a_fall_from_elsewhere_or_of_a_wide_register_is_no_roll_over() -> None:
    assert shown([LIMIT // 2, 5000])[-1] is None
    assert shown([LIMIT - 1000, LIMIT // 2])[-1] is None
    assert shown([LIMIT - 1000, 5000], limit=None)[-1] is None


def test_the_two_registers_do_not_disturb_each_other() -> None:
    first = Measurement(power_w=0, import_register_milliwatt_hours=50, export_register_milliwatt_hours=100)
    second = Measurement(power_w=0, import_register_milliwatt_hours=51, export_register_milliwatt_hours=7)
    counters, _ = settle(Counters(), first, 0.0)
    _, measured = settle(counters, second, 1.0)
    assert (measured.import_register_milliwatt_hours, measured.export_register_milliwatt_hours) == (51, None)


@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=30))
def test_what_is_passed_on_within_the_time_never_falls(values: list[int | None]) -> None:
    passed = [value for value in shown(values, seconds=AGAIN_S / 100, limit=None) if value is not None]
    assert passed == sorted(passed)


@given(st.lists(st.integers(0, 1000), max_size=30))
def test_nothing_is_passed_on_that_the_device_did_not_say(values: list[int]) -> None:
    assert all(value in (None, original) for value, original in zip(shown(list(values)), values, strict=True))
