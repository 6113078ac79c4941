"""Every point of every map, real and synthetic, reads as pysunspec2 reads it, and as TRAPS.md says where it cannot.

Ours goes the whole way: discovery walks the map, polls read around its holes and within 125 registers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache

import pytest

from drivers.sunspec.codec import Layout, Value
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.models import PointKind, model_definition
from drivers.sunspec.registers import ModelPoll, layout_of
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    REAL_DEVICES,
    FakeDevice,
    FakeLine,
    Time,
    definition,
    pool_of,
    real_device,
)
from tests.drivers.sunspec.maps import MAPS
from tests.drivers.sunspec.oracle import Theirs, as_pysunspec2_reads


@dataclass(frozen=True, slots=True)
class Model:
    """One known model of one map, as both read it."""

    number: int
    address: int
    layout: Layout
    ours: dict[str, Value]
    unreadable: frozenset[str]
    theirs: dict[str, Theirs]


def device_of_map(name: str) -> FakeDevice:
    return real_device(name)[0] if name in REAL_DEVICES else MAPS[name]()


@cache
def models_of(name: str) -> tuple[Model, ...]:
    return asyncio.run(_read(device_of_map(name)))


async def _read(device: FakeDevice) -> tuple[Model, ...]:
    unit = Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)
    found: list[Model] = []
    for model in (await describe(unit)).models:
        if model_definition(model.number) is None:
            continue
        place = await layout_of(unit.read, definition(model.number), model.address, model.length)
        poll = ModelPoll(place, model.address, place.fields)
        look = await poll.read(unit.read, 0.0)
        words = [
            0 if at in device.unreadable else device.registers[at]
            for at in range(model.address, model.address + model.length + 2)
        ]
        theirs = as_pysunspec2_reads(place.model, words)
        found.append(Model(model.number, model.address, place, look.values, poll.unreadable, theirs))
    return tuple(found)


def difference(model: Model, path: str) -> str:
    """What is not the same of one point that either side has; empty when all is."""
    ours, theirs, field = model.ours.get(path), model.theirs.get(path), model.layout.fields.get(path)
    expected = None if theirs is None else theirs.expected
    if path in model.unreadable:
        return "" if ours is None else f"cannot be read, and is {ours.raw!r} here"
    if field is None:
        return "" if expected is None else f"pysunspec2 finds {expected!r}, and it is nowhere in our layout"
    if ours is None:
        return "" if expected is None else f"not implemented here, {expected!r} there"
    if theirs is None:
        return f"{ours.raw!r} here, unknown there"
    if ours.raw != expected:
        return f"{ours.raw!r} here, {expected!r} there"
    scaled = pytest.approx(theirs.scaled) if isinstance(theirs.scaled, float) else theirs.scaled
    return "" if ours.scaled() == scaled else f"scaled, {ours.scaled()!r} here and {theirs.scaled!r} there"


@pytest.mark.parametrize("name", [*REAL_DEVICES, *MAPS])
def test_every_point_reads_as_pysunspec2_reads_it(name: str) -> None:
    """One test for each map: there are thousands of points, and a test of its own costs more than to read one."""
    points = {
        f"{model.number}@{model.address} {path}": difference(model, path)
        for model in models_of(name)
        for path in model.layout.fields.keys() | model.theirs.keys()
    }
    assert points, "a map without a model that is known"
    assert {point: said for point, said in points.items() if said} == {}


@pytest.mark.parametrize("name", REAL_DEVICES)
def test_what_a_real_device_hides_is_all_that_is_missing(name: str) -> None:
    device = device_of_map(name)
    for model in models_of(name):
        hidden = {
            path
            for path, field in model.layout.fields.items()
            if any(model.address + at in device.unreadable for at in range(field.offset, field.end))
            or (field.factor_offset is not None and model.address + field.factor_offset in device.unreadable)
        }
        assert model.unreadable == hidden, model.number


def test_every_kind_of_point_is_met_implemented_and_not_implemented() -> None:
    full = {field.point.kind for model in models_of("everything implemented") for field in model.layout.fields.values()}
    empty = {field.point.kind for model in models_of("nothing implemented") for field in model.layout.fields.values()}
    not_official = {PointKind.PAD, PointKind.FLOAT64, PointKind.BITFIELD64}  # in no model that there is
    assert full == empty == set(PointKind) - not_official
    for model in models_of("nothing implemented")[1:]:
        assert set(model.ours) == {"ID", "L"}, model.number
