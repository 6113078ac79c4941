"""The registers are the truth: whatever a meter does, the readings add up to its registers, over restarts too."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.measure import MeterState, Quality, Reading
from drivers.device import SampleFlag
from tests.agent.measure.meters import Bench, has_register, net_register_wh

FAULTS = ["silent", "partial", "zero", "torn", "restart", "crash", "queued", "replaced"]
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "import_mwh": st.integers(0, 2_800),
            "export_mwh": st.integers(0, 2_800),
            "what": st.sampled_from(["plain"] * 6 + FAULTS),
            "after_s": st.sampled_from([1.0, 1.0, 1.0, 2.0, 60.0, 4000.0]),
        }
    ),
    min_size=2,
    max_size=60,
)  # fmt: skip


def recomputed(readings: list[Reading]) -> list[int]:
    """The net energies as an auditor computes them from the readings alone (proto/EVIDENCE.md section 2)."""
    energies = []
    before: dict[int, Reading] = {}
    for reading in readings:
        energy = 0
        previous = before.get(reading.meter_epoch)
        if has_register(reading):
            if previous is not None and Quality.EPOCH_START not in reading.quality:
                energy = int(net_register_wh(reading) // 1) - int(net_register_wh(previous) // 1)
            before[reading.meter_epoch] = reading
        energies.append(energy)
    return energies


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_run_of_readings_sums_to_the_register_difference_within_1_wh(steps: list[dict[str, object]]) -> None:
    bench = Bench()
    imported = exported = 1_000_000_000
    meter = 0
    for step in steps:
        imported += int(str(step["import_mwh"]))
        exported += int(str(step["export_mwh"]))
        after_s = float(str(step["after_s"]))
        meter_id = f"meter {meter}"
        match step["what"]:
            case "silent":
                bench.say(None, None, after_s=after_s, meter_id=meter_id)
            case "partial":
                bench.say(imported / 1000, None if bench.state else 0, after_s=after_s, meter_id=meter_id)
            case "zero":
                bench.say(0, 0, after_s=after_s, meter_id=meter_id)
            case "torn":
                bench.say(imported / 1000 + 4e9, exported / 1000, after_s=after_s, meter_id=meter_id)
            case "queued":
                bench.say(5, 5, at_s=bench.second - 100, flags=SampleFlag.QUEUED, meter_id=meter_id)
            case "replaced":
                meter += 1
                bench.say(imported / 1000, exported / 1000, after_s=after_s, meter_id=f"meter {meter}")
            case what:
                if bench.state is not None and what == "restart":
                    bench.restart()
                if bench.state is not None and what == "crash":
                    with_register = [r for r in bench.readings if has_register(r)]
                    bench.state = MeterState.from_reading(
                        bench.readings[-1], with_register[-1] if with_register else None
                    )
                bench.say(imported / 1000, exported / 1000, after_s=after_s, meter_id=meter_id)

    readings = bench.readings
    assert [r.sequence for r in readings] == list(range(1, len(readings) + 1))
    assert [r.net_energy_wh for r in readings] == recomputed(readings)
    for epoch in {r.meter_epoch for r in readings}:
        run = [r for r in readings if r.meter_epoch == epoch and has_register(r)]
        total = 0
        for earlier, reading in itertools.pairwise(run):
            assert (earlier.import_register_milliwatt_hours or 0) <= (reading.import_register_milliwatt_hours or 0)
            assert (earlier.export_register_milliwatt_hours or 0) <= (reading.export_register_milliwatt_hours or 0)
            total += reading.net_energy_wh
            assert abs(total - (net_register_wh(reading) - net_register_wh(run[0]))) < 1


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=100))
def test_fractions_of_a_watt_hour_are_carried(rises_mwh: list[int]) -> None:
    bench = Bench()
    register = 999
    bench.say(register / 1000, 0)
    for rise in rises_mwh:
        register += rise
        bench.say(register / 1000, 0)
    assert sum(r.net_energy_wh for r in bench.readings) == register // 1000


def test_the_first_reading_starts_an_epoch_and_carries_no_energy() -> None:
    reading = Bench().say(1234.5, 0)
    assert (reading.sequence, reading.meter_epoch, reading.net_energy_wh) == (1, 1, 0)
    assert Quality.EPOCH_START in reading.quality
    assert reading.import_register_milliwatt_hours == 1_234_500


def test_export_is_negative() -> None:
    bench = Bench()
    bench.say(100, 100)
    assert bench.say(100, 103).net_energy_wh == -3
    assert bench.say(101, 103.5).net_energy_wh == 0  # net -2.5, its floor -3 as before
    assert bench.say(101, 104).net_energy_wh == 0


def test_a_meter_without_registers_gives_power_and_says_so() -> None:
    bench = Bench()
    bench.say(power_w=500)
    reading = bench.say(power_w=510)
    assert (reading.power_w, reading.net_energy_wh, reading.import_register_milliwatt_hours) == (510, 0, None)
    assert Quality.NO_REGISTER in reading.quality


def test_a_register_that_was_away_trues_up() -> None:
    bench = Bench()
    bench.say(100, 0)
    assert bench.say(None, None).quality == Quality.NO_REGISTER
    assert bench.say(102, 0).net_energy_wh == 2


def test_registers_that_come_after_the_epoch_began_are_its_origin() -> None:
    bench = Bench()
    bench.say(None, None)
    assert bench.say(500, 0).net_energy_wh == 0
    assert bench.say(501, 0).net_energy_wh == 1
    assert bench.readings[-1].meter_epoch == 1


def test_one_of_two_registers_missing_is_repeated() -> None:
    bench = Bench()
    bench.say(100, 50)
    reading = bench.say(101, None)
    assert (reading.net_energy_wh, reading.export_register_milliwatt_hours) == (1, 50_000)
    assert reading.quality == Quality.REGISTER_HELD
    reading = bench.say(101, 52)
    assert reading.net_energy_wh == -2
    assert reading.quality == Quality.ESTIMATED


def test_a_register_that_was_never_there_begins_an_epoch() -> None:
    bench = Bench()
    bench.say(None, 50)
    reading = bench.say(7000, 50)
    assert (reading.meter_epoch, reading.net_energy_wh) == (2, 0)
    assert Quality.EPOCH_START in reading.quality
    assert bench.codes() == ["meter.register_appeared"]


def test_a_negative_register_is_no_register() -> None:
    assert Bench().say(-5, None).quality & Quality.NO_REGISTER
