"""Registers that make no sense: whatever a device shows, looking at it ends, in an answer or in an error of our own."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.device import DeviceKind
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import MOST_REQUESTS, describe, verify
from drivers.sunspec.errors import SunSpecError
from drivers.sunspec.measurement import measuring_model
from drivers.sunspec.models import model_definition
from drivers.sunspec.registers import MapPoll, ModelPoll, layout_of
from drivers.sunspec.standing import StandingPoll
from tests.drivers.sunspec.fakes import ADDRESS, FakeDevice, FakeLine, Time, common, pool_of

KNOWN = (1, 12, 101, 103, 111, 120, 122, 124, 126, 160, 203, 204, 213, 701, 703, 705, 707, 711, 713, 714, 802, 803)


def noise(seed: int, models: list[tuple[int, int]], holes: float) -> FakeDevice:
    """A chain of these models, and noise in every other register; a share of them cannot be read."""
    draw = random.Random(seed)
    words = [0x5375, 0x6E53, *common()]
    for number, length in models:
        favourites = (0, 1, 0x8000, 0xFFFF, 0x7FFF, draw.randrange(1 << 16))
        words += [number, length, *(draw.choice(favourites) for _ in range(length))]
    words += [draw.randrange(1 << 16) for _ in range(4)]
    device = FakeDevice({40000 + index: word for index, word in enumerate(words)})
    device.unreadable = {at for at in device.registers if at > 40070 and draw.random() < holes}
    return device


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.sampled_from(KNOWN), st.integers(1, 300)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.0, 0.02, 0.5]),
)
async def test_any_registers_are_looked_at_to_an_end(seed: int, models: list[tuple[int, int]], holes: float) -> None:
    device = noise(seed, models, holes)
    unit = Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)
    try:
        description = await describe(unit)
    except SunSpecError:
        assert len(device.reads) <= MOST_REQUESTS
        return
    assert len(device.reads) <= MOST_REQUESTS
    assert not device.writes
    assert await verify(unit, description)
    await (await StandingPoll.of(unit.read, description)).read(unit.read, 0.0)
    for kind in (DeviceKind.PV, DeviceKind.METER):
        chosen = measuring_model(kind, description)
        if chosen is None:
            continue
        found, measuring = chosen
        definition = model_definition(found.number)
        assert definition is not None
        place = await layout_of(unit.read, definition, found.address, found.length)
        measuring.interpret((await ModelPoll(place, found.address, measuring.paths).read(unit.read, 0.0)).values)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.sampled_from(KNOWN), st.integers(1, 300)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.02, 0.1]),
)
async def test_models_read_together_are_what_they_are_alone(
    seed: int, models: list[tuple[int, int]], holes: float
) -> None:
    device = noise(seed, models, holes)
    unit = Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)
    wanted = []
    address = 40070
    for number, length in models:
        definition = model_definition(number)
        assert definition is not None
        wanted.append((await layout_of(unit.read, definition, address, length), address))
        address += length + 2
    together = MapPoll((place, at, place.fields) for place, at in wanted)
    for _ in range(2):
        look = await together.read(unit.read, 0.0)
        for (place, at), values in zip(wanted, look.values, strict=True):
            # A hole costs the points in it, and those whose factor is in it: decoded from what can be read at all.
            readable = {
                path
                for path, field in place.fields.items()
                if not any(at + offset in device.unreadable for offset in range(field.offset, field.end))
                and (field.factor_offset is None or at + field.factor_offset not in device.unreadable)
            }
            words = [device.registers[at + index] for index in range(place.length + 2)]
            assert values == {path: value for path, value in place.decode(words).items() if path in readable}
    assert all(count <= 125 for _, count in device.reads)
