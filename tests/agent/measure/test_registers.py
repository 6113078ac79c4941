"""What a meter can do to its registers: wake, reset, roll over, jump, slip, be replaced; what is known is not lost."""

from __future__ import annotations

import pytest

from agent.measure import MeteredDevice, MeterState, Quality
from agent.measure.registers import Verdict, first_look, look
from drivers.device import SampleFlag
from tests.agent.measure.meters import Bench


def test_zero_on_waking_is_held_and_trued_up() -> None:
    bench = Bench()
    bench.say(5000, 300)
    for _ in range(100):
        reading = bench.say(0, 0)
        assert reading.quality == Quality.REGISTER_HELD
        assert (reading.net_energy_wh, reading.import_register_milliwatt_hours) == (0, 5_000_000)
    reading = bench.say(5001, 300)
    assert (reading.net_energy_wh, reading.meter_epoch, reading.quality) == (1, 1, Quality.ESTIMATED)
    assert bench.say(5002, 300).quality == Quality.GOOD
    assert bench.codes() == ["meter.register_held"]


def test_a_reset_becomes_a_new_epoch_once_it_stays_and_loses_nothing_since() -> None:
    bench = Bench()
    bench.say(5000, 0)
    epochs = [bench.say(10 + i, 0).meter_epoch for i in range(40)]
    start = epochs.index(2)
    assert start == 30  # 30 s after the fall
    first = bench.readings[1 + start]
    assert first.quality == Quality.EPOCH_START | Quality.ESTIMATED
    assert (first.net_energy_wh, first.import_register_milliwatt_hours) == (0, 10_000)
    since = [r.net_energy_wh for r in bench.readings[2 + start :]]
    assert since[0] == 31  # what was counted while it was in doubt
    assert sum(since) == 39
    assert bench.codes() == ["meter.register_held", "meter.reset"]


def test_a_meter_that_resets_to_zero_begins_its_epoch_when_it_counts_again() -> None:
    bench = Bench()
    bench.say(5000, 7000)
    assert {bench.say(0, 0).meter_epoch for _ in range(60)} == {1}
    assert bench.say(0.5, 0).meter_epoch == 2
    assert bench.say(2, 0).net_energy_wh == 2


def test_a_few_looks_over_a_long_time_are_no_reset() -> None:
    bench = Bench()
    bench.say(5000, 0)
    assert [bench.say(10, 0, after_s=60).meter_epoch for _ in range(5)] == [1, 1, 1, 1, 2]


def test_doubt_goes_on_over_a_restart() -> None:
    bench = Bench()
    bench.say(5000, 0)
    for i in range(25):
        bench.say(10 + i, 0)
    bench.restart()
    epochs = [bench.say(35 + i, 0).meter_epoch for i in range(10)]
    assert epochs.index(2) == 5


def test_falls_that_do_not_agree_are_no_reset() -> None:
    bench = Bench()
    bench.say(5000, 0)
    for i in range(60):
        assert bench.say([10, 3000][i % 2], 0).meter_epoch == 1
    assert bench.say(5002, 0).net_energy_wh == 2


def test_a_small_fall_is_held_and_never_an_epoch() -> None:
    """A scale factor that moved rounds the register down; at night nothing lifts it again for hours."""
    bench = Bench()
    bench.say(None, 123_456)
    for _ in range(100):
        reading = bench.say(None, 123_400)
        assert (reading.meter_epoch, reading.export_register_milliwatt_hours) == (1, 123_456_000)
        assert reading.quality == Quality.REGISTER_HELD
    assert bench.say(None, 123_500).net_energy_wh == -44
    assert bench.codes() == []


def test_another_meter_is_another_epoch_at_once() -> None:
    bench = Bench()
    bench.say(5000, 0)
    reading = bench.say(9000, 0, meter_id="meter B")
    assert (reading.meter_epoch, reading.net_energy_wh, reading.quality) == (2, 0, Quality.EPOCH_START)
    assert bench.say(9001, 0, meter_id="meter B").net_energy_wh == 1
    assert bench.codes() == ["meter.replaced"]


def test_a_meter_that_does_not_say_its_name_is_the_same_meter() -> None:
    bench = Bench()
    bench.say(5000, 0, meter_id="")
    bench.say(5001, 0)
    bench.say(5002, 0, meter_id="")
    assert bench.say(5003, 0).meter_epoch == 1


