"""What is kept of a device over restarts: it comes back whole or not at all, and is verified before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.connection import Unit
from drivers.sunspec.description import MOST_MODELS, DeviceDescription, FoundModel, recall, remember
from drivers.sunspec.discovery import describe, verify
from drivers.sunspec.errors import ModbusExceptionError, NoAnswerError
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    Time,
    address_of,
    battery,
    common,
    device_of,
    inverter_701,
    model_words,
    pool_of,
    pv,
    real_device,
    set_point,
)
from tests.drivers.sunspec.maps import phantom_storage

words = st.integers(0, 0xFFFF)
texts = st.text(max_size=40)
descriptions = st.builds(
    DeviceDescription,
    **dict.fromkeys(("address", "manufacturer", "model", "options", "version", "serial"), texts),
    unit=st.integers(0, 255),
    base=words,
    models=st.lists(st.builds(FoundModel, words, words, words), max_size=MOST_MODELS).map(tuple),
    phantoms=st.lists(words, max_size=5).map(tuple),
    notes=st.lists(texts, max_size=5).map(tuple),
)


def unit_of(device: FakeDevice, number: int = 1) -> Unit:
    return Unit(pool_of(FakeLine({number: device}), Time()).connection(ADDRESS), number, 1.0)


@given(descriptions)
def test_a_description_comes_back_as_it_was_remembered(description: DeviceDescription) -> None:
    assert recall(remember(description)) == description


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | words | texts, st.lists).map(orjson.dumps)))
def test_anything_else_is_recalled_as_nothing(kept: bytes) -> None:
    assert recall(kept) is None


async def kept() -> dict[str, object]:
    content: dict[str, object] = orjson.loads(remember(await describe(unit_of(pv()))))
    return content


@pytest.mark.parametrize(
    "spoilt",
    [
        {"kept_version": 2},
        {"unit": True},
        {"unit": 1.0},
        {"base": 65536},
        {"base": -1},
        {"serial": None},
        {"models": [[1, 2]]},
        {"models": [[1, 2, "3"]]},
        {"models": [[1, 40002, 66]] * (2 * MOST_MODELS + 1)},
        {"phantoms": "x"},
        {"notes": [7]},
    ],
)
async def test_a_kept_description_with_a_wrong_part_is_recalled_as_nothing(spoilt: dict[str, object]) -> None:
    content = await kept()
    assert recall(orjson.dumps(content)) is not None
    assert recall(orjson.dumps(content | spoilt)) is None


@pytest.mark.parametrize("missing", ["kept_version", "serial", "models", "phantoms"])
async def test_a_kept_description_without_a_part_is_recalled_as_nothing(missing: str) -> None:
    content = await kept()
    del content[missing]
    assert recall(orjson.dumps(content)) is None


async def test_a_kept_description_that_is_too_long_is_not_even_parsed() -> None:
    assert recall(orjson.dumps(await kept() | {"more": "x" * 70_000})) is None


async def test_the_same_device_with_the_same_map_is_verified_with_fewer_requests_than_it_took_to_find_it() -> None:
    device, _, _ = real_device("sma-sb3.6-2025-06")
    description = await describe(unit_of(device))
    finding = len(device.reads)
    device.reads.clear()
    assert await verify(unit_of(device), description)
    assert len(device.reads) < finding
    assert not device.writes


def other_serial(device: FakeDevice) -> None:
    device.store(address_of(device, 1, "SN"), [0x4142])


def other_firmware(device: FakeDevice) -> None:
    device.store(address_of(device, 1, "Vr"), [0x392E])


def other_length(device: FakeDevice) -> None:
    device.registers[address_of(device, 704, "L")] -= 1


def other_model(device: FakeDevice) -> None:
    device.registers[address_of(device, 704, "ID")] = 64704


def no_marker(device: FakeDevice) -> None:
    device.registers[40000] = 0


def hidden_model(device: FakeDevice) -> None:
    device.unreadable.add(address_of(device, 704, "ID"))


@pytest.mark.parametrize(
    "change",
    [other_serial, other_firmware, other_length, other_model, no_marker, hidden_model],
    ids=lambda c: c.__name__,
)
async def test_another_device_or_another_map_is_noticed(change: Callable[[FakeDevice], None]) -> None:
    device = battery()
    description = await describe(unit_of(device))
    assert await verify(unit_of(device), description)
    change(device)
    assert not await verify(unit_of(device), description)


async def test_a_battery_that_was_added_is_noticed() -> None:
    device = device_of([common(), inverter_701(), phantom_storage()[0]])
    description = await describe(unit_of(device))
    assert description.phantoms
    assert await verify(unit_of(device), description)
    set_point(device, 713, "WHRtg", 9000)
    assert not await verify(unit_of(device), description)


async def test_copies_that_are_all_asleep_change_no_verdict() -> None:
    awake = model_words(103, {"W": 5, "W_SF": 0, "WH": 7, "WH_SF": 0})
    device = device_of([common(), model_words(103, {}), awake])
    description = await describe(unit_of(device))
    assert len(description.phantoms) == 1
    device.store(40122, model_words(103, {}))
    assert await verify(unit_of(device), description), "else the first copy would be measured in the morning"


async def test_a_kept_description_of_another_place_is_not_believed() -> None:
    device = pv()
    description = await describe(unit_of(device))
    assert not await verify(unit_of(device), replace(description, unit=2))
    assert not await verify(unit_of(device), replace(description, address="tcp://192.0.2.99:502"))


async def test_silence_and_busy_say_nothing_about_who_is_there() -> None:
    device = pv()
    description = await describe(unit_of(device))

    class Busy(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            raise ModbusExceptionError("reading", 6)

    with pytest.raises(ModbusExceptionError):
        await verify(Unit(pool_of(Busy({1: device}), Time()).connection(ADDRESS), 1, 1.0), description)
    device.deaf = True
    with pytest.raises(NoAnswerError):
        await verify(unit_of(device), description)
