"""Tests of settlement windows: they add up to the registers, and every reading is in exactly one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import ClockQuality, Instant
from agent.evidence import merkle, statements
from agent.ledger.errors import LedgerError
from agent.ledger.window import (
    MOST_COMMAND_HASHES,
    MOST_DUE,
    Closed,
    Progress,
    Standing,
    close_window,
    decode_progress,
    due,
    first_progress,
)
from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource

S = 1_000_000
WINDOW_US = 900 * S
START_US = 1_760_000_400 * S


def reading(
    sequence: int, second: float, imported: int | None, exported: int | None = 700, **changes: object
) -> Reading:
    """Registers in milliwatt-hours; `second` after the start of the first window."""
    made = Reading(
        device_id="pv-1",
        incarnation=1,
        boot_id=bytes(16),
        sequence=sequence,
        timestamp_us=START_US + round(second * S),
        net_energy_wh=0,
        import_register_milliwatt_hours=imported,
        export_register_milliwatt_hours=exported,
        meter_epoch=1,
        power_w=None,
        voltage_millivolts=None,
        state_of_charge_permille=None,
        frequency_millihertz=None,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # tests name the fields


def close(progress: Progress, readings: list[Reading], end_us: int = START_US + WINDOW_US) -> Closed:
    return close_window(
        progress,
        [(r, statements.encode(r)) for r in readings],
        device_id="pv-1",
        incarnation=1,
        end_us=end_us,
        tolerance_us=2 * S,
    )


OPEN = Progress(START_US, 0, Standing(START_US, 1, 5_000_999, 700))


def test_a_leap_of_time_makes_no_list_of_all_the_windows_in_it() -> None:
    leap = Instant(2**53, 0.0, ClockQuality.SYNCED, 0)
    assert len(due(Progress(START_US), leap, window_us=5, settle_us=0)) == MOST_DUE


def test_energy_is_the_difference_of_whole_register_wh_at_the_boundaries() -> None:
    closed = close(OPEN, [reading(1, 450, 5_001_000, 1_500), reading(2, 900, 5_003_999, 4_000)])
    assert (closed.window.import_wh, closed.window.export_wh, closed.window.net_energy_wh) == (3, 4, -1)
    assert closed.window.quality is Quality.GOOD


def test_the_root_is_over_the_statements_in_order_of_sequence() -> None:
    taken = [reading(1, 450, 5_001_000), reading(2, 900, 5_002_000)]
    closed = close(OPEN, [*taken, reading(3, 901, 5_002_100)])
    leaves = [merkle.leaf_hash(statements.encode(r)) for r in taken]
    assert closed.window.readings_root == merkle.root(leaves)
    assert (closed.window.first_sequence, closed.window.last_sequence, closed.window.reading_count) == (1, 2, 2)


def test_a_reading_at_the_boundary_closes_the_window_and_opens_none() -> None:
    first = close(OPEN, [reading(1, 900, 5_002_000)])
    second = close(first.progress, [reading(2, 1800, 5_005_000)], START_US + 2 * WINDOW_US)
    assert (first.window.last_sequence, second.window.first_sequence) == (1, 2)
    assert (first.window.import_wh, second.window.import_wh) == (2, 3)


def test_a_window_without_readings_is_estimated_and_its_energy_comes_with_the_next() -> None:
    silent = close(OPEN, [])
    assert (silent.window.import_wh, silent.window.reading_count) == (0, 0)
    assert silent.window.readings_root == merkle.EMPTY_ROOT
    assert Quality.ESTIMATED in silent.window.quality
    back = close(silent.progress, [reading(1, 1800, 5_009_999)], START_US + 2 * WINDOW_US)
    assert back.window.import_wh == 9
    assert Quality.ESTIMATED in back.window.quality


def test_a_last_reading_far_before_the_end_makes_the_window_an_estimate() -> None:
    assert Quality.ESTIMATED not in close(OPEN, [reading(1, 898, 5_002_000)]).window.quality
    assert Quality.ESTIMATED in close(OPEN, [reading(1, 897, 5_002_000)]).window.quality


def test_the_first_window_of_a_device_counts_from_its_first_reading() -> None:
    closed = close(Progress(START_US), [reading(1, 300, 70_000_500), reading(2, 900, 70_002_500)])
    assert closed.window.import_wh == 2
    assert Quality.ESTIMATED in closed.window.quality


def test_a_new_meter_counts_from_its_own_register() -> None:
    changed = reading(2, 450, 100, meter_epoch=2, quality=Quality.EPOCH_START)
    closed = close(OPEN, [reading(1, 449, 5_002_000), changed, reading(3, 900, 3_000, meter_epoch=2)])
    assert closed.window.import_wh == 2 + 3
    assert closed.window.meter_epoch == 2
    assert Quality.EPOCH_START | Quality.ESTIMATED in closed.window.quality


def test_energy_on_an_island_is_not_settled() -> None:
    island = [
        reading(2, 500, 5_004_000, quality=Quality.ISLANDED),
        reading(3, 600, 5_006_000, quality=Quality.ISLANDED),
    ]
    closed = close(OPEN, [reading(1, 400, 5_002_000), *island, reading(4, 900, 5_007_000)])
    assert closed.window.import_wh == 2 + 1
    assert Quality.ISLANDED in closed.window.quality


def test_a_register_that_falls_within_an_epoch_counts_nothing_backwards() -> None:
    closed = close(OPEN, [reading(1, 300, 5_004_000), reading(2, 600, 5_001_000), reading(3, 900, 5_005_000)])
    assert closed.window.import_wh == 5
    assert Quality.REGISTER_HELD | Quality.ESTIMATED in closed.window.quality


def test_a_reading_that_arrives_late_goes_into_the_window_that_is_open() -> None:
    first = close(OPEN, [reading(1, 900, 5_002_000)])
    late = reading(2, 450, 5_002_000, quality=Quality.QUEUED | Quality.DEVICE_TIME)
    second = close(first.progress, [late, reading(3, 1800, 5_004_000)], START_US + 2 * WINDOW_US)
    assert (second.window.first_sequence, second.window.reading_count) == (2, 2)
    assert Quality.QUEUED in second.window.quality


def test_a_device_clock_that_runs_ahead_does_not_keep_the_window_from_what_follows() -> None:
    ahead = reading(1, 5_000, 5_001_000, quality=Quality.DEVICE_TIME)
    assert close(OPEN, [ahead, reading(2, 900, 5_002_000)]).window.last_sequence == 2


def test_missing_sequences_make_the_window_an_estimate() -> None:
    assert Quality.ESTIMATED in close(OPEN, [reading(2, 900, 5_002_000)]).window.quality


@pytest.mark.parametrize("wrong", [reading(1, 400, 0, device_id="pv-2"), reading(0, 400, 0)])
def test_readings_of_another_device_or_out_of_order_are_refused(wrong: Reading) -> None:
    with pytest.raises(LedgerError, match="out of order"):
        close(OPEN, [wrong])


@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 700), st.integers(0, 5_000_000), st.integers(0, 5_000_000), st.integers(0, 20), st.booleans()
        ),
        max_size=40,
    )
)
def test_windows_add_up_to_the_register_difference_and_hold_every_reading_once(
    steps: list[tuple[int, int, int, int, bool]],
) -> None:
    """Over gaps, late readings, device clocks that are wrong, and readings without a register."""
    second, imported, exported = 0, 5_000_999, 700
    readings = []
    for sequence, (gap, more_in, more_out, wrong_by, has_register) in enumerate(steps, start=1):
        second, imported, exported = second + gap, imported + more_in, exported + more_out
        quality = Quality.DEVICE_TIME if wrong_by > 15 else Quality.GOOD
        told = second + (wrong_by * 1000 if wrong_by > 15 else 0)
        registers = (imported, exported) if has_register else (None, None)
        readings.append(reading(sequence, told, *registers, quality=quality))
    readings.append(reading(len(readings) + 1, second + 1, imported, exported))
    progress, windows = OPEN, []
    end_us = START_US
    while end_us < START_US + (second + 1) * S:
        end_us += WINDOW_US
        closed = close(progress, [r for r in readings if r.sequence > progress.last_sequence], end_us)
        progress = closed.progress
        windows.append(closed.window)
    assert sum(w.import_wh for w in windows) == imported // 1000 - 5_000
    assert sum(w.export_wh for w in windows) == exported // 1000 - 0
    assert sum(w.reading_count for w in windows) == len(readings)
    ends = [w.last_sequence for w in windows if w.last_sequence is not None]
    starts = [w.first_sequence for w in windows if w.first_sequence is not None]
    assert starts == [1, *(end + 1 for end in ends[:-1])]


def at(second: float, quality: ClockQuality = ClockQuality.SYNCED) -> Instant:
    return Instant(START_US + round(second * S), 0.0, quality, None)


def test_a_window_is_due_only_once_late_readings_have_had_their_time() -> None:
    progress = Progress(START_US)
    assert due(progress, at(904.9), window_us=WINDOW_US, settle_us=5 * S) == []
    assert due(progress, at(905), window_us=WINDOW_US, settle_us=5 * S) == [START_US + WINDOW_US]


def test_after_an_outage_every_missed_window_is_due_oldest_first_and_in_pieces() -> None:
    ends = due(Progress(START_US), at(900 * 200), window_us=WINDOW_US, settle_us=0)
    assert ends == [START_US + WINDOW_US * n for n in range(1, 97)]


def test_no_window_closes_while_the_time_is_untrusted() -> None:
    untrusted = at(90_000, ClockQuality.UNTRUSTED)
    assert first_progress(untrusted, window_us=WINDOW_US) is None
    assert due(Progress(START_US), untrusted, window_us=WINDOW_US, settle_us=0) == []


def test_a_device_begins_with_the_window_that_is_open() -> None:
    assert first_progress(at(1_234), window_us=WINDOW_US) == Progress(START_US + WINDOW_US)


def test_another_window_length_makes_one_shorter_window_and_is_aligned_again() -> None:
    ends = due(Progress(START_US + 300 * S), at(1800), window_us=WINDOW_US, settle_us=0)
    assert ends == [START_US + WINDOW_US, START_US + 2 * WINDOW_US]


@given(
    st.builds(
        Progress,
        st.integers(0, 1 << 60),
        st.integers(0, 1 << 60),
        st.none()
        | st.builds(
            Standing,
            st.integers(0, 1 << 60),
            st.integers(1, 1000),
            st.none() | st.integers(0, 1 << 60),
            st.none() | st.integers(0, 1 << 60),
        ),
    )
)
def test_progress_is_read_back_as_it_was_kept(progress: Progress) -> None:
    assert decode_progress(progress.encode()) == progress


@pytest.mark.parametrize(
    "damaged", [b"", b"\x00", b"\x84\x02\x01\x01\xf6", b"\x84\x01\x20\x01\xf6", b"\x84\x01\x01\x01\x81\x01"]
)
def test_damaged_progress_is_refused(damaged: bytes) -> None:
    with pytest.raises(LedgerError, match="window progress"):
        decode_progress(damaged)


def test_a_window_with_any_number_of_commands_can_be_verified() -> None:
    """Else one window would hold up every batch behind it, for ever."""
    hashes = [number.to_bytes(32) for number in range(5000)]
    closed = close_window(
        Progress(START_US),
        [],
        device_id="pv-1",
        incarnation=1,
        end_us=START_US + WINDOW_US,
        tolerance_us=S,
        command_hashes=hashes,
    )
    assert statements.decode(statements.encode(closed.window)) == closed.window
    assert closed.window.command_hashes == tuple(hashes[:MOST_COMMAND_HASHES])
