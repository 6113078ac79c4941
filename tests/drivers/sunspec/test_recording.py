"""Recording a device and playing it back: the same registers, the same holes, the same file; bad files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.server import RegisterRefusedError
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import describe
from drivers.sunspec.dump import MOST_DUMP_BYTES, Dump, DumpError, PlayedRegisters, from_json, to_json
from drivers.sunspec.recording import record
from drivers.sunspec.scrubbing import scrub
from drivers.sunspec.survey import ModelReading, Survey
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FIXTURES,
    REAL_DEVICES,
    FakeDevice,
    FakeLine,
    Time,
    battery,
    common,
    device_of,
    inverter_701,
    pool_of,
    pv,
    real_device,
)
from tests.drivers.sunspec.maps import filled, phantom_storage


def unit_of(device: FakeDevice) -> Unit:
    return Unit(pool_of(FakeLine({1: device}), Time()).connection(ADDRESS), 1, 1.0)


def played(dump: Dump) -> FakeDevice:
    return FakeDevice(dict(dump.regs), unreadable=set(dump.unreadable))


async def surveyed(device: FakeDevice) -> list[ModelReading]:
    unit = unit_of(device)
    return await Survey(unit, await describe(unit)).read(0.0)


MADE: dict[str, Callable[[], FakeDevice]] = {
    "battery": battery,
    "pv": pv,
    "with a vendor's model": lambda: device_of([common(), inverter_701(), [64_999, 3, 1, 2, 3]]),
    "with phantoms": lambda: device_of([common(), inverter_701(), *phantom_storage()]),
    "with groups that repeat": lambda: device_of([common(), filled(160, 48, {"N": 2}), filled(103)]),
    "at base 0": lambda: device_of([common(), inverter_701()], base=0),
    "without an end": lambda: device_of([common(), inverter_701()], end=()),
}


@pytest.mark.parametrize("name", MADE)
async def test_a_device_that_is_played_back_is_recorded_as_the_same_file(name: str) -> None:
    first = scrub(await record(unit_of(MADE[name]())))
    again = scrub(await record(unit_of(played(from_json(to_json(first))))))
    assert to_json(again) == to_json(first)


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_a_real_device_that_is_played_back_is_recorded_as_the_same_file(name: str) -> None:
    device, models, base = real_device(name)
    first = scrub(await record(unit_of(device)))
    assert (list(first.models), first.base) == (models, base)
    again = scrub(await record(unit_of(played(from_json(to_json(first))))))
    assert to_json(again) == to_json(first)


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_a_real_device_is_recorded_word_for_word(name: str) -> None:
    device, models, _ = real_device(name)
    recorded = await record(unit_of(device))
    for _, address, length in models:
        for at in range(address, address + length + 2):
            told = at in device.registers and at not in device.unreadable
            assert recorded.regs.get(at, device.registers.get(at)) == device.registers.get(at)
            assert told or at in recorded.unreadable
    assert recorded.regs.keys().isdisjoint(device.unreadable)


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_a_recording_decodes_as_the_device_does(name: str) -> None:
    device, _, _ = real_device(name)
    recorded = played(from_json(to_json(await record(unit_of(device)))))
    was, now = await surveyed(device), await surveyed(recorded)
    assert [(one.found, one.values) for one in now] == [(one.found, one.values) for one in was]
    assert any(one.values for one in now)


@pytest.mark.parametrize("name", REAL_DEVICES)
def test_the_fixtures_are_recordings(name: str) -> None:
    real_device(name)  # skips where there are none
    dump = from_json((FIXTURES / f"{name}.json").read_bytes())
    assert dump.name == name
    assert from_json(to_json(dump)) == dump


async def test_nothing_is_written_while_recording() -> None:
    device = battery()
    await record(unit_of(device))
    assert device.writes == []


async def test_the_registers_of_one_point_are_asked_for_together_or_not_at_all() -> None:
    device = device_of([common(), filled(103)])
    device.unreadable.add(40_002 + 68 + 24)  # half of WH, an acc32
    recorded = await record(unit_of(device))
    wh = {40_002 + 68 + 24, 40_002 + 68 + 25}
    assert wh <= recorded.unreadable
    assert wh.isdisjoint(recorded.regs)


async def test_progress_tells_each_model() -> None:
    told: list[str] = []
    await record(unit_of(device_of([common(), inverter_701()])), told.append)
    assert [line[: len(line.split(",")[0]) + ("," in line)] for line in told] == [
        "looking for models",
        "model 1,",
        "model 701,",
    ]


# Files


DUMP = Dump(
    name="n",
    device="d",
    note="",
    base=0,
    models=((1, 2, 66),),
    chain_end="",
    unreadable=frozenset({7}),
    regs={0: 1, 1: 2},
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"[]", "is it a recording"),
        (b"{}", "base"),
        (b'{"base": 0, "regs": {}}', "regs"),
        (b'{"base": 0, "regs": {"x": 1}}', "regs"),
        (b'{"base": 0, "regs": {"1": 65536}}', "regs"),
        (b'{"base": 0, "regs": {"65536": 1}}', "regs"),
        (b'{"base": 0, "regs": {"1": -1}}', "regs"),
        (b'{"base": 0, "regs": {"1": "7"}}', "regs"),
        (b'{"base": 70000, "regs": {"1": 1}}', "base"),
        (b'{"base": 0, "regs": {"1": 1}, "models": [[1, 2]]}', "models"),
        (b'{"base": 0, "regs": {"1": 1}, "unreadable": [true]}', "unreadable"),
        (b" " * (MOST_DUMP_BYTES + 1), "larger"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_what_is_wrong(content: bytes, said: str) -> None:
    with pytest.raises(DumpError, match=said):
        from_json(content)


@given(
    st.binary(max_size=200)
    | st.recursive(st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_are_a_recording_or_refused(content: bytes) -> None:
    try:
        from_json(content)
    except DumpError:
        return
    raise AssertionError("a recording by chance has a base and registers")


# Playing back


def test_what_was_not_readable_is_refused_when_played_back() -> None:
    registers = PlayedRegisters(replace(DUMP, regs={6: 1, 7: 2, 8: 3}))
    assert registers.read(6, 1) == [1]
    for address, count in ((7, 1), (6, 2), (9, 1), (8, 2)):
        with pytest.raises(RegisterRefusedError):
            registers.read(address, count)


def test_a_recording_takes_writes_only_where_that_was_allowed_and_then_all_of_them_or_none() -> None:
    with pytest.raises(RegisterRefusedError, match="takes no writes"):
        PlayedRegisters(DUMP).write(0, [9])
    registers = PlayedRegisters(DUMP, writable=True)
    registers.write(0, [9])
    assert registers.read(0, 2) == [9, 2]
    with pytest.raises(RegisterRefusedError):
        registers.write(1, [5, 5])
    assert registers.read(0, 2) == [9, 2]
