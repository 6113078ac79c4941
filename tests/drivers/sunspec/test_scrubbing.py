"""Scrubbing: whose a device is, is nowhere in its recording; what it is and does stays word for word."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.codec import Field, layout
from drivers.sunspec.dump import Dump, to_json
from drivers.sunspec.scrubbing import SCRUBBED, scrub
from tests.drivers.sunspec.fakes import common, definition, inverter_701, model_words
from tests.drivers.sunspec.maps import filled

BASE = 40_000


def dump_of(*models: list[int], device: str = "Maker / Model X", note: str = "") -> Dump:
    at, places, regs = BASE + 2, [], {BASE: 0x5375, BASE + 1: 0x6E53}
    for words in models:
        places.append((words[0], at, len(words) - 2))
        regs |= dict(enumerate(words, at))
        at += len(words)
    return Dump(
        name="maker-model-x",
        device=device,
        note=note,
        base=BASE,
        models=tuple(places),
        chain_end="",
        unreadable=frozenset(),
        regs=regs,
    )


def content(dump: Dump) -> bytes:
    return struct.pack(f">{len(dump.regs)}H", *(dump.regs[at] for at in sorted(dump.regs)))


def field_of(dump: Dump, number: int, path: str) -> tuple[Field, int]:
    _, address, length = next(model for model in dump.models if model[0] == number)
    words = [dump.regs.get(address + at, 0) for at in range(length + 2)]
    return layout(definition(number), length, words).fields[path], address


def bytes_of(dump: Dump, number: int, path: str) -> bytes:
    field, address = field_of(dump, number, path)
    words = [dump.regs[address + at] for at in range(field.offset, field.end)]
    return struct.pack(f">{len(words)}H", *words)


@given(st.text("ABCDEFGHJKLMNPQRTVWXYZ0123456789-.", min_size=5, max_size=32), st.integers(0, 3))
def test_no_byte_row_of_a_serial_number_is_left_wherever_it_stood(serial: str, shift: int) -> None:
    data = (b"\1" * shift + serial.encode()).ljust(40, b"\0")
    stray = [64_999, 20, *struct.unpack(">20H", data)]
    before = dump_of(common(serial), stray, device=f"Maker / {serial}", note=f"seen {serial}")
    after = scrub(before, vendor_models=True)
    if serial.strip("0"):
        assert serial.encode() in content(before)
        assert serial.encode() not in content(after)
        assert serial.encode() not in to_json(after)
    assert (after.models, after.regs.keys()) == (before.models, before.regs.keys())
    assert bytes_of(after, 1, "SN") == SCRUBBED.ljust(32, b"\0")


@pytest.mark.parametrize("order", [">", "<"])
def test_a_serial_number_is_found_as_a_number_too(order: str) -> None:
    number = 3_141_592_653
    high, low = number >> 16, number & 0xFFFF
    stray = [64_999, 2, *((high, low) if order == ">" else (low, high))]
    after = scrub(dump_of(common(str(number)), stray), vendor_models=True)
    assert [after.regs[at] for at in sorted(after.regs)[-2:]] == [0, 0]


def test_a_serial_number_with_swapped_bytes_is_found_too() -> None:
    swapped = [int.from_bytes(b"BADC"[at : at + 2]) for at in (0, 2)] + [int.from_bytes(b"FE")]
    after = scrub(dump_of(common("ABCDEF"), [64_999, 3, *swapped]), vendor_models=True)
    assert [after.regs[at] for at in sorted(after.regs)[-3:]] == [0, 0, 0]


def test_a_serial_number_that_the_model_is_cut_through_is_gone() -> None:
    cut = common("ABCDEFGHIJKLMNOP")[: 2 + 54]
    cut[1] = 54
    after = scrub(dump_of(cut))
    assert b"ABCD" not in content(after)
    assert bytes_of(after, 1, "Md").startswith(b"Model X")


def test_a_serial_number_of_which_one_register_could_not_be_read_is_gone() -> None:
    before = dump_of(common("ABCDEFGHIJKLMNOP"))
    field, address = field_of(before, 1, "SN")
    del before.regs[address + field.offset + 3]
    after = scrub(before)
    assert b"ABCD" not in content(after)
    assert address + field.offset + 3 not in after.regs


def test_a_short_serial_number_is_scrubbed_in_its_place_alone() -> None:
    after = scrub(dump_of(common("X1", model="MX1")))
    assert bytes_of(after, 1, "SN").startswith(SCRUBBED)
    assert bytes_of(after, 1, "Md").startswith(b"MX1")


def test_an_absent_serial_number_stays_absent() -> None:
    after = scrub(dump_of(common("")))
    assert not any(bytes_of(after, 1, "SN"))


def test_names_addresses_and_places_are_gone() -> None:
    before = dump_of(common(), filled(11, 13), filled(12, 98), filled(19, 30), filled(305, 36))
    after = scrub(before)
    for number, path in ((11, "Nam"), (11, "MAC"), (12, "HostNam"), (19, "UsrNam"), (305, "Loc"), (305, "Lat")):
        assert bytes_of(after, number, path) != bytes_of(before, number, path), path
    assert bytes_of(after, 12, "HostNam").startswith(SCRUBBED)


def test_what_a_device_is_and_does_stays_word_for_word() -> None:
    before = dump_of(common("SERIAL-77"), inverter_701(4321), filled(103))
    after = scrub(before)
    field, address = field_of(before, 1, "SN")
    serial = set(range(address + field.offset, address + field.end))
    alarm, at = field_of(before, 701, "MnAlrmInfo")
    texts = serial | set(range(at + alarm.offset, at + alarm.end))
    assert {a: w for a, w in after.regs.items() if a not in texts} == {
        a: w for a, w in before.regs.items() if a not in texts
    }
    assert (after.name, after.device) == (before.name, before.device)


def test_models_that_only_the_vendor_can_read_are_left_out_unless_wanted() -> None:
    before = dump_of(common(), [64_999, 2, 7, 8])
    address = before.models[1][1]
    left_out = scrub(before)
    assert left_out.unreadable == {address + 2, address + 3}
    assert left_out.regs[address] == 64_999
    assert scrub(before, vendor_models=True).regs[address + 2] == 7


@given(st.text("ABCXYZ0123456789", max_size=12), st.integers(0, 5))
def test_scrubbing_twice_changes_nothing_more(serial: str, seed: int) -> None:
    once = scrub(
        dump_of(common(serial), filled(11, 13, seed=seed), model_words(805, {"SN": serial})), vendor_models=True
    )
    assert scrub(once, vendor_models=True) == once
