"""What a register map may say, and that each fault is told with file, line, key and what would be right."""

from __future__ import annotations

import re
from fractions import Fraction
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modbus.register_map import MOST_MAP_BYTES, MapError, Quantity, load_map, parse_map, shipped_maps

HEAD = 'title = "T"\nsource = "S"\nkinds = ["meter"]\n'
POWER = '[points.power]\naddress = 7\ntype = "int32"\nunit = "W"\npositive = "import"\n'


def refusal(text: str) -> str:
    with pytest.raises(MapError) as caught:
        parse_map(text, "m.toml")
    return str(caught.value)


def test_a_small_map_is_enough() -> None:
    found = parse_map(HEAD + POWER, "m.toml")
    assert (found.function(Quantity.POWER), found.factor(Quantity.POWER)) == (3, Fraction(1))
    assert not found.words_are_swapped(Quantity.POWER)


@pytest.mark.parametrize("name", shipped_maps())
def test_every_shipped_map_loads_and_cites_its_source(name: str) -> None:
    found = load_map(name)
    assert len(found.source) > 20
    assert {Quantity.POWER, Quantity.IMPORT_ENERGY, Quantity.EXPORT_ENERGY, Quantity.FREQUENCY} <= found.points.keys()


def test_a_point_can_differ_from_what_is_said_for_all() -> None:
    head = HEAD + 'registers = "input"\nword_order = "little"\n'
    found = parse_map(head + POWER + 'registers = "holding"\nword_order = "big"\n', "m.toml")
    assert (found.function(Quantity.POWER), found.words_are_swapped(Quantity.POWER)) == (3, False)


def test_scales_are_exact_and_power_is_counted_as_import() -> None:
    text = POWER.replace('"import"', '"export"').replace('"W"', '"kW"') + "scale = 0.1\n"
    assert parse_map(HEAD + text, "m.toml").factor(Quantity.POWER) == Fraction(-100)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (HEAD + POWER + "adress = 1\n", 9, "points.power.adress: unknown key; known here: address, "),
        (HEAD + POWER.replace("address = 7\n", ""), 4, "points.power.address: is missing (first register"),
        (HEAD + POWER.replace("7", "65536"), 5, "points.power.address: Input should be less than or equal to 65535"),
        (HEAD + POWER.replace("7", "65535"), 4, "runs past the last address"),
        (HEAD + POWER.replace("int32", "int24"), 6, "points.power.type: Input should be 'int16', "),
        (HEAD + POWER.replace('"W"', '"VA"'), 4, "points.power: unit must be one of W, kW"),
        (HEAD + POWER.replace('unit = "W"\n', ""), 4, "points.power: unit must be one of W, kW"),
        (HEAD + POWER.replace('positive = "import"\n', ""), 4, 'write positive = "import" or "export"'),
        (HEAD + POWER + "scale = 0\n", 9, "points.power.scale: "),
        (HEAD + POWER + "not_implemented = 0x1FFFFFFFF\n", 4, "a bit pattern that int32 cannot have"),
        (HEAD + POWER + "length = 2\n", 4, "a string needs `length`"),
        (
            HEAD + POWER + "[points.powr]\naddress = 1\n",
            9,
            "points.powr: is nothing that a map can tell; there are",
        ),
        (HEAD + POWER.replace("power", "voltage").replace('"W"', '"V"'), 1, "nothing tells power"),
        (
            HEAD + POWER + '[points.serial]\naddress = 1\ntype = "float32"\n',
            9,
            "a serial number is a string or a",
        ),
        (HEAD + POWER + '[points.frequency]\naddress = 1\ntype = "string"\nlength = 2\n', 9, "cannot be measured"),
        (HEAD + "most_registers = 126\n" + POWER, 4, "most_registers: Input should be less than or equal to 125"),
        (HEAD + "readable = [[5, 4]]\n" + POWER, 1, "[5, 4] ends before it begins"),
        (HEAD.replace("meter", "charger") + POWER, 1, "a charger speaks OCPP"),
        (HEAD.replace('source = "S"\n', "") + POWER, 1, "source: is missing (where the registers are published)"),
        ("[", 0, "m.toml: is not TOML"),
    ],
)
def test_a_fault_is_told_with_line_and_key(text: str, line: int, says: str) -> None:
    message = refusal(text)
    assert says in message
    if line:
        assert message.startswith(f"m.toml:{line}: ")


def test_every_fault_has_its_own_line() -> None:
    lines = refusal(HEAD + "most_registers = 1\n" + POWER.replace("int32", "int24") + "x = 1\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["m.toml:4", "m.toml:7", "m.toml:10"]


@given(st.text(max_size=200))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    with pytest.raises(MapError):
        parse_map(HEAD + text, "m.toml")


def test_an_unknown_name_is_told_the_shipped_ones() -> None:
    with pytest.raises(MapError, match="eastron-sdm630"):
        load_map("eastron-sdm640")


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    with pytest.raises(MapError, match="there is no such file"):
        load_map(str(file))
    file.write_text(HEAD + POWER)
    assert load_map(str(file)).title == "T"
    file.write_text("#" * (MOST_MAP_BYTES + 1))
    with pytest.raises(MapError, match="is it a register map"):
        load_map(str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(MapError, match="cannot be read"):
        load_map(str(file))


@pytest.mark.parametrize("name", shipped_maps())
def test_a_shipped_map_says_where_the_unit_of_its_energies_is_published(name: str) -> None:
    # Wh taken for kWh is a bill a thousand times too high.
    text = resources.files("drivers.modbus").joinpath("maps", f"{name}.toml").read_text("utf-8")
    told = re.search(r"^# Unit of the energies: (Wh|kWh|MWh)[:,] .*(\.com|\.st|\.go)", text, re.MULTILINE)
    assert told is not None
    points = load_map(name).points
    assert {points[energy].unit for energy in (Quantity.IMPORT_ENERGY, Quantity.EXPORT_ENERGY)} == {told.group(1)}
