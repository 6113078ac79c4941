"""Which registers are asked for together, and what answers mean: exact, in our units and signs, absent never 0."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.register_map import Quantity, RegisterMap, parse_map
from drivers.modbus.requests import Request, decode, measurement, plan, scaled, state_of_charge_permille, values_of

HEAD = 'title = "T"\nsource = "S"\nkinds = ["meter"]\n'
Q = Quantity


def map_of(*points: str, head: str = "") -> RegisterMap:
    return parse_map(HEAD + head + "\n".join(points), "m.toml")


def power(address: int, name: str = "power", **keys: object) -> str:
    said = {"type": '"int32"', "unit": '"W"', "positive": '"import"', **keys}
    return f"[points.{name}]\naddress = {address}\n" + "".join(f"{key} = {value}\n" for key, value in said.items())


def energy(address: int, name: str = "import_energy", **keys: object) -> str:
    said = {"type": '"uint32"', "unit": '"Wh"', **keys}
    return f"[points.{name}]\naddress = {address}\n" + "".join(f"{key} = {value}\n" for key, value in said.items())


def spans(found: tuple[Request, ...]) -> list[tuple[int, int, int]]:
    return [(request.function, request.address, request.count) for request in found]


def test_adjoining_registers_are_one_request_and_a_gap_makes_two() -> None:
    m = map_of(power(10), energy(12), energy(15, "export_energy"))
    assert spans(plan(m, m.points)) == [(3, 10, 4), (3, 15, 2)]


def test_a_gap_is_read_through_only_where_the_map_says_so() -> None:
    for readable, wanted in (("[[14, 14]]", [(3, 10, 7)]), ("[[15, 20]]", [(3, 10, 4), (3, 15, 2)])):
        m = map_of(power(10), energy(12), energy(15, "export_energy"), head=f"readable = {readable}\n")
        assert spans(plan(m, m.points)) == wanted


def test_no_request_is_longer_than_the_device_takes() -> None:
    m = map_of(power(10), energy(12), energy(14, "export_energy"), head="most_registers = 4\n")
    assert spans(plan(m, m.points)) == [(3, 10, 4), (3, 14, 2)]


def test_holding_and_input_registers_never_share_a_request() -> None:
    m = map_of(power(10), energy(12, registers='"input"'))
    assert spans(plan(m, m.points)) == [(3, 10, 2), (4, 12, 2)]


def test_power_is_asked_for_first() -> None:
    m = map_of(energy(0), power(100))
    assert spans(plan(m, m.points)) == [(3, 100, 2), (3, 0, 2)]


@given(
    st.lists(st.integers(0, 300), min_size=2, max_size=2),
    st.integers(4, 125),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)).filter(lambda pair: pair[0] <= pair[1]), max_size=3),
)
def test_every_register_asked_for_is_mapped_or_said_to_be_readable(
    at: list[int], most: int, readable: list[tuple[int, int]]
) -> None:
    ranges = [list(pair) for pair in readable]
    m = map_of(
        power(150),
        energy(at[0]),
        energy(at[1], "export_energy"),
        head=f"most_registers = {most}\nreadable = {ranges}\n",
    )
    allowed = {150, 151, at[0], at[0] + 1, at[1], at[1] + 1}
    for first, last in readable:
        allowed.update(range(first, last + 1))
    requests = plan(m, m.points)
    assert sorted(name for request in requests for name in request.points) == sorted(m.points)
    for request in requests:
        assert request.count <= most
        assert set(range(request.address, request.end)) <= allowed


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [
        ("int16", ">h", -2),
        ("uint16", ">H", 65534),
        ("int32", ">i", -70000),
        ("uint32", ">I", 4_000_000_000),
        ("int64", ">q", -(1 << 40)),
        ("uint64", ">Q", (1 << 63) + 5),
        ("float32", ">f", -1234.5),
        ("float64", ">d", 1e-3),
    ],
)
@pytest.mark.parametrize("order", ["big", "little"])
def test_every_type_reads_in_both_word_orders(kind: str, code: str, number: float, order: str) -> None:
    data = struct.pack(code, number)
    words = list(struct.unpack(f">{len(data) // 2}H", data))
    m = map_of(power(0, type=f'"{kind}"', word_order=f'"{order}"'))
    assert decode(m, Q.POWER, words[::-1] if order == "little" else words) == number


@given(st.integers(-(1 << 31), (1 << 31) - 1))
def test_a_tenth_of_a_watt_hour_is_exact(raw: int) -> None:
    m = map_of(power(0), energy(2, type='"int32"', scale=0.1))
    assert scaled(m, Q.IMPORT_ENERGY, raw) == raw * 100


def test_not_implemented_is_absent_and_never_0() -> None:
    m = map_of(power(0, not_implemented="[0x7FFFFFFF, 0x80000000]"), energy(2, type='"float32"'))
    request = plan(m, m.points)[0]
    assert values_of(m, request, [0x7FFF, 0xFFFF, 0x7FC0, 0]) == {}
    assert values_of(m, request, [0x8000, 0, 0x7F80, 0]) == {}
    assert values_of(m, request, [0, 0, 0, 0]) == {Q.POWER: 0, Q.IMPORT_ENERGY: 0}


def test_bits_of_no_value_are_compared_in_the_maps_word_order() -> None:
    m = map_of(power(0, not_implemented="0x7FFFFFFF", word_order='"little"'))
    assert decode(m, Q.POWER, [0xFFFF, 0x7FFF]) is None


def test_export_is_negative_whatever_the_device_calls_positive() -> None:
    m = map_of(power(0, positive='"export"'))
    assert values_of(m, plan(m, m.points)[0], [0, 1500]) == {Q.POWER: -1500}


def test_a_device_that_does_not_sum_is_summed_and_a_missing_phase_makes_it_unknown() -> None:
    m = map_of(*(power(2 * index, f"power_l{index + 1}") for index in range(3)))
    told = {Q.POWER_L1: 100, Q.POWER_L2: -40, Q.POWER_L3: 5}
    assert measurement(m, told).power_w == 65
    assert measurement(m, told).phase_power_w == (100, -40, 5)
    del told[Q.POWER_L2]
    assert (measurement(m, told).power_w, measurement(m, told).phase_power_w) == (None, ())


def test_voltages_of_phases_are_averaged_and_dead_ones_left_out() -> None:
    voltages = [f'[points.voltage_l{n}]\naddress = {10 + n}\ntype = "uint16"\nunit = "V"\n' for n in (1, 2, 3)]
    m = map_of(power(0), *voltages)
    told = {Q.POWER: 1, Q.VOLTAGE_L1: 230_000, Q.VOLTAGE_L2: 232_000, Q.VOLTAGE_L3: 0}
    assert measurement(m, told).voltage_millivolts == 231_000


def test_a_32_bit_counter_says_where_it_rolls_over_and_a_wider_one_does_not() -> None:
    assert measurement(map_of(power(0), energy(2)), {}).rolls_over_milliwatt_hours == (1 << 32) * 1000
    assert measurement(map_of(power(0), energy(2, type='"uint64"')), {}).rolls_over_milliwatt_hours is None


@pytest.mark.parametrize(("permille", "told"), [(605, 605), (1001, None), (-1, None)])
def test_a_state_of_charge_is_part_of_a_whole(permille: int, told: int | None) -> None:
    assert state_of_charge_permille({Q.STATE_OF_CHARGE: permille}) == told


def test_a_serial_number_is_printable_text_or_a_whole_number() -> None:
    text = map_of(power(0), '[points.serial]\naddress = 9\ntype = "string"\nlength = 4\n')
    assert decode(text, Q.SERIAL, list(struct.unpack(">4H", b"A\x1b\xff1 \0xx"))) == "A??1"
    assert decode(text, Q.SERIAL, [0, 0, 0, 0]) is None
    number = map_of(power(0), '[points.serial]\naddress = 9\ntype = "uint32"\n')
    assert decode(number, Q.SERIAL, [1, 2]) == 65538
