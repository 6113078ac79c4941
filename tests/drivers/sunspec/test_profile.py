"""What a gateway knows of a device at its next start: verified and not repeated, and never taken for another's."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import DeviceKind
from drivers.sunspec.contact import SLOW_PERIOD_S
from drivers.sunspec.device import DISCOVER_EVERY
from drivers.sunspec.errors import NoAnswerError, SunSpecError
from drivers.sunspec.profile import MOST_RESPONSE_S, NOTHING_KNOWN, Profile, is_news, recalled, slower_of
from drivers.sunspec.registers import Refusals
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    FakeLine,
    MemoryJournal,
    address_of,
    pv,
    real_device,
    set_point,
)
from tests.drivers.sunspec.orders import Rig

holes = st.frozensets(st.tuples(st.integers(0, 0xFFFF), st.text(max_size=20)), max_size=20)
barriers = st.frozensets(st.integers(0, 0xFFFF), max_size=20)
refusals = st.builds(Refusals, holes, holes, barriers)
responses = st.one_of(st.none(), st.floats(0, MOST_RESPONSE_S))


@given(
    st.builds(Profile, refusals=st.builds(Refusals, holes, holes, barriers), response_s=responses), st.text(max_size=20)
)
def test_a_profile_comes_back_as_it_was_kept(profile: Profile, version: str) -> None:
    assert recalled(profile.kept(version), version) == profile


@given(st.one_of(st.none(), st.binary(max_size=60), st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps)))
def test_anything_else_is_nothing_known(kept: bytes | None) -> None:
    assert recalled(kept, "1.0") == NOTHING_KNOWN


@pytest.mark.parametrize(
    "spoilt",
    [
        *({"version": "2.0"}, {"holes": [[1]]}, {"holes": [["1", "W"]]}, {"holes": 7}, {"barriers": [-1]}),
        *({"response_s": -1.0}, {"response_s": "5"}, {"response_s": 1e9}, {"response_s": True}),
        *({"gap_s": -1.0}, {"gap_s": 1}),
    ],
)
def test_a_profile_with_a_wrong_part_is_nothing_known(spoilt: dict[str, object]) -> None:
    content = orjson.loads(Profile(refusals=Refusals(frozenset({(40070, "W")})), response_s=5.0).kept("1.0"))
    assert recalled(orjson.dumps(content), "1.0") != NOTHING_KNOWN
    assert recalled(orjson.dumps(content | spoilt), "1.0") == NOTHING_KNOWN


@given(responses, st.floats(-1e6, 1e6))
def test_a_response_time_stays_within_its_bounds_and_rises_at_once(known_s: float | None, seen_s: float) -> None:
    now_s = slower_of(known_s, seen_s)
    assert 0 <= now_s <= MOST_RESPONSE_S
    assert now_s >= min(seen_s, MOST_RESPONSE_S)


def test_a_response_time_that_hardly_moves_is_no_news() -> None:
    assert not is_news(Profile(response_s=10.4), Profile(response_s=10.0))
    assert is_news(Profile(response_s=13.0), Profile(response_s=10.0))
    assert is_news(Profile(response_s=3.0), NOTHING_KNOWN)


async def start(device: FakeDevice, journal: MemoryJournal) -> tuple[Rig, int]:
    """A gateway that has started and looked twice, and how many requests its first look took."""
    device.reads.clear()
    rig = await Rig(device, DeviceKind.PV, journal=journal).ready()
    took = len(device.reads)
    rig.time.now_s += SLOW_PERIOD_S
    await rig.device.look()
    return rig, took


async def test_a_real_device_with_holes_takes_far_fewer_requests_at_the_second_start() -> None:
    device, _, _ = real_device("sma-sb3.6-night-holes")
    journal = MemoryJournal()
    first, took = await start(device, journal)
    second, took_again = await start(device, journal)
    assert took_again <= took / 2, f"{took} requests, then {took_again}"
    assert second.device.status().last_sample is not None
    assert first.device.description == second.device.description
    assert not device.writes


async def test_a_second_start_asks_who_is_there_and_walks_no_chain_again() -> None:
    device, journal = pv(), MemoryJournal()
    await start(device, journal)
    assert (40002, 2) in device.reads, "the header of the first model, alone, is read by who walks the chain"
    device.reads.clear()
    await start(device, journal)
    assert (40000, 2) in device.reads, "the marker"
    serial = address_of(device, 1, "SN")
    assert any(address <= serial < address + count for address, count in device.reads)
    assert (40002, 2) not in device.reads


async def test_holes_that_have_closed_meanwhile_are_noticed_at_the_start() -> None:
    device, journal = pv(), MemoryJournal()
    device.unreadable = {address_of(device, 701, "LNV"), address_of(device, 701, "Hz")}
    first, _ = await start(device, journal)
    seen = first.device.status().last_sample
    assert seen is not None
    assert (seen.voltage_millivolts, seen.frequency_millihertz) == (None, None)
    device.unreadable = set()
    again, _ = await start(device, journal)
    seen = again.device.status().last_sample
    assert seen is not None
    assert (seen.voltage_millivolts, seen.frequency_millihertz) == (230_100, 50_012)


async def test_holes_that_are_still_there_are_not_asked_for_again() -> None:
    device, journal = pv(), MemoryJournal()
    hidden = {address_of(device, 701, path) for path in ("LNV", "Hz")}
    device.unreadable = set(hidden)
    await start(device, journal)
    device.reads.clear()
    await Rig(device, DeviceKind.PV, journal=journal).ready()
    refused = [(at, count) for at, count in device.reads if hidden & set(range(at, at + count))]
    assert len(refused) <= 2, "one of them is asked for in the place of all, and one verifying read may cross them"


async def test_a_device_that_is_replaced_while_the_gateway_is_off_gets_its_own_state_and_epoch() -> None:
    journal = MemoryJournal()
    first, _ = await start(pv("S-1"), journal)
    await first.hold(-1000, None)
    other = pv("S-2", WMaxLimPctEna=1, WMaxLimPct=900)
    second, _ = await start(other, journal)
    sample, status = second.device.status().last_sample, second.device.status()
    assert sample is not None
    assert sample.meter_id == "Maker/Model X/S-2"
    assert "took the place of Maker/Model X/S-1" in status.detail
    assert status.setpoint is None
    await second.device.release()
    assert other.writes == [], "what was found in the other one is not put into this one"
    third, _ = await start(other, journal)
    assert "took the place" not in third.device.status().detail


async def test_another_device_that_is_silent_where_the_old_map_was_is_discovered_in_the_end() -> None:
    journal = MemoryJournal()
    await start(pv("S-1"), journal)
    inner = {at - 40000: word for at, word in pv("S-2").registers.items()}

    class Hangs(FakeLine):
        async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
            if address + count > len(inner):
                raise NoAnswerError("no answer")
            return await super().read(unit, address, count, timeout_s)

    rig = Rig(FakeDevice(inner), DeviceKind.PV, journal=journal, line=Hangs)
    for _ in range(2 * DISCOVER_EVERY - 1):
        with suppress(SunSpecError):
            await rig.device.look()
        rig.time.now_s += 10
    assert (await rig.device.look()).meter_id == "Maker/Model X/S-2"


async def test_a_start_without_the_journal_discovers_and_keeps_nothing() -> None:
    journal = MemoryJournal()
    journal.broken = True
    rig, _ = await start(pv(), journal)
    assert rig.device.description is not None
    journal.broken = False
    assert "device/tcp://192.0.2.10:502/1" not in journal.kept


async def test_how_long_a_device_takes_to_respond_is_learned_and_known_after_a_restart() -> None:
    device, journal = pv(), MemoryJournal()
    rig, _ = await start(device, journal)
    await rig.hold(-2000, None, lease_s=300)
    for power_w, after_s in ((5000, 10), (3000, 10), (2000, 5)):
        rig.time.now_s += after_s
        set_point(device, 701, "W", power_w)
        await rig.device.look()
    assert response_s(rig) == 25.0
    rig.time.now_s += SLOW_PERIOD_S
    await rig.device.look()
    again, _ = await start(device, journal)
    assert response_s(again) == 25.0


async def test_a_band_that_the_power_is_in_already_teaches_nothing_about_the_response() -> None:
    device = pv()
    rig, _ = await start(device, MemoryJournal())
    usual = response_s(rig)
    await rig.hold(-7000, None)
    rig.time.now_s += 50
    await rig.device.look()
    assert response_s(rig) == usual


def response_s(rig: Rig) -> float:
    found = rig.device.status().capabilities
    assert found is not None
    return found.response_s
