"""Reading around holes: never more than 125 registers, never across what a device refuses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Words
from drivers.sunspec.errors import ModbusExceptionError, NoAnswerError
from drivers.sunspec.pdu import octets_of
from drivers.sunspec.registers import MapPoll, ModelPoll, Read
from drivers.sunspec.relearning import RELEARN_LEAST_S, RELEARN_S
from drivers.sunspec.stretches import Part, Placed, arrange
from tests.drivers.sunspec.fakes import FakeDevice, definition, model_words


def reading(device: FakeDevice) -> Read:
    async def read(address: int, count: int) -> Words:
        return Words(octets_of(device.read(address, count)), 1.0, 3.0)

    return read


def model_103(**values: int) -> FakeDevice:
    words = model_words(103, {"W_SF": 0, "Hz_SF": -2, "WH_SF": 0, "V_SF": -1} | values)
    return FakeDevice({100 + index: word for index, word in enumerate(words)})


@given(st.sampled_from([103, 203, 701, 702, 704, 802]), st.data())
def test_stretches_hold_every_point_with_its_factor_within_125_registers(number: int, data: st.DataObject) -> None:
    place = layout(definition(number), 1000)
    chosen = data.draw(st.sets(st.sampled_from(sorted(place.fields))))
    parts = [Part(place, 40000)]
    early, apart, _, late = arrange(parts, [Placed.whole(0, 40000, place.fields[path]) for path in chosen])
    planned = [*early, *late]
    together = [at for stretch in planned for at in stretch.placed]
    assert sorted(at.field.path for at in [*together, *apart]) == sorted(chosen)
    for stretch in planned:
        assert stretch.count <= 125
        for at in stretch.placed:
            assert {40000 + at.field.span[0], 40000 + at.field.span[1] - 1} <= set(stretch.addresses)


async def test_a_value_and_its_factor_come_from_one_request() -> None:
    device = model_103(W=1234)
    look = await ModelPoll(layout(definition(103), 50), 100, ["W"]).read(reading(device), 0.0)
    assert look.values["W"].in_parts(1) == 1234
    assert device.reads == [(114, 2)]
    assert look.monotonic_s == 2.0


async def test_a_hole_costs_the_points_in_it_and_no_others() -> None:
    device = model_103(W=1234, Hz=5001, WH=7)
    device.unreadable = {116}  # Hz
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz", "WH"])
    look = await poll.read(reading(device), 0.0)
    assert set(look.values) == {"W", "WH"}
    assert poll.unreadable == {"Hz"}


async def test_a_hole_that_was_learned_is_not_read_across_again() -> None:
    device = model_103(W=1234, Hz=5001, WH=7)
    device.unreadable = {116}
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz", "WH"])
    await poll.read(reading(device), 0.0)
    device.reads.clear()
    await poll.read(reading(device), 1.0)
    assert device.reads == [(114, 2), (124, 3)]


async def test_a_hole_is_tried_again_after_a_while() -> None:
    device = model_103(W=1234, Hz=5001)
    device.unreadable = {116}
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz"])
    await poll.read(reading(device), 0.0)
    device.unreadable = set()
    assert "Hz" not in (await poll.read(reading(device), RELEARN_LEAST_S - 1)).values
    assert "Hz" in (await poll.read(reading(device), RELEARN_LEAST_S)).values


async def test_a_hole_that_stays_is_tried_ever_more_rarely_until_every_ten_minutes() -> None:
    device = model_103(W=1234, Hz=5001)
    device.unreadable = {116}
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz"])
    tried: list[float] = []
    for second in range(4000):
        device.reads.clear()
        await poll.read(reading(device), float(second))
        if any(at <= 116 < at + count for at, count in device.reads):
            tried.append(float(second))
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, *[RELEARN_S] * 5]


async def test_a_moment_of_refusing_everything_costs_seconds_and_not_minutes() -> None:
    # A device that restarts answers every request with exception 4 for a moment.
    device = model_103(W=1234, Hz=5001, WH=7)
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz", "WH"])
    await poll.read(reading(device), 0.0)
    for moment in (1.0, 400.0):
        device.unreadable = set(device.registers)
        assert (await poll.read(reading(device), moment)).values == {}
        device.unreadable = set()
        assert set((await poll.read(reading(device), moment + RELEARN_LEAST_S)).values) == {"W", "Hz", "WH"}


async def test_silence_amid_learning_leaves_the_plan_as_it_was() -> None:
    device = model_103(W=1234, Hz=5001, WH=7)
    device.unreadable = {116}
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz", "WH"])
    silent = True

    async def read(address: int, count: int) -> Words:
        if silent and count == 3:
            raise NoAnswerError("gone")
        return await reading(device)(address, count)

    with pytest.raises(NoAnswerError):
        await poll.read(read, 0.0)
    silent = False
    assert set((await poll.read(read, 1.0)).values) == {"W", "WH"}


async def test_a_device_that_refuses_everything_gives_nothing_and_no_moment() -> None:
    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "Hz"])
    look = await poll.read(reading(FakeDevice({})), 0.0)
    assert (look.values, look.monotonic_s) == ({}, None)


@pytest.mark.parametrize("error", [NoAnswerError("silence"), ModbusExceptionError("busy", 6)])
async def test_silence_and_busy_are_not_learned_as_holes(error: Exception) -> None:
    device = model_103(W=1234)
    poll = ModelPoll(layout(definition(103), 50), 100, ["W"])

    async def fails(address: int, count: int) -> Words:
        raise error

    with pytest.raises(type(error)):
        await poll.read(fails, 0.0)
    assert "W" in (await poll.read(reading(device), 0.0)).values
    assert poll.unreadable == frozenset()


def two_models() -> tuple[FakeDevice, MapPoll]:
    """Models 103 at 100 and 203 at 152, as one map."""
    words = [*model_words(103, {"W": 1234, "W_SF": 0}), *model_words(203, {"W": 5, "W_SF": 1, "Hz": 5000, "Hz_SF": -2})]
    device = FakeDevice({100 + index: word for index, word in enumerate(words)})
    wanted = [
        (layout(definition(103), 50), 100, ["W"]),
        (layout(definition(203), 105), 152, ["W", "Hz"]),
    ]
    return device, MapPoll(wanted)


async def test_models_share_a_request_and_keep_their_values_apart() -> None:
    device, poll = two_models()
    look = await poll.read(reading(device), 0.0)
    assert [values["W"].scaled() for values in look.values] == [1234, 50]
    assert look.values[1]["Hz"].scaled() == 50.0
    assert device.reads == [(114, 61)]


async def test_a_device_that_refuses_to_read_across_models_is_read_model_by_model() -> None:
    device, poll = two_models()
    device.unreadable = {151}  # as if the last register of model 103 were a wall
    look = await poll.read(reading(device), 0.0)
    assert [sorted(values) for values in look.values] == [["W"], ["Hz", "W"]]
    assert poll.unreadable == frozenset()
    device.reads.clear()
    await poll.read(reading(device), 1.0)
    assert device.reads == [(114, 2), (168, 7)]


async def test_a_hole_in_one_model_is_learned_for_that_model_only() -> None:
    device, poll = two_models()
    device.unreadable = {114}
    look = await poll.read(reading(device), 0.0)
    assert [sorted(values) for values in look.values] == [[], ["Hz", "W"]]
    assert poll.unreadable == {(0, "W")}
