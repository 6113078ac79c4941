"""A grid meter with the wrong sign, or that stands still, is noticed and named; an oscillating one is no crime."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.meter_doubt import CONVICTS, EVERY_S, MOVED_STILL_S, STEP_W, STILL_S, MeterDoubt, MeterShown, step


class Bench:
    """A meter over devices and a house."""

    def __init__(self, sign: int = 1) -> None:
        self.sign, self.now_s, self.register = sign, 0.0, 0
        self.doubt = MeterDoubt()

    def look(self, battery_w: int, house_w: int = 800, after_s: float = EVERY_S) -> str:
        self.now_s += after_s
        self.register += 1
        power_w = self.sign * (battery_w + house_w)
        shown = MeterShown(power_w=power_w, registers=(self.register, None), grid=(230_000, 50_000))
        self.doubt = step(self.doubt, shown, {"battery": battery_w}, self.now_s)
        return self.doubt.sentence("grid")


def test_a_meter_that_is_wired_the_wrong_way_round_is_named_with_what_to_do() -> None:
    bench = Bench(sign=-1)
    said = [bench.look(power_w) for power_w in (0, 5_000, 0, -5_000, 0)]
    assert said[: CONVICTS - 1] == [""] * (CONVICTS - 1)
    assert "meter grid counts the wrong way" in said[-1]
    assert "turn its wires or current transformers round" in said[-1]
    bench.sign = 1
    bench.doubt = MeterDoubt(turned_round=True)
    assert [bool(bench.look(power_w)) for power_w in (0, 5_000, 0, 5_000)] == [True, True, True, False]


@given(st.lists(st.tuples(st.integers(-10_000, 10_000), st.integers(-300, 3_000)), max_size=60))
def test_a_right_meter_is_never_convicted_by_a_house_that_is_smaller_than_the_devices_steps(
    looks: list[tuple[int, int]],
) -> None:
    bench, house_w, last_w = Bench(), 800, 0
    for battery_w, more_w in looks:
        # Never as much against the devices, four times running, as they moved themselves.
        house_w = max(0, min(3_000, house_w + max(-abs(battery_w - last_w), min(abs(battery_w - last_w), more_w))))
        last_w = battery_w
        assert "wrong way" not in bench.look(battery_w, house_w)


def test_an_oscillating_meter_is_not_taken_for_one_with_the_wrong_sign() -> None:
    bench, dice = Bench(), random.Random(7)
    for number in range(500):
        assert bench.look(3_000 if number % 2 else -3_000, 800 + dice.choice((-2_500, 2_500)), 1.0) == ""


def test_a_battery_that_covers_the_house_by_itself_tells_nothing() -> None:
    bench = Bench()
    for house_w in (500, 4_000, 800, 6_000, 300, 5_000):
        assert bench.look(-house_w, house_w) == ""


def test_a_meter_that_stands_still_is_named_and_one_that_moves_again_is_believed() -> None:
    doubt, shown = MeterDoubt(), MeterShown(power_w=1_200, registers=(5, 6), grid=(230_123, 50_012))
    for second in range(int(STILL_S) + 2):
        doubt = step(doubt, shown, {}, float(second))
    assert "stands still" in doubt.sentence("grid")
    doubt = step(doubt, MeterShown(power_w=1_200, registers=(6, 6), grid=(230_123, 50_012)), {}, 40.0)
    assert doubt.sentence("grid") == ""


@pytest.mark.parametrize("power_w", [1_200, 0])
def test_a_meter_that_stands_still_while_devices_move_is_named_in_five_seconds(power_w: int) -> None:
    doubt, shown = MeterDoubt(), MeterShown(power_w=power_w, registers=(5, 6), grid=(230_123, 50_012))
    for second in range(8):
        doubt = step(doubt, shown, {"battery": 0 if second < 3 else STEP_W}, float(second))
        assert bool(doubt.sentence("grid")) is (second >= MOVED_STILL_S), second
    doubt = step(doubt, replace(shown, grid=(230_124, 50_012)), {"battery": STEP_W}, 8.0)
    assert doubt.sentence("grid") == ""


def test_a_device_that_is_lost_has_not_moved() -> None:
    doubt, shown = MeterDoubt(), MeterShown(power_w=1_200, registers=(5, 6), grid=(230_123, 50_012))
    for second in range(20):
        doubt = step(doubt, shown, {"battery": 5_000} if second < 3 else {}, float(second))
    assert doubt.sentence("grid") == ""


@pytest.mark.parametrize(
    "shown",
    [
        MeterShown(power_w=0, registers=(1,), grid=(50_000,)),
        MeterShown(power_w=5, registers=(None, None), grid=(50_000,)),
        MeterShown(power_w=5, registers=(7,), grid=(None, None)),
    ],
)
def test_a_calm_meter_without_power_or_other_values_is_no_still_one(shown: MeterShown) -> None:
    doubt = MeterDoubt()
    for second in range(100):
        doubt = step(doubt, shown, {}, float(second))
    assert doubt.sentence("grid") == ""


def test_a_device_that_falls_silent_and_comes_back_moves_nothing() -> None:
    """What it took is not in the sum any more, and the meter shows what the house does meanwhile."""
    doubt = MeterDoubt()
    for number in range(4 * CONVICTS):
        silent = number % 2 == 1
        shown = MeterShown(power_w=8_000 if silent else 3_000, registers=(number, None), grid=(230_000, 50_000))
        doubt = step(doubt, shown, {} if silent else {"battery": 5_000}, number * EVERY_S)
        assert doubt.sentence("grid") == ""


def seconds(bench: Bench, battery_w: int, count: int, house_w: int = 800) -> list[str]:
    return [bench.look(battery_w, house_w, 1.0) for _ in range(count)]


def test_two_large_steps_that_a_meter_shows_the_wrong_way_round_are_enough_once_they_have_come_to_rest() -> None:
    bench = Bench(sign=-1)
    assert not any(seconds(bench, 0, 8) + seconds(bench, 6_000, 8))
    said = seconds(bench, -2_000, 8)
    assert said[:5] == [""] * 5
    assert bench.now_s < CONVICTS * EVERY_S
    assert "counts the wrong way" in said[-1]


@given(
    late_s=st.integers(0, 5),
    houses=st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 25)), min_size=2, max_size=12),
)
def test_a_battery_that_covers_the_house_behind_a_late_meter_convicts_nobody(
    late_s: int, houses: list[tuple[int, int]]
) -> None:
    """It has moved before the meter shows why: by the house's step, and the meter by as much the other way."""
    doubt, shown_w, second = MeterDoubt(), [0] * (late_s + 1), 0
    for house_w, count in houses:
        for number in range(count):
            # For a second the connection has the step, then the battery takes it.
            shown_w.append(0 if number else house_w)
            battery_w = -house_w if number else 0
            shown = MeterShown(power_w=shown_w[-1 - late_s], registers=(second, None), grid=(230_000, 50_000))
            doubt = step(doubt, shown, {"battery": battery_w}, float(second))
            second += 1
            assert "wrong way" not in doubt.sentence("grid")


@pytest.mark.parametrize("shown_s", [1, 4])
def test_a_heater_of_twice_the_room_that_devices_make_room_for_convicts_no_meter(shown_s: int) -> None:
    """On and off again: each time the meter comes to rest as far the one way as devices the other."""
    bench = Bench()
    for _ in range(6):
        said = seconds(bench, 9_000, 12, 800) + seconds(bench, 9_000, shown_s, 12_800)
        said += seconds(bench, 3_000, 12, 12_800) + seconds(bench, 3_000, shown_s, 800)
        assert not any(said)
