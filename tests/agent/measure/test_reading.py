"""What else a reading says: gaps, the clock, power beyond the ratings, and values that cannot be."""

from __future__ import annotations

import pytest

from agent.clock import ClockQuality, Instant
from agent.evidence.statements import encode
from agent.measure import MeasureError, MeteredDevice, MeterState, Quality, step
from agent.measure.registers import Register
from agent.measure.state import Doubt, Registers
from drivers.device import Sample, SampleFlag, ValueSource
from tests.agent.measure.meters import BOOT_ID, Bench


def test_a_gap_is_marked_and_its_energy_is_in_the_reading_after() -> None:
    bench = Bench()
    bench.say(100, 0)
    assert bench.say(101, 0, after_s=5).quality == Quality.GOOD
    reading = bench.say(150, 0, after_s=60)
    assert (reading.net_energy_wh, reading.quality) == (49, Quality.AFTER_GAP | Quality.ESTIMATED)
    assert bench.say(151, 0).quality == Quality.GOOD


def test_a_slow_device_has_longer_gaps() -> None:
    bench = Bench(device=MeteredDevice(device_id="pv-1", period_s=60.0))
    bench.say(100, 0)
    assert bench.say(100, 0, after_s=170).quality == Quality.GOOD
    assert Quality.AFTER_GAP in bench.say(100, 0, after_s=190).quality


def test_a_restart_is_a_gap_only_when_it_took_long() -> None:
    bench = Bench()
    bench.say(100, 0)
    bench.restart()
    assert bench.say(100, 0, after_s=3).quality == Quality.GOOD
    bench.restart()
    assert Quality.AFTER_GAP in bench.say(100, 0, after_s=30).quality


def test_after_a_restart_without_trusted_time_a_gap_is_assumed() -> None:
    bench = Bench()
    bench.say(100, 0)
    bench.restart()
    reading = bench.say(100, 0, quality=ClockQuality.UNTRUSTED)
    assert reading.quality == Quality.AFTER_GAP | Quality.ESTIMATED | Quality.CLOCK_UNTRUSTED


def test_a_clock_that_is_set_makes_no_gap_while_the_agent_runs() -> None:
    bench = Bench()
    bench.say(100, 0)
    assert bench.state is not None
    sample = Sample(device_id="battery-1", monotonic_s=2.0, power_w=1)
    hours_later = Instant(bench.state.timestamp_us + 7_200_000_000, 2.0, ClockQuality.SYNCED, 1000)
    result = step(bench.state, sample, hours_later, device=bench.device, incarnation=1, boot_id=BOOT_ID)
    assert result.reading is not None
    assert Quality.AFTER_GAP not in result.reading.quality


@pytest.mark.parametrize(
    ("clock", "flag"),
    [
        (ClockQuality.SYNCED, Quality.GOOD),
        (ClockQuality.HOLDOVER, Quality.CLOCK_HOLDOVER),
        (ClockQuality.UNTRUSTED, Quality.CLOCK_UNTRUSTED),
    ],
)
def test_the_clock_is_in_the_reading(clock: ClockQuality, flag: Quality) -> None:
    assert Bench().say(100, 0, quality=clock).quality == flag | Quality.EPOCH_START


def test_the_flags_of_the_driver_are_in_the_reading() -> None:
    for flag in SampleFlag:
        assert int(flag) & int(Bench().say(100, 0, flags=flag).quality)


@pytest.mark.parametrize("power_w", [12_601, -12_601, 4_000_000_000])
def test_power_beyond_the_ratings_is_left_out_and_reported_once(power_w: int) -> None:
    bench = Bench()
    bench.say(100, 0, power_w=12_600)
    for _ in range(3):
        reading = bench.say(101, 0, power_w=power_w)
        assert reading.power_w is None
        assert Quality.POWER_REJECTED in reading.quality
    assert bench.readings[1].net_energy_wh == 1
    assert bench.readings[0].power_w == 12_600
    assert bench.codes() == ["meter.power_rejected"]


def test_the_own_use_of_an_inverter_at_night_is_no_outlier() -> None:
    bench = Bench(device=MeteredDevice(device_id="pv-1", rated_import_w=0, rated_export_w=8000))
    assert bench.say(0, 0, power_w=30).power_w == 30


def test_without_a_rating_no_power_is_left_out() -> None:
    assert Bench(device=MeteredDevice(device_id="grid")).say(0, 0, power_w=900_000).power_w == 900_000


