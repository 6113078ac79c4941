"""Values that lie more than one request away from their scale factor, and groups counted by the device."""

from __future__ import annotations

import pytest

from drivers.sunspec.codec import Layout, layout
from drivers.sunspec.connection import Words
from drivers.sunspec.pdu import octets_of
from drivers.sunspec.registers import MapLook, MapPoll, ModelPoll, layout_of
from drivers.sunspec.relearning import RELEARN_LEAST_S, RELEARN_S
from tests.drivers.sunspec.fakes import FakeDevice, definition, model_words
from tests.drivers.sunspec.test_registers import reading

MODULES = 10
LENGTH = 8 + 20 * MODULES
LAST = f"module[{MODULES}].DCW"


def strings_160(**values: int) -> FakeDevice:
    """Model 160 at address 100 with ten modules: the last ones lie 200 registers from their factors."""
    words = model_words(
        160, {"DCW_SF": -1, "DCV_SF": 0, "N": MODULES, "module[1].DCW": 111, LAST: 999} | values, LENGTH
    )
    return FakeDevice({100 + index: word for index, word in enumerate(words)})


def place() -> Layout:
    return layout(definition(160), LENGTH)


async def test_a_value_far_from_its_factor_is_read_between_two_looks_at_the_factor() -> None:
    device = strings_160()
    look = await ModelPoll(place(), 100, ["module[1].DCW", LAST]).read(reading(device), 0.0)
    assert (look.values["module[1].DCW"].scaled(), look.values[LAST].scaled()) == (11.1, 99.9)
    factor, value = place().fields[LAST].factor_offset, place().fields[LAST].offset
    assert factor is not None
    assert 100 + factor in range(*_span(device.reads[0])), "the first look is that of the points nearby"
    assert device.reads[1:] == [(100 + value, 1), (100 + factor, 1)]
    device.reads.clear()
    await ModelPoll(place(), 100, [LAST]).read(reading(device), 0.0)
    assert device.reads == [(100 + factor, 1), (100 + value, 1), (100 + factor, 1)]


def _span(read: tuple[int, int]) -> tuple[int, int]:
    return read[0], sum(read)


@pytest.mark.parametrize("nearby", [[], ["module[1].DCW"]])
async def test_a_far_value_is_absent_while_its_factor_moves(nearby: list[str]) -> None:
    device = strings_160()
    factor = 100 + (place().fields[LAST].factor_offset or 0)

    async def moving(address: int, count: int) -> Words:
        words = device.read(address, count)
        if factor in range(address, address + count):
            device.registers[factor] = (device.registers[factor] + 1) & 0xFFFF
        return Words(octets_of(words), 1.0, 3.0)

    look = await ModelPoll(place(), 100, [*nearby, LAST]).read(moving, 0.0)
    assert set(look.values) == set(nearby)
    assert LAST in (await ModelPoll(place(), 100, [LAST]).read(reading(device), 0.0)).values


async def test_a_hole_among_far_values_costs_no_others() -> None:
    device = strings_160(**{"module[9].DCW": 888})
    device.unreadable = {100 + place().fields["module[9].DCW"].offset}
    poll = ModelPoll(place(), 100, ["module[9].DCW", LAST])
    assert set((await poll.read(reading(device), 0.0)).values) == {LAST}
    assert poll.unreadable == {"module[9].DCW"}
    device.unreadable = set()
    assert set((await poll.read(reading(device), RELEARN_LEAST_S)).values) == {LAST, "module[9].DCW"}


async def test_far_values_without_a_readable_factor_are_absent() -> None:
    device = strings_160()
    device.unreadable = {100 + (place().fields[LAST].factor_offset or 0)}
    assert (await ModelPoll(place(), 100, [LAST]).read(reading(device), 0.0)).values == {}


async def test_every_point_of_a_long_model_is_polled() -> None:
    device = strings_160()
    look = await ModelPoll(place(), 100, place().fields).read(reading(device), 0.0)
    words = [device.registers[100 + index] for index in range(LENGTH + 2)]
    assert look.values == place().decode(words)
    assert all(count <= 125 for _, count in device.reads)


async def test_a_hole_that_is_known_from_before_is_not_read_across_until_its_time() -> None:
    device = strings_160()
    device.unreadable = {100 + place().fields["module[1].DCW"].offset}
    poll = ModelPoll(place(), 100, ["module[1].DCW", "DCW_SF"], unreadable=["module[1].DCW"], since_s=50.0)
    assert set((await poll.read(reading(device), 60.0)).values) == {"DCW_SF"}
    assert len(device.reads) == 1
    device.unreadable = set()
    assert "module[1].DCW" in (await poll.read(reading(device), 50.0 + RELEARN_S)).values


