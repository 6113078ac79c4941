"""Discovery of maps that only nearly conform: each ends, says what it saw, and costs few requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.device import DeviceKind
from drivers.sunspec import discovery
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.discovery import BASES, MOST_REQUESTS, DeviceDescription, describe, discover_units
from drivers.sunspec.errors import ModbusExceptionError, NoAnswerError, NotSunSpecError
from drivers.sunspec.pdu import octets_of
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    Time,
    common,
    device_of,
    inverter_701,
    meter,
    model_words,
    pool_of,
    pv,
)
from tests.drivers.sunspec.maps import MAPS, filled, phantom_storage

Answer = Callable[[FakeDevice, int, int], list[int]]


class LineThat(FakeLine):
    """One device at unit 1, whose reads go through `answer`."""

    def __init__(self, device: FakeDevice, answer: Answer) -> None:
        super().__init__({1: device})
        self.answer = answer
        self.asked: list[int] = []

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        self.asked.append(address)
        return octets_of(self.answer(self.units[unit], address, count))


async def described(line: FakeLine | FakeDevice) -> DeviceDescription:
    line = line if isinstance(line, FakeLine) else FakeLine({1: line})
    return await describe(Unit(pool_of(line, Time()).connection(ADDRESS), 1, 1.0))


@pytest.mark.parametrize("name", MAPS)
async def test_every_trap_is_discovered_with_a_bounded_number_of_requests(name: str) -> None:
    device = MAPS[name]()
    found = await described(device)
    assert found.models[0].number == 1
    assert len(found.models) >= 2
    assert len(device.reads) < 40


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("end 0x0000", "with ID 0 and length 0"),
        ("no end", "with exception 2 instead of an end model"),
        ("end of nonsense", "with ID 64999 and length 60000"),
    ],
)
async def test_a_chain_without_its_end_model_says_how_it_ended(name: str, end: str) -> None:
    found = await described(MAPS[name]())
    assert [model.number for model in found.models] == [1, 102]
    assert end in found.notes[0]


async def test_an_end_model_of_one_register_is_an_end_model() -> None:
    assert (await described(MAPS["end of one register"]())).notes == ()


@pytest.mark.parametrize("base", [40001, 39999, 1, 50001, 49999])
async def test_a_map_at_an_unusual_base_is_found_on_a_device_that_answers(base: int) -> None:
    device = device_of([common()], base)
    device.registers = {at: 0x1234 for at in range(60_200) if at not in device.registers} | device.registers
    assert (await described(device)).base == base


async def test_unusual_bases_are_not_tried_on_a_device_that_only_hangs() -> None:
    def hangs(device: FakeDevice, address: int, count: int) -> list[int]:
        raise NoAnswerError("no answer")

    line = LineThat(device_of([common()], 40001), hangs)
    with pytest.raises(NoAnswerError):
        await described(line)
    assert line.asked == list(BASES)


async def test_a_base_of_its_own_can_be_named() -> None:
    line = FakeLine({1: device_of([common()], 1234)})
    unit = Unit(pool_of(line, Time()).connection(ADDRESS), 1, 1.0)
    assert (await describe(unit, bases=(1234,))).base == 1234


async def test_a_wrong_base_that_ends_the_connection_does_not_hide_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "BACKOFF_LEAST_S", 0.0)

    def hangs_up(device: FakeDevice, address: int, count: int) -> list[int]:
        if address == 40000:
            line.close()
            raise NoAnswerError("the connection is lost")
        return device.read(address, count)

    line, time = LineThat(device_of([common()], 50000), hangs_up), Time()
    pool = pool_of(line, time)

    def later() -> float:
        time.now_s += 1.0  # the connection's own back-off passes meanwhile
        return time.now_s

    pool = ConnectionPool(later, line=lambda endpoint: line)
    assert (await describe(Unit(pool.connection(ADDRESS), 1, 1.0))).base == 50000
    assert line.connects == 2


@pytest.mark.parametrize("code", [5, 6, 10, 11])
async def test_a_gateway_that_does_not_reach_the_unit_is_silence_and_not_a_device_without_a_map(code: int) -> None:
    def refuses(device: FakeDevice, address: int, count: int) -> list[int]:
        raise ModbusExceptionError(f"reading {address}", code)

    with pytest.raises(NoAnswerError, match=f"exception {code}"):
        await described(LineThat(device_of([common()]), refuses))


async def test_a_unit_that_the_gateway_loses_amid_the_chain_is_no_shorter_chain() -> None:
    def loses(device: FakeDevice, address: int, count: int) -> list[int]:
        if address > 40070:
            raise ModbusExceptionError(f"reading {address}", 11)
        return device.read(address, count)

    with pytest.raises(ModbusExceptionError) as caught:
        await described(LineThat(device_of([common(), inverter_701(), filled(103)]), loses))
    assert caught.value.code == 11


async def test_busy_once_is_asked_again() -> None:
    refused = [40070]

    def busy(device: FakeDevice, address: int, count: int) -> list[int]:
        if address in refused:
            refused.remove(address)
            raise ModbusExceptionError(f"reading {address}", 6)
        return device.read(address, count)

    found = await described(LineThat(device_of([common(), inverter_701()]), busy))
    assert [model.number for model in found.models] == [1, 701]


async def test_the_longest_chain_stays_within_the_requests_of_a_discovery() -> None:
    storage = [words for _ in range(40) for words in phantom_storage()]
    device = device_of([common(), *storage])
    device.unreadable = {at for at in device.registers if at > 41000 and at % 7 == 0}
    await described(device)
    assert len(device.reads) <= MOST_REQUESTS


async def test_a_map_that_takes_endless_requests_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MOST_REQUESTS", 10)
    with pytest.raises(NotSunSpecError, match="more than 10 requests"):
        await described(device_of([common(), *[filled(103) for _ in range(20)]]))


async def test_storage_models_without_storage_are_phantoms_and_make_no_battery() -> None:
    found = await described(MAPS["phantom storage"]())
    assert {model.number for model in found.models if found.is_phantom(model)} == {713, 802, 124}
    assert found.likely_kind is DeviceKind.PV
    assert sum("is empty" in note for note in found.notes) == 3


@pytest.mark.parametrize(
    ("values", "phantom"),
    [
        ({"WHRtg": 0, "SoC": 500}, True),
        ({"SoC": 0}, True),
        ({"SoC": 1001}, True),
        ({}, True),
        ({"SoC": 500}, False),
        ({"WHRtg": 10000}, False),
        ({"WHRtg": 10000, "SoC": 0}, False),
    ],
)
async def test_a_battery_is_believed_by_its_capacity_and_without_one_by_its_charge(
    values: dict[str, int], phantom: bool
) -> None:
    gauge = model_words(713, values | {"WH_SF": 0, "Pct_SF": -1})
    found = await described(device_of([common(), inverter_701(), gauge]))
    assert (found.phantoms != ()) is phantom


async def test_a_storage_model_that_the_device_hides_at_present_is_not_judged() -> None:
    device = device_of([common(), *phantom_storage()[:1]])
    device.unreadable = set(range(40072, 40079))
    assert (await described(device)).phantoms == ()


async def test_of_two_copies_the_one_with_something_in_it_is_used() -> None:
    empty, full = model_words(103, {}), model_words(103, {"W": 5, "W_SF": 0, "WH": 7, "WH_SF": 0})
    found = await described(device_of([common(), empty, full]))
    used = found.find(103)
    assert used is not None
    assert (used.address, found.is_phantom(used)) == (40122, False)
    found = await described(device_of([common(), full, empty]))
    used = found.find(103)
    assert used is not None
    assert used.address == 40070


async def test_of_copies_that_are_all_asleep_the_first_is_used() -> None:
    found = await described(device_of([common(), model_words(103, {}), model_words(103, {})]))
    assert found.phantoms == ()


async def test_units_behind_one_endpoint_are_found_by_their_ids() -> None:
    line = FakeLine({1: pv(), 126: meter("M-2")})
    found = await discover_units(ADDRESS, connections=pool_of(line, Time()))
    assert [(one.unit, one.serial) for one in found] == [(1, "S-1"), (126, "M-2")]


async def test_a_device_that_ignores_the_unit_id_is_found_once() -> None:
    line = FakeLine({1: pv(), 2: pv(), 3: pv()})
    found = await discover_units(ADDRESS, (1, 2, 3), connections=pool_of(line, Time()))
    assert [one.unit for one in found] == [1]
    assert found[0].notes[-2:] == ("answers as unit 2 too", "answers as unit 3 too")


async def test_devices_without_a_serial_number_are_not_taken_for_one() -> None:
    line = FakeLine({1: pv(""), 2: pv("")})
    assert len(await discover_units(ADDRESS, (1, 2), connections=pool_of(line, Time()))) == 2


async def test_a_host_that_is_not_there_is_asked_once_and_not_for_every_unit() -> None:
    line = FakeLine({}, refuses_connections=True)
    with pytest.raises(NoAnswerError):
        await discover_units(ADDRESS, connections=pool_of(line, Time()))
