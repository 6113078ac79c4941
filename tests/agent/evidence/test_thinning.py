"""Merging keeps the energy exactly, says what it merged, and is found out when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence import cbor, merkle, statements
from agent.evidence.errors import MalformedError
from agent.evidence.statements import Thinning
from agent.evidence.thinning import MINUTE_SLOT_S, QUARTER_SLOT_S, Merger, coarsened, old_batches
from agent.evidence.thinning_check import ThinningCheck
from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource

SECOND_US = 1_000_000
START_US = 1_800_000_000 * SECOND_US
OLD = old_batches(1, 7, [bytes([n]) * 32 for n in range(3)])


def run(registers: Sequence[int | None], *, epochs: Sequence[int] = (), islanded: Sequence[bool] = ()) -> list[Reading]:
    """One reading a second; import registers in milliwatt-hours, net energies as the format defines them."""
    made: list[Reading] = []
    last: tuple[int, int] | None = None
    for index, register in enumerate(registers):
        epoch = epochs[index] if epochs else 1
        quality = Quality.ISLANDED if islanded and islanded[index] else Quality.GOOD
        net = 0
        if register is None:
            quality |= Quality.NO_REGISTER
        else:
            if last is not None and last[0] == epoch:
                net = register // 1000 - last[1] // 1000
            else:
                quality |= Quality.EPOCH_START
            last = epoch, register
        made.append(
            Reading(
                device_id="pv-1",
                incarnation=1,
                boot_id=bytes(16),
                sequence=index + 1,
                timestamp_us=START_US + index * SECOND_US,
                net_energy_wh=net,
                import_register_milliwatt_hours=register,
                export_register_milliwatt_hours=None if register is None else 0,
                meter_epoch=epoch,
                power_w=index % 50 - 20,
                voltage_millivolts=230_000,
                state_of_charge_permille=500,
                frequency_millihertz=50_000,
                quality=quality,
                source=ValueSource.OPEN_BUS,
            )
        )
    return made


def merged(readings: Sequence[Reading], slot_s: int = MINUTE_SLOT_S) -> list[Thinning]:
    merger = Merger(slot_s)
    for reading in readings:
        merger.take(reading, statements.encode(reading))
    return merger.statements(old=OLD, at_us=START_US + 10**12)


steps = st.lists(st.one_of(st.none(), st.integers(0, 5_000)), min_size=1, max_size=200)


@settings(deadline=None)
@given(steps, st.integers(0, 200), st.lists(st.booleans(), min_size=200, max_size=200))
def test_energy_and_count_are_kept_exactly_at_both_lengths_and_the_encoding_is_one(
    increments: list[int | None], epoch_at: int, islanded: list[bool]
) -> None:
    registers: list[int | None] = []
    total = 0
    for increment in increments:
        total += increment or 0
        registers.append(None if increment is None else total)
    readings = run(registers, epochs=[1 + (n >= epoch_at) for n in range(len(registers))], islanded=islanded)
    fine = merged(readings)
    assert sum(each.net_energy_wh for each in fine) == sum(reading.net_energy_wh for reading in readings)
    assert sum(each.reading_count for each in fine) == len(readings)
    taken = [n for each in fine for slot in each.slots for n in range(slot.first_sequence, slot.last_sequence + 1)]
    assert taken == [reading.sequence for reading in readings]
    for each in fine:
        encoded = statements.encode(each)
        assert statements.decode(encoded) == each
        coarse = coarsened(each, encoded, slot_s=QUARTER_SLOT_S, old=OLD, at_us=START_US)
        assert statements.decode(statements.encode(coarse)) == coarse
        assert (coarse.net_energy_wh, coarse.reading_count) == (each.net_energy_wh, each.reading_count)
        assert sum(slot.net_energy_wh for slot in coarse.slots) == coarse.net_energy_wh
        assert coarse.readings_root == each.readings_root
    assert not judged(fine)


def test_a_slot_says_the_registers_at_its_end_and_the_ends_of_the_power() -> None:
    readings = run([n * 100 for n in range(130)])
    (thinning,) = merged(readings)
    assert [slot.reading_count for slot in thinning.slots] == [60, 60, 10]
    assert [slot.import_register_milliwatt_hours for slot in thinning.slots] == [5_900, 11_900, 12_900]
    assert (thinning.slots[0].lowest_power_w, thinning.slots[0].highest_power_w) == (-20, 29)
    assert thinning.readings_root == merkle.root([merkle.leaf_hash(statements.encode(r)) for r in readings])
    assert thinning.old == (OLD,)


def test_energy_on_an_island_is_never_merged_with_the_grids() -> None:
    readings = run([n * 1000 for n in range(30)], islanded=[10 <= n < 20 for n in range(30)])
    (thinning,) = merged(readings)
    assert [(slot.reading_count, bool(slot.quality & Quality.ISLANDED)) for slot in thinning.slots] == [
        (10, False), (10, True), (10, False),
    ]  # fmt: skip


def test_a_reading_left_out_parts_the_slots() -> None:
    readings = run([n * 1000 for n in range(30)])
    (thinning,) = merged([r for r in readings if r.sequence != 10])
    assert [(slot.first_sequence, slot.last_sequence) for slot in thinning.slots] == [(1, 9), (11, 30)]


def test_another_boot_begins_another_statement() -> None:
    readings = run([n * 1000 for n in range(4)])
    readings[2:] = [replace(r, boot_id=b"b" * 16) for r in readings[2:]]
    assert [each.reading_count for each in merged(readings)] == [2, 2]


def test_a_statement_has_only_so_many_slots() -> None:
    readings = [replace(r, timestamp_us=START_US + r.sequence * 60 * SECOND_US) for r in run([0] * 600)]
    made = merged(readings)
    assert [len(each.slots) for each in made] == [512, 88]
    assert max(len(statements.encode(each)) for each in made) < statements.MAX_STATEMENT_BYTES


def fields(thinning: Thinning) -> list[cbor.Value]:
    value = cbor.decode(statements.encode(thinning), what="test")
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (3, 0), (4, bytes(15)), (6, 3), (8, 0), (8, 86_401), (9, []), (9, [[1, 2, 1, bytes(32)]]), (10, 0), (10, 129),
        (11, bytes(31)), (12, 1), (13, bytes(31)), (14, []), (14, [[1]]), (14, None),
    ],
)  # fmt: skip
def test_a_statement_whose_fields_contradict_each_other_is_refused(place: int, value: cbor.Value) -> None:
    changed = fields(merged(run([0] * 130))[0])
    changed[place] = value
    with pytest.raises(MalformedError):
        statements.decode(cbor.encode(changed))


def test_slots_that_overlap_are_refused() -> None:
    (thinning,) = merged(run([0] * 130))
    first, second, third = thinning.slots
    overlapping = replace(thinning, slots=(first, replace(second, first_sequence=60), third))
    with pytest.raises(MalformedError, match="overlap"):
        statements.decode(statements.encode(overlapping))


def judged(found: Sequence[Thinning], before: Sequence[Reading] = ()) -> list[str]:
    """What the check says when these are all that is there."""
    check = ThinningCheck()
    check._found = {bytes([n]): each for n, each in enumerate(found)}
    for reading in before:
        check._see_reading(reading)
    return check.false_claims()


def test_an_energy_that_is_not_the_registers_is_found_out() -> None:
    readings = run([n * 1000 for n in range(130)])
    (thinning,) = merged(readings[1:])
    assert judged([thinning], readings[:1]) == []
    a, b, c = thinning.slots
    shifted = replace(
        thinning,
        slots=(replace(a, net_energy_wh=a.net_energy_wh + 1), replace(b, net_energy_wh=b.net_energy_wh - 1), c),
    )
    said = judged([shifted], readings[:1])
    assert len(said) == 2
    assert "its registers say" in said[0]


def test_readings_merged_twice_are_found_out() -> None:
    readings = run([n * 1000 for n in range(130)])
    assert any("twice" in said for said in judged([*merged(readings[:100]), *merged(readings[90:])]))