async def test_groups_are_laid_out_by_the_count_that_the_device_tells() -> None:
    words = model_words(714, {"NPrt": 2}, 18 + 2 * 25)
    device = FakeDevice({100 + index: word for index, word in enumerate(words)})
    found = await layout_of(reading(device), definition(714), 100, words[1])
    assert {"Prt[1].DCW", "Prt[2].DCW"} <= set(found.fields)
    assert "Prt[3].DCW" not in found.fields
    assert len(device.reads) == 1


async def test_a_count_that_the_device_refuses_to_tell_is_none() -> None:
    found = await layout_of(reading(FakeDevice({})), definition(714), 100, 68)
    assert "DCW" in found.fields
    assert "Prt[1].DCW" not in found.fields


@pytest.mark.parametrize("number", [101, 160])
async def test_a_model_without_counts_costs_no_request(number: int) -> None:
    device = FakeDevice({})
    assert (await layout_of(reading(device), definition(number), 100, 50)).fields
    assert device.reads == []


def test_devices_of_one_build_share_their_layout() -> None:
    assert layout(definition(160), LENGTH) is place()
    assert layout(definition(160), LENGTH - 20) is not place()


async def test_a_hole_between_a_value_and_its_factor_hides_neither() -> None:
    words = model_words(103, {"PhVphA": 2301, "V_SF": -1, "W": 5, "W_SF": 0})
    device = FakeDevice({100 + index: word for index, word in enumerate(words)})
    poll = ModelPoll(layout(definition(103), 50), 100, ["PhVphA", "W"])
    device.unreadable = {111}  # PhVphB, which nobody asked for
    for _ in range(2):
        look = await poll.read(reading(device), 0.0)
        assert {path: value.scaled() for path, value in look.values.items()} == {"PhVphA": 230.1, "W": 5}
    assert poll.unreadable == frozenset()
    assert device.reads[-4:] == [(114, 2), (113, 1), (110, 1), (113, 1)]


async def test_a_factor_that_moves_between_reads_never_tears_a_value() -> None:
    # A SolarEdge showed 0, -1 and -2 in turn: 5000 W is 5000 x 1, 500 x 10 or 5 x 1000.
    device = FakeDevice({100 + index: word for index, word in enumerate(model_words(103, {}))})
    pairs = [(5000, 0), (500, 1), (50, 2), (5, 3)]
    turn = 0

    async def read(address: int, count: int) -> Words:
        nonlocal turn
        value, factor = pairs[turn % len(pairs)]
        turn += 1
        device.store(114, [value, factor])
        return Words(octets_of(device.read(address, count)), 1.0, 3.0)

    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz", "WH"])
    for _ in range(8):
        assert (await poll.read(read, 0.0)).values["W"].in_parts(1) == 5000


def trips(factor: int, seconds: int) -> list[int]:
    """Models 709 and 710 side by side, as a real device has them: each ends 6 registers too far from its factors."""
    words: list[int] = []
    for number in (709, 710):
        model = [number, 135, *[0] * 135]
        for at, name in definition(number).count_places.items():
            model[at] = {"NPt": 5, "NCrvSet": 2}[name]
        for path, field in layout(definition(number), 135, model).fields.items():
            kind = path.rpartition(".")[2]
            raw = {"Tms": seconds, "Hz": 5000, "ActPt": 5, "Tms_SF": factor & 0xFFFF, "Hz_SF": 0xFFFE}.get(kind)
            if raw is not None:
                model[field.offset : field.end] = [0] * (field.point.size - 1) + [raw]
        words += model
    return words


def polled_trips() -> MapPoll:
    words = trips(0, 5000)
    places = [(layout(definition(n), 135, words[at : at + 137]), 100 + at) for n, at in ((709, 0), (710, 137))]
    return MapPoll((place, address, place.fields) for place, address in places)


def trip_times(look: MapLook) -> list[int | float | str]:
    return [value.scaled() for values in look.values for path, value in values.items() if path.endswith(".Tms")]


async def test_stretches_that_hold_a_factor_twice_are_read_around_what_is_far_from_it() -> None:
    device = FakeDevice(dict(enumerate(trips(0, 5000), 100)))
    look = await polled_trips().read(reading(device), 0.0)
    assert trip_times(look) == [5000] * 60, "three curves of five points in each of two sets, of both models"
    assert len(device.reads) == 5


@pytest.mark.parametrize("after", range(6))
async def test_a_factor_that_moves_between_any_two_requests_makes_no_value_wrong(after: int) -> None:
    device = FakeDevice({})

    async def read(address: int, count: int) -> Words:
        # 5000 s by the factor 0 is 500 s by the factor 1.
        device.store(100, trips(0, 5000) if len(device.reads) < after else trips(1, 500))
        return Words(octets_of(device.read(address, count)), 1.0, 3.0)

    times = trip_times(await polled_trips().read(read, 0.0))
    assert set(times) == {5000}
    assert len(times) >= 50, "only what is far may be missing"