@pytest.mark.parametrize("step_mwh", [1, 100, 1_000, 10_000])
def test_a_roll_over_goes_on_counting(step_mwh: int) -> None:
    limit_wh = (1 << 32) * step_mwh / 1000
    bench = Bench()
    bench.say(limit_wh - 1, 0)
    reading = bench.say(1, 0)
    assert (reading.net_energy_wh, reading.meter_epoch, reading.quality) == (2, 1, Quality.GOOD)
    bench.restart()
    assert bench.say(3, 0).net_energy_wh == 2
    assert bench.codes() == ["meter.register_rolled_over"]


def test_a_fall_far_from_the_limit_is_no_roll_over() -> None:
    bench = Bench()
    bench.say((1 << 32) * 0.9, 0)
    assert bench.say(1, 0).quality == Quality.REGISTER_HELD


def test_a_torn_read_is_held_for_one_look() -> None:
    bench = Bench()
    bench.say(5000, 0)
    assert bench.say(5000 + 65_536_000, 0).quality == Quality.REGISTER_HELD
    assert bench.say(5002, 0).net_energy_wh == 2


def test_a_jump_that_stays_is_believed() -> None:
    bench = Bench()
    bench.say(5000, 0)
    held = [bench.say(500_000 + i, 0) for i in range(2)]
    assert {r.quality for r in held} == {Quality.REGISTER_HELD}
    reading = bench.say(500_002, 0)
    assert (reading.net_energy_wh, reading.meter_epoch, reading.quality) == (495_002, 1, Quality.ESTIMATED)
    assert bench.codes() == ["meter.register_held", "meter.register_jumped"]


def test_a_meter_that_counts_in_steps_does_not_jump() -> None:
    bench = Bench()
    bench.say(5000, 0)
    for _ in range(900):
        bench.say(5000, 0)
    # A quarter of an hour at 10 kW.
    reading = bench.say(7500, 0)
    assert (reading.net_energy_wh, reading.quality) == (2500, Quality.GOOD)


def test_an_unrated_device_may_carry_a_megawatt() -> None:
    assert look(first_look(0, 0), 500_000_000, 3_600_000_000, None)[0] is Verdict.GOOD
    assert look(first_look(0, 0), 3_000_000_000, 3_600_000_000, None)[0] is Verdict.JUMPED


def test_a_clock_that_goes_back_does_not_stop_a_register() -> None:
    assert look(first_look(0, 10_000_000), 1_000, 0, 10_000)[0] is Verdict.GOOD


def test_queued_history_moves_nothing() -> None:
    bench = Bench()
    for i in range(10):
        bench.say(5000 + i, 0)
    reading = bench.say(
        4000, 0, at_s=bench.second - 5, flags=SampleFlag.QUEUED | SampleFlag.DEVICE_TIME, meter_id="old"
    )
    assert (reading.net_energy_wh, reading.import_register_milliwatt_hours) == (0, 5_009_000)
    assert reading.quality == Quality.QUEUED | Quality.DEVICE_TIME | Quality.REGISTER_HELD
    reading = bench.say(5010, 0)
    assert (reading.net_energy_wh, reading.quality, reading.meter_epoch) == (1, Quality.GOOD, 1)


def test_queued_samples_before_any_newer_ones_count() -> None:
    bench = Bench()
    bench.say(5000, 0)
    reading = bench.say(5003, 0, after_s=1, flags=SampleFlag.QUEUED)
    assert (reading.net_energy_wh, reading.quality) == (3, Quality.QUEUED)


def test_a_queued_sample_hides_no_gap_before_it() -> None:
    bench = Bench()
    bench.say(5000, 0)
    reading = bench.say(5003, 0, after_s=60, flags=SampleFlag.QUEUED)
    assert reading.quality == Quality.QUEUED | Quality.AFTER_GAP | Quality.ESTIMATED


def test_what_comes_back_is_reported_once_in_a_while() -> None:
    bench = Bench()
    for _ in range(30):
        bench.say(5000, 0)
        bench.say(0, 0)
    assert bench.codes() == ["meter.register_held"]
    bench.say(5000, 0, after_s=901)
    bench.say(0, 0)
    assert bench.codes() == ["meter.register_held"] * 2


def test_a_device_without_a_note_goes_on_from_its_last_readings() -> None:
    bench = Bench(device=MeteredDevice(device_id="pv-1", period_s=1.0))
    bench.say(None, 100)
    registers = bench.say(None, 101)
    last = bench.say(None, None)
    bench.state = MeterState.from_reading(last, registers)
    reading = bench.say(None, 104)
    assert (reading.sequence, reading.meter_epoch, reading.net_energy_wh) == (4, 1, -3)
