"""Discovery: whatever the map looks like, it ends, says what is there, and never takes silence for an answer."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind
from drivers.sunspec.connection import Unit
from drivers.sunspec.discovery import MOST_MODELS, DeviceDescription, describe
from drivers.sunspec.errors import AddressError, NoAnswerError, NotSunSpecError
from drivers.sunspec.transport import Endpoint, parse_address
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    REAL_DEVICES,
    FakeDevice,
    FakeLine,
    Time,
    battery,
    common,
    device_of,
    inverter_701,
    meter,
    pool_of,
    pv,
    real_device,
)


async def described(device: FakeDevice | FakeLine) -> DeviceDescription:
    line = device if isinstance(device, FakeLine) else FakeLine({1: device})
    return await describe(Unit(pool_of(line, Time()).connection(ADDRESS), 1, 1.0))


@pytest.mark.parametrize("name", REAL_DEVICES)
async def test_real_devices_are_discovered_with_every_model(name: str) -> None:
    device, models, base = real_device(name)
    found = await described(device)
    assert found.base == base
    assert [(model.number, model.address, model.length) for model in found.models] == models
    assert all("is empty: nothing is there that it describes" in note for note in found.notes)
    assert {model.number for model in found.models if found.is_phantom(model)} <= {124, 713}
    assert found.likely_kind is DeviceKind.PV
    assert found.serial == "SCRUBBED-0001"


@pytest.mark.parametrize("base", [40000, 0, 50000])
async def test_the_map_is_found_at_every_base(base: int) -> None:
    found = await described(device_of([common()], base))
    assert (found.base, found.manufacturer, found.model, found.serial) == (base, "Maker", "Model X", "S-1")


@pytest.mark.parametrize("end", [(0, 0), (0, 7), (0x1234, 0), (64999, 60000)])
async def test_an_end_that_makes_no_sense_ends_the_chain_with_a_note(end: tuple[int, int]) -> None:
    found = await described(device_of([common(), inverter_701()], end=end))
    assert [model.number for model in found.models] == [1, 701]
    assert found.notes[0].startswith("the chain of models ends at")


async def test_a_missing_end_model_ends_the_chain_with_a_note() -> None:
    found = await described(device_of([common(), inverter_701()], end=()))
    assert [model.number for model in found.models] == [1, 701]
    assert "exception 2 instead of an end model" in found.notes[0]


async def test_a_chain_that_ends_in_silence_is_told_from_a_device_that_went_silent() -> None:
    device = device_of([common(), inverter_701()], end=())

    class EndsInSilence(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            if any(at not in device.registers for at in range(address, address + count)):
                raise NoAnswerError("no answer")
            return await super().read(unit, address, count, timeout_s)

    found = await described(EndsInSilence({1: device}))
    assert "in silence instead of an end model" in found.notes[0]


async def test_an_endless_chain_is_cut() -> None:
    found = await described(device_of([common(), *[[64000 + n, 1, 0] for n in range(2 * MOST_MODELS)]]))
    assert len(found.models) == MOST_MODELS


async def test_a_duplicate_model_is_noted_and_the_first_is_used() -> None:
    found = await described(device_of([common(), inverter_701(), inverter_701()]))
    first = found.find(701)
    assert first is not None
    assert first.address == 40070
    assert "model 701 appears again" in found.notes[0]


async def test_vendor_and_unknown_models_are_skipped_by_their_length() -> None:
    found = await described(device_of([common(), [64999, 3, 1, 2, 3], inverter_701()]))
    assert [model.number for model in found.models] == [1, 64999, 701]
    assert found.models[1].label == "unknown or a vendor's own"


async def test_modbus_without_a_sunspec_map_says_what_was_seen() -> None:
    with pytest.raises(NotSunSpecError, match="1234 5678 at 40000"):
        await described(FakeDevice({40000: 0x1234, 40001: 0x5678}))


async def test_a_map_without_model_1_is_refused() -> None:
    with pytest.raises(NotSunSpecError, match="without model 1"):
        await described(device_of([inverter_701()]))


async def test_a_wrong_base_that_hangs_does_not_hide_the_right_one() -> None:
    device = device_of([common()], base=50000)

    class HangsElsewhere(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            if address < 50000:
                raise NoAnswerError("no answer")
            return await super().read(unit, address, count, timeout_s)

    assert (await described(HangsElsewhere({1: device}))).base == 50000


async def test_silence_everywhere_is_no_answer_and_not_a_verdict_on_the_device() -> None:
    with pytest.raises(NoAnswerError):
        await described(FakeLine({}))


async def test_what_a_device_says_about_itself_is_made_printable() -> None:
    found = await described(device_of([common(serial="a\nb\x1b[31m/c")]))
    assert found.serial == "a?b?[31m/c"
    assert found.meter_id == "Maker/Model X/a?b?[31m_c"


async def test_the_likely_kind_follows_from_the_models() -> None:
    assert (await described(pv())).likely_kind is DeviceKind.PV
    assert (await described(meter())).likely_kind is DeviceKind.METER
    assert (await described(battery())).likely_kind is DeviceKind.BATTERY
    assert (await described(device_of([common()]))).likely_kind is None


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("tcp://192.0.2.10", Endpoint("tcp", "192.0.2.10", 502)),
        ("tcp://inverter.local:1502", Endpoint("tcp", "inverter.local", 1502)),
        ("tcp://[2001:db8::1]:502", Endpoint("tcp", "2001:db8::1", 502)),
    ],
)
def test_addresses_are_read(address: str, endpoint: Endpoint) -> None:
    assert parse_address(address) == endpoint
    assert parse_address(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "address", ["", "192.0.2.10", "tcp://", "tcp://h:0", "tcp://h:99999", "tcp://h:x", "tcp://h/p"]
)
def test_an_address_that_cannot_be_used_says_how_to_write_it(address: str) -> None:
    with pytest.raises(AddressError, match=r"tcp://|port"):
        parse_address(address)