@pytest.mark.parametrize("power_w", [3 * 10**38, -(3 * 10**38), 1_000_000_001])
def test_a_power_that_nothing_has_is_left_out_with_or_without_a_rating(power_w: int) -> None:
    # What one device says must not keep all others from being signed: a statement has 64 bits for it.
    for rated_w in (None, 10**12):
        device = MeteredDevice(device_id="grid", rated_import_w=rated_w, rated_export_w=rated_w)
        reading = Bench(device=device).say(0, 0, power_w=power_w)
        assert reading.power_w is None
        encode(reading)


def test_values_that_cannot_be_are_absent() -> None:
    reading = Bench().say(100, 0, state_of_charge_permille=1001, frequency_millihertz=0)
    assert (reading.state_of_charge_permille, reading.frequency_millihertz) == (None, None)
    reading = Bench().say(100, 0, state_of_charge_permille=0, frequency_millihertz=49_990)
    assert (reading.state_of_charge_permille, reading.frequency_millihertz) == (0, 49_990)


def test_islanded_the_frequency_is_not_the_grids() -> None:
    reading = Bench().say(100, 0, frequency_millihertz=51_000, flags=SampleFlag.ISLANDED)
    assert reading.frequency_millihertz is None
    assert Quality.ISLANDED in reading.quality


def test_a_sample_that_says_nothing_is_no_reading() -> None:
    sample = Sample(device_id="battery-1", monotonic_s=1.0)
    at = Instant(1, 1.0, ClockQuality.SYNCED, 1)
    result = step(None, sample, at, device=MeteredDevice(device_id="battery-1"), incarnation=1, boot_id=BOOT_ID)
    assert (result.state, result.reading, result.oddities) == (None, None, ())


def test_a_sample_of_another_device_is_refused() -> None:
    sample = Sample(device_id="pv-1", monotonic_s=1.0, power_w=1)
    at = Instant(1, 1.0, ClockQuality.SYNCED, 1)
    with pytest.raises(ValueError, match="pv-1"):
        step(None, sample, at, device=MeteredDevice(device_id="battery-1"), incarnation=1, boot_id=BOOT_ID)


@pytest.mark.parametrize(
    "note", [b"", b"{}", b"[]", b"null", b'{"format":2}', b"\xff", b'{"format":1,"doubt":null}', b"\x81\x03"]
)
def test_a_damaged_note_is_an_error_and_no_state(note: bytes) -> None:
    with pytest.raises(MeasureError):
        MeterState.decode(note)


def test_a_note_of_an_earlier_version_goes_on_where_it_stopped() -> None:
    note = (
        b'{"format":1,"sequence":3,"meter_epoch":2,"meter_id":"M-1","registers":[[7000000,0,1000],null],'
        b'"timestamp_us":2000,"held":true,"doubt":[true,[[1,0,1500],null],[[2,0,1600],null],1500,2],"quiet":[["c",9]]}'
    )
    state = MeterState.decode(note)
    assert (state.sequence, state.meter_epoch, state.meter_id, state.held) == (3, 2, "M-1", True)
    assert state.registers == Registers(Register(7_000_000, 0, 1000), None)
    doubt = Doubt(
        True, Registers(Register(1, 0, 1500), None), Registers(Register(2, 0, 1600), None), since_us=1500, looks=2
    )
    assert (state.doubt, state.quiet, state.timestamp_us) == (doubt, (("c", 9),), 2000)
    assert MeterState.decode(state.encode()) == state, "and is written anew"


def test_a_note_is_short() -> None:
    bench = Bench()
    bench.say(5000, 100)
    bench.say(10, 0)
    assert bench.state is not None
    assert len(bench.state.encode()) < 200


def test_a_reading_counts_as_signed_by_the_meter_only_with_the_registers_that_it_signed() -> None:
    def said(second: float, imported: int, *, signed: bool) -> Sample:
        return Sample(
            device_id="battery-1", monotonic_s=second, import_register_milliwatt_hours=imported,
            registers_signed=signed, source=ValueSource.AUTHENTICATED_LINK,
        )  # fmt: skip

    bench = Bench()
    state: MeterState | None = None
    sources = []
    for second, sample in enumerate(
        (
            said(0.0, 5_000_000, signed=False),
            said(1.0, 5_000_500, signed=True),
            said(2.0, 1_000, signed=True),  # fell: the last good register is repeated, which nobody signed
            said(3.0, 5_000_600, signed=True),
        )
    ):
        at = Instant(1_790_000_000_000_000 + second * 1_000_000, float(second), ClockQuality.SYNCED, 1000)
        done = step(state, sample, at, device=bench.device, incarnation=1, boot_id=BOOT_ID)
        assert done.reading is not None
        state = done.state
        sources.append(done.reading.source)
    link, meter = ValueSource.AUTHENTICATED_LINK, ValueSource.SIGNED_BY_METER
    assert sources == [link, meter, link, meter]
